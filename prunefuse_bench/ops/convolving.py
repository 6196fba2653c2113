"""Convolutions in training in bfloat16 (AMX or AVX512-BF16); see ``csrc/cpu/convolution.h``."""

from __future__ import annotations

from torch import Tensor

from prunefuse_bench.ops._library import operators

__all__ = ["convolution", "convolution_input_gradient", "convolution_weight_gradient"]


def convolution(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Convolution with padding K // 2, without bias; needs :func:`prunefuse_bench.ops.chain.has_chains`.

    Args:
        x: contiguous bfloat16 [N, H, W, I].
        weight: contiguous float32 [O, K, K, I], K 1 or 3; rounded to bfloat16 here.
        stride: 1 or 2.

    Returns:
        bfloat16 [N, (H - 1) // stride + 1, (W - 1) // stride + 1, O], sums taken in float32; for this and the gradients
        the same bits for any number of threads.

    Raises:
        RuntimeError: no such units, wrong types or shapes.
    """
    return operators.convolution(x, weight, stride)


def convolution_input_gradient(dy: Tensor, weight: Tensor, height: int, width: int, stride: int) -> Tensor:
    """Gradient by x, bfloat16 [N, height, width, I], from the gradient by the output, of its type and shape."""
    return operators.convolution_input_gradient(dy, weight, height, width, stride)


def convolution_weight_gradient(dy: Tensor, x: Tensor, kernel: int, stride: int) -> Tensor:
    """Gradient by the weight, float32 [O, kernel, kernel, I]."""
    return operators.convolution_weight_gradient(dy, x, kernel, stride)
