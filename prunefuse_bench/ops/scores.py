"""How undecided predictions are: one pass over the logits, no tensor of probabilities."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from prunefuse_bench.ops import reference
from prunefuse_bench.ops._library import has_kernels, operators
from prunefuse_bench.ops.checks import expect_floats, expect_one_device, refuse_nan

__all__ = ["CommitteeKind", "ScoreKind", "score", "score_committee", "score_head"]

ScoreKind = Literal["least_confidence", "entropy", "margin"]
CommitteeKind = Literal["bald", "mean_entropy", "variation_ratio", "mean_least_confidence"]

# The numbers of csrc/core/kinds.h.
_KINDS = {"least_confidence": 0, "entropy": 1, "margin": 2}
_COMMITTEE_KINDS = {"bald": 0, "mean_entropy": 1, "variation_ratio": 2, "mean_least_confidence": 3}
_UNRANKABLE = "NaN or +inf, or nothing but -inf"


def score(logits: Tensor, kind: ScoreKind) -> Tensor:
    """Uncertainty of each prediction, higher = choose first.

    Args:
        logits: float [N, C], C >= 1; -inf is a probability of zero. float32, bfloat16 and float16 take the compiled
            kernels, float64 is computed by plain torch.
        kind: ``least_confidence`` (1 - p1, 0 to 1), ``entropy`` (nats, 0 to log C) or ``margin`` (p2 - p1, -1 to 0).

    Returns:
        float32 [N] on the logits' device.

    Raises:
        NotRankable: a row holds NaN or +inf, or nothing but -inf.
        ValueError: wrong shape, dtype or kind.
    """
    number = _number_of(kind, _KINDS)
    expect_floats(logits, "logits [N, C]", 2)
    scores = operators.score(logits.detach(), number) if _compiled(logits) else reference.score(logits.detach(), kind)
    refuse_nan(scores, "logits", _UNRANKABLE)
    return scores


def score_committee(logits: Tensor, kind: CommitteeKind) -> Tensor:
    """Uncertainty of a committee of K members about each sample, higher = choose first.

    With p_k the members' probabilities and p their mean: ``bald`` is the mutual information between prediction and
    member, H(p) - mean H(p_k), in nats, 0 to log K (Houlsby et al. 2011); ``mean_entropy`` is H(p), the entropy of the
    mean prediction; ``mean_least_confidence`` is 1 - max p; ``variation_ratio`` is 1 - (votes of the most voted class)
    / K, where a member votes for its largest logit and, of equal ones, for the lowest class.

    Args:
        logits: float [K, N, C], K >= 1, C >= 1; -inf is a probability of zero.
        kind: one of the four.

    Returns:
        float32 [N] on the logits' device.

    Raises:
        NotRankable: some member's row holds NaN or +inf, or nothing but -inf; the sample is named.
        ValueError: wrong shape, dtype or kind.
    """
    number = _number_of(kind, _COMMITTEE_KINDS)
    expect_floats(logits, "logits [K, N, C]", 3)
    if logits.shape[0] == 0:
        raise ValueError(f"logits [K, N, C]: expected at least one member, got {tuple(logits.shape)}")
    if _compiled(logits):
        scores = operators.score_committee(logits.detach(), number)
    else:
        scores = reference.score_committee(logits.detach(), kind)
    refuse_nan(scores, "logits of the committee", _UNRANKABLE)
    return scores


def score_head(features: Tensor, weight: Tensor, bias: Tensor | None, kind: ScoreKind) -> Tensor:
    """``score(features @ weight.T + bias, kind)`` without ever holding the logits of more than a block of rows.

    Args:
        features: float [N, D].
        weight: float [C, D], as in ``torch.nn.Linear``.
        bias: float [C] or None.
        kind: as for :func:`score`.

    Returns:
        float32 [N]. Half precision inputs are multiplied in float32.

    Raises:
        NotRankable: a row's logits hold NaN or +inf, or nothing but -inf.
        ValueError: wrong shapes, dtypes, devices or kind.
    """
    number = _number_of(kind, _KINDS)
    expect_floats(features, "features [N, D]", 2)
    expect_floats(weight, "weight [C, D]", 2)
    expect_one_device(features=features, weight=weight, bias=bias)
    if features.shape[1] != weight.shape[1] or weight.shape[0] == 0:
        raise ValueError(
            f"weight [C, D]: expected [C, {features.shape[1]}] with at least one class, got {tuple(weight.shape)}"
        )
    if bias is not None and (bias.shape != weight.shape[:1] or not bias.is_floating_point()):
        raise ValueError(f"bias: expected float [{weight.shape[0]}], got {bias.dtype} {tuple(bias.shape)}")
    bias = None if bias is None else bias.detach()
    if _compiled(features) and torch.float64 not in {weight.dtype, None if bias is None else bias.dtype}:
        with torch.autocast(features.device.type, enabled=False):  # it would round the products
            scores = operators.score_head(features.detach(), weight.detach(), bias, number)
    else:
        scores = reference.score_head(features.detach(), weight.detach(), bias, kind)
    refuse_nan(scores, "logits of the head", _UNRANKABLE)
    return scores


def _number_of(kind: str, kinds: dict[str, int]) -> int:
    if kind not in kinds:
        raise ValueError(f"kind: expected one of {', '.join(kinds)}, got {kind!r}")
    return kinds[kind]


def _compiled(tensor: Tensor) -> bool:
    return tensor.dtype != torch.float64 and has_kernels(tensor)
