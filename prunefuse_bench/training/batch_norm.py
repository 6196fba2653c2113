"""Batch norm that trains fast on a processor, however narrow the layer.

Half of the time that a small pruned network trains on a processor goes into torch's batch norm, which takes one channel
per vector lane: with 8 channels most lanes are empty. The core's takes whole vectors, whatever the number of channels.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from prunefuse_bench import ops
from prunefuse_bench.training.forwards import forward_by

__all__ = ["can_normalise", "channels_together", "fast_batch_norms", "is_usual_norm"]


def fast_batch_norms(network: nn.Module) -> AbstractContextManager[None]:
    """Within the block, the network's batch norms train by the core's operators where they can.

    On the CPU, for layers with weights and running statistics, on tensors in channels-last memory; everything else, and
    evaluation mode, is torch's. The network's structure and tensors stay what they are, and results are torch's to
    rounding.
    """
    return forward_by(_forward, (m for m in network.modules() if type(m) is nn.BatchNorm2d and is_usual_norm(m)))


def is_usual_norm(module: nn.BatchNorm2d) -> bool:
    """With weights and running statistics, on the CPU."""
    on_cpu = all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in module.parameters())
    return module.affine and module.track_running_stats and module.momentum is not None and on_cpu


def can_normalise(module: nn.BatchNorm2d, x: Tensor) -> bool:
    """Whether the core's operators take this tensor, in a usual layer."""
    suits = x.dtype in {torch.float32, torch.bfloat16} and channels_together(x) and x.device.type == "cpu"
    return suits and module.training and x.shape[0] * x.shape[2] * x.shape[3] > 1


def _forward(module: nn.BatchNorm2d, x: Tensor) -> Tensor:
    if not can_normalise(module, x):
        return nn.BatchNorm2d.forward(module, x)
    assert module.num_batches_tracked is not None
    module.num_batches_tracked.add_(1)
    return _BatchNorm.apply(
        x, module.weight, module.bias, module.running_mean, module.running_var, module.momentum, module.eps
    )


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_variance: Tensor,
        momentum: float,
        epsilon: float,
    ) -> Tensor:
        y, mean, inverse = ops.batch_norm(x, weight, bias, running_mean, running_variance, momentum, epsilon)
        context.save_for_backward(x, weight, mean, inverse)
        return y

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse = context.saved_tensors
        dy = gradients[0].to(x.dtype)
        if not channels_together(dy):
            dy = torch.empty_like(x).copy_(dy)
        return (*ops.batch_norm_backward(dy, x, weight, mean, inverse), None, None, None, None)


def channels_together(x: Tensor) -> bool:
    """Whether the strides of [N, C, H, W] are those of channels-last memory; of single pixels torch says so anyway."""
    _, channels, height, width = x.shape
    return x.stride() == (height * width * channels, 1, width * channels, channels)
