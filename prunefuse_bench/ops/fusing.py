"""Fusion of a whole network in one call (one launch on a GPU)."""

from __future__ import annotations

import torch
from torch import Tensor

from prunefuse_bench.ops import reference
from prunefuse_bench.ops._library import has_kernels, operators
from prunefuse_bench.ops.checks import expect_floats, expect_one_device

__all__ = ["LAWS", "fuse_flat"]

LAWS = {"keep": 0, "constant": 1, "uniform": 2, "normal": 3}
"""Numbers of the laws by which an entry is drawn (csrc/core/fusing.h)."""


def fuse_flat(
    dense: Tensor, origin: Tensor, values: Tensor, begins: Tensor, laws: Tensor, parameters: Tensor, seed: int
) -> Tensor:
    """Every entry of a network after fusion: copied from the pruned network, or drawn, or kept.

    ``fused[i] = values[origin[i]]`` where ``origin[i] >= 0``; elsewhere it is drawn by the law of i's segment. A draw
    depends on nothing but the seed and i (Philox 4x32-10), so it is the same on every device.

    Args:
        dense: float [T], all tensors of the dense network, one after the other.
        origin: int64 or int32 [T], positions in ``values``, or -1.
        values: [V] of the dtype of ``dense``, the entries of the pruned network.
        begins: int64 [S], ascending from 0: where each segment begins.
        laws: int32 [S], see :data:`LAWS`.
        parameters: float32 [S, 2]: a and b of each segment's law. Constant: a. Uniform: from a to b. Normal: mean a,
            standard deviation b.
        seed: 0 <= seed < 2^63.

    Returns:
        [T] of the dtype of ``dense``.

    Raises:
        ValueError: wrong shapes, dtypes or devices, positions out of range, or segments out of order.
    """
    expect_floats(dense, "dense [T]", 1)
    expect_one_device(dense=dense, origin=origin, values=values)
    if origin.shape != dense.shape or origin.dtype not in {torch.int64, torch.int32}:
        raise ValueError(f"origin: expected int64 or int32 [{len(dense)}], got {origin.dtype} {tuple(origin.shape)}")
    if values.ndim != 1 or values.dtype != dense.dtype:
        raise ValueError(f"values: expected {dense.dtype} [V], got {values.dtype} {tuple(values.shape)}")
    compiling = torch.compiler.is_compiling()  # values are not known before the graph runs
    if not compiling and len(origin) and not -1 <= int(origin.min()) <= int(origin.max()) < len(values):
        raise ValueError(
            f"origin: expected positions from -1 to {len(values) - 1}, got {int(origin.min())} to {int(origin.max())}"
        )
    count = len(begins)
    if (
        count == 0
        or (begins.dtype, laws.dtype, parameters.dtype) != (torch.int64, torch.int32, torch.float32)
        or (laws.shape, parameters.shape) != ((count,), (count, 2))
        or not (compiling or _are_segments(begins, laws))
    ):
        raise ValueError(
            "segments: expected ascending begins int64 [S] from 0, laws int32 [S] from 0 to 3 and parameters float32 "
            f"[S, 2], got {begins.dtype} {tuple(begins.shape)}, {laws.dtype} {tuple(laws.shape)}, "
            f"{parameters.dtype} {tuple(parameters.shape)}"
        )
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed: expected from 0 to 2^63 - 1, got {seed}")
    compute = operators.fuse_flat if has_kernels(dense) else reference.fuse_flat
    begins, laws, parameters = (part.to(dense.device) for part in (begins, laws, parameters))
    return compute(dense.detach(), origin, values.detach(), begins, laws, parameters, seed)


def _are_segments(begins: Tensor, laws: Tensor) -> bool:
    ascending = int(begins[0]) == 0 and not bool((begins.diff() < 0).any())
    return ascending and not bool(((laws < 0) | (laws >= len(LAWS))).any())
