"""Residual networks for small images (He et al. 2016, section 4.2), in the form that the paper trains.

A network of depth ``6 n + 2`` has three sections of ``n`` basic blocks, 16, 32 and 64 channels wide, and halves the
resolution at the second and the third section. Where a block changes the shape, its shortcut is a 1x1 convolution with
batch norm ("option B"): with it ResNet-56 has 855,770 parameters at 10 classes, the count behind the paper's FLOPs
(He et al. themselves use parameter-free shortcuts there, and so have fewer).
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from prunefuse_bench.initialisation import Law, layer_laws

__all__ = ["CifarResNet"]


def conv3x3(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, added to the shortcut before the last ReLU."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels_in, channels_out, stride)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = conv3x3(channels_out, channels_out)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = (
            nn.Identity()
            if stride == 1 and channels_in == channels_out
            else nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False),
                nn.BatchNorm2d(channels_out),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + self.shortcut(x))


class CifarResNet(nn.Module):
    """CIFAR ResNet of a given depth.

    Args:
        depth: number of weighted layers, ``6 n + 2`` with n >= 1 (8, 14, 20, 32, 44, 56, 110, ...).
        num_classes: outputs of the classifier.
        in_channels: channels of the images (1 or 3, or any other).
        width: factor on the channels 16, 32, 64; rounded, at least one channel.

    Shapes:
        float [N, in_channels, H, W] -> logits [N, num_classes]; H and W of at least 4.

    Raises:
        ValueError: the depth is not 6 n + 2.
    """

    def __init__(self, depth: int, num_classes: int, in_channels: int = 3, width: float = 1.0) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth: expected 6 n + 2 (8, 14, 20, ...), got {depth}")
        widths = [max(1, round(width * channels)) for channels in (16, 32, 64)]
        self.conv1 = conv3x3(in_channels, widths[0])
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        sections = []
        channels_in = widths[0]
        for section, channels in enumerate(widths):
            for block in range(blocks):
                stride = 2 if section > 0 and block == 0 else 1
                sections.append(BasicBlock(channels_in, channels, stride))
                channels_in = channels
        self.blocks = nn.Sequential(*sections)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels_in, num_classes)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw every weight anew: He-normal over the fan-out for convolutions, torch's own default for the classifier.

        Also resets the batch norms: scale 1, shift 0, running mean 0 and variance 1.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d | nn.Linear):
                module.reset_parameters()

    def initial_laws(self) -> dict[str, Law]:
        """What :meth:`init_weights` draws from, by tensor name."""
        convolutions = {
            f"{name}.weight": Law("normal", 0.0, math.sqrt(2 / (module.out_channels * math.prod(module.kernel_size))))
            for name, module in self.named_modules()
            if isinstance(module, nn.Conv2d)
        }
        return layer_laws(self) | convolutions

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, in_channels, H, W] -> logits [N, num_classes]."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.pool(self.blocks(x))
        return self.classifier(x.flatten(1))
