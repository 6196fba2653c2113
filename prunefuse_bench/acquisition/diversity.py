"""Choices that cover the pool."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from prunefuse_bench import ops
from prunefuse_bench.acquisition.acquisition import Needs, Opinions, batch_acquisition


@batch_acquisition(
    "kcenters",
    needs=Needs.FEATURES | Needs.LABELED,
    source="Sener and Savarese 2018; paper 4.2",
    equation="repeat: argmax over x of min over centers c of |h(x) - h(c)|",
    randomised=True,
)
def kcenters(k: int, opinions: Opinions, random_start: Annotated[int, Field(ge=0)] = 0) -> Tensor:
    """Greedy k-centers on the selector's features, from the labeled samples as centers or from one drawn by lot.

    ``random_start``: so many of the k are drawn by lot first.
    """
    assert opinions.features is not None
    labeled, unlabeled = opinions.labeled_features, opinions.features
    drawn = min(k, max(random_start, 1 if labeled is None or not len(labeled) else 0))
    lot = torch.randperm(len(unlabeled), generator=opinions.generator)[:drawn] if drawn else torch.empty(0).long()
    if labeled is None or not len(labeled):
        picks, _ = ops.greedy_kcenters(unlabeled, k - drawn, lot.to(unlabeled.device) if drawn else None)
        return torch.cat([lot, picks.cpu()])
    centers = torch.cat([lot.to(unlabeled.device), _rows_after(unlabeled, labeled)])
    picks, _ = ops.greedy_kcenters(torch.cat([unlabeled, labeled]), k - drawn, centers)
    return torch.cat([lot, picks.cpu()])


def _rows_after(first: Tensor, second: Tensor) -> Tensor:
    """Rows of ``second`` in the concatenation of both."""
    return torch.arange(len(first), len(first) + len(second), device=first.device)
