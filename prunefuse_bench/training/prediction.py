"""What a trained network says: about the test set, to be judged, and about a pool, to choose from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunefuse_bench.data.stored import Images
from prunefuse_bench.distributed import current
from prunefuse_bench.inference import Prepared, Screen, prepare, prepare_screen
from prunefuse_bench.inference.precision import autocast

if TYPE_CHECKING:
    from prunefuse_bench.training.trainer import TrainingRecipe  # which judges what it trains

__all__ = ["Evaluation", "evaluate", "predict", "predict_prepared", "predict_roughly", "predict_screened"]

EVALUATION_BATCH = 500
EXAMPLES = 2
"""Images that a rewritten network is compared on before it is used."""


@dataclass(frozen=True)
class Evaluation:
    """Share of correct predictions (0 to 1) and mean cross entropy (nats) over a test set."""

    accuracy: float
    loss: float


@torch.no_grad()
def evaluate(network: nn.Module, images: Images, labels: Tensor, training: TrainingRecipe) -> Evaluation:
    """Accuracy and loss over uint8 [N, C, H, W] and int64 [N], clean images, evaluation mode.

    In the network's own form and the number format of training: nothing is rewritten for speed where results are made.
    Several processes share the batches; all get the same result, that of one process.
    """
    network.eval()
    world, starts = current(), range(0, len(images), EVALUATION_BATCH)
    correct = torch.zeros((), device=images.device, dtype=torch.int64)
    losses = torch.zeros(len(starts), device=images.device)
    for number in range(len(starts))[world.part(len(starts))]:
        rows = slice(starts[number], starts[number] + EVALUATION_BATCH)
        with autocast(images.device, training.precision):
            logits = network(training.normalisation.apply(images[rows])).float()
        correct += (logits.argmax(1) == labels[rows]).sum()
        losses[number] = F.cross_entropy(logits, labels[rows], reduction="sum")
    loss_sum = torch.zeros((), device=images.device)
    for loss in world.sum(losses):  # one after another, in the order of the batches whoever had them
        loss_sum += loss
    return Evaluation(accuracy=world.sum(correct).item() / len(images), loss=loss_sum.item() / len(images))


@torch.no_grad()
def predict(
    network: nn.Module,
    images: Images,
    training: TrainingRecipe,
    *,
    features: bool,
    augment: torch.Generator | None = None,
    gather: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Tensor, Tensor | None]:
    """Logits float32 [N, classes] of uint8 [N, C, H, W], and features float32 [N, D] if asked for, in one pass.

    The network is rewritten for speed first, see :func:`prunefuse_bench.inference.prepare`; it is left in evaluation
    mode and otherwise not changed. The features are what the classifier sees: the input of the last linear layer. Clean
    images, unless ``augment`` is given: a CPU generator of random crops and flips as in training.

    Several processes share the batches, whole ones, and all get what one process would get, row by row.

    Args:
        gather: False to give each process the rows of its own batches alone.

    Raises:
        ValueError: features are asked for, and the network does not end in a linear layer.
    """
    ready = prepare(network, training.normalisation.apply(images[:EXAMPLES]), training.precision)
    logits, seen = predict_prepared(ready, images, training, augment=augment, gather=gather, progress=progress)
    if features and seen is None and len(logits):
        raise ValueError(f"{type(network).__name__} does not end in a linear layer, so it has no features")
    return logits, seen if features else None


def predict_prepared(
    ready: Prepared,
    images: Images,
    training: TrainingRecipe,
    *,
    augment: torch.Generator | None = None,
    gather: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Tensor, Tensor | None]:
    """As :func:`predict`, for a network that is prepared already; features whenever it has some."""
    draws = None if augment is None else training.augmentation.draw(len(images), augment, images.device)
    logits: list[Tensor] = []
    seen: list[Tensor] = []
    world, starts = current(), range(0, len(images), ready.batch_size)
    for start in starts[world.part(len(starts))]:
        rows = slice(start, start + ready.batch_size)
        batch = training.normalisation.gather(
            images,
            torch.arange(start, min(start + ready.batch_size, len(images)), device=images.device),
            training.augmentation,
            None if draws is None else draws[rows],
            ready.dtype,
        )
        batch_logits, batch_features = ready(batch)
        logits.append(batch_logits)
        if batch_features is not None:
            seen.append(batch_features)
        progress(min(world.size * len(logits) * ready.batch_size, len(images)), len(images))
    own, own_features = torch.cat(logits) if logits else None, torch.cat(seen) if seen else None
    if gather and world.size > 1:
        own, own_features = world.gather(own, images.device), world.gather(own_features, images.device)
    if own is None:  # more processes than batches
        return torch.empty(0, 0, device=images.device), None
    return own, own_features


@torch.no_grad()
def predict_roughly(
    network: nn.Module,
    images: Images,
    training: TrainingRecipe,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """Logits float32 [N, classes] of uint8 [N, C, H, W] that may be a few percent off, for a first look at a pool.

    In 8 bits, if ``training`` allows it and it can be done (see :func:`prunefuse_bench.inference.prepare_screen`);
    otherwise as :func:`predict`, to which everything else is alike.
    """
    if training.screening and isinstance(images, Tensor):
        screen = prepare_screen(network, images, training.normalisation.mean, training.normalisation.std)
        if screen is not None:
            return predict_screened(screen, images, progress=progress)
    return predict(network, images, training, features=False, progress=progress)[0]


def predict_screened(
    screen: Screen, images: Tensor, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> Tensor:
    """As :func:`predict_roughly`, for a network that is prepared already."""
    logits: list[Tensor] = []
    world, starts = current(), range(0, len(images), screen.batch_size)
    for start in starts[world.part(len(starts))]:
        logits.append(screen(images[start : start + screen.batch_size]))
        progress(min(world.size * len(logits) * screen.batch_size, len(images)), len(images))
    own = torch.cat(logits) if logits else None
    if world.size > 1:
        own = world.gather(own, images.device)
    assert own is not None
    return own
