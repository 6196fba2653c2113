"""How undecided one prediction is (paper, section 4.2)."""

from __future__ import annotations

from torch import Tensor

from prunefuse_bench import ops
from prunefuse_bench.acquisition.acquisition import Needs, Opinions, acquisition
from prunefuse_bench.acquisition.products import no_products

_FLOPS = no_products("softmax or logarithms of N C values")


@acquisition(
    "least_confidence",
    needs=Needs.LOGITS,
    source="Settles 2012; paper 4.2",
    equation="1 - max_c p(c|x)",
    uncertainty=True,
    flops=_FLOPS,
    screened=True,
)
def least_confidence(opinions: Opinions) -> Tensor:
    """1 less the probability of the predicted class; float32 [N], 0 to 1."""
    assert opinions.logits is not None
    return ops.score(opinions.logits, "least_confidence")


@acquisition(
    "entropy",
    needs=Needs.LOGITS,
    source="Shannon 1948; paper 4.2",
    equation="-sum_c p(c|x) log p(c|x)",
    uncertainty=True,
    flops=_FLOPS,
    screened=True,
)
def entropy(opinions: Opinions) -> Tensor:
    """Entropy of the prediction in nats; float32 [N], 0 to log C."""
    assert opinions.logits is not None
    return ops.score(opinions.logits, "entropy")


@acquisition(
    "margin",
    needs=Needs.LOGITS,
    source="Scheffer et al. 2001",
    equation="p2(x) - p1(x), the two largest probabilities",
    uncertainty=True,
    flops=_FLOPS,
)
def margin(opinions: Opinions) -> Tensor:
    """Probability of the second most likely class less that of the most likely; float32 [N], -1 to 0."""
    assert opinions.logits is not None
    return ops.score(opinions.logits, "margin")
