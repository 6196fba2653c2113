"""Stochastic gradient descent over images that live on the device as uint8.

No data loader and no Python loop over samples: a batch is one gather, one batched crop and flip, one normalisation.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunefuse_bench.data.augmentation import Augmentation, Normalisation
from prunefuse_bench.data.stored import Images
from prunefuse_bench.distributed import current
from prunefuse_bench.errors import CellFailed
from prunefuse_bench.inference.precision import Precision, autocast
from prunefuse_bench.models import find_classifier
from prunefuse_bench.randomness import derive_seed
from prunefuse_bench.training.batch_norm import fast_batch_norms
from prunefuse_bench.training.blocks import fast_blocks
from prunefuse_bench.training.convolution import fast_convolutions
from prunefuse_bench.training.distillation import Distillation, distillation_loss
from prunefuse_bench.training.observer import TrainingObserver
from prunefuse_bench.training.prediction import evaluate
from prunefuse_bench.training.remaking import Remaking, carry_over
from prunefuse_bench.training.replicas import Replicas
from prunefuse_bench.training.schedule import Schedule
from prunefuse_bench.training.stopping import EarlyStopping, Plateau, StopReason, hold_out
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
        stopping: when to stop before the schedule ends; None for never.
        screening: whether a large pool may be looked at in 8 bits first; who is near the threshold is looked at again
            in full precision.
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
    stopping: EarlyStopping | None = None
    screening: bool = False

    def settings(self) -> dict[str, Any]:
        """As plain data; stopping and screening are there only if asked for, so that other runs keep their names."""
        settings = dataclasses.asdict(self)
        if self.stopping is None:
            del settings["stopping"]
        if not self.screening:
            del settings["screening"]
        return settings


@dataclass(frozen=True)
class Fit:
    """What a training run was.

    Attributes:
        epochs: passes that were made.
        steps: of optimisation.
        samples: that were seen, once for each pass.
        loss: mean over the last epoch.
        stopped: why it ended before its schedule; None if it did not.
        judged: held-out samples that were judged, once for each epoch.
    """

    epochs: int
    steps: int
    samples: int
    loss: float
    stopped: StopReason | None = None
    judged: int = 0


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
    remaking: Remaking | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Fit:
    """Train ``network`` in place; it is left in evaluation mode.

    On several processes (:mod:`prunefuse_bench.distributed`) each takes its rows of every batch; they end with the same
    network, which is that of one process up to the order in which floating-point numbers are added.

    Args:
        images: uint8 [N, C, H, W] on the network's device.
        labels: int64 [N] on the same device.
        generator: a CPU generator; determines order, crops and flips.
        teacher: in evaluation mode; sees the same augmented batch as the student. Needs ``distillation``.
        head_dropout: share of the classifier's inputs that are dropped in every batch; the order of the batches and
            the augmentation are those of a training without.
        observers: told of every batch, step and epoch; they change nothing.
        remaking: gives another network to go on with after some of the epochs, and keeps it; ``network`` is then left
            as it was when the first took its place. Batches and learning rates go on as they would, and so does the
            momentum of the entries that are left.
        progress: told of (epochs done, epochs in all).

    Raises:
        Diverged: the loss of an epoch is not finite; the epoch is named.
    """
    device = images.device
    replicas = Replicas(current())
    course = _Course(training, images, labels, generator, remaking)
    count, epochs = len(course.trained), course.epochs
    network.to(memory_format=torch.channels_last)
    network.train()
    optimizer = _optimizer(network, training)
    listeners = [observer for observer in observers if type(observer).saw is not TrainingObserver.saw]
    for observer in observers:
        observer.begin(len(images), epochs, device)
        observer.passed(network, 0)
    step = 0
    mean_loss = math.nan
    example = training.normalisation.apply(images[:1])
    # From a stream of their own, so that whatever else the generator decides stays what it is without dropout.
    masks = torch.Generator().manual_seed(derive_seed(generator.initial_seed(), "head dropout"))
    with contextlib.ExitStack() as structure:  # what holds for one structure of the network
        trained = structure.enter_context(_made_ready(network, example, head_dropout, masks, replicas))
        for epoch in range(epochs):
            order = course.trained[torch.randperm(count, generator=generator)].to(device)
            draws = training.augmentation.draw(count, generator, device)
            loss_sum = torch.zeros((), device=device)
            for rows in _batches(count, training.batch_size):
                own = replicas.take(rows)
                batch = order[own]
                inputs = training.normalisation.gather(images, batch, training.augmentation, draws[own])
                optimizer.param_groups[0]["lr"] = training.schedule.learning_rate(step, course.scheduled_steps)
                loss, logits = _loss(trained, inputs, labels[batch], training.precision, teacher, distillation)
                loss = replicas.weighted(loss)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                loss_sum += loss.detach() * replicas.rows
                step += 1
                if listeners:
                    batch, said = order[rows], replicas.whole(logits.detach())
                for observer in listeners:
                    observer.saw(epoch, batch, said, labels[batch])
                for observer in observers:
                    observer.stepped(network, step, course.steps)
            mean_loss = replicas.mean(loss_sum).item() / count
            if not math.isfinite(mean_loss):
                raise Diverged(
                    f"training diverged: the loss is {mean_loss} after epoch {epoch + 1} of {epochs}; "
                    "lower the learning rate (task.training.segments) or raise the batch size"
                )
            for observer in observers:
                observer.passed(network, epoch + 1)
            progress(epoch + 1, epochs)
            if course.ends_early(network, epoch + 1):
                break
            if remaking and epoch + 1 in remaking.epochs:
                structure.close()
                network, optimizer = _remade(network, optimizer, remaking, epoch + 1, training)
                trained = structure.enter_context(_made_ready(network, example, head_dropout, masks, replicas))
    network.eval()
    done = epoch + 1
    return Fit(done, step, done * count, mean_loss, course.stopped, course.judged)


class _Course:
    """What is trained on, for how long at most, and whether it is over before.

    Attributes:
        trained: int64 [n] on the CPU, rows of the training set; all but those that are held out.
        epochs, steps: at most.
        scheduled_steps: of the whole schedule, which the learning rates are taken from.
        stopped: why the training ended before its schedule, or will end.
        judged: held-out samples that were judged so far, once for each epoch.
    """

    def __init__(
        self,
        training: TrainingRecipe,
        images: Images,
        labels: Tensor,
        generator: torch.Generator,
        remaking: Remaking | None,
    ) -> None:
        stopping = training.stopping or EarlyStopping()
        self._training, self._images, self._labels = training, images, labels
        self.trained, self._held = torch.arange(len(images)), torch.empty(0, dtype=torch.int64)
        if stopping.patience is not None:
            draws = torch.Generator().manual_seed(derive_seed(generator.initial_seed(), "holdout"))
            self.trained, self._held = hold_out(labels, stopping.holdout, draws)
        self._plateau = Plateau(stopping.patience or 0)
        self._last_remaking = max(remaking.epochs, default=0) if remaking else 0
        steps_per_epoch = len(_batches(len(self.trained), training.batch_size))
        scheduled = training.schedule.epochs_for(steps_per_epoch)
        self.epochs = stopping.epochs_of(scheduled, training.schedule.epochs)
        self.steps, self.scheduled_steps = self.epochs * steps_per_epoch, scheduled * steps_per_epoch
        self.stopped: StopReason | None = "stop_after" if self.epochs < scheduled else None
        self.judged = 0

    def ends_early(self, network: nn.Module, epochs: int) -> bool:
        """Judge the network after so many epochs, if samples are held out; it goes on in training mode."""
        if not len(self._held):
            return False
        held = self._held.to(self._images.device)
        accuracy = evaluate(network, self._images[held], self._labels[held], self._training).accuracy
        network.train()
        self.judged += len(held)
        # A network that is remade does not stop before it has its last structure.
        if epochs <= self._last_remaking or not self._plateau.reached(accuracy) or epochs == self.epochs:
            return False
        self.stopped = "plateau"
        return True


def _remade(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    remaking: Remaking,
    epochs: int,
    training: TrainingRecipe,
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The network to go on with after so many epochs, in training mode, and its optimizer."""
    remade = remaking(network.eval(), epochs)
    remade.network.to(memory_format=torch.channels_last)
    remade.network.train()
    fresh = _optimizer(remade.network, training)
    carry_over(optimizer, network, fresh, remade)
    return remade.network, fresh


