"""Batch norm in training on a processor."""

from __future__ import annotations

from torch import Tensor

from prunefuse_bench.ops._library import operators

__all__ = ["batch_norm", "batch_norm_backward", "batch_norm_relu", "batch_norm_relu_backward"]


def batch_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_variance: Tensor,
    momentum: float,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise each channel over all pixels: ``(x - mean) / sqrt(variance + epsilon) * weight + bias``.

    Args:
        x: float32 or bfloat16 [pixels, C], contiguous, or [N, C, H, W] in channels-last memory; at least two pixels, on
            the CPU.
        weight, bias: float32 [C].
        running_mean, running_variance: float32 [C], moved by ``momentum`` towards those of x (with the correction for a
            sample, as torch does it).
        momentum: share of the new statistics.
        epsilon: added to the variance.

    Returns:
        y of the type and shape of x; mean and 1 / sqrt(variance + epsilon), float32 [C]. The same bits for any number
        of threads.

    Raises:
        RuntimeError: wrong types or shapes.
    """
    return operators.batch_norm(x, weight, bias, running_mean, running_variance, momentum, epsilon)


def batch_norm_backward(
    dy: Tensor, x: Tensor, weight: Tensor, mean: Tensor, inverse_deviation: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by x, weight and bias from the gradient by y; the last two as :func:`batch_norm` returned them."""
    return operators.batch_norm_backward(dy, x, weight, mean, inverse_deviation)


def batch_norm_relu(
    x: Tensor,
    added: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_variance: Tensor,
    momentum: float,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """``relu(batch_norm(x) + added)`` in one pass; arguments and results as of :func:`batch_norm`.

    Args:
        added: of the type and shape of x, or None.
    """
    return operators.batch_norm_relu(x, added, weight, bias, running_mean, running_variance, momentum, epsilon)


def batch_norm_relu_backward(
    dy: Tensor, x: Tensor, y: Tensor | None, weight: Tensor, bias: Tensor, mean: Tensor, inverse_deviation: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients by x, ``added``, weight and bias from the gradient by y.

    Args:
        y: what :func:`batch_norm_relu` returned, where something was added; None where nothing was: then the gradient
            by ``added`` is empty.
    """
    return operators.batch_norm_relu_backward(dy, x, y, weight, bias, mean, inverse_deviation)
