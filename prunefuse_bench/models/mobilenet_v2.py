"""torchvision's MobileNetV2 for small images.

The networks for ImageNet reduce the resolution 32 times; on 32x32 pixels nothing would be left of it. As is usual for
CIFAR, the first convolution and the second section keep it here, so that the last section sees 4x4 pixels.
"""

from __future__ import annotations

from torch import nn
from torchvision.models import mobilenetv2

from prunefuse_bench.initialisation import Law, draw, he_laws, layer_laws

__all__ = ["CifarMobileNetV2"]

SECTIONS = [
    [1, 16, 1, 1],
    [6, 24, 2, 1],
    [6, 32, 3, 2],
    [6, 64, 4, 2],
    [6, 96, 3, 1],
    [6, 160, 3, 2],
    [6, 320, 1, 1],
]
"""Expansion, channels, blocks and stride (Sandler et al. 2018, Table 2), with stride 1 instead of 2 in the second."""


class CifarMobileNetV2(mobilenetv2.MobileNetV2):  # type: ignore[misc]
    """MobileNetV2 of Sandler et al. 2018.

    Args:
        num_classes: outputs of the classifier.
        in_channels: channels of the images.
        width: factor on the channels; they are rounded to multiples of 8, the last convolution is not narrowed.

    Shapes:
        float [N, in_channels, H, W] -> logits [N, num_classes].
    """

    def __init__(self, num_classes: int, in_channels: int = 3, width: float = 1.0) -> None:
        super().__init__(num_classes=num_classes, width_mult=width, inverted_residual_setting=SECTIONS)
        first = self.features[0][0]
        self.features[0][0] = nn.Conv2d(in_channels, first.out_channels, 3, padding=1, bias=False)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw every weight anew from :meth:`initial_laws`, and reset the batch norms."""
        draw(self, self.initial_laws())

    def initial_laws(self) -> dict[str, Law]:
        """torchvision's: He-normal over the fan-out for convolutions, normal for the classifier, biases zero."""
        classifier = {"classifier.1.weight": Law("normal", 0.0, 0.01), "classifier.1.bias": Law("constant", 0.0)}
        return layer_laws(self) | he_laws(self, "fan_out") | classifier
