"""Choices that cover the pool."""

from __future__ import annotations

import torch
from torch import Tensor

from prunefuse_bench import ops
from prunefuse_bench.acquisition.acquisition import Needs, Opinions, batch_acquisition


@batch_acquisition("kcenters", needs=Needs.FEATURES, source="Sener and Savarese 2018; paper 4.2")
def kcenters(k: int, opinions: Opinions) -> Tensor:
    """Greedy k-centers on the selector's features, the labeled samples being centers already."""
    if opinions.features is None or opinions.labeled_features is None:
        raise TypeError("this acquisition needs features")
    labeled, unlabeled = opinions.labeled_features, opinions.features
    indices, _ = ops.greedy_kcenters(torch.cat([unlabeled, labeled]), k, _rows_after(unlabeled, labeled))
    return indices


def _rows_after(first: Tensor, second: Tensor) -> Tensor:
    """Rows of ``second`` in the concatenation of both."""
    return torch.arange(len(first), len(first) + len(second), device=first.device)
