"""Typical samples of clusters that no label covers yet (Hacohen, Dekel and Weinshall 2022).

The authors cluster features learned without labels from the whole pool. Here they are those of the selector, which was
trained on labels: in active learning on few of them, in the coreset protocol on all. What differs from the authors'
code besides:

- Theirs measures how typical a sample is among the samples of its cluster that are neither labeled nor picked yet, by
  mean squared distance and with at most half of them as neighbours. Here it is the paper's definition: mean distance to
  up to 20 neighbours among all samples of the cluster.
- Theirs goes round all clusters in one order, that of their labels before the first pick. Here every pick goes to the
  cluster with the fewest labeled and picked samples at that moment, so that those with labels wait until the others
  have as many.
- Both take no sample of clusters of 5 or fewer. Theirs stops with an error when the others are used up; here the small
  clusters then follow, so that k samples always come.
"""

from __future__ import annotations

import math
import warnings
from typing import Annotated

import numpy as np
import numpy.typing as npt
import threadpoolctl  # type: ignore[import-untyped]  # scikit-learn brings it
import torch
from pydantic import Field
from torch import Tensor

from prunefuse_bench.acquisition.acquisition import Needs, Opinions, batch_acquisition
from prunefuse_bench.acquisition.products import multiplied, products_as_told
from prunefuse_bench.ops.checks import refuse

# As in the authors' code.
_NEIGHBOURS = 20
_SMALL_CLUSTER = 5
_CLUSTERS_FOR_FULL_KMEANS = 50
_MINI_BATCH = 5000

_DISTANCES_AT_ONCE = 2**22


@batch_acquisition(
    "typiclust",
    needs=Needs.FEATURES | Needs.LABELED,
    source="Hacohen, Dekel and Weinshall 2022 (TypiClust)",
    equation="repeat: of the largest of the least covered clusters, argmax of 1 / mean distance to neighbours in it",
    randomised=True,
    flops=products_as_told("norms, sorting and the means of clusters"),
)
def typiclust(k: int, opinions: Opinions, *, max_clusters: Annotated[int, Field(ge=1)] = 500) -> Tensor:
    """From the cluster with the fewest labeled samples, of these the largest, the most typical sample.

    k-means on candidates and labeled samples together, with M labeled into min(M + k, max_clusters) clusters: Lloyd's
    algorithm up to 50, mini-batches of 5,000 above. How typical a sample is, is 1 / its mean distance to its min(20,
    cluster size - 1) nearest neighbours in the cluster. Equally typical samples are drawn by lot; of clusters equal in
    labels and size the one that k-means numbered first comes first.

    k-means runs in one thread, so that the choice does not depend on their number. Time O((N + M) D clusters) for each
    of its iterations and O(D sum of squared cluster sizes); memory float64 copies of the features.

    Raises:
        NotRankable: a feature of a candidate is NaN or infinite.
        ValueError: one of a labeled sample is.
    """
    assert opinions.features is not None
    refuse(~opinions.features.isfinite().all(1), "features", "NaN or infinity")
    labeled = opinions.features[:0] if opinions.labeled_features is None else opinions.labeled_features
    if not labeled.isfinite().all():
        raise ValueError("labeled features: expected finite values, got NaN or infinity")
    if k == 0:
        return torch.empty(0, dtype=torch.int64)
    candidates = len(opinions)
    points = torch.cat([opinions.features, labeled]).cpu().double()
    count = min(len(labeled) + k, max_clusters)
    seed = int(torch.randint(2**31 - 1, (), generator=opinions.generator))
    lot = torch.randperm(candidates, generator=opinions.generator).numpy()

    clusters = _cluster(points, count, seed)
    sizes = np.bincount(clusters, minlength=count)
    covered = np.bincount(clusters[candidates:], minlength=count)
    distances = _mean_distances_to_neighbours(points, torch.from_numpy(clusters)).numpy()[:candidates]
    own = clusters[:candidates]

    # The n-th pick of a cluster comes when n - 1 picks and its labels cover it, so what is picked one by one is one
    # sorting of all candidates.
    typical_first = np.lexsort((lot, distances, own))
    candidates_of = np.bincount(own, minlength=count)
    picked_before = np.empty(candidates, dtype=np.int64)
    picked_before[typical_first] = np.arange(candidates) - (candidates_of.cumsum() - candidates_of)[own[typical_first]]
    order = np.lexsort((own, -sizes[own], covered[own] + picked_before, sizes[own] <= _SMALL_CLUSTER))
    return torch.from_numpy(order[:k])


def _cluster(points: Tensor, count: int, seed: int) -> npt.NDArray[np.int64]:
    """int64 [N], 0 to count - 1; some clusters are empty if there are fewer distinct points."""
    from sklearn.cluster import KMeans, MiniBatchKMeans  # takes a second, and few runs need it
    from sklearn.exceptions import ConvergenceWarning

    if count <= _CLUSTERS_FOR_FULL_KMEANS:
        clustering = KMeans(count, n_init="auto", random_state=seed)
    else:
        clustering = MiniBatchKMeans(count, batch_size=_MINI_BATCH, n_init="auto", random_state=seed)
    with threadpoolctl.threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than clusters
        clusters = clustering.fit_predict(points.numpy()).astype(np.int64)
    samples, width = points.shape
    # Distances to all centers: of the samples of every step, and of all of them at the end.
    if isinstance(clustering, MiniBatchKMeans):
        multiplied(clustering.n_steps_ * min(_MINI_BATCH, samples) + samples, width, count)
        seeded_on = min(samples, max(3 * _MINI_BATCH, 3 * count))
    else:
        multiplied((clustering.n_iter_ + 1) * samples, width, count)
        seeded_on = samples
    # The first centers come from k-means++, which tries 2 + log(count) samples for each.
    multiplied(seeded_on, width, 1 + (count - 1) * (2 + int(math.log(count))))
    return clusters


def _mean_distances_to_neighbours(points: Tensor, clusters: Tensor) -> Tensor:
    """float64 [N], mean Euclidean distance to the nearest others of the cluster; 0 for a point that is alone."""
    means = torch.zeros(len(points), dtype=torch.float64)
    for members in clusters.argsort(stable=True).split(clusters.bincount().tolist()):
        neighbours = min(_NEIGHBOURS, len(members) - 1)
        if neighbours < 1:
            continue
        # Around their mean: the expansion of |x - y|^2 that the product uses loses digits far from zero.
        own = points[members] - points[members].mean(0)
        rows = max(1, _DISTANCES_AT_ONCE // len(members))
        for start in range(0, len(members), rows):
            block = own[start : start + rows]
            multiplied(len(block), own.shape[1], len(own))
            distances = torch.cdist(block, own, compute_mode="use_mm_for_euclid_dist")
            distances.diagonal(start).fill_(torch.inf)  # of the point to itself
            means[members[start : start + rows]] = distances.topk(neighbours, largest=False).values.mean(1)
    return means
