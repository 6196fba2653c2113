"""Greedy k-centers (Sener and Savarese 2018), exact, by blocks of matrix products (csrc/cpu/kcenters.cpp)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from prunefuse_bench.ops import reference
from prunefuse_bench.ops._library import has_kernels, operators
from prunefuse_bench.ops.checks import expect_count, expect_floats, expect_one_device, refuse

__all__ = ["GreedyKCenters", "greedy_kcenters"]

_ROWS_AT_ONCE = 4096


def greedy_kcenters(
    features: Tensor, k: int, initial: Tensor | None = None, *, first: int | None = None
) -> tuple[Tensor, Tensor]:
    """Greedy k-centers: again and again the point that is furthest from its nearest center (Sener and Savarese 2018).

    Exact: the distance of every pick is within 1e-5 relative of the true maximum at that moment. Ties go to the lowest
    index; no point is picked twice, nor one of ``initial``. With no initial center the first pick is ``first``, or the
    point furthest from the mean.

    Args:
        features: float [N, D], compared by Euclidean distance. Contiguous float32 and bfloat16 are taken as they are,
            others are copied as float32. Distances below 1e-18 of the largest magnitude may count as zero.
        k: picks, from 0 to the number of points that are not initial centers.
        initial: int64 [M], distinct rows that are centers already; None or empty for none.
        first: the first pick, if there is no initial center.

    Returns:
        (indices, radii): int64 [k] in the order of picking, and float32 [k], the distance of each pick to its nearest
        center at that moment (infinite for a pick without any center). Memory beyond the features, and the copy if
        there must be one, is O(N).

    Raises:
        NotRankable: a feature is NaN or infinite.
        ValueError: wrong shapes, dtypes or devices, k out of range, or initial rows out of range or repeated.
    """
    return GreedyKCenters(features, initial, first=first).pick(k)


class GreedyKCenters:
    """A selection by greedy k-centers that can stop and go on.

    ``pick(a)`` and then ``pick(b)`` give what ``pick(a + b)`` gives, but for the last digit of radii.

    Example:
        >>> selection = GreedyKCenters(torch.arange(11.0)[:, None], torch.tensor([0]))
        >>> selection.pick(1)
        (tensor([10]), tensor([10.]))
        >>> selection.pick(2)
        (tensor([5, 2]), tensor([5., 2.]))
    """

    def __init__(self, features: Tensor, initial: Tensor | None = None, *, first: int | None = None) -> None:
        """As for :func:`greedy_kcenters`; the features must not change afterwards."""
        expect_floats(features, "features [N, D]", 2)
        expect_one_device(features=features, initial=initial)
        features = features.detach()
        if features.dtype not in {torch.float32, torch.bfloat16}:
            features = features.float()
        _refuse_unfit(features)
        self._features = features.contiguous()
        self._centers = _checked_centers(initial, features)
        self._bounds = torch.full((len(features),), torch.inf, device=features.device)
        self._folded = torch.zeros(len(features), dtype=torch.int32, device=features.device)
        if first is not None and (len(self._centers) or not 0 <= first < len(features)):
            raise ValueError(
                f"first: expected a row from 0 to {len(features) - 1} and no initial centers, "
                f"got {first} and {len(self._centers)} centers"
            )
        self._first = first

    @property
    def centers(self) -> Tensor:
        """int64, the initial centers and then all picks in their order."""
        return self._centers

    def pick(self, k: int) -> tuple[Tensor, Tensor]:
        """The next k picks; see :func:`greedy_kcenters`."""
        expect_count(k, len(self._features) - len(self._centers))
        given = self._first is not None and k > 0
        if given:
            self._centers = torch.tensor([self._first], device=self._features.device)
            self._first = None
        if has_kernels(self._features):
            indices, radii = operators.advance_kcenters(
                self._features, self._centers, self._bounds, self._folded, k - given
            )
        else:
            indices, radii = reference.greedy_kcenters(self._features, k - given, self._centers)
        before = self._centers[:1] if given else self._centers[:0]
        self._centers = torch.cat([self._centers, indices])
        return torch.cat([before, indices]), torch.cat([torch.full_like(before, torch.inf, dtype=radii.dtype), radii])

    def state_dict(self) -> dict[str, Tensor]:
        """What is needed to go on later from the same features; later picks do not change it."""
        first = torch.tensor([] if self._first is None else [self._first], dtype=torch.int64)
        return {
            "centers": self._centers,
            "bounds": self._bounds.clone(),
            "folded": self._folded.clone(),
            "first": first,
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state of a selection over the same features."""
        device = self._features.device
        if len(state["bounds"]) != len(self._features) or len(state["folded"]) != len(self._features):
            raise ValueError(
                f"state: expected bounds of {len(self._features)} points, got {len(state['bounds'])}; "
                "it belongs to other features"
            )
        centers = _checked_centers(state["centers"].to(device), self._features)
        bounds = state["bounds"].to(device, torch.float32, copy=True)
        folded = state["folded"].to(device, torch.int32, copy=True)
        no_center = torch.ones_like(bounds, dtype=torch.bool)
        no_center[centers] = False
        if len(folded) and not 0 <= int(folded.min()) <= int(folded.max()) <= len(centers):
            raise ValueError(f"state: expected folded from 0 to its {len(centers)} centers, got up to {folded.max()}")
        if bool((no_center & ~(bounds >= 0)).any()):
            raise ValueError("state: expected bounds of 0 or more for every point that is no center; it is damaged")
        self._centers, self._bounds, self._folded = centers, bounds, folded
        self._first = int(state["first"][0]) if len(state["first"]) else None


def _refuse_unfit(features: Tensor) -> None:
    # If the sum is finite, every feature is: one pass and no temporary. If it is not, it may only be too large.
    if torch.compiler.is_compiling() or not features.sum().isfinite():
        unfit = [~block.isfinite().all(1) for block in features.split(_ROWS_AT_ONCE)]
        refuse(torch.cat(unfit), "features", "NaN or infinity")


def _checked_centers(initial: Tensor | None, features: Tensor) -> Tensor:
    if initial is None:
        return torch.empty(0, dtype=torch.int64, device=features.device)
    if initial.ndim != 1 or initial.dtype != torch.int64:
        raise ValueError(f"initial: expected int64 [M], got {initial.dtype} {tuple(initial.shape)}")
    if torch.compiler.is_compiling():
        return initial  # what the rows are is not known before the graph runs; the operator checks their range
    if len(initial) and (int(initial.min()) < 0 or int(initial.max()) >= len(features)):
        raise ValueError(
            f"initial: expected rows from 0 to {len(features) - 1}, got {int(initial.min())} to {int(initial.max())}"
        )
    if len(initial.unique()) != len(initial):
        raise ValueError("initial: expected distinct rows, got some of them twice")
    return initial