def _optimizer(network: nn.Module, training: TrainingRecipe) -> torch.optim.Optimizer:
    """Its learning rate is set at every step."""
    parameters, decay = network.parameters(), training.weight_decay
    if training.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=0.0, weight_decay=decay, fused=True)
    return torch.optim.SGD(
        parameters, lr=0.0, momentum=training.momentum, weight_decay=decay, nesterov=training.nesterov, fused=True
    )


@contextlib.contextmanager
def _made_ready(
    network: nn.Module, example_input: Tensor, head_dropout: float, masks: torch.Generator, replicas: Replicas
) -> Iterator[nn.Module]:
    """Within the block, what is yielded trains the network as it should: fast, safely, with dropout if asked for."""
    with contextlib.ExitStack() as ways:
        if replicas.world.size > 1:
            ways.enter_context(replicas.synchronised_norms(network))
        else:
            ways.enter_context(fast_batch_norms(network))
            ways.enter_context(fast_blocks(network))
        ways.enter_context(safe_strided_convolutions(network))
        ways.enter_context(fast_convolutions(network))
        ways.enter_context(_dropout_before_classifier(network, example_input, head_dropout, masks, replicas))
        yield replicas.parallel(network)


@contextlib.contextmanager
def _dropout_before_classifier(
    network: nn.Module, example_input: Tensor, rate: float, masks: torch.Generator, replicas: Replicas
) -> Iterator[None]:
    """Within the block, the classifier's input goes through dropout while the network is in training mode.

    A hook and not a layer, so that the network keeps its structure and the names of its tensors.
    """
    if not rate:
        yield
        return

    def drop(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if not network.training:
            return inputs
        drawn = torch.rand((replicas.rows, *inputs[0].shape[1:]), generator=masks)  # for the whole batch
        kept = drawn[replicas.own] >= rate
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
