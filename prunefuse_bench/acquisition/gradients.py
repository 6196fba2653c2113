"""Choices by the gradient that each sample has at the selector's last layer.

With h the features and a = p(.|x) - onehot(y), the gradient of the cross-entropy by the layer's weight is the matrix
a h^T [C, D]. Its inner product with another is (a . a')(h . h'), and with a matrix B it is a . B h, so that these N
matrices are never formed. The gradient by the layer's bias, which is a alone, is left out. What differs from the
authors' code (CORDS) besides:

- ``gradmatch``: theirs chooses a subset anew every few epochs of the target's training and trains with the weights that
  the matching finds; here there is one subset, of the trained selector, and the target is trained without weights.
  Theirs includes the bias; its published settings keep only the row of the gradient that belongs to the class, where
  here it is the whole gradient. Theirs ends early if it comes upon a sample that it has picked already; here those are
  passed over. It drops the most negative weight and solves anew, and may take the same sample in again at the next
  step; here the active set method of Lawson and Hanson (1974) lowers the error at every step. Its shares of the classes
  are rounded up; here they sum to k. What is missing is drawn by lot from the whole pool there, here from the class.
- ``glister``: theirs has a validation set of its own; here it is the pool itself, the only labeled data that a
  selection may see. Its published settings use the gradient by the bias alone, and look at a random part of the pool
  before every pick; here it is that of the weight, and all of the pool, in ``rounds``. That is its variant "RGreedy",
  which picks too many if k is no multiple of the rounds. Both add up the gradients of what is chosen without dividing
  by their number, so with many picks the assumed step is long: ``eta`` has to be chosen with k.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from prunefuse_bench.acquisition.acquisition import Needs, Opinions, batch_acquisition, top_k_by_lot
from prunefuse_bench.acquisition.products import Counts, multiplied, products_as_told, products_by_formula
from prunefuse_bench.ops.checks import refuse

# Cosine between a gradient and what is left to match, and share of a squared norm, below which both are rounding.
_NOTHING = 1e-10


@batch_acquisition(
    "gradmatch",
    needs=Needs.LOGITS | Needs.FEATURES | Needs.LABELS,
    source="Killamsetty et al. 2021a (GRAD-MATCH)",
    equation="per class: repeat argmax_i g_i . (sum of g - sum over chosen of w g), w >= 0 refitted by ridge",
    randomised=True,
    flops=products_as_told("softmax of N C values, and norms"),
)
def gradmatch(k: int, opinions: Opinions, *, regularisation: Annotated[float, Field(ge=0)] = 0.5) -> Tensor:
    """Orthogonal matching pursuit of each class's gradient with the samples of that class.

    The classes share k in proportion to their sizes, by largest remainders, of equal ones the lowest class. Within a
    class the sample whose gradient goes furthest along what is left to match is picked, then all weights are solved for
    anew; a sample whose weight becomes zero is taken out again, but may come back. When no further sample with a
    positive weight can lower the error, the rest of the class's share is drawn by lot from the class. Equal samples are
    drawn by lot.

    Classes of n samples with m picks take time O(n m C D + m^3) each and memory O(n (C + D) + m^2), in float64.

    Args:
        regularisation: lambda, in units of a squared norm of a gradient; 0.5 as in the authors' published settings.

    Returns:
        int64 [k]: the classes take turns, each in the order of its picks.

    Raises:
        NotRankable: a feature is NaN or infinite, or a row of logits holds NaN or +inf, or nothing but -inf.
    """
    logits, features, labels = (tensor.cpu() for tensor in _checked(opinions))
    errors = _errors(logits, labels)
    shuffled = torch.randperm(len(labels), generator=opinions.generator)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    sizes = labels.bincount().tolist()
    picks, turns = [torch.empty(0, dtype=torch.int64)], [torch.empty(0, dtype=torch.int64)]
    for members, share in zip(by_class.split(sizes), _shares(sizes, k), strict=True):
        matched = _match(errors[members], features[members], share, regularisation)
        rest = torch.ones(len(members), dtype=torch.bool)
        rest[matched] = False
        picks += [members[matched], members[rest][: share - len(matched)]]
        turns.append(torch.arange(share))
    return torch.cat(picks)[torch.cat(turns).argsort(stable=True)]


def _glister_flops(counts: Counts, *, rounds: int, **_: object) -> int:
    """In each round the logits after the step, their gradient, and its products with all others; and the steps."""
    products_of_all = 3 * min(rounds, counts.k) * counts.candidates
    return 2 * (products_of_all + counts.k) * counts.classes * counts.features


@batch_acquisition(
    "glister",
    needs=Needs.LOGITS | Needs.FEATURES | Needs.LABELS,
    source="Killamsetty et al. 2021b (GLISTER)",
    equation="repeat: argmax_i g_i . grad L(W - eta sum over chosen of g), L the mean loss of the pool",
    flops=products_by_formula(_glister_flops, "softmax of N C values in each round"),
)
def glister(
    k: int,
    opinions: Opinions,
    *,
    eta: Annotated[float, Field(gt=0)] = 0.01,
    rounds: Annotated[int, Field(ge=1)] = 15,
) -> Tensor:
    """Greedily the samples whose gradient step lowers the loss on the pool most, to first order.

    The gradients of the candidates are those of the selector as it is. That of the pool's loss is taken after one step
    with all that was chosen before, which changes the logits of sample i by -eta sum_j a_j (h_j . h_i): no weight has
    to be known. It is taken anew ``rounds`` times, each time for the same number of picks; with ``rounds`` >= k before
    every pick. Equal gains are drawn by lot.

    Time O(rounds N C D), memory O(N (C + D)), in float64.

    Args:
        eta: step size; 0.01 is the learning rate of the authors' published settings.
        rounds: 15 is the default of the authors' code.

    Returns:
        int64 [k], first choice first.

    Raises:
        NotRankable: a feature is NaN or infinite, or a row of logits holds NaN or +inf, or nothing but -inf.
    """
    logits, features, labels = _checked(opinions)
    errors = _errors(logits, labels)
    step = torch.zeros(logits.shape[1], features.shape[1], dtype=torch.float64, device=features.device)
    chosen = torch.empty(0, dtype=torch.int64)
    rounds = min(rounds, k)
    for done in range(1, rounds + 1):
        count = k * done // rounds - len(chosen)
        after = _errors(logits - eta * features @ step.T, labels)
        gains = _products(errors, after.T @ features, features)
        gains[chosen] = -torch.inf
        best, _ = top_k_by_lot(gains, count, opinions.generator)
        step += errors[best].T @ features[best]
        chosen = torch.cat([chosen, best])
    return chosen


def _checked(opinions: Opinions) -> tuple[Tensor, Tensor, Tensor]:
    """Logits float64 [N, C], features float64 [N, D] and labels int64 [N], on one device."""
    assert opinions.logits is not None
    assert opinions.features is not None
    assert opinions.labels is not None
    logits, features = opinions.logits, opinions.features
    # What softmax makes of NaN, of +inf and of nothing but -inf is NaN.
    refuse(logits.softmax(1).isnan().any(1), "logits", "NaN or +inf, or nothing but -inf")
    refuse(~features.isfinite().all(1), "features", "NaN or infinity")
    return logits.double(), features.double(), opinions.labels.to(logits.device)


def _errors(logits: Tensor, labels: Tensor) -> Tensor:
    """a = p - onehot(y), float64 [N, C]."""
    errors = logits.softmax(1)
    errors[torch.arange(len(labels), device=labels.device), labels] -= 1
    return errors


def _products(errors: Tensor, matrix: Tensor, features: Tensor) -> Tensor:
    """float64 [N], inner product of each sample's gradient with a matrix [C, D]."""
    return ((errors @ matrix) * features).sum(1)


