"""Batches of images for a network in one pass over them."""

from __future__ import annotations

import torch
from torch import Tensor

from prunefuse_bench.ops import reference
from prunefuse_bench.ops._library import operators
from prunefuse_bench.ops.checks import expect_one_device

__all__ = ["gather_images"]


def gather_images(
    images: Tensor,
    rows: Tensor,
    levels: Tensor,
    *,
    padding: int = 0,
    tops: Tensor | None = None,
    lefts: Tensor | None = None,
    flips: Tensor | None = None,
) -> Tensor:
    """Gather, crop, flip and normalise, all at once.

    Args:
        images: uint8 [N, C, H, W].
        rows: int64 [B], which images.
        levels: float32 or bfloat16 [C, 256], what each grey level of a channel becomes.
        padding: black pixels (level 0) on each side before the crop to H x W.
        tops, lefts: int64 [B] from 0 to twice the padding, where each crop begins; no crop without them.
        flips: bool [B], whether the crop is flipped left to right.

    Returns:
        [B, C, H, W] of the dtype of ``levels`` in channels-last memory.

    Raises:
        ValueError: wrong shapes, dtypes or devices.
        RuntimeError: numbers out of range (IndexError without the compiled operator).
    """
    expect_one_device(images=images, rows=rows, levels=levels, tops=tops, lefts=lefts, flips=flips)
    if images.ndim != 4 or images.dtype != torch.uint8:
        raise ValueError(f"images: expected uint8 [N, C, H, W], got {images.dtype} {tuple(images.shape)}")
    if levels.shape != (images.shape[1], 256) or levels.dtype not in {torch.float32, torch.bfloat16}:
        raise ValueError(
            f"levels: expected float32 or bfloat16 [{images.shape[1]}, 256], got {levels.dtype} {tuple(levels.shape)}"
        )
    for name, tensor, dtype in (
        ("rows", rows, torch.int64),
        ("tops", tops, torch.int64),
        ("lefts", lefts, torch.int64),
        ("flips", flips, torch.bool),
    ):
        if tensor is not None and (tensor.dtype != dtype or tensor.shape != rows.shape or tensor.ndim != 1):
            raise ValueError(f"{name}: expected {dtype} [{len(rows)}], got {tensor.dtype} {tuple(tensor.shape)}")
    if (tops is None) != (lefts is None):
        raise ValueError("tops and lefts: expected both or neither")
    tops, lefts, flips = (None if part is None else part.contiguous() for part in (tops, lefts, flips))
    compute = operators.gather_images if images.device.type == "cpu" else reference.gather_images
    batch = compute(images.contiguous(), rows.contiguous(), levels.contiguous(), tops, lefts, flips, padding)
    return batch.permute(0, 3, 1, 2)
