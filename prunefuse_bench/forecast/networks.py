"""What a network costs on this machine: FLOPs of a sample, counted, and seconds, measured once and remembered."""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunefuse_bench.atomic import write_json
from prunefuse_bench.config import content_hash
from prunefuse_bench.cost import NetworkFlops, NetworkRates, network_rates
from prunefuse_bench.data import Augmentation, Normalisation, SymbolInputs
from prunefuse_bench.data.cache import cache_folder
from prunefuse_bench.errors import BadInput
from prunefuse_bench.forecast.sizes import DataSizes
from prunefuse_bench.inference import prepare
from prunefuse_bench.models import build_model, find_classifier
from prunefuse_bench.randomness import generator, seeded
from prunefuse_bench.recipe import Proxy, Target
from prunefuse_bench.records import describe_environment
from prunefuse_bench.training import StepSchedule, TrainingRecipe, evaluate, fit, predict_prepared

__all__ = ["KnownNetwork", "NetworkQuestion", "Seconds", "build_target", "know"]

AFFORDABLE = 60e9
"""FLOPs of one step that is measured."""
FEWEST = 4
"""Samples of a batch below which a measurement says nothing of larger ones."""
ENOUGH = 0.3
"""Seconds that a measurement takes at least, as long as there are samples."""
REPEATS = 3
"""Measurements of which the median counts, where one takes less than a second."""
MOST = 4096
"""Samples that are measured at most."""
VERSION = 1
"""Part of what is remembered: raise it when the same question would get another answer."""


@dataclass(frozen=True)
class NetworkQuestion:
    """Which network, on what, how: equal questions have equal answers on one machine.

    Attributes:
        model, width: of the target.
        proxy: how the network is made from the target; :class:`prunefuse_bench.recipe.Target` for itself.
        sizes: of the data.
        training: batch size and precision count.
        device: where it runs.
    """

    model: str
    width: float
    proxy: Proxy
    sizes: DataSizes
    training: TrainingRecipe
    device: torch.device

    def settings(self) -> dict[str, Any]:
        """All that the answer depends on, the machine and the versions of the programs included."""
        environment = describe_environment(self.device)
        machine = ("prunefuse_bench", "packages", "cpu", "cpu_capability", "threads", "device", "gpu")
        return {
            "version": VERSION,
            "machine": {name: environment[name] for name in machine},
            "model": self.model,
            "width": self.width,
            "proxy": repr(self.proxy),
            "shape": list(self.sizes.shape),
            "classes": self.sizes.classes,
            "in_channels": self.sizes.in_channels,
            "batch_size": self.training.batch_size,
            "optimizer": self.training.optimizer,
            "precision": self.training.precision,
        }


@dataclass(frozen=True)
class Seconds:
    """Seconds for one sample: to train on it, to score it, to evaluate on it.

    Attributes:
        how: what was measured, in words.
    """

    training: float
    scoring: float
    evaluation: float
    how: str


@dataclass(frozen=True)
class KnownNetwork:
    """FLOPs and seconds of one sample.

    Attributes:
        features: inputs of the classifier.
    """

    rates: NetworkRates
    features: int
    seconds: Seconds


def know(
    question: NetworkQuestion,
    dense: Callable[[], nn.Module],
    progress: Callable[[str], None] = lambda what: None,
) -> KnownNetwork:
    """The answer, from the cache folder or found now, which takes some seconds.

    Args:
        dense: builds the target, or gives the one that is built already; it is not changed.
        progress: told what is being done.

    Raises:
        BadInput: the network cannot be made.
    """
    file = cache_folder() / "speeds" / f"{content_hash(question.settings())}.json"
    if file.exists():
        return _read(json.loads(file.read_text(encoding="utf-8")))
    progress(f"measuring {question.model}, {question.proxy}")
    known = _find_out(question, dense())
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {"question": question.settings(), "answer": dataclasses.asdict(known)})
    return known


def build_target(question: NetworkQuestion) -> nn.Module:
    """The dense network of a question."""
    with seeded(0, "forecast"):
        return build_model(
            question.model,
            num_classes=question.sizes.classes,
            in_channels=question.sizes.in_channels,
            width=question.width,
        ).to(question.device)


def _read(stored: dict[str, Any]) -> KnownNetwork:
    answer = stored["answer"]
    flops = answer["rates"]["flops"]
    rates = NetworkRates(
        NetworkFlops(**{**flops, "uncounted": tuple(flops["uncounted"])}),
        answer["rates"]["parameters"],
        answer["rates"]["input_size"],
    )
    return KnownNetwork(rates, answer["features"], Seconds(**answer["seconds"]))


