"""Batches whose labels together would say most about which member of a committee is right.

Samples carry the names x, their labels y, the K members w; all members are equally likely before any label is known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from prunefuse_bench.acquisition.acquisition import Needs, Opinions, batch_acquisition, top_k_by_lot
from prunefuse_bench.acquisition.products import multiplied, products_as_told
from prunefuse_bench.ops.checks import refuse

__all__ = ["Configurations", "batchbald", "greedy_choice", "joint_entropy"]

ROUNDING = 1e-12
"""Nats that float64 sums may be off by: gains that differ by less are equal, and a gain below it is none."""
STANDARD_ERRORS = 3.0
"""An estimated gain of fewer standard errors is none."""
NEGLIGIBLE = 1e-3
"""Share of what is left to learn about the members that may be left out where configurations are drawn."""
SMALLEST = 1e-300
"""Stands for a probability of zero, which has no logarithm."""
PRODUCT_COLUMNS, PRODUCT_ELEMENTS = 2**11, 2**16
"""Columns and entries of a matrix product that are held at a time, so that they stay in the processor's cache."""


@batch_acquisition(
    "batchbald",
    needs=Needs.MEMBERS | Needs.JOINT,
    source="Kirsch, van Amersfoort and Gal 2019",
    equation="repeat: argmax over x of H[y_1, ..., y_n, y] - sum_i mean_k H[p_k(.|x_i)] - mean_k H[p_k(.|x)]",
    randomised=True,
    flops=products_as_told("softmax of N K C values, and the logarithm of each joint probability"),
)
def batchbald(k: int, opinions: Opinions, *, max_configurations: Annotated[int, Field(ge=1)] = 40_000) -> Tensor:
    """Greedy on the mutual information of all chosen labels and the member; what adds nothing any more, by BALD.

    Exact as long as the labels of n samples, the candidate's included, can be combined in no more than
    ``max_configurations`` ways: C ** n, unless some have probability zero, so that with 10 classes the first four picks
    are exact. From then on combinations are drawn, and the gains are estimates: without bias, see
    :class:`Configurations`, but for a tenth of a percent, see :meth:`Configurations.undecided`. Their noise falls with
    the square root of ``max_configurations`` / C. Among samples whose gains differ by less than it, chance decides; and
    a gain that was estimated earlier then is an upper bound up to the noise only, so a candidate may be passed over
    whose newer estimate would have been higher by that much.

    K members can be told apart by log K nats in all. Once the labels of the samples chosen so far would say which
    member is right, so that the best gain is within the noise (3 standard errors) or rounding, the rule has nothing to
    say about the rest of the batch: it is taken by BALD's score, equal ones by lot. With K = 25 that happens after a
    dozen to a few hundred picks, so a batch of 1,000 is for the most part a batch of BALD.

    Time: gains are computed anew only for candidates whose last gain, which can only have fallen since, is not below
    the best one; at worst N * max_configurations * K products and N * max_configurations logarithms per pick, until the
    rest is taken by BALD. With N = 10,000, K = 25, C = 10 and k = 1,000 that is 5 to 20 seconds on one core, the longer
    the more members have in common. Memory: the float64 probabilities [N, K, C], and beside them less than 256 MB.

    Args:
        max_configurations: combinations of labels that are looked at, the candidate's label included. Of the labels of
            the samples chosen before, that leaves a C-th part; where they are drawn, rounded up to a multiple of K.

    Raises:
        NotRankable: some member's prediction of a sample is not a distribution.
    """
    assert opinions.members is not None
    log_probabilities = opinions.members.log_probabilities().detach()
    sums = log_probabilities.sum(dim=(1, 2))
    refuse(sums.isnan() | sums.isposinf(), "predictions of the members", "NaN or +inf")
    chosen = greedy_choice(k, log_probabilities, max_configurations=max_configurations, generator=opinions.generator)
    rest = torch.ones(len(opinions), dtype=torch.bool)
    rest[chosen] = False
    candidates = rest.nonzero()[:, 0]
    nothing_known = Configurations.without_labels(opinions.members.count, log_probabilities.device)
    bald = _gains(nothing_known, log_probabilities, candidates.to(log_probabilities.device))
    # What differs by rounding only is equal, so that the lot decides.
    bald = torch.where(bald > ROUNDING, bald, 0.0).float()
    by_bald, _ = top_k_by_lot(bald, k - len(chosen), opinions.generator)
    return torch.cat([torch.tensor(chosen, dtype=torch.int64), candidates[by_bald]])


def joint_entropy(log_probabilities: Tensor) -> float:
    """Entropy of the labels of n samples together, H[y_1, ..., y_n] in nats, under the mean over the members.

    Exact, from the chain rule. C ** (n - 1) combinations of labels are held.

    Args:
        log_probabilities: float64 [n, K, C].
    """
    configurations = Configurations.without_labels(log_probabilities.shape[1], log_probabilities.device)
    entropy = 0.0
    for sample, log_p in enumerate(log_probabilities):
        entropy += float(configurations.entropies(log_p[None]))
        if sample + 1 < len(log_probabilities):
            configurations = configurations.extended(log_p)
    return entropy


