"""The pool: samples (images or texts) that are all visible, labels that are handed out one query at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prunefuse_bench.data.stored import Images
from prunefuse_bench.errors import CellFailed

__all__ = ["LabeledSet", "Pool"]


@dataclass(frozen=True)
class LabeledSet:
    """L of Algorithm 1, in the order in which it was labeled.

    Attributes:
        indices: int64 [N] on the CPU, positions in the pool.
        images: uint8 [N, C, H, W] on the device; of texts, uint8 [N, L].
        labels: int64 [N] on the device.
    """

    indices: Tensor
    images: Images
    labels: Tensor

    def __len__(self) -> int:
        return len(self.indices)


class Pool:
    """U of Algorithm 1 and the oracle that labels it. Images live on the device as uint8, if they fit in memory.

    Args:
        images: uint8 [N, C, H, W]; of texts, uint8 [N, L]. Stored images are read batch by batch, and never all.
        labels: int64 [N]; kept by the oracle, which gives out a label only for an index that is queried.
        device: where images and labels live.
    """

    def __init__(self, images: Images, labels: Tensor, device: torch.device) -> None:
        self.images = images.to(device)
        self._hidden_labels = labels.to(device)
        self._labeled = torch.zeros(len(images), dtype=torch.bool)
        self._order = torch.empty(0, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def unlabeled(self) -> Tensor:
        """int64 [|U|], ascending, on the CPU."""
        return torch.nonzero(~self._labeled).flatten()

    @property
    def labeled(self) -> LabeledSet:
        """All that has been labeled so far."""
        return self._take(self._order)

    @property
    def everything(self) -> LabeledSet:
        """The whole pool with its labels, for the coreset protocol: what it saves is training, not labels."""
        return self._take(torch.arange(len(self)))

    def take(self, query: Tensor) -> LabeledSet:
        """The samples of a coreset, in this order; unlike :meth:`label` it changes nothing.

        Raises:
            CellFailed: as for :meth:`label`.
        """
        query = query.cpu()
        self._check(query, torch.empty(0, dtype=torch.int64))
        return self._take(query)

    def label(self, query: Tensor) -> LabeledSet:
        """Ask the oracle for the labels of these indices; returns everything labeled so far (lines 7 and 8).

        Args:
            query: int64 [k], distinct, inside the pool, not labeled before.

        Raises:
            CellFailed: the query is none of these; the message names the first index that is wrong.
        """
        query = query.cpu()
        self._check(query, self._order)
        self._labeled[query] = True
        self._order = torch.cat([self._order, query])
        return self.labeled

    def _take(self, indices: Tensor) -> LabeledSet:
        where = indices.to(self.images.device)
        return LabeledSet(indices, self.images[where], self._hidden_labels[where])

    def _check(self, query: Tensor, labeled: Tensor) -> None:
        if query.ndim != 1 or query.dtype != torch.int64:
            raise CellFailed(f"query: expected int64 [k], got {query.dtype} {tuple(query.shape)}")
        for wrong, what in (
            ((query < 0) | (query >= len(self)), f"outside the pool of {len(self)}"),
            (torch.isin(query, labeled), "labeled already"),
            (~_first_occurrence(query), "queried twice"),
        ):
            if wrong.any():
                raise CellFailed(f"query: index {int(query[wrong][0])} is {what}")


def _first_occurrence(values: Tensor) -> Tensor:
    """bool [N]: True where a value stands for the first time."""
    ordered, order = torch.sort(values, stable=True)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return torch.empty_like(first).scatter_(0, order, first)
