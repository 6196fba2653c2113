"""Scores in full precision where it matters: around the k-th highest.

A pool is scored in 16 bits, which moves samples across the threshold that are close to it. Who lies far above is chosen
and who lies far below is not, whatever the last digits; only the rest is scored again.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from prunefuse_bench.ops import NotRankable

__all__ = ["refine_near_threshold"]

PROBES = 128
"""Samples on each side of the threshold whose scores tell how far off scores are."""
REACH = 4.0
"""Samples within so many root mean squares of that error are scored again."""


def refine_near_threshold(scores: Tensor, k: int, rescore: Callable[[Tensor], Tensor]) -> Tensor:
    """Scores whose k highest are those that ``rescore`` would give to all.

    Args:
        scores: float [N], nearly right.
        k: how many will be chosen.
        rescore: the right scores, float [M], of these positions, int64 [M].

    Returns:
        float [N]; those within reach of the threshold are right, the others as they were.

    Raises:
        NotRankable: ``rescore`` did; the row is that of ``scores``.
    """
    if not 0 < k < len(scores):
        return scores
    order = scores.argsort(descending=True, stable=True)
    threshold = (scores[order[k - 1]] + scores[order[k]]) / 2
    probed = order[max(0, k - PROBES) : k + PROBES]
    refined = scores.clone()
    refined[probed] = _rescored(probed, rescore).to(scores)
    reach = REACH * (refined[probed] - scores[probed]).square().mean().sqrt()
    near = (scores - threshold).abs() <= reach
    near[probed] = False
    rest = near.nonzero()[:, 0]
    if len(rest):
        refined[rest] = _rescored(rest, rescore).to(scores)
    return refined


def _rescored(positions: Tensor, rescore: Callable[[Tensor], Tensor]) -> Tensor:
    try:
        return rescore(positions)
    except NotRankable as error:
        raise NotRankable(str(error), int(positions[error.row])) from error
