"""Choices by the distance to the middle of a sample's own class."""

from __future__ import annotations

import torch
from torch import Tensor

from prunefuse_bench.acquisition.acquisition import Needs, Opinions, batch_acquisition
from prunefuse_bench.acquisition.products import no_products
from prunefuse_bench.ops.checks import refuse


@batch_acquisition(
    "moderate",
    needs=Needs.FEATURES | Needs.LABELS,
    source="Xia et al. 2023; paper, Table 4",
    equation="the middle k of all samples in the order of |h(x) - median of h over the class of x|_2",
    flops=no_products("sorting of N D features, and N distances to one point each"),
)
def moderate(k: int, opinions: Opinions) -> Tensor:
    """The samples that are neither near to nor far from the prototype of their class.

    The prototype is the element-wise median of the class (the mean of the two middle values for an even number), and
    all classes are ranked together, as in the authors' code; so classes are not chosen in proportion. (N - k) // 2 of
    the nearest samples are left out and the other N - k - (N - k) // 2 at the far end; the authors round a share at
    each end, which can give one sample more or less than k.

    It is a choice of a batch and no score, because "the middle of the ranking" is exact only as ranks: the distance to
    the median distance would choose another set, and equal distances have no rank of their own. They are ranked by lot.

    Time O(N D log N), memory O(N) and float64 copies of the largest class.

    Returns:
        int64 [k] from the middle of the ranking outwards, so that fewer picks are the first of more.

    Raises:
        NotRankable: a feature is NaN or infinite.
    """
    assert opinions.features is not None
    assert opinions.labels is not None
    refuse(~opinions.features.isfinite().all(1), "features", "NaN or infinity")
    distances = _distances_to_prototypes(opinions.features, opinions.labels.to(opinions.features.device)).cpu()
    lot = torch.randperm(len(distances), generator=opinions.generator)
    ranked = lot[distances[lot].argsort(stable=True)]
    nearest = (len(ranked) - k) // 2
    middle = (len(ranked) - 1) / 2
    from_middle = (torch.arange(nearest, nearest + k, dtype=torch.float64) - middle).abs()
    return ranked[nearest : nearest + k][from_middle.argsort(stable=True)]


def _distances_to_prototypes(features: Tensor, labels: Tensor) -> Tensor:
    """float64 [N], Euclidean distance of each sample to the element-wise median of its class."""
    distances = torch.empty(len(features), dtype=torch.float64, device=features.device)
    by_class = labels.argsort(stable=True)
    for members in by_class.split(labels.bincount().tolist()):
        if not len(members):
            continue
        own = features[members].double()
        ordered = own.sort(0).values
        prototype = (ordered[(len(own) - 1) // 2] + ordered[len(own) // 2]) / 2
        distances[members] = (own - prototype).norm(dim=1)
    return distances
