"""How opinions become a choice of k samples."""

from prunefuse_bench.acquisition import diversity, random, uncertainty  # they register their acquisitions
from prunefuse_bench.acquisition.acquisition import (
    ACQUISITIONS,
    Acquisition,
    Needs,
    Opinions,
    acquisition,
    batch_acquisition,
)

__all__ = [
    "ACQUISITIONS",
    "Acquisition",
    "Needs",
    "Opinions",
    "acquisition",
    "batch_acquisition",
    "diversity",
    "random",
    "uncertainty",
]
