"""Arguments are checked before anything is computed; a message says what was expected and what came."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["NotRankable", "expect_count", "expect_floats", "expect_one_device", "refuse", "refuse_nan"]


class NotRankable(ValueError):
    """Values that cannot be ranked, such as NaN; the message names the first row and how many there are.

    Attributes:
        row: the first of them.
    """

    def __init__(self, message: str, row: int) -> None:
        super().__init__(message)
        self.row = row


def expect_floats(tensor: Tensor, what: str, dimensions: int) -> None:
    """A float tensor of that many dimensions, the last of them not empty."""
    shapes = {1: "vector", 2: "matrix with at least one column", 3: "tensor [K, N, C] with at least one class"}
    if tensor.ndim != dimensions or not tensor.is_floating_point() or (dimensions > 1 and tensor.shape[-1] == 0):
        raise ValueError(f"{what}: expected a float {shapes[dimensions]}, got {tensor.dtype} {tuple(tensor.shape)}")


def expect_count(k: int, available: int) -> None:
    """A number of picks that there are candidates for."""
    if not 0 <= k <= available:
        raise ValueError(f"k: expected from 0 to the {available} that can be picked, got {k}")


def expect_one_device(**tensors: Tensor | None) -> None:
    """All tensors on one device."""
    devices = {name: str(tensor.device) for name, tensor in tensors.items() if tensor is not None}
    if len(set(devices.values())) > 1:
        raise ValueError(f"expected all tensors on one device, got {devices}; move them with .to(device)")


def refuse(rows: Tensor, what: str, found: str) -> None:
    """Raise if any of these rows, bool [N], is set.

    Raises:
        NotRankable: in a compiled graph, where no row can be named before the end, it is a RuntimeError instead.
    """
    if torch.compiler.is_compiling():
        torch._assert_async(~rows.any(), f"{what}: some rows cannot be ranked ({found})")
        return
    if rows.any():
        row = int(rows.nonzero()[0])
        raise NotRankable(
            f"{what}: {int(rows.sum())} of {len(rows)} rows cannot be ranked ({found}), the first is row {row}", row
        )


def refuse_nan(scores: Tensor, what: str, found: str) -> None:
    """Raise if a score, float [N], is NaN.

    Raises:
        NotRankable: as :func:`refuse`.
    """
    # A NaN makes the sum NaN, and the sum is one pass without a temporary; infinities of both signs do so too.
    if torch.compiler.is_compiling() or scores.sum().isnan():
        refuse(scores.isnan(), what, found)
