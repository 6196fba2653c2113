"""How opinions become a choice of k samples."""

from prunefuse_bench.acquisition.acquisition import (
    Acquisition,
    Needs,
    Opinions,
    acquisition,
    acquisitions,
    batch_acquisition,
)

__all__ = ["Acquisition", "Needs", "Opinions", "acquisition", "acquisitions", "batch_acquisition"]
