"""Tests and intervals of paired differences, for many pairs of methods at once.

Every function takes differences_P_B, float64 [P, B]: a row per pair of methods, a column per block that both have (a
block is a task and a seed), all finite. Rows do not influence each other.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy import stats  # type: ignore[import-untyped]

__all__ = [
    "FEWEST_FOR_BOOTSTRAP",
    "FEWEST_FOR_SIGNED_RANKS",
    "bootstrap_intervals",
    "holm",
    "on_grid",
    "resampled_blocks",
    "sign_test_of_equal_differences",
    "signed_rank_tests",
    "t_tests",
]

Floats = npt.NDArray[np.float64]

FEWEST_FOR_SIGNED_RANKS = 6
"""With n non-zero differences no signed-rank test can give less than 2 / 2^n: 5% is out of reach for five."""

FEWEST_FOR_BOOTSTRAP = 8
"""From this many blocks on, the bootstrap's 95% intervals hold what they promise (tests/test_stats.py)."""

RESAMPLES = 4999
SEED = 20260603
GRID_BITS = 40


def on_grid(differences: Floats, largest: float) -> Floats:
    """Differences rounded to 2^-40 of the largest value that they were computed from.

    Accuracies are counts divided by a count: 0.7 - 0.6 and 0.4 - 0.3 are the same difference, but not the same bits.
    """
    if not largest:
        return differences
    step = 2.0 ** (np.ceil(np.log2(largest)) - GRID_BITS)
    rounded: Floats = np.rint(differences / step) * step
    return rounded


def t_tests(differences_P_B: Floats, confidence: float = 0.95) -> tuple[Floats, Floats, Floats]:
    """Paired t-test of each row, and the interval of its mean difference.

    Returns:
        p, low and high, float64 [P]. Fewer than two blocks: NaN, but p = 1 for a difference of zero (the same bits
        are no evidence of anything). All differences zero: p = 1 and an interval of no width. All equal and not zero:
        there is no spread to judge them by, so p is that of the signs alone and the interval NaN.
    """
    pairs, blocks = differences_P_B.shape
    p, low, high = (np.full(pairs, np.nan) for _ in range(3))
    if not blocks:
        return p, low, high
    equal = np.ptp(differences_P_B, axis=1) == 0
    zero = equal & (differences_P_B[:, 0] == 0)
    if blocks > 1:
        p[equal] = sign_test_of_equal_differences(blocks)
        low[zero] = high[zero] = 0.0
        if not equal.all():
            tested = stats.ttest_1samp(differences_P_B[~equal], 0.0, axis=1)
            interval = tested.confidence_interval(confidence)
            p[~equal], low[~equal], high[~equal] = tested.pvalue, interval.low, interval.high
    p[zero] = 1.0
    return p, low, high


def sign_test_of_equal_differences(blocks: int) -> float:
    """Two-sided p of all signs being the same: 2 of 2^n ways to flip them are as extreme."""
    return float(min(1.0, 2.0 ** (1 - blocks)))


def signed_rank_tests(differences_P_B: Floats) -> Floats:
    """Wilcoxon's signed-rank test of each row, exact also with tied differences.

    Zeros are left out, as Wilcoxon did; tied differences share their mean rank, and the distribution is that over all
    2^n signs of the ranks as they are (SciPy's exact distribution is for untied ranks, and accuracies often tie).
    O(B^3) time for each distinct pattern of ties: one pattern for all rows without ties.

    Returns:
        Two-sided p, float64 [P]; NaN for fewer than six non-zero differences, which cannot reach 5%, but 1 where all
        differences are zero.
    """
    pairs, blocks = differences_P_B.shape
    p = np.full(pairs, np.nan)
    if not blocks:
        return p
    non_zero = np.count_nonzero(differences_P_B, axis=1)
    p[non_zero == 0] = 1.0
    for count in np.unique(non_zero[non_zero >= FEWEST_FOR_SIGNED_RANKS]):
        rows = np.flatnonzero(non_zero == count)
        differences_R_N = differences_P_B[rows][differences_P_B[rows] != 0].reshape(len(rows), count)
        # Twice the ranks, so that mean ranks are whole numbers.
        ranks_R_N = np.rint(2 * stats.rankdata(np.abs(differences_R_N), axis=1)).astype(np.int64)
        sums_R = (ranks_R_N * (differences_R_N > 0)).sum(axis=1)
        patterns, which = np.unique(np.sort(ranks_R_N, axis=1), axis=0, return_inverse=True)
        which = which.reshape(-1)  # NumPy 2.0 gave it another shape
        for position, cumulative in enumerate(_cumulative_sums(patterns)):
            mine = which == position
            # The distribution is symmetric about half the total: the upper tail is the lower tail of the mirror image.
            smaller = np.minimum(sums_R[mine], count * (count + 1) - sums_R[mine])
            p[rows[mine]] = np.minimum(1.0, 2 * cumulative[smaller])
    return p


