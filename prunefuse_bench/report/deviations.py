"""How a task was run, and where that differs from the paper: written where the reader of a result sees it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prunefuse_bench.training.schedule import PAPER_IMAGENET_SEGMENTS, PAPER_SEGMENTS, PAPER_TEXT_SEGMENTS

__all__ = ["describe_task", "deviations"]

Settings = Mapping[str, Any]
"""Settings of a cell, as its record has them."""

PAPER_SEEDS = 3
COMPARED = ("batch_size", "momentum", "weight_decay")
"""Settings of the training that are compared one by one."""
PAPER_DATASETS = ("cifar10", "cifar100", "tiny-imagenet-200", "imagenet", "amazon-polarity", "amazon-full")
PAPER_BUDGETS = {"active_learning": (0.02, 0.1, 0.2, 0.3, 0.4, 0.5), "coreset": (0.25, 0.5)}
PROTOCOLS = {
    "active_learning": "active learning (Algorithm 1)",
    "coreset": "coreset selection: the selector is trained on the whole pool, scores it and picks once",
}


@dataclass(frozen=True)
class PaperTraining:
    """Section 9.3 for one kind of data; the augmentation is None where the paper states none and none is usual."""

    segments: Sequence[tuple[float, float]]
    batch_size: int
    weight_decay: float
    augmentation: Settings | None
    momentum: float = 0.9

    @property
    def epochs(self) -> int:
        """Of all segments."""
        return round(sum(length for length, _ in self.segments))


CIFAR = PaperTraining(PAPER_SEGMENTS, 128, 5e-4, {"crop_padding": 4, "flip": True})
IMAGENET = PaperTraining(PAPER_IMAGENET_SEGMENTS, 256, 1e-4, None)
TEXT = PaperTraining(PAPER_TEXT_SEGMENTS, 128, 1e-4, None)


def describe_task(settings: Settings, dataset: str, seeds: Sequence[int]) -> Iterator[tuple[str, str]]:
    """(name, value) of what a reader must know to judge the table."""
    task, training = settings["task"], settings["task"]["training"]
    data, schedule = task["dataset"], training["schedule"]
    paper = _paper_training(data)
    kind, shape = _samples(data["image"])
    yield (
        "Data",
        f"{dataset}: {data['train_size']:,} {kind} in the pool, {data['test_size']:,} to test, "
        f"{shape}, {data['classes']} classes (content SHA-256 {data['sha256'][:12]})",
    )
    yield (
        "Training",
        f"{schedule['epochs']} epochs (the paper: {paper.epochs}), at least {schedule['min_steps']} optimisation "
        f"steps, batch {training['batch_size']}, {training['precision']}{_stopping(training)}",
    )
    yield "Protocol", PROTOCOLS[settings["protocol"]]
    yield "Seeds", ", ".join(map(str, seeds))


def _samples(shape: Sequence[int]) -> tuple[str, str]:
    """What the samples are, and how large: images are [C, H, W], texts [L]."""
    if len(shape) == 1:
        return "texts", f"{shape[0]} characters"
    channels, height, width = shape
    return "images", f"{width}x{height}x{channels}"


def _paper_training(data: Settings) -> PaperTraining:
    """How the paper trains on such data; on data that it has not, as on CIFAR."""
    if len(data["image"]) == 1:
        return TEXT
    return IMAGENET if data["name"] in ("tiny-imagenet-200", "imagenet") else CIFAR


def deviations(cells: Sequence[Settings]) -> Iterator[str]:
    """Every difference from the paper's experiments on such data (section 9.3) that these cells of one task make."""
    task = cells[0]["task"]
    yield from _data(task, cells[0]["protocol"], {cell["seed"] for cell in cells})
    yield from _training(task["training"], _paper_training(task["dataset"]))
    starts = [cell["recipe"]["target_start"] for cell in cells]
    if temperatures := {f"{s['distillation']['temperature']:g}" for s in starts if s.get("distillation")}:
        yield f"Distillation at temperature {', '.join(sorted(temperatures))}; the paper states none."
    if any(cell["recipe"]["sync_every"] for cell in cells) and not task["training"].get("stopping"):
        yield "Fine-tuning at a synchronisation takes the task's full schedule; the paper's costs fit 110 epochs."


def _data(task: Settings, protocol: str, seeds: set[int]) -> Iterator[str]:
    data = task["dataset"]
    if data["name"] not in PAPER_DATASETS:
        yield "Data: not a data set of the paper."
    budgets = [count / data["train_size"] for count in task["label_counts"]]
    known = PAPER_BUDGETS[protocol]
    listed = ", ".join(f"{100 * budget:.3g}%" for budget in budgets)
    if any(all(abs(budget - paper) > 0.001 for paper in known) for budget in budgets):
        yield f"Budgets: {listed} instead of {', '.join(f'{100 * budget:.3g}' for budget in known)}%."
    elif len(budgets) < len(known):
        yield f"Budgets: only {listed}; the paper goes on to 50%."
    if len(seeds) < PAPER_SEEDS:
        yield f"Seeds: {len(seeds)} instead of {PAPER_SEEDS}; differences that one seed shows may be chance."


def _training(training: Settings, paper: PaperTraining) -> Iterator[str]:
    schedule = training["schedule"]
    if schedule["epochs"] != paper.epochs:
        yield (
            f"Schedule: {schedule['epochs']} epochs instead of {paper.epochs}. A schedule that is too short favours "
            "random sampling: hard samples need more steps."
        )
    if stopping := _stopping(training):
        yield f"Early stopping{stopping.replace(';', ':', 1)}. The paper's (Table 24) is after 110 of 181 epochs."
    if [tuple(segment) for segment in schedule["segments"]] != list(paper.segments):
        yield f"Learning rates: {_segments(schedule['segments'])} instead of {_segments(paper.segments)}."
    if schedule["min_steps"]:
        yield f"Small labeled sets are passed over more often, for at least {schedule['min_steps']} optimisation steps."
    for name in COMPARED:
        value = getattr(paper, name)
        if training[name] != value:
            yield f"{name.replace('_', ' ').capitalize()}: {training[name]:g} instead of {value:g}."
    if paper.augmentation is not None and training["augmentation"] != paper.augmentation:
        crop, flip = training["augmentation"]["crop_padding"], training["augmentation"]["flip"]
        yield f"Augmentation: crop padding {crop}, flip {'on' if flip else 'off'} instead of 4 and on."
    if training["precision"] != "fp32":
        yield f"Precision: {training['precision']} autocast, also for scoring; the paper states none."
    if training.get("screening"):
        yield (
            "Screening: where scores alone decide, pools were looked at in 8 bits first, and in fp32 again near the "
            "threshold."
        )


def _stopping(training: Settings) -> str:
    """When the training stops before its schedule does, in words; empty if it does not."""
    if not (stopping := training.get("stopping")):
        return ""
    who = "all networks" if stopping["selectors"] else "targets"
    ways = [f"after {stopping['after']} of {training['schedule']['epochs']} epochs"] if stopping["after"] else []
    if stopping["patience"]:
        ways.append(
            f"{stopping['patience']} epochs without a better accuracy on {stopping['holdout']:.3g} of the labels"
        )
    return f"; {who} stop {' or '.join(ways)}"


def _segments(segments: Sequence[Sequence[float]]) -> str:
    return ", ".join(f"{rate:g} for {share:g}" for share, rate in segments)
