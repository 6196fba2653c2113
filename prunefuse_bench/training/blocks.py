"""Residual blocks that train with fewer passes over their activations.

Batch norm, the sum with the shortcut and ReLU are three passes of torch forward and four backward over activations that
no cache holds; the core's operator makes it two and two.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from prunefuse_bench import ops
from prunefuse_bench.models.resnet_cifar import BasicBlock
from prunefuse_bench.training.batch_norm import can_normalise, channels_together, is_usual_norm
from prunefuse_bench.training.forwards import forward_by

__all__ = ["fast_blocks"]


def fast_blocks(network: nn.Module) -> AbstractContextManager[None]:
    """Within the block, batch norm, sum and ReLU of the residual blocks are one operator where they can.

    On the CPU, in the blocks of a CIFAR ResNet, on tensors in channels-last memory; everything else, evaluation mode,
    and blocks whose batch norms or ReLU have hooks, are as they were. The network's structure and tensors stay what
    they are, and results are torch's to rounding: what is between the three is not rounded.
    """
    return forward_by(_forward, (m for m in network.modules() if type(m) is BasicBlock and _is_usual(m)))


def _is_usual(block: BasicBlock) -> bool:
    return all(type(norm) is nn.BatchNorm2d and is_usual_norm(norm) for norm in (block.bn1, block.bn2))


def _has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def _forward(block: BasicBlock, x: Tensor) -> Tensor:
    if not block.training or any(_has_hooks(module) for module in (block.bn1, block.bn2, block.relu)):
        return BasicBlock.forward(block, x)
    y = _norm_relu(block.bn1, block.conv1(x), None)
    return _norm_relu(block.bn2, block.conv2(y), block.shortcut(x))


def _norm_relu(norm: nn.BatchNorm2d, x: Tensor, added: Tensor | None) -> Tensor:
    alike = added is None or (added.dtype == x.dtype and added.shape == x.shape and channels_together(added))
    if not alike or not can_normalise(norm, x):
        y = norm(x)
        return torch.relu(y if added is None else y + added)
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    result: Tensor = _BatchNormRelu.apply(
        x, added, norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.momentum, norm.eps
    )
    return result


class _BatchNormRelu(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        x: Tensor,
        added: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_variance: Tensor,
        momentum: float,
        epsilon: float,
    ) -> Tensor:
        y, mean, inverse = ops.batch_norm_relu(
            x, added, weight, bias, running_mean, running_variance, momentum, epsilon
        )
        context.save_for_backward(x, None if added is None else y, weight, bias, mean, inverse)
        return y

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, y, weight, bias, mean, inverse = context.saved_tensors
        dy = gradients[0].to(x.dtype)
        if not channels_together(dy):
            dy = torch.empty_like(x).copy_(dy)
        dx, dadded, dweight, dbias = ops.batch_norm_relu_backward(dy, x, y, weight, bias, mean, inverse)
        return dx, None if y is None else dadded, dweight, dbias, None, None, None, None
