"""Choices that cover the pool."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from prunefuse_bench import ops
from prunefuse_bench.acquisition.acquisition import Needs, Opinions, batch_acquisition
from prunefuse_bench.acquisition.products import Counts, products_by_formula
from prunefuse_bench.distributed import current
from prunefuse_bench.distributed.kcenters import RowShard, sharded_kcenters


def _flops(counts: Counts, **_: object) -> int:
    """The distances of all samples to each of the M + k centers, as products."""
    return 2 * (counts.candidates + counts.labeled) * (counts.labeled + counts.k) * counts.features


@batch_acquisition(
    "kcenters",
    needs=Needs.FEATURES | Needs.LABELED,
    source="Sener and Savarese 2018; paper 4.2",
    equation="repeat: argmax over x of min over centers c of |h(x) - h(c)|",
    randomised=True,
    flops=products_by_formula(_flops, "N + M norms; the core skips distances that cannot matter", at_most=True),
    takes_shards=True,
)
def kcenters(k: int, opinions: Opinions, random_start: Annotated[int, Field(ge=0)] = 0) -> Tensor:
    """Greedy k-centers on the selector's features, from the labeled samples as centers or from one drawn by lot.

    ``random_start``: so many of the k are drawn by lot first. Of equally distant samples one is drawn by lot. Several
    processes may hold the features in shards.

    Raises:
        NotRankable: a feature is NaN or infinite; rows after the candidates are those of the labeled samples.
    """
    if opinions.feature_shard is not None:
        return _of_shards(k, opinions, opinions.feature_shard, random_start)
    assert opinions.features is not None
    candidates, labeled = opinions.features, opinions.labeled_features
    if labeled is None:
        labeled = candidates[:0]
    for before, rows in ((0, candidates), (len(candidates), labeled)):
        unfit = (~rows.isfinite().all(1)).nonzero()
        if len(unfit):
            row = before + int(unfit[0])
            raise ops.NotRankable(f"features: row {row} holds NaN or infinity", row)
    # Ties go to the lowest row, so the rows are put in an order drawn by lot.
    lot = torch.randperm(len(candidates), generator=opinions.generator)
    drawn = _drawn(k, random_start, len(labeled))
    features = torch.cat([candidates[lot.to(candidates.device)], labeled])
    centers = torch.cat([torch.arange(drawn), torch.arange(len(candidates), len(features))])
    picks, _ = ops.greedy_kcenters(features, k - drawn, centers.to(features.device))
    return lot[torch.cat([torch.arange(drawn), picks.cpu()])]


def _drawn(k: int, random_start: int, labeled: int) -> int:
    """How many are drawn by lot: one at least if there is no center to begin with."""
    return min(k, max(random_start, 0 if labeled else 1))


def _of_shards(k: int, opinions: Opinions, shard: RowShard, random_start: int) -> Tensor:
    """The same choice with the same lot, of features of which each process has its own rows."""
    world, labeled = current(), opinions.labeled_features
    if labeled is None:
        labeled = shard.rows[:0]
    unfit = (~shard.rows.isfinite().all(1)).nonzero()[:1, 0].cpu() + shard.begin
    found = [*torch.cat(world.gather_objects(unfit)).tolist(), *(~labeled.isfinite().all(1)).nonzero()[:, 0].tolist()]
    if found:
        before = 0 if len(found) > int((~labeled.isfinite().all(1)).sum()) else len(shard)
        raise ops.NotRankable(f"features: row {before + found[0]} holds NaN or infinity", before + found[0])
    lot = torch.randperm(len(shard), generator=opinions.generator)
    drawn = _drawn(k, random_start, len(labeled))
    if drawn == k:
        return lot[:k]
    places = torch.empty_like(lot).scatter_(0, lot, torch.arange(len(lot)))
    picks = sharded_kcenters(world, shard, places, k - drawn, labeled, lot[:drawn])
    return torch.cat([lot[:drawn], picks])
