"""Choices that cover the pool."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from prunefuse_bench import ops
from prunefuse_bench.acquisition.acquisition import Needs, Opinions, batch_acquisition
from prunefuse_bench.acquisition.products import Counts, products_by_formula


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
)
def kcenters(k: int, opinions: Opinions, random_start: Annotated[int, Field(ge=0)] = 0) -> Tensor:
    """Greedy k-centers on the selector's features, from the labeled samples as centers or from one drawn by lot.

    ``random_start``: so many of the k are drawn by lot first. Of equally distant samples one is drawn by lot.

    Raises:
        NotRankable: a feature is NaN or infinite; rows after the candidates are those of the labeled samples.
    """
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
    drawn = min(k, max(random_start, 0 if len(labeled) else 1))
    features = torch.cat([candidates[lot.to(candidates.device)], labeled])
    centers = torch.cat([torch.arange(drawn), torch.arange(len(candidates), len(features))])
    picks, _ = ops.greedy_kcenters(features, k - drawn, centers.to(features.device))
    return lot[torch.cat([torch.arange(drawn), picks.cpu()])]
