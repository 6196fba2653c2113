"""How a task was run, and where that differs from the paper: written where the reader of a result sees it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prunefuse_bench.training.schedule import PAPER_SEGMENTS

__all__ = ["describe_task", "deviations"]

Settings = Mapping[str, Any]
"""Settings of a cell, as its record has them."""

PAPER_EPOCHS = 181
PAPER_SEEDS = 3
PAPER_DATASETS = ("cifar10", "cifar100")
PAPER_BUDGETS = {"active_learning": (0.02, 0.1, 0.2, 0.3, 0.4, 0.5), "coreset": (0.25, 0.5)}
PROTOCOLS = {
    "active_learning": "active learning (Algorithm 1)",
    "coreset": "coreset selection: the selector is trained on the whole pool, scores it and picks once",
}
PAPER_TRAINING = {"batch_size": 128, "momentum": 0.9, "weight_decay": 5e-4}
PAPER_AUGMENTATION = {"crop_padding": 4, "flip": True}


def describe_task(settings: Settings, dataset: str, seeds: Sequence[int]) -> Iterator[tuple[str, str]]:
    """(name, value) of what a reader must know to judge the table."""
    task, training = settings["task"], settings["task"]["training"]
    data, schedule = task["dataset"], training["schedule"]
    kind, shape = _samples(data["image"])
    yield (
        "Data",
        f"{dataset}: {data['train_size']:,} {kind} in the pool, {data['test_size']:,} to test, "
        f"{shape}, {data['classes']} classes (content SHA-256 {data['sha256'][:12]})",
    )
    yield (
        "Training",
        f"{schedule['epochs']} epochs (the paper: {PAPER_EPOCHS}), at least {schedule['min_steps']} optimisation "
        f"steps, batch {training['batch_size']}, {training['precision']}",
    )
    yield "Protocol", PROTOCOLS[settings["protocol"]]
    yield "Seeds", ", ".join(map(str, seeds))


def _samples(shape: Sequence[int]) -> tuple[str, str]:
    """What the samples are, and how large: images are [C, H, W], texts [L]."""
    if len(shape) == 1:
        return "texts", f"{shape[0]} characters"
    channels, height, width = shape
    return "images", f"{width}x{height}x{channels}"


def deviations(cells: Sequence[Settings]) -> Iterator[str]:
    """Every difference from the paper's CIFAR experiments (section 9.3) that these cells of one task make."""
    task = cells[0]["task"]
    yield from _data(task, cells[0]["protocol"], {cell["seed"] for cell in cells})
    yield from _training(task["training"], is_text=len(task["dataset"]["image"]) == 1)
    starts = [cell["recipe"]["target_start"] for cell in cells]
    if temperatures := {f"{s['distillation']['temperature']:g}" for s in starts if s.get("distillation")}:
        yield f"Distillation at temperature {', '.join(sorted(temperatures))}; the paper states none."
    if any(cell["recipe"]["sync_every"] for cell in cells):
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


def _training(training: Settings, *, is_text: bool) -> Iterator[str]:
    schedule = training["schedule"]
    if schedule["epochs"] != PAPER_EPOCHS:
        yield (
            f"Schedule: {schedule['epochs']} epochs instead of {PAPER_EPOCHS}. A schedule that is too short favours "
            "random sampling: hard samples need more steps."
        )
    if [tuple(segment) for segment in schedule["segments"]] != [tuple(segment) for segment in PAPER_SEGMENTS]:
        yield f"Learning rates: {_segments(schedule['segments'])} instead of {_segments(PAPER_SEGMENTS)}."
    if schedule["min_steps"]:
        yield f"Small labeled sets are passed over more often, for at least {schedule['min_steps']} optimisation steps."
    for name, value in PAPER_TRAINING.items():
        if training[name] != value:
            yield f"{name.replace('_', ' ').capitalize()}: {training[name]:g} instead of {value:g}."
    if training["augmentation"] != PAPER_AUGMENTATION and not is_text:
        crop, flip = training["augmentation"]["crop_padding"], training["augmentation"]["flip"]
        yield f"Augmentation: crop padding {crop}, flip {'on' if flip else 'off'} instead of 4 and on."
    if training["precision"] != "fp32":
        yield f"Precision: {training['precision']} autocast, also for scoring; the paper states none."


def _segments(segments: Sequence[Sequence[float]]) -> str:
    return ", ".join(f"{rate:g} for {share:g}" for share, rate in segments)
