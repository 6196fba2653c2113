"""prunefuse-bench: which data-selection method gives the most accuracy for the labels, FLOPs and seconds it costs?"""

from __future__ import annotations

from prunefuse_bench.fusion import fuse
from prunefuse_bench.pruning import PrunedNetwork, prune
from prunefuse_bench.records import load_results

__all__ = ["PrunedNetwork", "__version__", "fuse", "load_results", "prune"]

__version__ = "0.1.0"