def greedy_choice(
    k: int, log_probabilities: Tensor, *, max_configurations: int, generator: torch.Generator
) -> list[int]:
    """The picks of BatchBALD's own, in order: k of them, or fewer if no gain is left that can be told from none.

    Args:
        log_probabilities: float64 [N, K, C].
        max_configurations: more combinations of labels, the candidate's included, are not listed but drawn.
    """
    most = max_configurations // max(1, log_probabilities.shape[2])
    configurations = Configurations.without_labels(log_probabilities.shape[1], log_probabilities.device)
    everything = torch.arange(len(log_probabilities), device=log_probabilities.device)
    bounds = _gains(configurations, log_probabilities, everything)
    chosen: list[int] = []
    while len(chosen) < k:
        best = _best(configurations.undecided(), log_probabilities, bounds, generator)
        log_p = log_probabilities[best]
        if bounds[best] <= max(ROUNDING, STANDARD_ERRORS * configurations.standard_error(log_p)):
            break
        chosen.append(best)
        bounds[best] = -torch.inf
        if configurations.drawn:
            configurations = configurations.extended_by_draws(log_p, generator)
        elif configurations.joint(log_p).count_nonzero() <= most:
            configurations = configurations.extended(log_p)
        else:
            configurations = Configurations.draw(log_probabilities[chosen], most, generator)
    return chosen


