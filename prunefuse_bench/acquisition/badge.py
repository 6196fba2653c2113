"""Batches of samples that would pull the classifier hard, and in different directions."""

from __future__ import annotations

import torch
from torch import Tensor

from prunefuse_bench.acquisition.acquisition import Needs, Opinions, batch_acquisition
from prunefuse_bench.ops.checks import refuse

__all__ = ["GradientEmbeddings", "badge"]

ROUNDING = 1e-12
"""Share of squared norms that float64 products may be off by: what differs by less is equal."""
BLOCK_ROWS = 4096
"""Samples that are converted at a time."""


@batch_acquisition(
    "badge",
    needs=Needs.LOGITS | Needs.FEATURES,
    source="Ash et al. 2020",
    equation="repeat: x with probability ~ min over chosen c of |g(x) - g(c)|^2, g = (p - onehot(argmax p)) outer h",
    randomised=True,
)
def badge(k: int, opinions: Opinions) -> Tensor:
    """k-means++ seeding on the gradients of the last layer, each for the label that the selector itself predicts.

    g(x) = (p(x) - onehot(argmax p(x))) outer h(x) is the gradient of the cross entropy by the weight of the linear
    classifier, its bias left out, with h(x) the classifier's input. The first choice is the sample with the largest
    gradient, as in the authors' code, of equal ones one by lot; every other is drawn with a probability proportional to
    the squared distance to the nearest one chosen. Each takes one uniform number, looked up in the running sum of the
    squared distances in the order of the pool. When every sample left is equal to a chosen one, the rest is drawn by
    lot.

    The embeddings [N, C * D] never exist: |g - g'|^2 = |a|^2 |h|^2 + |a'|^2 |h'|^2 - 2 (a . a') (h . h') for the two
    factors a and h. They are multiplied in float64: squared distances below 1e-12 of the squared norms are rounding and
    count as none.

    Time: N * (C + D) products per pick, bound by reading as many float64 numbers: 20 seconds on one core for N = 50,000,
    C = 100, D = 512 and k = 1,000. Memory: 8 * N * (C + D) bytes.

    Raises:
        NotRankable: a prediction is not a distribution, or a feature is not finite.
    """
    assert opinions.logits is not None
    assert opinions.features is not None
    embeddings = GradientEmbeddings(opinions.logits.detach(), opinions.features.detach())
    chosen: list[int] = []
    nearest = torch.full((len(opinions),), torch.inf, dtype=torch.float64)
    while len(chosen) < k:
        if not chosen:
            norms = embeddings.squared_norms
            largest = (norms >= (1 - ROUNDING) * norms.max()).nonzero()[:, 0]
            pick = int(largest[int(torch.randint(len(largest), (), generator=opinions.generator))])
        else:
            pick = _draw(nearest, opinions.generator)
        chosen.append(pick)
        torch.minimum(nearest, embeddings.squared_distances(pick).cpu(), out=nearest)
        nearest[pick] = 0.0
        if not nearest.any():
            break
    left = torch.ones(len(opinions), dtype=torch.bool)
    left[chosen] = False
    equal = left.nonzero()[:, 0]
    by_lot = equal[torch.randperm(len(equal), generator=opinions.generator)[: k - len(chosen)]]
    return torch.cat([torch.tensor(chosen, dtype=torch.int64), by_lot])


class GradientEmbeddings:
    """Gradients of the last layer's weight, kept as their two factors.

    Args:
        logits: float [N, C].
        features: float [N, D].

    Attributes:
        squared_norms: float64 [N].

    Raises:
        NotRankable: a row of either is not finite; log-probabilities of -inf are allowed.
    """

    def __init__(self, logits: Tensor, features: Tensor) -> None:
        self._errors = torch.empty(logits.shape, dtype=torch.float64, device=logits.device)
        for errors, rows in zip(self._errors.split(BLOCK_ROWS), logits.split(BLOCK_ROWS), strict=True):
            errors.copy_(torch.softmax(rows.double(), dim=1))
            predicted = errors.argmax(dim=1, keepdim=True)
            # p - 1 of the predicted class is less what the others have; 1 - p would lose its digits where p is near 1.
            errors.scatter_(1, predicted, 0.0)
            errors.scatter_(1, predicted, -errors.sum(dim=1, keepdim=True))
        self._features = features.double()
        squared_errors, squared_features = _squared_norms(self._errors), _squared_norms(self._features)
        refuse(squared_errors.isnan(), "logits", "NaN or +inf")
        refuse(~squared_features.isfinite(), "features", "NaN or inf")
        self.squared_norms = squared_errors * squared_features

    def squared_distances(self, sample: int) -> Tensor:
        """float64 [N]: |g - g'|^2 to one of the samples; exactly 0 where rounding is all that is left of it."""
        sums = self.squared_norms + self.squared_norms[sample]
        products = (self._errors @ self._errors[sample]).mul_(self._features @ self._features[sample])
        distances = torch.sub(sums, products, alpha=2)
        return distances.masked_fill_(distances <= ROUNDING * sums, 0.0)


def _squared_norms(rows: Tensor) -> Tensor:
    """float64 [N]."""
    return torch.linalg.vector_norm(rows, dim=1).square_()  # no copy of the rows, as their squares would be


def _draw(weights: Tensor, generator: torch.Generator) -> int:
    """A position with a probability proportional to its weight, float64 [N], at least one of which is not 0."""
    cumulative = weights.cumsum(dim=0)
    uniform = torch.rand((), generator=generator, dtype=torch.float64)
    position = int(torch.searchsorted(cumulative, uniform * cumulative[-1], right=True))
    return position if position < len(weights) else int(weights.nonzero()[-1])
