"""Whether counts are what chance gives."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from prunefuse_bench.conformance.report import Unmet

__all__ = ["DRAWS", "probability", "refuse_different_chances", "refuse_other_chances", "rounded"]

LEAST_PROBABLE = 1e-6
"""What is less probable than this does not happen by chance."""
DRAWS = 200
"""Choices, each with another seed, that are counted."""


def rounded(values: Iterable[float]) -> list[float]:
    """To six digits, for messages."""
    return [round(float(value), 6) for value in values]


def probability(chi_squared: float, degrees_of_freedom: int) -> float:
    """That chance alone gives a value at least as large."""
    if not degrees_of_freedom:
        return 1.0
    half = torch.tensor([degrees_of_freedom / 2, chi_squared / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


def refuse_other_chances(counts: Tensor, probabilities: Tensor, what: str) -> None:
    """Pearson's test of counts, int64 [n], for given probabilities, float64 [n], that sum to 1."""
    expected = probabilities * counts.sum()
    possible = probabilities > 0
    chi_squared = float(((counts - expected).square()[possible] / expected[possible]).sum())
    if counts[~possible].any() or probability(chi_squared, int(possible.sum()) - 1) < LEAST_PROBABLE:
        raise Unmet(f"{what} about {rounded(expected.tolist())} times", counts.tolist())


def refuse_different_chances(first: Tensor, second: Tensor, what: str) -> None:
    """Whether counts, int64 [n] each, of equally many draws are of one distribution."""
    both = first + second
    seen = both > 0
    chi_squared = float(((first - second).double().square()[seen] / both[seen]).sum())
    if probability(chi_squared, int(seen.sum()) - 1) < LEAST_PROBABLE:
        raise Unmet(what, f"{first.tolist()} and {second.tolist()}")