def _shares(sizes: list[int], k: int) -> list[int]:
    """k in proportion to these sizes, by largest remainders; no share is larger than its class."""
    total = max(1, sum(sizes))
    shares = [k * size // total for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda c: -(k * sizes[c] % total))
    for c in by_remainder[: k - sum(shares)]:
        shares[c] += 1
    return shares


def _match(errors: Tensor, features: Tensor, share: int, regularisation: float) -> Tensor:
    """int64 [at most share], rows in the order in which they came to stay in the match of the sum of all gradients."""
    target = errors.T @ features
    multiplied(errors.shape[1], len(features), features.shape[1])
    norms = (errors.square().sum(1) * features.square().sum(1)).sqrt()
    least = _NOTHING * target.norm() * norms
    match = _Match(errors, features, norms.square(), share, regularisation)
    useless = torch.zeros(len(errors), dtype=torch.bool)
    # Every addition lowers the error, so no set of samples comes twice; the bound only stops circles of rounding.
    for _ in range(3 * len(errors)):
        if match.size == share:
            break
        left = _products(errors, target - match.matrix(), features)
        multiplied(len(errors), errors.shape[1], features.shape[1])
        available = left.masked_fill(useless, -torch.inf)
        available[match.rows] = -torch.inf
        row = int(available.argmax())
        if available[row] <= least[row]:
            break
        useless[row] = not match.add(row, left[row])
    return match.rows_in_order


class _Match:
    """Samples and the weights w >= 0 for which |sum of w g - target|^2 + lambda |w|^2 is least.

    Kept up to date by the inverse of the samples' Gram matrix plus lambda: adding or removing a sample changes it by
    one outer product.
    """

    def __init__(
        self, errors: Tensor, features: Tensor, squared_norms: Tensor, room: int, regularisation: float
    ) -> None:
        self._errors, self._features = errors, features
        self._diagonal, self._squared_norms = squared_norms + regularisation, squared_norms
        self._inverse = torch.empty(room, room, dtype=torch.float64)
        self._weights = torch.zeros(0, dtype=torch.float64)
        self.rows = torch.zeros(0, dtype=torch.int64)
        self._order: dict[int, None] = {}

    @property
    def size(self) -> int:
        """How many samples it has."""
        return len(self.rows)

    @property
    def rows_in_order(self) -> Tensor:
        """int64 [size], by the time at which each came in."""
        return torch.tensor(list(self._order), dtype=torch.int64)

    def matrix(self) -> Tensor:
        """Sum of w g, float64 [C, D]."""
        multiplied(self._errors.shape[1], self.size, self._features.shape[1])
        return (self._errors[self.rows] * self._weights[:, None]).T @ self._features[self.rows]

    def add(self, row: int, along: Tensor) -> bool:
        """Add a sample whose gradient has the product ``along`` > 0 with what is left; False if that cannot be.

        It cannot if its gradient is a combination of those that are in already and lambda is next to nothing.
        """
        size = self.size
        products = (self._errors[self.rows] @ self._errors[row]) * (self._features[self.rows] @ self._features[row])
        inverse = self._inverse[:size, :size]
        combination = inverse @ products
        remainder = self._diagonal[row] - products @ combination
        multiplied(size, self._errors.shape[1] + self._features.shape[1] + size + 1, 1)
        if remainder <= _NOTHING * self._squared_norms[row]:
            return False
        inverse.addr_(combination, combination, alpha=1 / float(remainder))
        multiplied(size, 1, size)
        self._inverse[size, :size] = self._inverse[:size, size] = -combination / remainder
        self._inverse[size, size] = 1 / remainder
        self.rows = torch.cat([self.rows, torch.tensor([row])])
        self._order[row] = None
        weight = (along / remainder)[None]
        before = torch.cat([self._weights, torch.zeros_like(weight)])
        self._move(before, torch.cat([self._weights - combination * weight, weight]))
        return True

    def _move(self, weights: Tensor, best: Tensor) -> None:
        """Go from weights towards the best ones, without regard to sign, and remove what becomes zero on the way."""
        while (best <= 0).any():
            stop = torch.where(best <= 0, weights / (weights - best), torch.inf)
            first = int(stop.argmin())
            weights = weights + stop[first] * (best - weights)
            best = best - self._inverse[: len(best), first] * (best[first] / self._inverse[first, first])
            weights, best = _without(weights, first), _without(best, first)
            self._remove(first)
        self._weights = best

    def _remove(self, position: int) -> None:
        size = self.size
        inverse = self._inverse[:size, :size]
        column = inverse[:, position].clone()
        inverse.addr_(column, column, alpha=-1 / float(column[position]))
        multiplied(size, 1, size)
        # The last one takes its place.
        inverse[position] = inverse[-1].clone()
        inverse[:, position] = inverse[:, -1].clone()
        del self._order[int(self.rows[position])]
        self.rows = _without(self.rows, position)


def _without(vector: Tensor, position: int) -> Tensor:
    """A copy in which the last entry took the place of one that is gone."""
    shorter = vector[:-1].clone()
    if position < len(shorter):
        shorter[position] = vector[-1]
    return shorter
