"""Small differences, measured in alternation: what it costs to watch a training, to ask 25 dropout passes, and to train
by torch's convolutions and residual blocks instead of the core's.

``python benchmarks/alternating.py`` prints the median of the ratios of neighbouring calls, so that the machine's moods,
which last longer than a call, cancel.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from prunefuse_bench.acquisition import Needs
from prunefuse_bench.data import Augmentation, Normalisation
from prunefuse_bench.models import build_model
from prunefuse_bench.pruning import Network
from prunefuse_bench.randomness import generator
from prunefuse_bench.recipe import MCDropout, OnePass, Question, Trained
from prunefuse_bench.training import (
    Fit,
    HistoryRecorder,
    StepSchedule,
    TrainingObserver,
    TrainingRecipe,
    fit,
    resolve_precision,
    trainer,
)

IMAGES, CLASSES, PAIRS = 2_000, 10, 15
TRAINING = TrainingRecipe(
    schedule=StepSchedule(1, ((1.0, 0.01),)),
    batch_size=128,
    momentum=0.9,
    weight_decay=5e-4,
    augmentation=Augmentation(),
    normalisation=Normalisation((127.5,) * 3, (60.0,) * 3),
    precision=resolve_precision("auto", torch.device("cpu")),
)


def seconds(call: Callable[[], object]) -> float:
    """Wall-clock of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def ratio(plain: Callable[[], object], other: Callable[[], object], title: str) -> tuple[float, float, float]:
    """Quartiles of other / plain over neighbouring calls, in the order plain, other, other, plain, ..."""
    plain(), other()
    ratios = []
    for pair in track(range(PAIRS), title, console=Console(stderr=True), transient=True):
        first, second = (plain, other) if pair % 2 == 0 else (other, plain)
        times = seconds(first), seconds(second)
        ratios.append(times[1] / times[0] if pair % 2 == 0 else times[0] / times[1])
    low, middle, high = statistics.quantiles(ratios, n=4)
    return low, middle, high


def images() -> tuple[Tensor, Tensor]:
    """Random pixels and labels: what they show does not change what they cost."""
    draw = generator(0, "images")
    pixels = torch.randint(0, 256, (IMAGES, 3, 32, 32), generator=draw, dtype=torch.uint8)
    return pixels, torch.randint(0, CLASSES, (IMAGES,), generator=draw)


def train(model: str, watched: bool) -> Callable[[], Fit]:
    """One epoch."""
    pixels, labels = images()
    network = build_model(model, num_classes=CLASSES, in_channels=3)

    def epoch() -> Fit:
        observers: Sequence[TrainingObserver] = [HistoryRecorder()] if watched else []
        return fit(network, pixels, labels, TRAINING, generator(0, "epoch"), observers=observers)

    return epoch


def train_by_torch(model: str, width: float, by_torch: bool) -> Callable[[], Fit]:
    """One epoch, by torch's convolutions and blocks or by the core's; batch norm is the core's in both."""
    pixels, labels = images()
    network = build_model(model, num_classes=CLASSES, in_channels=3, width=width)
    ours = trainer.fast_convolutions, trainer.fast_blocks

    def nothing(_: nn.Module) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def epoch() -> Fit:
        trainer.fast_convolutions, trainer.fast_blocks = (nothing, nothing) if by_torch else ours
        try:
            return fit(network, pixels, labels, TRAINING, generator(0, "epoch"))
        finally:
            trainer.fast_convolutions, trainer.fast_blocks = ours

    return epoch


def ask(passes: int) -> Callable[[], Tensor]:
    """Score all images by one pass, or by that many dropout passes."""
    pixels, _ = images()
    network = build_model("resnet20", num_classes=CLASSES, in_channels=3).eval()
    network.to(memory_format=torch.channels_last)
    selector = Trained(Network(network), Fit(0, 0, 0, 0.0))
    needs = Needs.MEMBERS if passes else Needs.LOGITS
    question = Question(torch.arange(IMAGES), pixels, pixels[:0], needs, TRAINING, generator(0, "draws"), 0)

    def score() -> Tensor:
        if not passes:
            logits = OnePass().ask(selector, question).logits
            assert logits is not None
            return logits
        members = MCDropout(passes).ask(selector, question).members
        assert members is not None
        return members.score("bald")

    return score


def main() -> None:
    """Print the table."""
    rows = [
        (f"training {model}, its history recorded", ratio(train(model, False), train(model, True), model))
        for model in ("resnet20", "resnet8")
    ]
    rows += [
        (
            f"training {model} of width {width} by torch's convolutions and blocks",
            ratio(train_by_torch(model, width, False), train_by_torch(model, width, True), model),
        )
        for model in ("resnet20", "resnet56")
        for width in (1.0, 0.5)
    ]
    rows.append(("BALD with 25 dropout passes against one pass, resnet20", ratio(ask(0), ask(25), "25 passes")))
    print("| what | times as long (median) | quartiles |\n|---|---|---|")
    for title, (low, middle, high) in rows:
        print(f"| {title} | {middle:.3f} | {low:.3f} to {high:.3f} |")
    threads = torch.get_num_threads()
    print(f"\n{IMAGES:,} images of 32x32, batch 128, {TRAINING.precision}, {threads} threads, {PAIRS} pairs")


if __name__ == "__main__":
    main()
