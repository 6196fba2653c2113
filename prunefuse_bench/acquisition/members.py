"""Predictions of several members about the same samples, block by block: K x N x C is never held unless it exists."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from prunefuse_bench import ops
from prunefuse_bench.ops import NotRankable

__all__ = ["HeadMembers", "Members", "StoredMembers"]

BLOCK_ELEMENTS = 2**22
"""Logits that are held at a time."""


class Members(ABC):
    """K predictions for each of N samples over C classes.

    Attributes:
        count: K.
        classes: C.
    """

    count: int
    classes: int

    @abstractmethod
    def __len__(self) -> int:
        """N."""

    @abstractmethod
    def logits(self, rows: slice) -> Tensor:
        """float32 [K, B, C] of the samples in ``rows``; the same whatever the rows are cut into, up to rounding."""

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """(rows, logits [K, B, C]) over all samples."""
        size = max(1, BLOCK_ELEMENTS // max(1, self.count * self.classes))
        for start in range(0, len(self), size):
            rows = slice(start, min(start + size, len(self)))
            yield rows, self.logits(rows)

    def score(self, kind: ops.CommitteeKind) -> Tensor:
        """float32 [N], see :func:`prunefuse_bench.ops.score_committee`.

        Raises:
            NotRankable: some member's logits of a sample hold NaN or +inf; ``row`` is the sample.
        """
        scores = [torch.empty(0)]
        for rows, logits in self.blocks():
            try:
                scores.append(ops.score_committee(logits, kind))
            except NotRankable as error:
                raise NotRankable(f"{error} (block from row {rows.start})", rows.start + error.row) from error
        return torch.cat([part.to(scores[-1].device) for part in scores])

    def log_probabilities(self) -> Tensor:
        """float64 [N, K, C] of all samples at once, for acquisitions that look at whole batches."""
        whole = torch.empty(len(self), self.count, self.classes, dtype=torch.float64)
        for rows, logits in self.blocks():
            whole = whole.to(logits.device)
            whole[rows] = F.log_softmax(logits.double(), dim=2).transpose(0, 1)
        return whole


class StoredMembers(Members):
    """Members whose logits exist: float [K, N, C]."""

    def __init__(self, logits: Tensor) -> None:
        self._logits = logits
        self.count, self._samples, self.classes = logits.shape

    def __len__(self) -> int:
        return self._samples

    def logits(self, rows: slice) -> Tensor:
        """A view."""
        return self._logits[:, rows]


class HeadMembers(Members):
    """K dropout masks over the classifier's input: the network below runs once, the linear layer K times.

    Args:
        features: float [N, D], the classifier's input.
        weight: float [C, D].
        bias: float [C] or None.
        count: K.
        keep: share of the inputs that a mask keeps; what is kept is scaled by 1 / keep.
        seed: of the masks; a sample's masks depend on it and the sample's row alone.
        shared_masks: the same K masks, and so the same K networks, for every sample.
    """

    def __init__(
        self,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *,
        count: int,
        keep: float,
        seed: int,
        shared_masks: bool,
    ) -> None:
        self.count, self.classes = count, len(weight)
        self._features, self._weight, self._bias, self._keep = features, weight, bias, keep
        self._generator = torch.Generator().manual_seed(seed)
        self._shared_masks = self._draw(1).to(features.device)[0] if shared_masks else None
        self._start = self._generator.get_state()
        self._next_row = 0

    def __len__(self) -> int:
        return len(self._features)

    def logits(self, rows: slice) -> Tensor:
        """Masked linear layers: [K, B, C]."""
        start, stop, _ = rows.indices(len(self))
        features = self._features[start:stop] / self._keep
        if self._shared_masks is not None:  # masking the input is masking the columns of the weight
            weights = self._weight * self._shared_masks[:, None]
            logits = (features @ weights.flatten(0, 1).T).unflatten(1, (self.count, self.classes)).transpose(0, 1)
        else:
            masks = self._masks(start, stop).to(features.device)
            logits = torch.einsum("bkd,cd->kbc", features[:, None] * masks, self._weight)
        return logits if self._bias is None else logits + self._bias

    def _masks(self, start: int, stop: int) -> Tensor:
        """bool [B, K, D]. Draws are one stream over the samples: a block reads on where the last one ended."""
        if start < self._next_row:
            self._generator.set_state(self._start)
            self._next_row = 0
        while self._next_row < start:
            skipped = min(start - self._next_row, 1024)
            self._draw(skipped)
            self._next_row += skipped
        self._next_row = stop
        return self._draw(stop - start)

    def _draw(self, samples: int) -> Tensor:
        shape = samples, self.count, self._weight.shape[1]
        return torch.rand(shape, generator=self._generator) < self._keep
