"""Images per second: training, the package's scoring, and the plain loop that scoring is compared with."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from prunefuse_bench.data import Augmentation, Normalisation
from prunefuse_bench.inference import Screen, prepare, prepare_screen
from prunefuse_bench.profiling.alternation import Contender, Rates, measure_in_turn
from prunefuse_bench.profiling.networks import CLASSES, Subject
from prunefuse_bench.profiling.paths import plain_copy, plain_logits
from prunefuse_bench.randomness import generator
from prunefuse_bench.training import (
    StepSchedule,
    TrainingRecipe,
    finer_precisions,
    fit,
    predict_prepared,
    predict_screened,
    resolve_precision,
)

__all__ = [
    "Preparation",
    "Screening",
    "Throughput",
    "Way",
    "contenders",
    "measure_preparation",
    "measure_screening",
    "measure_throughput",
]

Way = Literal["training", "plain scoring", "scoring", "screening"]
"""``training`` and ``scoring`` are what the package does; ``plain scoring`` is the loop that a user would write.

``screening`` is what the package does instead of ``scoring`` where scores alone decide and the processor multiplies
bytes: all images in 8 bits, and a share of them again in that of training and in float32.
"""

POOL, POOL_BYTES = 50_000, 256 * 2**20
"""Images that are looked at before the first is looked at again: as many as in CIFAR-10, if there is room."""


@dataclass(frozen=True)
class Throughput:
    """Images per second of one network at one kind of work.

    Attributes:
        network: its name in the profile.
        way: what is done with it.
        batch_size: images at once; the package's scoring chooses its own.
        images: per second, round by round.
    """

    network: str
    way: Way
    batch_size: int
    images: Rates


@dataclass(frozen=True)
class Preparation:
    """What the package does to a network before it scores a pool.

    Attributes:
        how: in words.
        batch_size: images at once.
        seconds: median of three; once for a pool, and not part of the measured scoring.
    """

    how: str
    batch_size: int
    seconds: float


@dataclass(frozen=True)
class Screening:
    """How pools are looked at in 8 bits first.

    Attributes:
        preparation: of the network.
        error: of the logits of a sample, root mean square, as a share of their deviation.
        again: share of the images that are looked at again in each precision, one after the other.
    """

    preparation: Preparation
    error: float
    again: tuple[float, ...]


def recipe(subject: Subject, device: torch.device, batch_size: int) -> TrainingRecipe:
    """Crop, flip, momentum and weight decay of the paper; a learning rate of 0, so that the loss stays a number."""
    channels = subject.shape[0]
    return TrainingRecipe(
        schedule=StepSchedule(1, ((1.0, 0.0),)),
        batch_size=batch_size,
        momentum=0.9,
        weight_decay=5e-4,
        augmentation=Augmentation(),
        normalisation=Normalisation((127.5,) * channels, (60.0,) * channels),
        precision=resolve_precision("auto", device),
    )


def measure_preparation(subject: Subject, device: torch.device) -> Preparation:
    """Prepare the network for scoring, three times."""
    network, example = plain_copy(subject.network).to(device), torch.zeros(2, *subject.shape, device=device)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        prepared = prepare(network, example, resolve_precision("auto", device))
        seconds.append(time.perf_counter() - start)
    return Preparation(prepared.how, prepared.batch_size, statistics.median(seconds))


def measure_screening(subject: Subject, device: torch.device, again: tuple[float, ...]) -> Screening | None:
    """Prepare the network for a look in 8 bits, three times; None if that cannot be."""
    pool = _pool(subject.shape, device)
    screen, seconds = _screen(subject, pool), []
    if screen is None:
        return None
    for _ in range(3):
        start = time.perf_counter()
        _screen(subject, pool)
        seconds.append(time.perf_counter() - start)
    return Screening(Preparation(screen.how, screen.batch_size, statistics.median(seconds)), screen.error, again)


def contenders(
    subject: Subject,
    device: torch.device,
    batch_sizes: Sequence[int],
    scoring_batch: int,
    screening: Screening | None = None,
) -> dict[tuple[str, Way, int], Contender]:
    """Everything that is measured of one network; each has a copy of it to itself."""
    pool = _pool(subject.shape, device)
    found: dict[tuple[str, Way, int], Contender] = {}
    for batch_size in batch_sizes:
        found[subject.name, "training", batch_size] = _training(subject, pool, batch_size)
        found[subject.name, "plain scoring", batch_size] = _plain_scoring(subject, pool, batch_size)
    found[subject.name, "scoring", scoring_batch] = _scoring(subject, pool, scoring_batch)
    if screening is not None:
        found[subject.name, "screening", screening.preparation.batch_size] = _screening(subject, pool, screening.again)
    return found


def measure_throughput(
    subjects: Sequence[Subject],
    preparations: Sequence[Preparation],
    screenings: Sequence[Screening | None],
    device: torch.device,
    batch_sizes: Sequence[int],
    *,
    seconds: float,
    rounds: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Throughput]:
    """All networks in all ways, in alternation (see :func:`measure_in_turn`).

    Args:
        preparations: of each network; says in which batches the package scores.
        screenings: of each network; None for those that cannot be looked at in 8 bits.
        batch_sizes: of training and of the plain loop.
    """
    everything: dict[tuple[str, Way, int], Contender] = {}
    for subject, preparation, screening in zip(subjects, preparations, screenings, strict=True):
        everything |= contenders(subject, device, batch_sizes, preparation.batch_size, screening)
    rates = measure_in_turn(everything, device, seconds=seconds, rounds=rounds, progress=progress)
    return [Throughput(name, way, batch, images) for (name, way, batch), images in rates.items()]


def _training(subject: Subject, pool: Tensor, batch_size: int) -> Contender:
    """Whole batches through the package's own loop: gather, augment, normalise, forward, backward, step."""
    network = plain_copy(subject.network).to(pool.device)
    labels = torch.arange(len(pool), device=pool.device) % CLASSES
    training = recipe(subject, pool.device, batch_size)

    def train(batches: int) -> float:
        images = _rows(pool, batches * batch_size)
        draw = generator(0, "order and augmentation")
        return sum(fit(network, part, labels[: len(part)], training, draw).samples for part in images)

    return train


