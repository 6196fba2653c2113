"""Strided 1x1 convolutions that train without writing where they must not.

In torch 2.14 the backward pass of a float32 1x1 convolution with a stride, on a processor and in channels-last memory,
writes past its buffers for few channels on large images (4 channels at 64x64, say), which ends in a crash at best: the
shortcuts of a pruned residual network are such layers. The same convolution of every s-th pixel with stride 1 is right.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunefuse_bench.training.forwards import forward_by

__all__ = ["safe_forward", "safe_strided_convolutions"]


def safe_strided_convolutions(network: nn.Module) -> AbstractContextManager[None]:
    """Within the block, strided 1x1 convolutions take every s-th pixel first, where float32 trains on a processor.

    The same numbers to rounding; the network's structure and tensors stay what they are.
    """
    return forward_by(safe_forward, (m for m in network.modules() if type(m) is nn.Conv2d and _is_strided_1x1(m)))


def _is_strided_1x1(module: nn.Conv2d) -> bool:
    return module.kernel_size == (1, 1) and module.stride != (1, 1) and module.padding == (0, 0)


def safe_forward(module: nn.Conv2d, x: Tensor) -> Tensor:
    """The forward pass of a convolution; of a strided 1x1 one as described above."""
    if not _is_strided_1x1(module):
        return nn.Conv2d.forward(module, x)
    if x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return nn.Conv2d.forward(module, x)
    down, across = module.stride
    return F.conv2d(x[:, :, ::down, ::across], module.weight, module.bias, groups=module.groups)
