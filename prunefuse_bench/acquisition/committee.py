"""How much the members of a committee disagree, or how undecided they are together."""

from __future__ import annotations

from torch import Tensor

from prunefuse_bench.acquisition.acquisition import Needs, Opinions, acquisition
from prunefuse_bench.acquisition.products import no_products

_FLOPS = no_products("softmax and logarithms of K N C values")


@acquisition(
    "bald",
    needs=Needs.MEMBERS,
    source="Houlsby et al. 2011; Gal, Islam and Ghahramani 2017",
    equation="H[mean_k p_k(.|x)] - mean_k H[p_k(.|x)]",
    uncertainty=True,
    flops=_FLOPS,
)
def bald(opinions: Opinions) -> Tensor:
    """Mutual information between prediction and member, in nats; float32 [N], 0 to log K."""
    assert opinions.members is not None
    return opinions.members.score("bald")


@acquisition(
    "mean_entropy",
    needs=Needs.MEMBERS,
    source="Gal, Islam and Ghahramani 2017 (max entropy)",
    equation="H[mean_k p_k(.|x)]",
    uncertainty=True,
    flops=_FLOPS,
)
def mean_entropy(opinions: Opinions) -> Tensor:
    """Entropy of the members' mean prediction in nats; float32 [N], 0 to log C."""
    assert opinions.members is not None
    return opinions.members.score("mean_entropy")


@acquisition(
    "mean_least_confidence",
    needs=Needs.MEMBERS,
    source="Settles 2012, on the mean prediction; paper, Table 31",
    equation="1 - max_c mean_k p_k(c|x)",
    uncertainty=True,
    flops=_FLOPS,
)
def mean_least_confidence(opinions: Opinions) -> Tensor:
    """1 less the highest probability of the members' mean prediction; float32 [N], 0 to 1."""
    assert opinions.members is not None
    return opinions.members.score("mean_least_confidence")


@acquisition(
    "variation_ratio",
    needs=Needs.MEMBERS,
    source="Freeman 1965; Jung, Kim and Lee 2023 (ALSE's rule)",
    equation="1 - max_c votes_c / K",
    uncertainty=True,
    flops=_FLOPS,
)
def variation_ratio(opinions: Opinions) -> Tensor:
    """Share of the members that did not vote for the most voted class; float32 [N], 0 to 1 - 1/K, so many are equal."""
    assert opinions.members is not None
    return opinions.members.score("variation_ratio")
