"""Number formats for training and scoring."""

from __future__ import annotations

import contextlib
from typing import Literal

import torch

__all__ = ["Precision", "autocast", "resolve_precision"]

Precision = Literal["fp32", "bf16"]
"""bf16: matrix products and convolutions in bfloat16 by autocast; weights, statistics and losses stay in float32."""


def resolve_precision(asked: Literal["auto", "fp32", "bf16"], device: torch.device) -> Precision:
    """``auto`` becomes bf16 where the hardware multiplies matrices in bf16 (tensor cores, AMX), else fp32."""
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if torch.cpu._is_amx_tile_supported() else "fp32"


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """The context to run a forward pass in."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
