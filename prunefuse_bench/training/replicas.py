"""One training on several processes: each takes its rows of every batch, and all make the same step.

The batches, their order, crops and flips are drawn for the whole batch on every process, so that what is trained is
what one process would train, up to the order in which floating-point numbers are added. Batch norm takes its statistics
over the whole batch for the same reason.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from prunefuse_bench.distributed import World
from prunefuse_bench.training.forwards import forward_by

__all__ = ["Replicas"]

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


class Replicas:
    """How the processes of a world share the batches of one training. A world of one process takes them whole.

    A batch of fewer rows than processes is taken whole by everybody: there is no use in sharing it.

    Attributes:
        rows: of the batch, how many there are in all.
        own: of the batch, which of them this process has.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.rows, self.own = 0, slice(0)

    @property
    def is_shared(self) -> bool:
        """Whether each process has its own part of this batch."""
        return 1 < self.world.size <= self.rows

    def take(self, batch: slice) -> slice:
        """This process's part of a batch; both are rows of an epoch."""
        self.rows = batch.stop - batch.start
        self.own = self.world.part(self.rows) if self.is_shared else slice(0, self.rows)
        return slice(batch.start + self.own.start, batch.start + self.own.stop)

    def weighted(self, loss: Tensor) -> Tensor:
        """Of a mean over the own rows, what averages over the processes to the mean over the batch."""
        if not self.is_shared:
            return loss
        return loss * ((self.own.stop - self.own.start) * self.world.size / self.rows)

    def mean(self, own: Tensor) -> Tensor:
        """Mean over the processes of what each of them has."""
        return self.world.sum(own) / self.world.size if self.world.size > 1 else own

    def whole(self, own: Tensor) -> Tensor:
        """The rows of the whole batch of what each process has for its own."""
        if not self.is_shared:
            return own
        gathered = self.world.gather(own)
        assert gathered is not None
        return gathered

    def parallel(self, network: nn.Module) -> nn.Module:
        """What to call in the network's place, so that gradients are averaged over the processes.

        The processes of a world may be anywhere: all begin with the weights of the first.
        """
        if self.world.size == 1:
            return network
        return DistributedDataParallel(network, broadcast_buffers=False)

    @contextlib.contextmanager
    def synchronised_norms(self, network: nn.Module) -> Iterator[None]:
        """Within the block, batch norms in training mode take mean and variance over the whole batch."""

        def forward(module: BatchNorm, x: Tensor) -> Tensor:
            if not (module.training and self.is_shared):
                return type(module).forward(module, x)
            return _forward(module, x, self.world)

        norms: list[BatchNorm] = [m for m in network.modules() if isinstance(m, NORMS) and type(m) in NORMS]
        with forward_by(forward, norms):
            yield


def _forward(module: BatchNorm, x: Tensor, world: World) -> Tensor:
    momentum = module.momentum
    if module.track_running_stats and module.num_batches_tracked is not None:
        module.num_batches_tracked.add_(1)
        if momentum is None:
            momentum = 1.0 / float(module.num_batches_tracked)
    y: Tensor = _SynchronisedNorm.apply(
        x, module.weight, module.bias, module.running_mean, module.running_var, momentum, module.eps, world
    )
    return y


class _SynchronisedNorm(torch.autograd.Function):
    """Two exchanges of a few numbers for each channel: forward the statistics, backward two sums."""

    @staticmethod
    def forward(
        context: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_variance: Tensor | None,
        momentum: float,
        epsilon: float,
        world: World,
    ) -> Tensor:
        channels, exact = x.shape[1], x.float()
        over = [0, *range(2, x.ndim)]
        view = (1, channels, *(1 for _ in range(x.ndim - 2)))
        own_mean = exact.mean(over)
        squares = (exact - own_mean.view(view)).square().sum(over)
        count = own_mean.new_tensor([x.numel() / channels])
        told = world.stack(torch.cat([own_mean, squares, count]).double())
        counts, means = told[:, -1:], told[:, :channels]
        total = counts.sum()
        mean = (counts * means).sum(0) / total
        # Squares about each process's own mean, moved to the common mean (Chan, Golub and LeVeque 1979).
        variance = (told[:, channels : 2 * channels] + counts * (means - mean).square()).sum(0) / total
        if running_mean is not None and running_variance is not None:
            running_mean.lerp_(mean.to(running_mean), momentum)
            running_variance.lerp_((variance * total / (total - 1)).to(running_variance), momentum)
        inverse = (variance + epsilon).rsqrt().float()
        context.save_for_backward(x, weight, mean.float(), inverse)
        context.world, context.total, context.has_bias = world, float(total), bias is not None
        y = (exact - mean.float().view(view)) * inverse.view(view)
        if weight is not None:
            y = y * weight.view(view)
        if bias is not None:
            y = y + bias.view(view)
        return y.to(x.dtype)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse = context.saved_tensors
        dy = gradients[0].float()
        over = [0, *range(2, x.ndim)]
        view = (1, x.shape[1], *(1 for _ in range(x.ndim - 2)))
        normal = (x.float() - mean.view(view)) * inverse.view(view)
        dbias, dweight = dy.sum(over), (dy * normal).sum(over)
        sums = context.world.sum(torch.cat([dbias, dweight])) / context.total
        all_dbias, all_dweight = sums.view(2, *view)
        slope = inverse if weight is None else inverse * weight
        dx = (dy - all_dbias - normal * all_dweight) * slope.view(view)
        # Of the parameters only the own part: DistributedDataParallel averages it like any other gradient.
        return (
            dx.to(x.dtype),
            None if weight is None else dweight,
            dbias if context.has_bias else None,
            *(None,) * 5,
        )