def _scoring(subject: Subject, pool: Tensor, batch_size: int) -> Contender:
    network = plain_copy(subject.network).to(pool.device)
    training = recipe(subject, pool.device, batch_size)

    ready = prepare(network, training.normalisation.apply(pool[:2]), training.precision)

    def score(batches: int) -> float:
        return sum(len(predict_prepared(ready, part, training)[0]) for part in _rows(pool, batches * batch_size))

    return score


def _screening(subject: Subject, pool: Tensor, again: tuple[float, ...]) -> Contender:
    network, screen = plain_copy(subject.network), _screen(subject, pool)
    assert screen is not None
    training = recipe(subject, pool.device, 2)
    finer = [
        (dataclasses.replace(training, precision=precision), prepare(network, example, precision), share)
        for example in [training.normalisation.apply(pool[:2])]
        for precision, share in zip(finer_precisions(training.precision, look_first=True), again, strict=True)
    ]

    def score(batches: int) -> float:
        parts = _rows(pool, batches * screen.batch_size)
        for part in parts:
            predict_screened(screen, part)
            for own, ready, share in finer:
                predict_prepared(ready, part[: max(1, round(share * len(part)))], own)
        return sum(map(len, parts))

    return score


def _screen(subject: Subject, pool: Tensor) -> Screen | None:
    normalisation = recipe(subject, pool.device, 2).normalisation
    return prepare_screen(plain_copy(subject.network), pool, normalisation.mean, normalisation.std)


def _plain_scoring(subject: Subject, pool: Tensor, batch_size: int) -> Contender:
    network = plain_copy(subject.network).to(pool.device)
    normalisation = recipe(subject, pool.device, batch_size).normalisation

    def score(batches: int) -> float:
        parts = _rows(pool, batches * batch_size)
        return sum(len(plain_logits(network, part, normalisation, batch_size)) for part in parts)

    return score


def _rows(pool: Tensor, count: int) -> list[Tensor]:
    """So many images of the pool, again from the start once it is used up."""
    whole, rest = divmod(count, len(pool))
    return [pool] * whole + ([pool[:rest]] if rest else [])


def _pool(shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """Random pixels, uint8: what they show does not change what they cost."""
    channels, height, width = shape
    count = max(1_000, min(POOL, POOL_BYTES // (channels * height * width)))
    pixels = torch.randint(0, 256, (500, *shape), generator=generator(0, "pixels"), dtype=torch.uint8)
    return pixels.repeat(-(-count // 500), 1, 1, 1).to(device)
