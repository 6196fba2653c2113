"""The k highest scores, of a whole pool or of a stream."""

from __future__ import annotations

import torch
from torch import Tensor

from prunefuse_bench.ops import reference
from prunefuse_bench.ops._library import has_kernels, operators
from prunefuse_bench.ops.checks import expect_count, expect_floats, refuse_nan

__all__ = ["TopK", "top_k"]


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
    expect_floats(scores, "scores [N]", 1)
    expect_count(k, scores.shape[0])
    refuse_nan(scores, "scores", "NaN")
    if not has_kernels(scores):
        return reference.top_k(scores, k)
    if scores.dtype not in {torch.float32, torch.float64}:
        scores = scores.float()
    return operators.top_k(scores.detach(), k)


class TopK:
    """The k highest scores of a stream, for pools larger than memory: score a batch, add it, forget it.

    Gives what :func:`top_k` gives on all scores together, whatever the batches and their order. Memory is O(k), or the
    largest batch.

    Example:
        >>> best = TopK(2)
        >>> best.add(torch.tensor([0.1, 0.9]), first_index=0)
        >>> best.add(torch.tensor([0.9, 0.5]), first_index=2)
        >>> best.indices()
        tensor([1, 2])
    """

    def __init__(self, k: int) -> None:
        if k < 0:
            raise ValueError(f"k: expected 0 or more, got {k}")
        self.k = k
        self._scores: list[Tensor] = []
        self._indices: list[Tensor] = []
        self._waiting = 0

    def add(self, scores: Tensor, *, first_index: int | None = None, indices: Tensor | None = None) -> None:
        """Look at one batch.

        Args:
            scores: float [B], all batches of one dtype and device.
            first_index: the samples are numbered on from here; or
            indices: int64 [B], their numbers in the pool. No sample may come twice.

        Raises:
            NotRankable: a score is NaN; ``row`` is its position in the batch.
        """
        expect_floats(scores, "scores [B]", 1)
        refuse_nan(scores, "scores", "NaN")
        if indices is None and first_index is not None:
            indices = torch.arange(first_index, first_index + len(scores), device=scores.device)
        elif indices is None or first_index is not None:
            raise ValueError("expected either first_index or indices")
        elif indices.dtype != torch.int64 or indices.shape != scores.shape:
            raise ValueError(f"indices: expected int64 [{len(scores)}], got {indices.dtype} {tuple(indices.shape)}")
        if self._scores and (scores.dtype, scores.device) != (self._scores[0].dtype, self._scores[0].device):
            raise ValueError(
                f"scores: expected {self._scores[0].dtype} on {self._scores[0].device} like the batches before, "
                f"got {scores.dtype} on {scores.device}"
            )
        # Copies: the caller may fill the same tensor with the next batch.
        self._scores.append(scores.detach().clone())
        self._indices.append(indices.clone())
        self._waiting += len(scores)
        if self._waiting > 2 * self.k:  # each sample is looked at a bounded number of times
            self._reduce()

    def merge(self, other: TopK) -> None:
        """Take in what another stream over other samples has found."""
        other._reduce()
        for scores, indices in zip(other._scores, other._indices, strict=True):
            self.add(scores, indices=indices)

    def indices(self) -> Tensor:
        """int64 [k], best first, of equal scores the lowest index first; shorter if fewer samples came."""
        self._reduce()
        return self._indices[0] if self._indices else torch.empty(0, dtype=torch.int64)

    def scores(self) -> Tensor:
        """The scores of :meth:`indices`."""
        self._reduce()
        return self._scores[0] if self._scores else torch.empty(0)

    def _reduce(self) -> None:
        if not self._scores:
            return
        scores, indices = torch.cat(self._scores), torch.cat(self._indices)
        by_index = indices.argsort()
        scores, indices = scores[by_index], indices[by_index]
        best = top_k(scores, min(self.k, len(scores)))
        self._scores, self._indices = [scores[best]], [indices[best]]
        self._waiting = 0
