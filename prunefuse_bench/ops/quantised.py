"""Whole convolutional networks in 8 bits, depth first; see ``csrc/cpu/quantised.h``."""

from __future__ import annotations

from torch import Tensor

from prunefuse_bench.ops._library import operators

__all__ = ["has_quantised_chains", "run_quantised_chain"]


def has_quantised_chains() -> bool:
    """Whether this processor multiplies bytes (AVX512-VNNI), has nothing faster (AMX), and the kernels may use it."""
    return operators.has_quantised_chains()


def run_quantised_chain(
    images: Tensor,
    around: Tensor,
    pictures: Tensor,
    layers: Tensor,
    averaged: int,
    weights: Tensor,
    factors: Tensor,
) -> Tensor:
    """From the images of a pool, as they are stored, to the means over the pixels of the last layer.

    A layer stores ``clamp(round(sum * scale + offset + residual * gain), 0, 255)``, where the sum is that of its
    weights times the bytes of its input, in whole numbers.

    Args:
        images: uint8 [N, C, H, W].
        around: uint8 [C], what pixels outside of an image are.
        pictures: int64 [P, 4], as for :func:`run_chain`, with as many images side by side in all; the first takes the
            images, and no layer writes into it.
        layers: int64 [L, 8], as for :func:`run_chain`; whether there is a ReLU says nothing, since what is stored ends
            at 0 anyhow. Where the factors begin stands in place of the biases.
        averaged: the picture whose means are wanted.
        weights: int8, [O, I, K, K] of each layer, O and I being the channels of its pictures.
        factors: float32 [3, count], scale, offset and gain, one of each per output channel of each layer.

    Returns:
        float32 [N, channels of the averaged picture], of bytes; for each image the same to the bit whatever images come
        with it and however many threads there are.

    Raises:
        RuntimeError: no such products (:func:`has_quantised_chains`), or a program that does not fit together.
    """
    return operators.run_quantised_chain(
        images.contiguous(),
        around.contiguous(),
        pictures.contiguous(),
        layers.contiguous(),
        averaged,
        weights.contiguous(),
        factors.contiguous(),
    )
