"""prunefuse-bench: which data-selection method gives the most accuracy for the labels, FLOPs and seconds it costs?"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunefuse_bench.fusion import fuse
    from prunefuse_bench.pruning import PrunedNetwork, prune
    from prunefuse_bench.records import load_results

__all__ = ["PrunedNetwork", "__version__", "fuse", "load_results", "prune"]

__version__ = "0.1.0"

_HOMES = {"PrunedNetwork": "pruning", "fuse": "fusion", "load_results": "records", "prune": "pruning"}


def __getattr__(name: str) -> Any:
    """Public names on first use: importing torch takes seconds, and ``--help`` needs none of it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
