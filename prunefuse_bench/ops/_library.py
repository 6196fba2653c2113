"""Loads the compiled operators and tells torch their shapes, so that they can be traced and compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

import prunefuse_bench._C  # importing it registers the operators

try:
    import prunefuse_bench._C_cuda  # noqa: F401  registers their CUDA kernels

    HAS_CUDA_KERNELS = True
except ImportError:  # not built here, or this machine has no CUDA libraries
    HAS_CUDA_KERNELS = False

__all__ = ["HAS_CUDA_KERNELS", "has_kernels", "instruction_set", "operators"]

operators = torch.ops.prunefuse_bench

F = TypeVar("F", bound=Callable[..., Any])


def instruction_set() -> str:
    """The vector instructions that the CPU kernels use on this machine."""
    return ("baseline", "AVX2", "AVX-512", "AVX-512 with bfloat16", "AVX-512 and AMX")[operators.instruction_set()]


def has_kernels(tensor: Tensor) -> bool:
    """Whether the compiled operators take tensors of this device."""
    return tensor.device.type == "cpu" or (tensor.device.type == "cuda" and HAS_CUDA_KERNELS)


fake = cast(Callable[[str], Callable[[F], F]], torch.library.register_fake)


@fake("prunefuse_bench::score")
def _score(logits: Tensor, kind: int) -> Tensor:
    return logits.new_empty(logits.shape[0], dtype=torch.float32)


@fake("prunefuse_bench::score_committee")
def _score_committee(logits: Tensor, kind: int) -> Tensor:
    return logits.new_empty(logits.shape[1], dtype=torch.float32)


@fake("prunefuse_bench::score_head")
def _score_head(features: Tensor, weight: Tensor, bias: Tensor | None, kind: int) -> Tensor:
    return features.new_empty(features.shape[0], dtype=torch.float32)


@fake("prunefuse_bench::top_k")
def _top_k(scores: Tensor, k: int) -> Tensor:
    return scores.new_empty(k, dtype=torch.int64)


@fake("prunefuse_bench::advance_kcenters")
def _advance_kcenters(
    features: Tensor, centers: Tensor, bounds: Tensor, folded: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    return features.new_empty(k, dtype=torch.int64), features.new_empty(k, dtype=torch.float32)


@fake("prunefuse_bench::fuse_flat")
def _fuse_flat(
    dense: Tensor, origin: Tensor, values: Tensor, begins: Tensor, laws: Tensor, parameters: Tensor, seed: int
) -> Tensor:
    return torch.empty_like(dense)


@fake("prunefuse_bench::gather_images")
def _gather_images(
    images: Tensor,
    rows: Tensor,
    levels: Tensor,
    tops: Tensor | None,
    lefts: Tensor | None,
    flips: Tensor | None,
    padding: int,
) -> Tensor:
    _, channels, height, width = images.shape
    return levels.new_empty(rows.shape[0], height, width, channels)


@fake("prunefuse_bench::pack_weight")
def _pack_weight(weight: Tensor, stride: int) -> Tensor:
    return weight.new_empty(torch.library.get_ctx().new_dynamic_size())


@fake("prunefuse_bench::run_chain")
def _run_chain(
    images: Tensor, pictures: Tensor, layers: Tensor, averaged: int, weights: Tensor, biases: Tensor
) -> Tensor:
    width = torch.library.get_ctx().new_dynamic_size()  # it stands in the pictures
    return images.new_empty(images.shape[0], width, dtype=torch.float32)


@fake("prunefuse_bench::run_quantised_chain")
def _run_quantised_chain(
    images: Tensor, around: Tensor, pictures: Tensor, layers: Tensor, averaged: int, weights: Tensor, factors: Tensor
) -> Tensor:
    width = torch.library.get_ctx().new_dynamic_size()  # it stands in the pictures
    return images.new_empty(images.shape[0], width, dtype=torch.float32)


@fake("prunefuse_bench::batch_norm")
def _batch_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_variance: Tensor,
    momentum: float,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)


@fake("prunefuse_bench::batch_norm_backward")
def _batch_norm_backward(
    dy: Tensor, x: Tensor, weight: Tensor, mean: Tensor, inverse_deviation: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)


@fake("prunefuse_bench::batch_norm_relu")
def _batch_norm_relu(
    x: Tensor,
    added: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_variance: Tensor,
    momentum: float,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)


@fake("prunefuse_bench::batch_norm_relu_backward")
def _batch_norm_relu_backward(
    dy: Tensor,
    x: Tensor,
    y: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    inverse_deviation: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dadded = x.new_empty(0) if y is None else torch.empty_like(x)
    return torch.empty_like(x), dadded, torch.empty_like(weight), torch.empty_like(weight)


@fake("prunefuse_bench::convolution")
def _convolution(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    images, height, width, _ = x.shape
    return x.new_empty(images, (height - 1) // stride + 1, (width - 1) // stride + 1, weight.shape[0])


@fake("prunefuse_bench::convolution_input_gradient")
def _convolution_input_gradient(dy: Tensor, weight: Tensor, height: int, width: int, stride: int) -> Tensor:
    return dy.new_empty(dy.shape[0], height, width, weight.shape[3])


@fake("prunefuse_bench::convolution_weight_gradient")
def _convolution_weight_gradient(dy: Tensor, x: Tensor, kernel: int, stride: int) -> Tensor:
    return x.new_empty(dy.shape[3], kernel, kernel, x.shape[3], dtype=torch.float32)
