"""Number formats for training and scoring."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from prunefuse_bench.ops.chain import has_chains

__all__ = ["Precision", "autocast", "finer_precisions", "resolve_precision"]

Precision = Literal["fp32", "bf16"]
"""bf16: matrix products and convolutions in bfloat16 by autocast; weights, statistics and losses stay in float32."""


def resolve_precision(asked: Literal["auto", "fp32", "bf16"], device: torch.device) -> Precision:
    """``auto`` becomes bf16 where the hardware multiplies in bf16 (tensor cores, AMX, AVX512-BF16), else fp32."""
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if torch.cpu._is_amx_tile_supported() or has_chains() else "fp32"


def finer_precisions(precision: Precision, *, look_first: bool = False) -> tuple[Precision, ...]:
    """In which scores near a threshold are computed again, one after the other, after those in ``precision``.

    Args:
        look_first: after a look in 8 bits instead, see :mod:`prunefuse_bench.inference.screening`.
    """
    every: tuple[Precision, ...] = ("fp32",) if precision == "fp32" else (precision, "fp32")
    return every if look_first else every[1:]


@contextlib.contextmanager
def autocast(device: torch.device, precision: Precision) -> Iterator[None]:
    """The context to run a forward pass in.

    On a processor in bf16, attention is made of matrix products: torch's fused kernel takes most of the time of a small
    vision transformer's training there, twice as long as all else together.
    """
    with contextlib.ExitStack() as contexts:
        contexts.enter_context(torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"))
        if device.type == "cpu" and precision == "bf16":
            contexts.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield
