"""How a network does on corrupted test images (paper, section 9.5 and Table 17)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import nn

from prunefuse_bench.data.corruptions import COMPUTED_PREFIX, SEVERITIES, Corruption
from prunefuse_bench.training.prediction import evaluate
from prunefuse_bench.training.trainer import TrainingRecipe

__all__ = ["Robustness", "evaluate_corruptions"]


@dataclass(frozen=True)
class Robustness:
    """Accuracies (0 to 1) by name of the corruption, at severities 1 to 5."""

    accuracies: dict[str, tuple[float, ...]]

    def of(self, name: str) -> float:
        """Mean over the severities of one corruption."""
        return fmean(self.accuracies[name])

    @property
    def mean(self) -> float:
        """Over all corruptions and severities, each with the same weight."""
        return fmean(self.of(name) for name in self.accuracies)


def evaluate_corruptions(
    network: nn.Module,
    corruptions: Sequence[Corruption],
    training: TrainingRecipe,
    device: torch.device,
    progress: Callable[[int, int], None] = lambda done, total: None,
    judged: Callable[[int], object] = lambda images: None,
) -> Robustness:
    """Accuracy of a network on every corruption and severity.

    Args:
        network: on ``device``; it is left in evaluation mode and otherwise not changed.
        corruptions: all published or all computed, see :mod:`prunefuse_bench.data.corruptions`.
        training: how images are normalised, and the number format.
        device: where the images go.
        progress: told of (corruptions and severities done, in all).
        judged: told how many images each of them had.

    Raises:
        ValueError: none, or published and computed ones together: their mean would be of neither.
    """
    kinds = {corruption.name.startswith(COMPUTED_PREFIX) for corruption in corruptions}
    if len(kinds) != 1:
        names = ", ".join(corruption.name for corruption in corruptions) or "none"
        raise ValueError(f"expected corruptions that are all published or all computed, got {names}")
    accuracies: dict[str, tuple[float, ...]] = {}
    for position, corruption in enumerate(corruptions):
        values = []
        for severity in range(1, SEVERITIES + 1):
            images, labels = corruption.apply(severity)
            values.append(evaluate(network, images.to(device), labels.to(device), training).accuracy)
            judged(len(images))
            progress(position * SEVERITIES + severity, len(corruptions) * SEVERITIES)
        accuracies[corruption.name] = tuple(values)
    return Robustness(accuracies)