@dataclass(frozen=True)
class Configurations:
    """Labels that the samples chosen so far may have, taken together, and what they would say about the members.

    With y the labels of the chosen samples, the probability of the label y' of one more is the members' mean weighted
    by how well they agree with y, p(y'|y) = sum_w p(w|y) p_w(y'). So p(y) and p(w|y) are all that has to be kept; they
    are well scaled however many samples there are, while the probabilities p_w(y) would underflow. What another label
    adds is a mean over y: I(y'; w | y) = mean_y (H[p(.|y)] - sum_w p(w|y) H[p_w]).

    Over drawn y that mean is the paper's estimate, in which each y' is weighted with p(y, y') / p(y), with one
    difference: the paper subtracts mean_w H[p_w], which the mean over y of the last term is in expectation. Both have
    no bias, but in this one every term is positive, and zero where y says which member it is: the noise falls with the
    gain. As many y are drawn from each member.

    Attributes:
        weights: float64 [M], p(y); 1 / M each if the y were drawn.
        log_posterior: float64 [M, K], log p(w|y).
        drawn: whether the y were drawn: in K equal groups, one from each member. Otherwise they are all that can occur.
    """

    weights: Tensor
    log_posterior: Tensor
    drawn: bool = False

    @classmethod
    def without_labels(cls, members: int, device: torch.device | None = None) -> Configurations:
        """Before anything is chosen."""
        even = torch.full((1, members), -math.log(members), dtype=torch.float64, device=device)
        return cls(torch.ones(1, dtype=torch.float64, device=device), even)

    @classmethod
    def draw(cls, log_probabilities: Tensor, count: int, generator: torch.Generator) -> Configurations:
        """``count`` combinations of labels of n samples, float64 [n, K, C]; rounded up to K or a multiple of it."""
        members, device = log_probabilities.shape[1], log_probabilities.device
        count = max(1, math.ceil(count / members)) * members
        even = cls.without_labels(members, device).log_posterior.expand(count, -1)
        drawn = cls(torch.full((count,), 1 / count, dtype=torch.float64, device=device), even, drawn=True)
        for log_p in log_probabilities:
            drawn = drawn.extended_by_draws(log_p, generator)
        return drawn

    def joint(self, log_p: Tensor) -> Tensor:
        """float64 [M, C]: p(y, y') for every label y' of one more sample, of which the members think float64 [K, C]."""
        multiplied(len(self.weights), len(log_p), log_p.shape[1])
        return self.weights[:, None] * (self.log_posterior.exp() @ log_p.exp())

    def extended(self, log_p: Tensor) -> Configurations:
        """Each combination with each label of one more sample, float64 [K, C], if they can occur together."""
        joint = self.joint(log_p)
        rows, labels = joint.nonzero(as_tuple=True)
        log_posterior = (self.log_posterior[rows] + log_p.T[labels]).log_softmax(dim=1)
        return Configurations(joint[rows, labels], log_posterior)

    def extended_by_draws(self, log_p: Tensor, generator: torch.Generator) -> Configurations:
        """Each combination with one label of one more sample, float64 [K, C], drawn from the member of the rest."""
        members, classes = log_p.shape
        cumulative = log_p.exp().cumsum(dim=1)
        uniform = torch.rand(members, len(self.weights) // members, generator=generator, dtype=torch.float64)
        uniform = uniform.to(log_p.device) * cumulative[:, -1:]
        labels = torch.searchsorted(cumulative, uniform, right=True).clamp_max(classes - 1).flatten()
        return Configurations(self.weights, (self.log_posterior + log_p.T[labels]).log_softmax(dim=1), drawn=True)

    def undecided(self) -> Configurations:
        """Without drawn combinations that leave next to nothing to learn.

        What they would add to a gain is at most 0.1% of the entropy of the member given the labels.
        """
        if not self.drawn:
            return self
        unknown = self.weights * _entropy(self.log_posterior)
        ascending, order = unknown.sort()
        kept = order[ascending.cumsum(dim=0) > NEGLIGIBLE * ascending.sum()].sort().values
        return Configurations(self.weights[kept], self.log_posterior[kept], drawn=True)

    def entropies(self, log_probabilities: Tensor) -> Tensor:
        """float64 [B]: H[y'|y] of each of B samples, float64 [B, K, C], in nats."""
        samples, _, classes = log_probabilities.shape
        p_of_members = log_probabilities.exp().clamp_min_(SMALLEST).transpose(0, 1).flatten(1)
        entropies = p_of_members.new_zeros(samples * classes)
        rows = max(1, PRODUCT_ELEMENTS // max(1, samples * classes))
        p_buffer = p_of_members.new_empty(min(rows, len(self.weights)), samples * classes)
        log_buffer = torch.empty_like(p_buffer)
        for weights, log_posterior in zip(self.weights.split(rows), self.log_posterior.split(rows), strict=True):
            p = torch.mm(log_posterior.exp(), p_of_members, out=p_buffer[: len(weights)])
            terms = torch.log(p, out=log_buffer[: len(weights)]).mul_(p)
            entropies.addmv_(terms.T, weights, alpha=-1)
        multiplied(len(self.weights), log_probabilities.shape[1] + 1, samples * classes)
        return entropies.unflatten(0, (samples, classes)).sum(dim=1)

    def gains(self, log_probabilities: Tensor) -> Tensor:
        """float64 [B]: I(y'; w | y) of each of B samples, float64 [B, K, C], in nats."""
        members = log_probabilities.shape[1]
        multiplied(1, len(self.weights) + len(log_probabilities), members)
        of_members = _entropy(log_probabilities) @ (self.weights @ self.log_posterior.exp())
        return self.entropies(log_probabilities) - of_members

    def standard_error(self, log_p: Tensor) -> float:
        """At most, of the gain of one sample, float64 [K, C]; 0 if it is no estimate.

        That as many combinations are drawn from each member makes the true one lower.
        """
        if not self.drawn:
            return 0.0
        posterior = self.log_posterior.exp()
        p = posterior @ log_p.exp().clamp_min(SMALLEST)
        members, classes = log_p.shape
        multiplied(len(posterior), members, classes + 1)
        gains = -(p * p.log()).sum(dim=1) - posterior @ _entropy(log_p)
        return float(gains.std()) / math.sqrt(len(gains))


def _entropy(log_p: Tensor) -> Tensor:
    """Entropy over the last dimension in nats; a probability of zero adds nothing."""
    return -(log_p.exp() * log_p.clamp_min(math.log(SMALLEST))).sum(dim=-1)


def _gains(configurations: Configurations, log_probabilities: Tensor, candidates: Tensor) -> Tensor:
    """float64 [B], block by block, of the candidates int64 [B]."""
    gains = log_probabilities.new_empty(len(candidates))
    size = max(1, PRODUCT_COLUMNS // log_probabilities.shape[2])
    for part, block in zip(gains.split(size), candidates.split(size), strict=True):
        part.copy_(configurations.gains(log_probabilities[block]))
    return gains


def _best(configurations: Configurations, log_probabilities: Tensor, bounds: Tensor, generator: torch.Generator) -> int:
    """The candidate with the highest gain, of equal ones one by lot; ``bounds``, float64 [N], are sharpened in passing.

    Mutual information is submodular: the more is chosen, the less a sample adds. So no candidate has to be looked at
    whose gain was lower even earlier.
    """
    is_new = torch.zeros(len(bounds), dtype=torch.bool, device=bounds.device)
    best, size = -math.inf, 32
    while True:
        old = torch.where(is_new, -torch.inf, bounds).topk(min(size, len(bounds)))
        candidates = old.indices[old.values > best - ROUNDING]
        if not len(candidates):
            equal = (is_new & (bounds >= best - ROUNDING)).nonzero()[:, 0]
            return int(equal[int(torch.randint(len(equal), (), generator=generator))])
        bounds[candidates] = _gains(configurations, log_probabilities, candidates)
        is_new[candidates] = True
        best = max(best, float(bounds[candidates].max()))
        size *= 2
