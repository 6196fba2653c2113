"""Streams of images that are made from their number, and a score of them; workers of Ray import this."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class MadeShard:
    """Images of 8x8 pixels that are made from their number."""

    first: int
    count: int

    @property
    def name(self) -> str:
        return f"made-{self.first:09d}"

    @property
    def fingerprint(self) -> str:
        return str(self.count)

    def __len__(self) -> int:
        return self.count

    def batches(self, size: int) -> Iterator[Tensor]:
        for begin in range(0, self.count, size):
            yield made(torch.arange(self.first + begin, self.first + min(begin + size, self.count)))


def made(numbers: Tensor) -> Tensor:
    """uint8 [B, 3, 8, 8]: bytes of a hash of the number and the pixel."""
    pixels = numbers[:, None] * 1_000_003 + torch.arange(192) * 7919
    return ((pixels ^ (pixels >> 7)) * 2654435761 >> 13 & 255).to(torch.uint8).view(-1, 3, 8, 8)


@dataclass
class Brightness:
    """In steps, so that many are equal."""

    step: int = 1
    calls: int = field(default=0, compare=False)
    fails_at: int = -1

    @property
    def fingerprint(self) -> str:
        return f"brightness in steps of {self.step}"

    def __call__(self, samples: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.fails_at:
            raise KeyboardInterrupt
        return (samples.flatten(1).int().sum(1) // self.step).float()
