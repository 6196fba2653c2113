"""How a task was run, and where that differs from the paper: written where the reader of a result sees it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prunefuse_bench.training.schedule import PAPER_SEGMENTS

__all__ = ["describe_task", "deviations"]

PAPER_EPOCHS = 181
PAPER_BATCH = 128
PAPER_SEEDS = 3
PAPER_DATASETS = ("CIFAR-10", "CIFAR-100")


def describe_task(
    settings: Mapping[str, Any], environment: Mapping[str, Any] | None, seeds: list[int]
) -> Iterator[tuple[str, str]]:
    """(name, value) of what a reader must know to judge the table."""
    task, training = settings["task"], settings["task"]["training"]
    dataset, schedule = task["dataset"], training["schedule"]
    channels, height, width = dataset["image"]
    yield (
        "Data",
        f"{dataset['title']}: {dataset['train_size']:,} images in the pool, {dataset['test_size']:,} to test, "
        f"{width}x{height}x{channels}, {dataset['classes']} classes (content SHA-256 {dataset['sha256'][:12]})",
    )
    yield (
        "Training",
        f"{schedule['epochs']} epochs (the paper: {PAPER_EPOCHS}), at least {schedule['min_steps']} optimisation steps, "
        f"batch {training['batch_size']}, {training['precision']}",
    )
    yield "Seeds", ", ".join(map(str, seeds))
    if environment:
        gpu = environment["gpu"]["name"] if environment["gpu"] else None
        yield (
            "Machine",
            gpu or f"{environment['cpu']}, {environment['threads']} threads, {environment['cpu_capability']}",
        )
        yield (
            "Versions",
            f"prunefuse-bench {environment['prunefuse_bench']} ({environment['commit'] or 'no commit'}), "
            f"torch {environment['packages']['torch']}",
        )


def deviations(settings: Mapping[str, Any]) -> Iterator[str]:
    """Every difference from section 9.3 of the paper that these settings make."""
    task, training = settings["task"], settings["task"]["training"]
    schedule, dataset = training["schedule"], task["dataset"]
    if dataset["title"] not in PAPER_DATASETS:
        yield f"Data: {dataset['title']} is not a data set of the paper."
    if schedule["epochs"] != PAPER_EPOCHS:
        yield (
            f"Schedule: {schedule['epochs']} epochs instead of {PAPER_EPOCHS}. A schedule that is too short favours random "
            "sampling: hard samples need more steps."
        )
    if [tuple(segment) for segment in schedule["segments"]] != [tuple(segment) for segment in PAPER_SEGMENTS]:
        rates = ", ".join(f"{rate:g}" for _, rate in schedule["segments"])
        yield f"Learning rates: {rates} instead of {', '.join(f'{rate:g}' for _, rate in PAPER_SEGMENTS)}."
    if schedule["min_steps"]:
        yield f"Small labeled sets are passed over more often, until {schedule['min_steps']} optimisation steps are done."
    if training["batch_size"] != PAPER_BATCH:
        yield f"Batch: {training['batch_size']} instead of {PAPER_BATCH}."
    if training["precision"] != "fp32":
        yield f"Precision: {training['precision']} autocast, also for scoring; the paper states none."
    yield "Distillation temperature: 4 unless the method says otherwise; the paper states none."
    yield "A synchronised or final fine-tuning uses the full schedule of the task; the paper's costs fit 110 epochs for it."
