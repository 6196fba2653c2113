"""Convolutions that train fast on a processor that multiplies bfloat16 (AMX or AVX512-BF16).

Most of the time that a small residual network trains goes into the gradients of its narrow 3x3 convolutions. The core's
kernels fill its units also where there are few channels, and round the weights once and their gradients not at all.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from prunefuse_bench import ops
from prunefuse_bench.ops.chain import has_chains
from prunefuse_bench.training.forwards import forward_by
from prunefuse_bench.training.strided import safe_forward

__all__ = ["fast_convolutions"]

WIDEST = 128
"""Channels beyond which torch's convolutions are not slower."""

MOST_PIXELS = 64 * 64
"""Of images that the core takes: its kernels keep a few whole images in a thread's cache."""


def fast_convolutions(network: nn.Module) -> AbstractContextManager[None]:
    """Within the block, the network's convolutions train by the core's operators where they can.

    On a CPU with AMX or AVX512-BF16, under bfloat16 autocast, in training mode, on tensors in channels-last memory:
    kernels of 3x3 with padding 1 and of 1x1, stride 1 or 2, without groups, dilation or bias. Everything else is
    torch's. The network's structure and tensors stay what they are, and results are torch's to rounding; gradients of
    weights are not rounded to bfloat16.
    """
    usual = (m for m in network.modules() if type(m) is nn.Conv2d and _is_usual(m))
    return forward_by(_forward, usual if has_chains() else ())


def _is_usual(module: nn.Conv2d) -> bool:
    kernel = module.kernel_size[0]
    return (
        (module.kernel_size, module.stride) in {((k, k), (s, s)) for k in (1, 3) for s in (1, 2)}
        and module.padding == (kernel // 2, kernel // 2)
        and module.padding_mode == "zeros"
        and module.dilation == (1, 1)
        and module.groups == 1
        and module.bias is None
        and max(module.in_channels, module.out_channels) <= WIDEST
        and module.weight.device.type == "cpu"
        and module.weight.dtype == torch.float32
    )


def _forward(module: nn.Conv2d, x: Tensor) -> Tensor:
    suits = (
        module.training
        and x.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and x.dtype in {torch.float32, torch.bfloat16}
        and 0 < x.shape[2] * x.shape[3] <= MOST_PIXELS
        and x.permute(0, 2, 3, 1).is_contiguous()
    )
    if not suits:
        return safe_forward(module, x)
    return _Convolution.apply(x, module.weight, module.stride[0])


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        rows = x.permute(0, 2, 3, 1).bfloat16()
        packed = weight.permute(0, 2, 3, 1).contiguous()
        context.save_for_backward(rows, packed)
        context.stride, context.type = stride, x.dtype
        return ops.convolution(rows, packed, stride).permute(0, 3, 1, 2)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = context.saved_tensors
        dy = gradients[0].permute(0, 2, 3, 1).bfloat16().contiguous()
        dx = dweight = None
        if context.needs_input_grad[0]:
            _, height, width, _ = rows.shape
            gradient = ops.convolution_input_gradient(dy, weight, height, width, context.stride)
            dx = gradient.permute(0, 3, 1, 2).to(context.type)
        if context.needs_input_grad[1]:
            gradient = ops.convolution_weight_gradient(dy, rows, weight.shape[1], context.stride)
            dweight = gradient.permute(0, 3, 1, 2)
        return dx, dweight, None
