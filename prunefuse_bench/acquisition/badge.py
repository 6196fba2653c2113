"""Batches of samples that would pull the classifier hard, and in different directions."""

from __future__ import annotations

import torch
from torch import Tensor

from prunefuse_bench.acquisition.acquisition import Needs, Opinions, batch_acquisition
from prunefuse_bench.acquisition.products import multiplied, products_as_told
from prunefuse_bench.ops.checks import refuse

__all__ = ["GradientEmbeddings", "badge"]

ROUNDING = 1e-12
"""Share of squared norms that float64 products may be off by: what differs by less is equal."""
BLOCK_ROWS = 1024
"""Samples that are converted at a time."""


@batch_acquisition(
    "badge",
    needs=Needs.LOGITS | Needs.FEATURES,
    source="Ash et al. 2020",
    equation="repeat: x with probability ~ min over chosen c of |g(x) - g(c)|^2, g = (p - onehot(argmax p)) outer h",
    randomised=True,
    flops=products_as_told("softmax of N C values, norms, and a running sum of N values per pick"),
)
def badge(k: int, opinions: Opinions) -> Tensor:
    """k-means++ seeding on the gradients of the last layer, each for the label that the selector itself predicts.

    g(x) = (p(x) - onehot(argmax p(x))) outer h(x) is the gradient of the cross entropy by the weight of the linear
    classifier, its bias left out, with h(x) the classifier's input. The first choice is the sample with the largest
    gradient, as in the authors' code, of equal ones one by lot; every other is drawn with a probability proportional to
    the squared distance to the nearest one chosen. Each takes one uniform number, looked up in the running sum of the
    squared distances in the order of the pool. When every sample left is equal to a chosen one, the rest is drawn by
    lot.

    The embeddings [N, C * D] never exist, only their factors, which are multiplied in float64, see
    :class:`GradientEmbeddings`. Squared distances below 1e-12 of the squared norms are rounding and count as none.

    Time: N * C products per pick, bound by reading as many float64 numbers, and D more for every sample that could be
    nearer to the new choice than to an earlier one, soon a few in a hundred: about 10 seconds on one core for
    N = 50,000, C = 100, D = 512 and k = 1,000. Memory: 8 * N * C bytes.

    Raises:
        NotRankable: a prediction is not a distribution, or a feature is not finite.
    """
    assert opinions.logits is not None
    assert opinions.features is not None
    embeddings = GradientEmbeddings(opinions.logits.detach(), opinions.features.detach())
    chosen: list[int] = []
    nearest = torch.full_like(embeddings.squared_norms, torch.inf)
    while len(chosen) < k and nearest.any():
        if chosen:
            pick = _draw(nearest.cpu(), opinions.generator)
        else:
            largest = (1 - ROUNDING) * embeddings.squared_norms.max()
            equal = (embeddings.squared_norms >= largest).nonzero()[:, 0]
            pick = int(equal[int(torch.randint(len(equal), (), generator=opinions.generator))])
        embeddings.lower(nearest, pick)
        chosen.append(pick)
    left = torch.ones(len(opinions), dtype=torch.bool)
    left[chosen] = False
    copies = left.nonzero()[:, 0]
    by_lot = copies[torch.randperm(len(copies), generator=opinions.generator)[: k - len(chosen)]]
    return torch.cat([torch.tensor(chosen, dtype=torch.int64), by_lot])


class GradientEmbeddings:
    """Gradients of the last layer's weight, g = a outer h, kept as their two factors: a = p - onehot(argmax p), and h.

    |g - g'|^2 = |a|^2 |h|^2 + |a'|^2 |h'|^2 - 2 (a . a') (h . h').

    Args:
        logits: float [N, C].
        features: float [N, D]; not copied.

    Attributes:
        squared_norms: float64 [N], |g|^2.

    Raises:
        NotRankable: a logit is NaN or +inf, or all of a row are -inf, or a feature is not finite.
    """

    def __init__(self, logits: Tensor, features: Tensor) -> None:
        self._features = features
        self._errors = torch.empty(logits.shape, dtype=torch.float64, device=logits.device)
        self._feature_norms = torch.empty(len(logits), dtype=torch.float64, device=logits.device)
        for start in range(0, len(logits), BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            self._errors[rows] = _errors(logits[rows])
            self._feature_norms[rows] = features[rows].double().norm(dim=1)
        error_norms = self._errors.norm(dim=1)
        refuse(error_norms.isnan(), "logits", "NaN or +inf")
        refuse(~self._feature_norms.isfinite(), "features", "NaN or inf")
        self.squared_norms = (error_norms * self._feature_norms).square_()

    def lower(self, nearest: Tensor, sample: int) -> None:
        """Lower ``nearest``, float64 [N], to the squared distance to a sample wherever that is smaller.

        A distance is exactly 0 where rounding is all that is left of it, and that to the sample itself always.
        """
        sums = self.squared_norms + self.squared_norms[sample]
        error_products = self._errors @ self._errors[sample]
        multiplied(len(self._errors), self._errors.shape[1], 1)
        # |h . h'| <= |h| |h'|, so most samples are known to be too far away before their features are read.
        least = (error_products.abs() * self._feature_norms).mul_(-2 * self._feature_norms[sample]).add_(sums)
        could_be_nearer = (least < nearest + ROUNDING * sums).nonzero()[:, 0]
        feature = self._features[sample].double()
        for rows in could_be_nearer.split(BLOCK_ROWS):
            multiplied(len(rows), len(feature), 1)
            products = error_products[rows].mul_(self._features[rows].double() @ feature)
            distances = sums[rows].sub_(products, alpha=2)
            distances.masked_fill_(distances <= ROUNDING * sums[rows], 0.0)
            nearest[rows] = torch.minimum(nearest[rows], distances)
        nearest[sample] = 0.0


def _errors(logits: Tensor) -> Tensor:
    """float64 [B, C]: p - onehot(argmax p)."""
    errors = torch.softmax(logits.double(), dim=1)
    predicted = errors.argmax(dim=1, keepdim=True)
    # p - 1 of the predicted class is less what the others have; from 1 - p no digits would be left where p is near 1.
    errors.scatter_(1, predicted, 0.0)
    return errors.scatter_(1, predicted, -errors.sum(dim=1, keepdim=True))


def _draw(weights: Tensor, generator: torch.Generator) -> int:
    """A position with a probability proportional to its weight, float64 [N], at least one of which is not 0."""
    cumulative = weights.cumsum(dim=0)
    uniform = torch.rand((), generator=generator, dtype=torch.float64)
    position = int(torch.searchsorted(cumulative, uniform * cumulative[-1], right=True))
    return position if position < len(weights) else int(weights.nonzero()[-1])
