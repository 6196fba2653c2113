"""Stochastic gradient descent over images that live on the device as uint8.

No data loader and no Python loop over samples: a batch is one gather, one batched crop and flip, one normalisation.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunefuse_bench.data.augmentation import Augmentation, Normalisation
from prunefuse_bench.data.stored import Images
from prunefuse_bench.errors import CellFailed
from prunefuse_bench.inference.precision import Precision, autocast
from prunefuse_bench.models import find_classifier
from prunefuse_bench.randomness import derive_seed
from prunefuse_bench.training.batch_norm import fast_batch_norms
from prunefuse_bench.training.blocks import fast_blocks
from prunefuse_bench.training.convolution import fast_convolutions
from prunefuse_bench.training.distillation import Distillation, distillation_loss
from prunefuse_bench.training.observer import TrainingObserver
from prunefuse_bench.training.schedule import Schedule
from prunefuse_bench.training.strided import safe_strided_convolutions

__all__ = ["Diverged", "Fit", "OptimizerName", "TrainingRecipe", "fit"]

OptimizerName = Literal["sgd", "adam"]


class Diverged(CellFailed):
    """The training loss is no longer a finite number."""


@dataclass(frozen=True)
class TrainingRecipe:
    """How networks are trained; the same for every method of a task, unless a method insists on its original's way.

    Attributes:
        schedule: length and learning rates.
        batch_size: samples per optimisation step; the last batch of an epoch may be smaller.
        momentum, weight_decay, nesterov: of stochastic gradient descent; Adam takes the weight decay alone.
        augmentation, normalisation: applied to every batch.
        precision: number format of the forward and backward pass.
        optimizer: stochastic gradient descent, or Adam with torch's own betas.
    """

    schedule: Schedule
    batch_size: int
    momentum: float
    weight_decay: float
    augmentation: Augmentation
    normalisation: Normalisation
    precision: Precision
    nesterov: bool = False
    optimizer: OptimizerName = "sgd"


@dataclass(frozen=True)
class Fit:
    """What a training run was: passes, optimisation steps, samples seen, and the mean loss of the last epoch."""

    epochs: int
    steps: int
    samples: int
    loss: float


def fit(
    network: nn.Module,
    images: Images,
    labels: Tensor,
    training: TrainingRecipe,
    generator: torch.Generator,
    *,
    teacher: nn.Module | None = None,
    distillation: Distillation | None = None,
    head_dropout: float = 0.0,
    observers: Sequence[TrainingObserver] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Fit:
    """Train ``network`` in place; it is left in evaluation mode.

    Args:
        images: uint8 [N, C, H, W] on the network's device.
        labels: int64 [N] on the same device.
        generator: a CPU generator; determines order, crops and flips.
        teacher: in evaluation mode; sees the same augmented batch as the student. Needs ``distillation``.
        head_dropout: share of the classifier's inputs that are dropped in every batch; the order of the batches and
            the augmentation are those of a training without.
        observers: told of every batch, step and epoch; they change nothing.
        progress: told of (epochs done, epochs in all).

    Raises:
        Diverged: the loss of an epoch is not finite; the epoch is named.
    """
    count, device = len(images), images.device
    steps_per_epoch = len(_batches(count, training.batch_size))
    epochs = training.schedule.epochs_for(steps_per_epoch)
    total_steps = epochs * steps_per_epoch
    network.to(memory_format=torch.channels_last)
    network.train()
    optimizer = _optimizer(network, training)
    for observer in observers:
        observer.begin(count, epochs, device)
        observer.passed(network, 0)
    step = 0
    mean_loss = math.nan
    example = training.normalisation.apply(images[:1])
    with (
        fast_batch_norms(network),
        fast_blocks(network),
        safe_strided_convolutions(network),
        fast_convolutions(network),
        _dropout_before_classifier(network, example, head_dropout, generator),
    ):
        for epoch in range(epochs):
            order = torch.randperm(count, generator=generator).to(device)
            draws = training.augmentation.draw(count, generator, device)
            loss_sum = torch.zeros((), device=device)
            for rows in _batches(count, training.batch_size):
                batch = order[rows]
                inputs = training.normalisation.gather(images, batch, training.augmentation, draws[rows])
                optimizer.param_groups[0]["lr"] = training.schedule.learning_rate(step, total_steps)
                loss, logits = _loss(network, inputs, labels[batch], training.precision, teacher, distillation)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                loss_sum += loss.detach() * len(batch)
                step += 1
                for observer in observers:
                    observer.saw(epoch, batch, logits.detach(), labels[batch])
                    observer.stepped(network, step, total_steps)
            mean_loss = loss_sum.item() / count
            if not math.isfinite(mean_loss):
                raise Diverged(
                    f"training diverged: the loss is {mean_loss} after epoch {epoch + 1} of {epochs}; "
                    "lower the learning rate (task.training.segments) or raise the batch size"
                )
            for observer in observers:
                observer.passed(network, epoch + 1)
            progress(epoch + 1, epochs)
    network.eval()
    return Fit(epochs=epochs, steps=step, samples=epochs * count, loss=mean_loss)


def _optimizer(network: nn.Module, training: TrainingRecipe) -> torch.optim.Optimizer:
    """Its learning rate is set at every step."""
    parameters, decay = network.parameters(), training.weight_decay
    if training.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=0.0, weight_decay=decay, fused=True)
    return torch.optim.SGD(
        parameters, lr=0.0, momentum=training.momentum, weight_decay=decay, nesterov=training.nesterov, fused=True
    )


@contextlib.contextmanager
def _dropout_before_classifier(
    network: nn.Module, example_input: Tensor, rate: float, generator: torch.Generator
) -> Iterator[None]:
    """Within the block, the classifier's input goes through dropout while the network is in training mode.

    A hook and not a layer, so that the network keeps its structure and the names of its tensors. The masks come from a
    stream of their own, so that whatever else ``generator`` decides stays what it is without dropout.
    """
    if not rate:
        yield
        return
    masks = torch.Generator().manual_seed(derive_seed(generator.initial_seed(), "head dropout"))

    def drop(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if not network.training:
            return inputs
        kept = torch.rand(inputs[0].shape, generator=masks) >= rate
        return (inputs[0] * kept.to(inputs[0]) / (1 - rate), *inputs[1:])

    classifier = find_classifier(network, example_input)
    hook = classifier.register_forward_pre_hook(drop)
    try:
        yield
    finally:
        hook.remove()


def _batches(count: int, batch_size: int) -> list[slice]:
    """Rows of each batch. A last batch of one sample joins the one before: batch norm cannot be trained on it."""
    starts = list(range(0, count, batch_size))
    if len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], count], strict=True)]


def _loss(
    network: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    precision: Precision,
    teacher: nn.Module | None,
    distillation: Distillation | None,
) -> tuple[Tensor, Tensor]:
    """The loss, a scalar, and the logits, float32 [B, C]."""
    with autocast(inputs.device, precision):
        logits = network(inputs).float()
        if teacher is None or distillation is None:
            return F.cross_entropy(logits, labels), logits
        with torch.no_grad():
            teacher_logits = teacher(inputs).float()
    weight = distillation.cross_entropy_weight
    distilled = distillation_loss(logits, teacher_logits, distillation.temperature)
    return weight * F.cross_entropy(logits, labels) + (1 - weight) * distilled, logits
