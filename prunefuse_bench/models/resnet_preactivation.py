"""Residual networks whose batch norm and ReLU stand before each convolution, for small images.

ResNet-164 (He et al. 2016, "Identity mappings", Table 2) is made of bottlenecks, Wide-ResNet-28-10 (Zagoruyko and
Komodakis 2016, Table 1) of wide basic blocks. Nothing stands between the first convolution and the first block, and
batch norm and ReLU end the last one. Where a block changes the shape, its shortcut is a bare 1x1 convolution of the
activated input, as in the originals and in selection via proxy (Coleman et al. 2020).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prunefuse_bench.initialisation import Law, draw, he_laws, layer_laws

__all__ = ["PreActivationResNet", "resnet_bottleneck", "wide_resnet"]


class Block(nn.Module):
    """Batch norm, ReLU and convolution in turns, added to the shortcut.

    Args:
        channels_in: of the input.
        convolutions: (channels, kernel size) of each convolution, the first to the last.
        stride: of the first 3x3 convolution and of the shortcut.
    """

    def __init__(self, channels_in: int, convolutions: Sequence[tuple[int, int]], stride: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList()
        self.convolutions = nn.ModuleList()
        strided = [kernel for _, kernel in convolutions].index(3)
        channels = channels_in
        for position, (channels_out, kernel) in enumerate(convolutions):
            step = stride if position == strided else 1
            self.norms.append(nn.BatchNorm2d(channels))
            self.convolutions.append(
                nn.Conv2d(channels, channels_out, kernel, stride=step, padding=kernel // 2, bias=False)
            )
            channels = channels_out
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = (
            nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False)
            if stride != 1 or channels != channels_in
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        activated = y = self.relu(self.norms[0](x))
        for position, convolution in enumerate(self.convolutions):
            y = convolution(y if position == 0 else self.relu(self.norms[position](y)))
        return y + (x if self.shortcut is None else self.shortcut(activated))


class PreActivationResNet(nn.Module):
    """Three sections of pre-activation blocks; the second and the third halve the resolution.

    Args:
        stem: channels of the first convolution.
        sections: for each section the convolutions of a block, as (channels, kernel size).
        blocks: how many blocks a section has.
        num_classes: outputs of the classifier.
        in_channels: channels of the images.

    Shapes:
        float [N, in_channels, H, W] -> logits [N, num_classes]; H and W of at least 4.
    """

    def __init__(
        self, stem: int, sections: Sequence[Sequence[tuple[int, int]]], blocks: int, num_classes: int, in_channels: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, stem, 3, padding=1, bias=False)
        made = []
        channels = stem
        for number, convolutions in enumerate(sections):
            for block in range(blocks):
                made.append(Block(channels, convolutions, stride=2 if number > 0 and block == 0 else 1))
                channels = convolutions[-1][0]
        self.blocks = nn.Sequential(*made)
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw every weight anew from :meth:`initial_laws`, and reset the batch norms."""
        draw(self, self.initial_laws())

    def initial_laws(self) -> dict[str, Law]:
        """He-normal over the fan-out for convolutions, torch's own default for the classifier."""
        return layer_laws(self) | he_laws(self, "fan_out")

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, in_channels, H, W] -> logits [N, num_classes]."""
        x = self.relu(self.norm(self.blocks(self.conv1(x))))
        return self.classifier(torch.flatten(self.pool(x), 1))


def resnet_bottleneck(depth: int, num_classes: int, in_channels: int = 3, width: float = 1.0) -> PreActivationResNet:
    """Pre-activation ResNet of ``9 n + 2`` layers (164, 1001, ...): bottlenecks of 16, 32, 64 and 4 times as many.

    Raises:
        ValueError: the depth is not 9 n + 2.
    """
    blocks, rest = divmod(depth - 2, 9)
    if rest or blocks < 1:
        raise ValueError(f"depth: expected 9 n + 2 (11, 20, 164, ...), got {depth}")
    widths = [scaled(channels, width) for channels in (16, 32, 64)]
    sections = [((channels, 1), (channels, 3), (4 * channels, 1)) for channels in widths]
    return PreActivationResNet(widths[0], sections, blocks, num_classes, in_channels)


def wide_resnet(
    depth: int, factor: int, num_classes: int, in_channels: int = 3, width: float = 1.0
) -> PreActivationResNet:
    """Wide ResNet of ``6 n + 4`` layers, ``factor`` times as wide as 16, 32, 64; without dropout, as its Table 5.

    Raises:
        ValueError: the depth is not 6 n + 4.
    """
    blocks, rest = divmod(depth - 4, 6)
    if rest or blocks < 1:
        raise ValueError(f"depth: expected 6 n + 4 (10, 16, 28, ...), got {depth}")
    widths = [scaled(factor * channels, width) for channels in (16, 32, 64)]
    sections = [((channels, 3), (channels, 3)) for channels in widths]
    return PreActivationResNet(scaled(16, width), sections, blocks, num_classes, in_channels)


def scaled(channels: int, width: float) -> int:
    return max(1, round(width * channels))
