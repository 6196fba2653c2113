"""How opinions become a choice of k samples."""

from prunefuse_bench.acquisition import (  # they register their acquisitions
    committee,
    diversity,
    random,
    uncertainty,
)
from prunefuse_bench.acquisition.acquisition import (
    ACQUISITIONS,
    Acquisition,
    Choice,
    Needs,
    Opinions,
    acquisition,
    batch_acquisition,
    top_k_by_lot,
)
from prunefuse_bench.acquisition.members import HeadMembers, Members, StoredMembers

__all__ = [
    "ACQUISITIONS",
    "Acquisition",
    "Choice",
    "HeadMembers",
    "Members",
    "Needs",
    "Opinions",
    "StoredMembers",
    "acquisition",
    "batch_acquisition",
    "committee",
    "diversity",
    "random",
    "top_k_by_lot",
    "uncertainty",
]