def _find_out(question: NetworkQuestion, dense: nn.Module) -> KnownNetwork:
    example = _example(question.sizes.shape, question.device)
    if isinstance(question.proxy, Target):
        network = dense
    else:
        try:
            network = question.proxy.start(dense, example, seed=0).model
        except BadInput:
            raise
        except Exception as error:
            raise BadInput(
                f"proxy {question.proxy} cannot be made from {question.model}: {type(error).__name__}: {error}"
            ) from error
    rates = network_rates(network, example)
    features = find_classifier(network, example).in_features
    return KnownNetwork(rates, features, _measure(question, network, rates))


def _example(shape: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.zeros(1, *shape, dtype=torch.int64 if len(shape) == 1 else torch.float32, device=device)


def _measure(question: NetworkQuestion, network: nn.Module, rates: NetworkRates) -> Seconds:
    """On random samples: what they show does not change what they cost."""
    shape, whole = question.sizes.shape, rates.flops
    here = whole
    batch = _affordable(here, question.training.batch_size)
    while batch < FEWEST and len(shape) == 3 and min(shape[1:]) >= 16:
        shape = (shape[0], shape[1] // 2, shape[2] // 2)
        here = network_rates(network, _example(shape, question.device)).flops
        batch = _affordable(here, question.training.batch_size)
    batch = max(batch, 2)
    samples, labels = _samples(shape, question)
    training = _training(question, batch)
    forward_cost, training_cost = here.forward, here.forward + here.backward

    def train(count: int) -> None:
        fit(network, samples[:count], labels[:count], training, generator(0, "order and augmentation"))

    ready = prepare(network, training.normalisation.apply(samples[:2]), training.precision)

    def score(count: int) -> None:
        predict_prepared(ready, samples[:count], training)

    def judge(count: int) -> None:
        evaluate(network, samples[:count], labels[:count], training)

    scale_training = (whole.forward + whole.backward) / training_cost
    scale_forward = whole.forward / forward_cost
    most = len(samples)
    most_forward = max(batch, min(most, int(AFFORDABLE / forward_cost)))
    return Seconds(
        training=scale_training * _seconds_per_sample(train, batch, most // batch * batch),
        scoring=scale_forward * _seconds_per_sample(score, batch, most_forward),
        evaluation=scale_forward * _seconds_per_sample(judge, batch, most_forward),
        how=_in_words(question, batch, shape),
    )


def _affordable(flops: NetworkFlops, batch_size: int) -> int:
    return min(batch_size, int(AFFORDABLE / (flops.forward + flops.backward)))


def _in_words(question: NetworkQuestion, batch: int, shape: tuple[int, ...]) -> str:
    if shape != question.sizes.shape:
        sides = "x".join(map(str, shape[1:]))
        return f"scaled by FLOPs from the same network on images of {sides}, in batches of {batch}"
    if batch < question.training.batch_size:
        return f"measured in batches of {batch} instead of {question.training.batch_size}"
    return "measured"


def _seconds_per_sample(run: Callable[[int], None], first: int, most: int) -> float:
    """After a first run that is not counted: more and more samples, whole batches, until it took long enough."""

    def timed() -> float:
        start = time.perf_counter()
        run(count)
        return time.perf_counter() - start

    run(first)
    count = first
    while True:
        seconds = timed()
        if seconds >= ENOUGH or count >= most:
            more = [timed() for _ in range(REPEATS - 1)] if seconds < 1 else []
            return statistics.median([seconds, *more]) / count
        wanted = count * max(2.0, 1.2 * ENOUGH / max(seconds, 1e-6))
        count = min(most, int(wanted) // first * first)


def _samples(shape: tuple[int, ...], question: NetworkQuestion) -> tuple[Tensor, Tensor]:
    """So many as fit in 64 MB, but a batch at least."""
    size = 1
    for length in shape:
        size *= length
    count = min(MOST, max(2 * question.training.batch_size, (64 << 20) // size))
    draw = generator(0, "samples")
    levels = question.sizes.in_channels if question.sizes.is_text else 256
    samples = torch.randint(0, levels, (count, *shape), generator=draw, dtype=torch.uint8)
    labels = torch.randint(0, question.sizes.classes, (count,), generator=draw)
    return samples.to(question.device), labels.to(question.device)


def _training(question: NetworkQuestion, batch: int) -> TrainingRecipe:
    """A learning rate of 0, so that the loss stays a number."""
    channels = question.sizes.shape[0]
    return dataclasses.replace(
        question.training,
        schedule=StepSchedule(1, ((1.0, 0.0),)),
        batch_size=batch,
        augmentation=Augmentation(0, flip=False) if question.sizes.is_text else Augmentation(crop_padding=1),
        normalisation=SymbolInputs()
        if question.sizes.is_text
        else Normalisation((127.5,) * channels, (60.0,) * channels),
    )
