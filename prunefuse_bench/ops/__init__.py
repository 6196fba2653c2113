"""The operators of selection: checked here, computed by plain references for now.

Every score is "higher is chosen first". What is not a number is never ranked: it is an error that names the row.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from prunefuse_bench.ops import reference

__all__ = ["NotRankable", "ScoreKind", "greedy_kcenters", "score", "top_k"]

ScoreKind = Literal["least_confidence", "entropy", "margin"]


class NotRankable(ValueError):
    """Values that cannot be ranked, such as NaN; the message names the first row and how many there are.

    Attributes:
        row: the first of them.
    """

    def __init__(self, message: str, row: int) -> None:
        super().__init__(message)
        self.row = row


def score(logits: Tensor, kind: ScoreKind) -> Tensor:
    """Uncertainty of each prediction, higher = choose first.

    Args:
        logits: float [N, C], C >= 1; -inf is a probability of zero.
        kind: ``least_confidence`` (1 - p1, 0 to 1), ``entropy`` (nats, 0 to log C) or ``margin`` (p2 - p1, -1 to 0).

    Returns:
        float32 [N] on the logits' device.

    Raises:
        NotRankable: a row holds NaN or +inf, or nothing but -inf.
        ValueError: wrong shape, dtype or kind.
    """
    if kind not in get_args(ScoreKind):
        raise ValueError(f"kind: expected one of {', '.join(get_args(ScoreKind))}, got {kind!r}")
    _expect_matrix(logits, "logits [N, C]")
    _refuse(logits.isnan().any(1) | logits.isposinf().any(1) | logits.isneginf().all(1), "logits", "NaN or +inf")
    return reference.score(logits, kind)


def top_k(scores: Tensor, k: int) -> Tensor:
    """Positions of the k highest scores, highest first; of equal scores the lowest position first.

    Args:
        scores: float [N].
        k: from 0 to N.

    Returns:
        int64 [k] on the scores' device.

    Raises:
        NotRankable: a score is NaN.
        ValueError: wrong shape, or k out of range.
    """
    if scores.ndim != 1 or not scores.is_floating_point():
        raise ValueError(f"scores: expected float [N], got {scores.dtype} {tuple(scores.shape)}")
    _expect_count(k, len(scores))
    _refuse(scores.isnan(), "scores", "NaN")
    return reference.top_k(scores, k)


def greedy_kcenters(features: Tensor, k: int, initial: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Greedy k-centers: again and again the point that is furthest from its nearest center (Sener and Savarese 2018).

    Ties go to the lowest index; no point is picked twice, nor one of ``initial``. With no initial center the first pick
    is the point furthest from the mean.

    Args:
        features: float [N, D], compared by Euclidean distance.
        k: picks, from 0 to the number of points that are not initial centers.
        initial: int64 [M], distinct rows that are centers already; None or empty for none.

    Returns:
        (indices, radii): int64 [k] in the order of picking, and float32 [k], the distance of each pick to its nearest
        center at that moment (infinite for a pick without any center).

    Raises:
        NotRankable: a feature is NaN or infinite.
        ValueError: wrong shapes, k out of range, or initial rows out of range or repeated.
    """
    _expect_matrix(features, "features [N, D]")
    _refuse(~features.isfinite().all(1), "features", "NaN or infinity")
    count = 0
    if initial is not None:
        if initial.ndim != 1 or initial.dtype != torch.int64:
            raise ValueError(f"initial: expected int64 [M], got {initial.dtype} {tuple(initial.shape)}")
        count = len(initial)
        if count and (int(initial.min()) < 0 or int(initial.max()) >= len(features)):
            raise ValueError(
                f"initial: expected rows from 0 to {len(features) - 1}, "
                f"got {int(initial.min())} to {int(initial.max())}"
            )
        if len(initial.unique()) != count:
            raise ValueError("initial: expected distinct rows, got some of them twice")
        initial = initial.to(features.device)
    _expect_count(k, len(features) - count)
    return reference.greedy_kcenters(features, k, initial)


def _expect_matrix(tensor: Tensor, what: str) -> None:
    if tensor.ndim != 2 or not tensor.is_floating_point() or tensor.shape[1] == 0:
        raise ValueError(
            f"{what}: expected a float matrix with at least one column, got {tensor.dtype} {tuple(tensor.shape)}"
        )


def _expect_count(k: int, available: int) -> None:
    if not 0 <= k <= available:
        raise ValueError(f"k: expected from 0 to the {available} that can be picked, got {k}")


def _refuse(rows: Tensor, what: str, found: str) -> None:
    if rows.any():
        row = int(rows.nonzero()[0])
        raise NotRankable(
            f"{what}: {int(rows.sum())} of {len(rows)} rows cannot be ranked ({found}), the first is row {row}", row
        )
