"""What is known of a network before it is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["ModelEntry"]


@dataclass(frozen=True)
class ModelEntry:
    """A network that can be asked for by name.

    Attributes:
        build: ``build(num_classes, in_channels, width)`` makes it. ``in_channels`` are those of images; networks that
            read text have none and ignore it. ``width`` is a factor on the channels.
        summary: what it is, in one line.
        example_shape: of one sample that it is meant for: [C, H, W] of an image, [L] of a text of L characters.
    """

    build: Callable[[int, int, float], nn.Module]
    summary: str
    example_shape: tuple[int, ...] = (3, 32, 32)

    @property
    def reads_text(self) -> bool:
        """Whether samples are indices of characters and not images."""
        return len(self.example_shape) == 1

    def example_input(self) -> Tensor:
        """A batch of one, all zeros: float [1, C, H, W] or int64 [1, L]."""
        return torch.zeros(1, *self.example_shape, dtype=torch.int64 if self.reads_text else torch.float32)
