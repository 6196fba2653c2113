"""How undecided one prediction is (paper, section 4.2)."""

from __future__ import annotations

from torch import Tensor

from prunefuse_bench import ops
from prunefuse_bench.acquisition.acquisition import Needs, Opinions, acquisition


def _logits(opinions: Opinions) -> Tensor:
    if opinions.logits is None:
        raise TypeError("this acquisition needs logits")
    return opinions.logits


@acquisition("least_confidence", needs=Needs.LOGITS, source="Settles 2012; paper 4.2")
def least_confidence(opinions: Opinions) -> Tensor:
    """1 less the probability of the predicted class; float32 [N], 0 to 1."""
    return ops.score(_logits(opinions), "least_confidence")


@acquisition("entropy", needs=Needs.LOGITS, source="Shannon 1948; paper 4.2")
def entropy(opinions: Opinions) -> Tensor:
    """Entropy of the prediction in nats; float32 [N], 0 to log C."""
    return ops.score(_logits(opinions), "entropy")


@acquisition("margin", needs=Needs.LOGITS, source="Scheffer et al. 2001")
def margin(opinions: Opinions) -> Tensor:
    """Probability of the second most likely class less that of the most likely; float32 [N], -1 to 0."""
    return ops.score(_logits(opinions), "margin")
