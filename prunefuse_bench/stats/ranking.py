"""Ranks of methods over blocks, and the places that tests leave them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import stats  # type: ignore[import-untyped]

from prunefuse_bench.stats.estimates import t_point
from prunefuse_bench.stats.paired import FEWEST_FOR_BOOTSTRAP, resampled_blocks

__all__ = ["mean_rank_intervals", "places", "ranks_in_blocks"]

Floats = npt.NDArray[np.float64]


def ranks_in_blocks(values_M_B: Floats) -> Floats:
    """Rank of each method in each block, 1 for the highest value: float64 [M, B].

    Equal values share their mean rank. What is missing shares the last ranks of its block.
    """
    if not values_M_B.size:
        return values_M_B.copy()
    lowest = np.where(np.isnan(values_M_B), -np.inf, values_M_B)
    ranks: Floats = stats.rankdata(-lowest, axis=0)
    return ranks


def mean_rank_intervals(ranks_M_B: Floats, confidence: float = 0.95) -> tuple[Floats, Floats]:
    """Bootstrap interval of each method's mean rank.

    Percentiles, moved outwards by as much as Student's t exceeds the normal distribution (Hesterberg, What teachers
    should know about the bootstrap, 2015, section 5.2): ranks take few values, so resamples without any spread are
    common, and the studentised bootstrap that differences of accuracy get has no answer for them.

    Returns:
        low and high, float64 [M]; NaN for fewer than `FEWEST_FOR_BOOTSTRAP` blocks.
    """
    methods, blocks = ranks_M_B.shape
    if blocks < FEWEST_FOR_BOOTSTRAP:
        return np.full(methods, np.nan), np.full(methods, np.nan)
    tail = float(stats.norm.sf(np.sqrt(blocks / (blocks - 1)) * t_point(confidence, blocks)))
    means_R_M = resampled_blocks(blocks) @ ranks_M_B.T / blocks
    low, high = np.quantile(means_R_M, [tail, 1 - tail], axis=0)
    return low, high


def places(verdicts_M_M: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First and last place that each method can hold, if every verdict is right.

    Because Holm's correction errs on at most 5% of boards in any verdict, so do all these intervals together
    (Al Mohamad, Goeman and van Zwet, Simultaneous confidence intervals for ranks, 2022).

    Args:
        verdicts_M_M: +1 where the row is better than the column, -1 where it is worse, 0 where they are not different.
    """
    return 1 + (verdicts_M_M < 0).sum(axis=1), len(verdicts_M_M) - (verdicts_M_M > 0).sum(axis=1)
