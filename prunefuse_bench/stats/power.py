"""What a number of seeds can show."""

from __future__ import annotations

import functools
import math

import numpy as np
from scipy import optimize, stats  # type: ignore[import-untyped]

__all__ = ["smallest_difference"]

NORMAL_GRID = np.linspace(-9.0, 9.0, 3601)
NORMAL_WEIGHTS = stats.norm.pdf(NORMAL_GRID) / stats.norm.pdf(NORMAL_GRID).sum()


def smallest_difference(
    deviation: float, blocks: int, comparisons: int = 1, *, level: float = 0.05, power: float = 0.8
) -> float | None:
    """The difference of means that a paired t-test finds with this power.

    Each of the comparisons is tested at level / comparisons, the first and hardest step of Holm's correction: what
    passes it is called different whatever the other pairs do.

    Args:
        deviation: standard deviation of the paired differences between blocks.
        blocks: number of pairs.
        comparisons: pairs of methods on the board.
        level: share of boards of equal methods on which any difference may be claimed.
        power: share of boards on which the difference must be found.

    Returns:
        In units of deviation; None for fewer than two blocks, no comparison, or no spread to reckon with.
    """
    if blocks < 2 or comparisons < 1 or not deviation > 0:
        return None
    return _noncentrality(blocks - 1, level / comparisons, power) * deviation / math.sqrt(blocks)


@functools.lru_cache(maxsize=64)
def _noncentrality(freedom: int, level: float, power: float) -> float:
    """Of the t distribution whose upper tail beyond the critical value of a two-sided test is the power."""
    critical = float(stats.t.isf(level / 2, freedom))
    # Twice what would do without the scatter of the mean itself.
    enough = 2 * critical * math.sqrt(float(stats.chi2.ppf(power, freedom)) / freedom) + 10

    def lacking(noncentrality: float) -> float:
        return power - _upper_tail(critical, freedom, noncentrality)

    return float(optimize.brentq(lacking, 0.0, enough, xtol=1e-9))


def _upper_tail(critical: float, freedom: int, noncentrality: float) -> float:
    """P(T > critical) of the noncentral t distribution: that of one sign, as a difference of the wrong sign is no find.

    T = (Z + noncentrality) / sqrt(chi squared / freedom), here by its definition, averaged over the normal Z on an even
    grid: the series in SciPy's own `nct` does not converge for the large critical values of few blocks and many pairs.
    """
    above = np.maximum(NORMAL_GRID + noncentrality, 0.0)
    chances = stats.chi2.cdf(freedom * (above / critical) ** 2, freedom)
    return float(chances @ NORMAL_WEIGHTS)
