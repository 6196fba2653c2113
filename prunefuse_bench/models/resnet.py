"""torchvision's ResNet with a factor on its channels and, for small images, another stem.

The stem of ImageNet quarters the resolution (7x7 convolution of stride 2, max pooling); that of CIFAR keeps it (one 3x3
convolution).
"""

from __future__ import annotations

from typing import Literal

from torch import nn
from torchvision.models import resnet

from prunefuse_bench.initialisation import Law, draw, he_laws, layer_laws

__all__ = ["ResNet", "Stem"]

Stem = Literal["imagenet", "cifar"]

BLOCKS: dict[int, tuple[type[resnet.BasicBlock | resnet.Bottleneck], list[int]]] = {
    18: (resnet.BasicBlock, [2, 2, 2, 2]),
    50: (resnet.Bottleneck, [3, 4, 6, 3]),
}
"""Block and blocks per section, by depth (He et al. 2016, Table 1)."""


class ResNet(resnet.ResNet):  # type: ignore[misc]
    """ResNet-18 or ResNet-50.

    Args:
        depth: 18 or 50.
        stem: ``imagenet`` or ``cifar``.
        num_classes: outputs of the classifier.
        in_channels: channels of the images.
        width: factor on the channels 64, 128, 256, 512; rounded, at least one channel.

    Shapes:
        float [N, in_channels, H, W] -> logits [N, num_classes]; H and W of at least 32 with the stem of ImageNet.
    """

    def __init__(self, depth: int, stem: Stem, num_classes: int, in_channels: int = 3, width: float = 1.0) -> None:
        self.width = width
        block, blocks = BLOCKS[depth]
        super().__init__(block, blocks, num_classes=num_classes)
        channels = self._scaled(64)
        if stem == "cifar":
            self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
            self.maxpool = nn.Identity()
        else:
            self.conv1 = nn.Conv2d(in_channels, channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(self.inplanes, num_classes)
        self.init_weights()

    def _make_layer(self, block: type[nn.Module], planes: int, *args: object, **kwargs: object) -> nn.Sequential:
        if planes == 64:
            self.inplanes = self._scaled(64)
        return super()._make_layer(block, self._scaled(planes), *args, **kwargs)

    def _scaled(self, channels: int) -> int:
        return max(1, round(self.width * channels))

    def init_weights(self) -> None:
        """Draw every weight anew from :meth:`initial_laws`, and reset the batch norms."""
        draw(self, self.initial_laws())

    def initial_laws(self) -> dict[str, Law]:
        """torchvision's: He-normal over the fan-out for convolutions, torch's own default for the classifier."""
        return layer_laws(self) | he_laws(self, "fan_out")
