"""Stochastic gradient descent over images that live on the device as uint8.

No data loader and no Python loop over samples: a batch is one gather, one batched crop and flip, one normalisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunefuse_bench.data.augmentation import Augmentation, Normalisation
from prunefuse_bench.errors import CellFailed
from prunefuse_bench.models import find_classifier
from prunefuse_bench.training.distillation import Distillation, distillation_loss
from prunefuse_bench.training.precision import Precision, autocast
from prunefuse_bench.training.schedule import StepSchedule

__all__ = ["Diverged", "Evaluation", "Fit", "TrainingRecipe", "evaluate", "fit", "predict"]

EVALUATION_BATCH = 1000


class Diverged(CellFailed):
    """The training loss is no longer a finite number."""


@dataclass(frozen=True)
class TrainingRecipe:
    """How networks are trained; the same for every method of a task.

    Attributes:
        schedule: length and learning rates.
        batch_size: samples per optimisation step; the last batch of an epoch may be smaller.
        momentum, weight_decay: of stochastic gradient descent (no Nesterov).
        augmentation, normalisation: applied to every batch.
        precision: number format of the forward and backward pass.
    """

    schedule: StepSchedule
    batch_size: int
    momentum: float
    weight_decay: float
    augmentation: Augmentation
    normalisation: Normalisation
    precision: Precision


@dataclass(frozen=True)
class Fit:
    """What a training run was: passes, optimisation steps, samples seen, and the mean loss of the last epoch."""

    epochs: int
    steps: int
    samples: int
    loss: float


@dataclass(frozen=True)
class Evaluation:
    """Share of correct predictions (0 to 1) and mean cross entropy (nats) over a test set."""

    accuracy: float
    loss: float


def fit(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    training: TrainingRecipe,
    generator: torch.Generator,
    *,
    teacher: nn.Module | None = None,
    distillation: Distillation | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Fit:
    """Train ``network`` in place; it is left in evaluation mode.

    Args:
        images: uint8 [N, C, H, W] on the network's device.
        labels: int64 [N] on the same device.
        generator: a CPU generator; determines order, crops and flips.
        teacher: in evaluation mode; sees the same augmented batch as the student. Needs ``distillation``.
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
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.0, momentum=training.momentum, weight_decay=training.weight_decay, fused=True
    )
    step = 0
    mean_loss = math.nan
    for epoch in range(epochs):
        order = torch.randperm(count, generator=generator).to(device)
        draws = training.augmentation.draw(count, generator, device)
        loss_sum = torch.zeros((), device=device)
        for rows in _batches(count, training.batch_size):
            batch = order[rows]
            inputs = training.normalisation.apply(training.augmentation.apply(images[batch], draws[rows]))
            optimizer.param_groups[0]["lr"] = training.schedule.learning_rate(step, total_steps)
            loss = _loss(network, inputs, labels[batch], training.precision, teacher, distillation)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            loss_sum += loss.detach() * len(batch)
            step += 1
        mean_loss = loss_sum.item() / count
        if not math.isfinite(mean_loss):
            raise Diverged(
                f"training diverged: the loss is {mean_loss} after epoch {epoch + 1} of {epochs}; "
                "lower the learning rate (task.training.segments) or raise the batch size"
            )
        progress(epoch + 1, epochs)
    network.eval()
    return Fit(epochs=epochs, steps=step, samples=epochs * count, loss=mean_loss)


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
) -> Tensor:
    with autocast(inputs.device, precision):
        logits = network(inputs).float()
        if teacher is None or distillation is None:
            return F.cross_entropy(logits, labels)
        with torch.no_grad():
            teacher_logits = teacher(inputs).float()
    weight = distillation.cross_entropy_weight
    return weight * F.cross_entropy(logits, labels) + (1 - weight) * distillation_loss(
        logits, teacher_logits, distillation.temperature
    )


@torch.no_grad()
def evaluate(network: nn.Module, images: Tensor, labels: Tensor, training: TrainingRecipe) -> Evaluation:
    """Accuracy and loss over uint8 [N, C, H, W] and int64 [N], clean images, evaluation mode."""
    network.eval()
    correct = torch.zeros((), device=images.device, dtype=torch.int64)
    loss_sum = torch.zeros((), device=images.device)
    for start in range(0, len(images), EVALUATION_BATCH):
        rows = slice(start, start + EVALUATION_BATCH)
        with autocast(images.device, training.precision):
            logits = network(training.normalisation.apply(images[rows])).float()
        correct += (logits.argmax(1) == labels[rows]).sum()
        loss_sum += F.cross_entropy(logits, labels[rows], reduction="sum")
    return Evaluation(accuracy=correct.item() / len(images), loss=loss_sum.item() / len(images))


@torch.no_grad()
def predict(
    network: nn.Module,
    images: Tensor,
    training: TrainingRecipe,
    *,
    features: bool,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Tensor, Tensor | None]:
    """Logits float32 [N, classes] of uint8 [N, C, H, W], and features float32 [N, D] if asked for, in one pass.

    The features are what the classifier sees: the input of the last linear layer. Clean images, evaluation mode.
    """
    network.eval()
    logits: list[Tensor] = []
    seen: list[Tensor] = []
    hooks = []
    if features:
        classifier = find_classifier(network, training.normalisation.apply(images[:1]))
        hooks.append(classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].float())))
    try:
        for start in range(0, len(images), EVALUATION_BATCH):
            with autocast(images.device, training.precision):
                logits.append(network(training.normalisation.apply(images[start : start + EVALUATION_BATCH])).float())
            progress(min(start + EVALUATION_BATCH, len(images)), len(images))
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat(logits), torch.cat(seen) if features else None