def _cumulative_sums(ranks_T_N: npt.NDArray[np.int64]) -> Iterator[Floats]:
    """For each ascending row, P(sum of a random subset <= s) for s = 0, 1, … up to half the sum of all."""
    for ranks_N in ranks_T_N:
        half = int(ranks_N.sum()) // 2
        chance = np.zeros(half + 1)
        chance[0] = 1.0
        largest = 0
        for rank in ranks_N.tolist():
            largest = min(largest + rank, half)
            reached = chance[: largest + 1]
            without, with_it = reached / 2, reached[: max(largest + 1 - rank, 0)] / 2
            chance[: largest + 1] = without
            chance[rank : largest + 1] += with_it
        yield np.cumsum(chance)


def bootstrap_intervals(differences_P_B: Floats, confidence: float = 0.95) -> tuple[Floats, Floats]:
    """Studentised bootstrap of the mean difference: blocks are drawn anew, the same for all rows.

    Of the usual kinds this one keeps its promise with the fewest blocks; the percentile and BCa intervals are too
    narrow below some thirty. Efron and Tibshirani, An Introduction to the Bootstrap, section 12.5.
    O(P B R) time for R = 4,999 resamples, the same ones every time.

    Returns:
        low and high, float64 [P]; NaN for fewer than `FEWEST_FOR_BOOTSTRAP` blocks, and where the resamples that the
        interval ends at have no spread (nearly all differences are equal). All zero: an interval of no width.
    """
    pairs, blocks = differences_P_B.shape
    low, high = np.full(pairs, np.nan), np.full(pairs, np.nan)
    if blocks < FEWEST_FOR_BOOTSTRAP:
        return low, high
    equal = np.ptp(differences_P_B, axis=1) == 0
    zero = equal & (differences_P_B[:, 0] == 0)
    low[zero] = high[zero] = 0.0
    if equal.all():
        return low, high
    differences = differences_P_B[~equal]
    means = differences.mean(axis=1)
    # In units of each row's own spread and about its own mean: squares lose no digits, and scale does not matter.
    spreads = differences.std(axis=1, ddof=1)
    standard = (differences - means[:, None]) / spreads[:, None]
    shares_R_B = resampled_blocks(blocks) / blocks
    drawn = shares_R_B @ standard.T
    variance = (shares_R_B @ (standard**2).T - drawn**2) * (blocks / (blocks - 1))
    without_spread = variance < 1e-12
    t = drawn / np.sqrt(np.where(without_spread, 1.0, variance))
    t[without_spread] = np.copysign(np.inf, drawn)[without_spread]
    tail = (1 - confidence) / 2
    # The order statistics themselves: interpolation between infinities is not a number.
    lower, upper = np.quantile(t, [tail, 1 - tail], axis=0, method="inverted_cdf")
    ends = means - upper * spreads, means - lower * spreads
    low[~equal], high[~equal] = (np.where(np.isfinite(end), end, np.nan) for end in ends)
    return low, high


@functools.lru_cache(maxsize=8)
def resampled_blocks(blocks: int) -> Floats:
    """How often each block is drawn in each resample: float64 [R, B], rows sum to B, the same every time."""
    generator = np.random.Generator(np.random.PCG64(SEED))
    counts: Floats = generator.multinomial(blocks, np.full(blocks, 1 / blocks), size=RESAMPLES).astype(np.float64)
    counts.flags.writeable = False
    return counts


def holm(p: npt.ArrayLike) -> Floats:
    """Holm's correction: all of p as given, adjusted so that 5% holds for the whole family.

    Holm, A simple sequentially rejective multiple test procedure, 1979. NaN (nothing could be tested) stays NaN and
    counts as a member of the family.
    """
    given = np.asarray(p, dtype=np.float64)
    order = np.argsort(np.where(np.isnan(given), np.inf, given), kind="stable")
    factors = np.arange(len(given), 0, -1)
    adjusted = np.empty_like(given)
    # The largest so far: a pair cannot be different before all pairs with smaller p are.
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(given[order] * factors))
    return adjusted
