"""How opinions become a choice of k samples."""

from prunefuse_bench.acquisition import (  # they register their acquisitions
    badge,
    batchbald,
    clusters,
    committee,
    diversity,
    gradients,
    history,
    prototypes,
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
    "badge",
    "batch_acquisition",
    "batchbald",
    "clusters",
    "committee",
    "diversity",
    "gradients",
    "history",
    "prototypes",
    "random",
    "top_k_by_lot",
    "uncertainty",
]
