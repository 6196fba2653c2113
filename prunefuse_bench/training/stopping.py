"""Training that ends before its schedule does (paper, section 9.10 and Table 24)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = ["EarlyStopping", "Plateau", "StopReason", "hold_out"]

StopReason = Literal["stop_after", "plateau"]
"""Why a training ended before its schedule."""


@dataclass(frozen=True)
class EarlyStopping:
    """When to stop. The network is kept as it is then; no epoch before is ever gone back to.

    Attributes:
        after: so many epochs of the schedule are run, with the learning rates of the whole; None for all.
        patience: stop when the accuracy on held-out labeled samples was not above its best for so many epochs; None for
            never.
        holdout: share of the labeled samples that is held out for it, and not trained on.
        selectors: whether selectors that are no targets stop early too, or only targets and the fused networks of
            synchronised rounds.
    """

    after: int | None = None
    patience: int | None = None
    holdout: float = 0.1
    selectors: bool = False

    def epochs_of(self, scheduled: int, epochs: int) -> int:
        """How many of ``scheduled`` epochs may be run.

        Args:
            scheduled: epochs of the training.
            epochs: of the schedule; fewer than are scheduled if a small labeled set is passed over more often. Then
                the training stops at the same share of it, where the learning rate is the same.
        """
        return scheduled if self.after is None else min(scheduled, max(1, round(scheduled * self.after / epochs)))


def hold_out(labels: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Part a labeled set by lot, class by class.

    Every class gives its share, up to one sample more or less.

    Args:
        labels: int64 [N].
        share: of the samples that is held out; one at least.
        generator: determines the draw.

    Returns:
        Positions that are left and positions that are held out, int64 on the CPU, ascending.
    """
    count = len(labels)
    held_count = max(1, round(share * count))
    order = torch.randperm(count, generator=generator)
    order = order[torch.argsort(labels.cpu()[order], stable=True)]  # class by class, by lot within a class
    held = torch.zeros(count, dtype=torch.bool)
    held[order[(2 * torch.arange(held_count) + 1) * count // (2 * held_count)]] = True  # at equal distances
    return torch.nonzero(~held).flatten(), torch.nonzero(held).flatten()


class Plateau:
    """Whether accuracies have stopped to rise.

    Args:
        patience: epochs without a new best.
    """

    def __init__(self, patience: int) -> None:
        self._patience, self._best, self._since = patience, -1.0, 0

    def reached(self, accuracy: float) -> bool:
        """Take note of an epoch's accuracy; whether the last ``patience`` epochs brought no new best."""
        self._since = 0 if accuracy > self._best else self._since + 1
        self._best = max(self._best, accuracy)
        return self._since >= self._patience
