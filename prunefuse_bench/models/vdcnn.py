"""Very deep convolutional networks that read text character by character (Conneau et al. 2017).

Every character is embedded in 16 numbers; blocks of two convolutions, 64, 128, 256 and 512 channels wide, halve the
length three times; of each of the last channels the 8 largest values are kept in their order (k-max pooling), and three
linear layers follow. No shortcuts, which the authors found to help from 49 layers on. The length is halved by max
pooling or by the stride of a convolution: two of their three ways.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunefuse_bench.initialisation import Law, draw, he_laws, layer_laws

__all__ = ["CHARACTERS", "VDCNN", "Halving"]

Halving = Literal["pooling", "stride"]

CHARACTERS = 69
"""Indices of characters are below this: the authors' alphabet, space, padding and unknown."""
EMBEDDING = 16
LARGEST = 8
"""Values of each channel that k-max pooling keeps."""
HIDDEN = 2048

BLOCKS = {9: (1, 1, 1, 1), 17: (2, 2, 2, 2), 29: (5, 5, 2, 2), 49: (8, 8, 5, 3)}
"""Blocks of 64, 128, 256 and 512 channels, by depth in convolutions (their Table 2)."""


class Block(nn.Module):
    """Two convolutions of width 3, each with batch norm and ReLU."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm1d(channels_out)
        self.conv2 = nn.Conv1d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm1d(channels_out)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)))


class KMaxPool(nn.Module):
    """The largest values of each channel in their order: [N, C, L] -> [N, C, k]."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, x: Tensor) -> Tensor:
        return x.gather(2, x.topk(self.k, dim=2).indices.sort(dim=2).values)


class VDCNN(nn.Module):
    """Character-level classifier of texts.

    Args:
        depth: number of convolutions, 9, 17, 29 or 49.
        num_classes: outputs of the classifier.
        width: factor on the channels and on the hidden layers; rounded, at least one.
        halving: by ``pooling`` (maximum of 3, stride 2) before a section, or by the ``stride`` of its first one.

    Shapes:
        indices of characters [N, L] of any integer type, L of at least 64 -> logits [N, num_classes].
    """

    def __init__(self, depth: int, num_classes: int, width: float = 1.0, halving: Halving = "pooling") -> None:
        super().__init__()
        self.embedding = nn.Embedding(CHARACTERS, EMBEDDING)
        channels = scaled(64, width)
        self.conv1 = nn.Conv1d(EMBEDDING, channels, 3, padding=1, bias=False)
        layers: list[nn.Module] = []
        for section, count in enumerate(BLOCKS[depth]):
            halves = section > 0
            if halves and halving == "pooling":
                layers.append(nn.MaxPool1d(3, stride=2, padding=1))
            for block in range(count):
                channels_out = scaled(64 * 2**section, width)
                stride = 2 if halves and halving == "stride" and block == 0 else 1
                layers.append(Block(channels, channels_out, stride))
                channels = channels_out
        self.blocks = nn.Sequential(*layers)
        self.pool = KMaxPool(LARGEST)
        hidden = scaled(HIDDEN, width)
        self.hidden1 = nn.Linear(LARGEST * channels, hidden)
        self.hidden2 = nn.Linear(hidden, hidden)
        self.classifier = nn.Linear(hidden, num_classes)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw every weight anew from :meth:`initial_laws`, and reset the batch norms."""
        draw(self, self.initial_laws())

    def initial_laws(self) -> dict[str, Law]:
        """He-normal over the fan-in for convolutions (their section 4.2), torch's defaults for the rest."""
        return layer_laws(self) | he_laws(self, "fan_in")

    def forward(self, x: Tensor) -> Tensor:
        """Indices [N, L] -> logits [N, num_classes]."""
        characters = self.embedding(x.long()).transpose(1, 2)
        x = self.pool(self.blocks(self.conv1(characters)))
        x = F.relu(self.hidden1(torch.flatten(x, 1)))
        return self.classifier(F.relu(self.hidden2(x)))


def scaled(channels: int, width: float) -> int:
    return max(1, round(width * channels))
