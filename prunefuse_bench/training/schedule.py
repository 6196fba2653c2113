"""Learning rates over a training run (paper, section 9.3)."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = [
    "PAPER_IMAGENET_SEGMENTS",
    "PAPER_SEGMENTS",
    "PAPER_TEXT_SEGMENTS",
    "CosineSchedule",
    "Schedule",
    "StepSchedule",
]

PAPER_SEGMENTS = ((1.0, 0.01), (90.0, 0.1), (45.0, 0.01), (45.0, 0.001))
"""(epochs, learning rate) of the CIFAR experiments: 181 epochs with a first epoch to warm up."""
PAPER_IMAGENET_SEGMENTS = (
    (1.0, 0.0167), (1.0, 0.0333), (1.0, 0.05), (1.0, 0.0667), (1.0, 0.0833),
    (25.0, 0.1), (30.0, 0.01), (20.0, 0.001), (20.0, 0.0001),
)  # fmt: skip
"""Of Tiny-ImageNet-200 and ImageNet-1K: 100 epochs."""
PAPER_TEXT_SEGMENTS = ((3.0, 0.01), (3.0, 0.005), (3.0, 0.0025), (3.0, 0.00125), (3.0, 0.000625))
"""Of Amazon Review Polarity and Full: 15 epochs, the learning rate halved every three."""


@dataclass(frozen=True)
class StepSchedule:
    """A stepwise constant learning rate, stretched or shrunk to any length.

    Attributes:
        epochs: length of the training in passes over the labeled set.
        segments: (share, learning rate), one after another; each takes its share of the optimisation steps.
        min_steps: a labeled set so small that ``epochs`` would be fewer optimisation steps is passed over more often.
    """

    epochs: int
    segments: tuple[tuple[float, float], ...] = PAPER_SEGMENTS
    min_steps: int = 0

    def epochs_for(self, steps_per_epoch: int) -> int:
        """Epochs after the floor on optimisation steps."""
        return max(self.epochs, math.ceil(self.min_steps / steps_per_epoch))

    def learning_rate(self, step: int, total_steps: int) -> float:
        """Learning rate of optimisation step ``step`` (from 0) of ``total_steps``."""
        whole = sum(share for share, _ in self.segments)
        end = 0.0
        for share, rate in self.segments:
            end += share
            # The tolerance keeps a boundary that falls on a whole step from moving by rounding.
            if step < total_steps * end / whole - 1e-9 * total_steps:
                return rate
        return self.segments[-1][1]


@dataclass(frozen=True)
class CosineSchedule:
    """A learning rate that goes from point to point along half a cosine wave; for the originals of some rivals.

    Attributes:
        epochs: length of the training in passes over the labeled set.
        points: (share of the training, learning rate), from share 0 to share 1; equal neighbours keep it constant.
        min_steps: as for :class:`StepSchedule`.
    """

    epochs: int
    points: tuple[tuple[float, float], ...]
    min_steps: int = 0

    def epochs_for(self, steps_per_epoch: int) -> int:
        """Epochs after the floor on optimisation steps."""
        return max(self.epochs, math.ceil(self.min_steps / steps_per_epoch))

    def learning_rate(self, step: int, total_steps: int) -> float:
        """Learning rate of optimisation step ``step`` (from 0) of ``total_steps``."""
        share = step / total_steps
        for (start, first), (end, last) in zip(self.points, self.points[1:], strict=False):
            if share < end:
                return last + (first - last) * (1 + math.cos(math.pi * (share - start) / (end - start))) / 2
        return self.points[-1][1]


Schedule = StepSchedule | CosineSchedule
