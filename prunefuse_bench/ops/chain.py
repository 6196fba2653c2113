"""Whole convolutional networks in bfloat16, depth first; see ``csrc/cpu/chain.h``."""

from __future__ import annotations

from torch import Tensor

from prunefuse_bench.ops._library import operators

__all__ = ["has_chains", "pack_weight", "run_chain"]


def has_chains() -> bool:
    """Whether this processor multiplies bfloat16 (AMX or AVX512-BF16) and the kernels may use it."""
    return operators.has_chains()


def pack_weight(weight: Tensor, stride: int) -> Tensor:
    """Bfloat16 [O, I, K, K] -> bfloat16 [count], the tiles that a layer of :func:`run_chain` takes.

    O and I are 8 or a multiple of 16, and O is 8 only where I is 8; K is 1 or 3, the stride 1 or 2.

    Raises:
        RuntimeError: other shapes or dtypes.
    """
    return operators.pack_weight(weight.contiguous(), stride)


def run_chain(
    images: Tensor, pictures: Tensor, layers: Tensor, averaged: int, weights: Tensor, biases: Tensor
) -> Tensor:
    """From images to the means over the pixels of the last layer.

    Args:
        images: bfloat16 [N, H, W, C], finite.
        pictures: int64 [P, 4], what passes between layers is kept in: channels, height, width, images side by side;
            the first takes the images.
        layers: int64 [L, 8], in the order of their computation: picture of the input, of the output, of the residual
            (-1: none); kernel size, stride, whether a ReLU ends it, where its weights and its biases begin.
        averaged: the picture whose means are wanted.
        weights: bfloat16, what :func:`pack_weight` made for all layers.
        biases: float32, one per output channel of each layer.

    Returns:
        float32 [N, channels of the averaged picture]; for each image the same to the bit whatever images come with it
        and however many threads there are.

    Raises:
        RuntimeError: no such units (:func:`has_chains`), or a program that does not fit together.
    """
    return operators.run_chain(
        images.contiguous(),
        pictures.contiguous(),
        layers.contiguous(),
        averaged,
        weights.contiguous(),
        biases.contiguous(),
    )
