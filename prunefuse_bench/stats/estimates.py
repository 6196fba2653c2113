"""A mean with the interval that its number of values allows."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

from prunefuse_bench.errors import BadInput
from prunefuse_bench.stats.curves import curves_of_runs

if TYPE_CHECKING:
    import pandas

__all__ = ["Estimate", "estimate", "summarise", "t_point"]

SUMMARY = ("run", "method", "labels", "budget", "count", "expected", "mean", "deviation", "low", "high")


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        mean: NaN if there is no value.
        deviation: standard deviation of one value (n - 1 in the denominator); None for fewer than two values.
        low: lower end of the interval of the mean by Student's t; None for fewer than two values.
        high: its upper end.
        count: number of values.
    """

    mean: float
    deviation: float | None
    low: float | None
    high: float | None
    count: int


def estimate(values: Iterable[float], confidence: float = 0.95) -> Estimate:
    """Mean, standard deviation and interval of the mean; values that are NaN are missing.

    The interval is exact for normal values. Equal values have an interval of no width.

    Raises:
        BadInput: a value is infinite, or confidence is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise BadInput(f"confidence: expected a share between 0 and 1, got {confidence}")
    given = np.asarray(list(values), dtype=np.float64)
    if np.isinf(given).any():
        raise BadInput("a value is infinite: expected finite numbers, or NaN where one is missing")
    # Sorted, so that the order of the values does not change the last bit.
    known = np.sort(given[~np.isnan(given)])
    count = len(known)
    if not count:
        return Estimate(math.nan, None, None, None, 0)
    # Equal values have themselves as mean; their sum divided by their number can be off by the last bit.
    mean = float(known[0]) if known[0] == known[-1] else float(known.mean())
    if count == 1:
        return Estimate(mean, None, None, None, 1)
    deviation = 0.0 if known[0] == known[-1] else float(known.std(ddof=1))
    margin = t_point(confidence, count) * deviation / math.sqrt(count)
    return Estimate(mean, deviation, mean - margin, mean + margin, count)


@functools.lru_cache(maxsize=256)
def t_point(confidence: float, count: int) -> float:
    """How many standard errors an interval of a mean of so many values reaches to each side."""
    return float(stats.t.ppf((1 + confidence) / 2, count - 1))


def summarise(results: pandas.DataFrame) -> pandas.DataFrame:
    """Accuracy of every method at every budget of its run.

    Args:
        results: as `load_results` returns them.

    Returns:
        One row per run, method and budget that any cell of the run reached, sorted: run, method, labels, budget (share
        of the pool), count (cells with a result here), expected (cells of the grid), mean, deviation, low, high (as in
        `Estimate`; NaN for None). A budget that a method did not reach is a row of count 0.

    Raises:
        BadInput: the same run, method, seed and budget is there twice.
    """
    import pandas

    rows = []
    for curves in curves_of_runs(results):
        for method, accuracy_S_L in curves.accuracy.items():
            for position, (labels, budget) in enumerate(zip(curves.labels, curves.budgets, strict=True)):
                found = estimate(accuracy_S_L[:, position])
                rows.append(
                    (curves.run, method, int(labels), float(budget), found.count, len(accuracy_S_L), found.mean,
                     found.deviation, found.low, found.high)
                )  # fmt: skip
    frame = pandas.DataFrame(rows, columns=list(SUMMARY))
    return frame.astype(dict.fromkeys(("mean", "deviation", "low", "high"), "float64"))
