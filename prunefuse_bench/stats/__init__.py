"""Statistics of the leaderboard: every number with its interval, every comparison paired by task and seed.

docs/statistics.md says in plain words what each of them means. Accuracy is a share, 0 to 1.
"""

from prunefuse_bench.stats.comparisons import Comparisons, compare, compare_areas
from prunefuse_bench.stats.curves import curve_areas
from prunefuse_bench.stats.estimates import Estimate, estimate, summarise
from prunefuse_bench.stats.paired import FEWEST_FOR_BOOTSTRAP, FEWEST_FOR_SIGNED_RANKS, holm
from prunefuse_bench.stats.power import smallest_difference
from prunefuse_bench.stats.savings import cost_savings, label_savings

__all__ = [
    "FEWEST_FOR_BOOTSTRAP",
    "FEWEST_FOR_SIGNED_RANKS",
    "Comparisons",
    "Estimate",
    "compare",
    "compare_areas",
    "cost_savings",
    "curve_areas",
    "estimate",
    "holm",
    "label_savings",
    "smallest_difference",
    "summarise",
]
