"""Run folders without training: valid records with accuracies, costs and machines that a test states.

All is written by the store that real runs are written by, so that what reads runs cannot tell the difference.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch

from prunefuse_bench.config import content_hash
from prunefuse_bench.cost import Bill, StageCost
from prunefuse_bench.errors import CellFailed
from prunefuse_bench.records import SCHEMA, RunFolder
from prunefuse_bench.rounds import Outcome, Round
from prunefuse_bench.training import Evaluation, Fit

__all__ = ["MACHINE", "Accuracy", "make_run", "rising"]

Accuracy = Callable[[str, int, int], float]
"""(method, seed, labels) -> share of the test set that the target has right."""
Curve = Callable[[str, int, int], Sequence[float] | None]
"""(method, seed, labels) -> accuracy of the target before training and after every epoch; None: not recorded."""

MACHINE: Mapping[str, Any] = {
    "prunefuse_bench": "0.1.0",
    "commit": "0123456789ab",
    "python": "3.11.7",
    "packages": {"torch": "2.14.1", "torchvision": "0.29.1", "torch-pruning": "1.6.1", "numpy": "2.4.6",
                 "scikit-learn": "1.9.1", "pillow": "13.0.0"},
    "os": "Linux 6.1 x86_64",
    "cpu": "A Processor",
    "cpu_capability": "AVX512",
    "cores": 2,
    "threads": 2,
    "device": "cpu",
    "gpu": None,
    "energy": "absent",
    "fused_convolutions": True,
    "chains": True,
}  # fmt: skip
"""Environment of every round, unless ``machine`` says otherwise."""


def rising(method: str, seed: int, labels: int) -> float:
    """Accuracies as they might be: rising with the labels, methods a few points apart, seeds and rounds noisy."""
    draws = numpy.random.default_rng([*_bytes(method), 256])
    ability = draws.uniform(0.7, 1.3)
    noise = 0.008 * numpy.random.default_rng([seed, labels, *_bytes(method)]).standard_normal()
    return float(min(0.999, max(0.001, 0.95 - 0.45 * math.exp(-ability * labels / 250) + noise)))


def make_run(
    folder: Path,
    *,
    methods: Sequence[str] = ("random", "al", "prunefuse"),
    seeds: Sequence[int] = (0, 1, 2),
    label_counts: Sequence[int] = (29, 144, 287),
    accuracy: Accuracy = rising,
    title: str = "digits",
    model: str = "resnet8",
    protocol: str = "active_learning",
    notes: Mapping[str, Sequence[str]] | None = None,
    missing: Collection[tuple[str, int]] = (),
    failed: Mapping[tuple[str, int], tuple[int, str]] | None = None,
    unfinished: Mapping[tuple[str, int], int] | None = None,
    machine: Callable[[str, int], Mapping[str, Any]] = lambda method, seed: {},
    seconds: Callable[[str, int, int], float] = lambda method, seed, labels: 0.002 * labels,
    curve: Curve = lambda method, seed, labels: None,
    pool: int = 1437,
    test: int = 360,
    classes: int = 10,
    image: Sequence[int] = (1, 8, 8),
    dataset: str = "digits",
    sha256: str = "5db4d5a06c4217c8c6f4cfdf2759cf5d210e9668cba8949fbeb3dfc2347e44b8",
    epochs: int = 4,
    query: Callable[[str, int, Sequence[int]], Sequence[Sequence[int]]] | None = None,
) -> Path:
    """Write the folder of a run of every method with every seed; returns it.

    ``random`` has no selector; ``al`` is its own selector; every other method has one of a quarter of the target's
    FLOPs and a fused target.

    Args:
        folder: made if it is not there.
        label_counts: sizes of the labeled set, the random start first; every one is reported.
        notes: of a method, as its recipe would state them.
        missing: (method, seed) of cells that were never begun.
        failed: (method, seed) -> (whole rounds before, reason).
        unfinished: (method, seed) -> whole rounds.
        machine: (method, seed) -> what differs from :data:`MACHINE`.
        seconds: of the target's training; the other stages take shares of it.
        curve: accuracy by epoch.
        query: (method, seed, label_counts) -> indices bought in each round; drawn by lot if not given.
    """
    failed, unfinished = failed or {}, unfinished or {}
    task = {
        "dataset": {"name": dataset, "sha256": sha256, "train_size": pool, "test_size": test, "image": list(image),
                    "classes": classes},
        "model": {"name": "resnet8", "width": 1.0},
        "training": {
            "schedule": {"epochs": epochs, "segments": [[1.0, 0.02], [130.0, 0.2], [50.0, 0.02]], "min_steps": 90},
            "batch_size": 32, "momentum": 0.9, "weight_decay": 0.0005,
            "augmentation": {"crop_padding": 1, "flip": False},
            "normalisation": {"mean": [77.8] * image[0], "std": [95.8] * image[0]},
            "precision": "fp32", "nesterov": False, "optimizer": "sgd",
        },
        "label_counts": list(label_counts),
        "report_rounds": list(range(len(label_counts))),
    }  # fmt: skip
    shared = {"schema": SCHEMA, "protocol": protocol, "task": task, "device": "cpu"}
    asked_task = {"dataset": {"name": dataset}, "budgets": list(label_counts)}
    suite = {
        "suite": {"name": "made", "description": "Made for a test.", "protocol": protocol, "task": asked_task,
                  "recipes": list(methods), "seeds": list(seeds)},
        "dataset": title,
        "model": model,
        "task": content_hash(shared),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    run, grid = RunFolder(folder), []
    for seed in seeds:
        for method in methods:
            settings = {**shared, "recipe": _recipe(method), "seed": seed}
            needs_selector = method != "random"
            grid.append({"id": content_hash(settings), "method": method, "seed": seed,
                         "target_needs_selector": needs_selector,
                         "notes": list((notes or {}).get(method, ()))})  # fmt: skip
            if (method, seed) in missing:
                continue
            store = run.create_cell(settings)
            stop, reason = failed.get((method, seed), (unfinished.get((method, seed), len(label_counts)), ""))
            queries = query(method, seed, label_counts) if query else _drawn(method, seed, label_counts, pool)
            for number, labels in enumerate(label_counts[:stop]):
                found = accuracy(method, seed, labels)
                spent = seconds(method, seed, labels)
                stages = _stages(method, number, labels, pool, test, spent, epochs)
                outcome = Outcome(
                    Evaluation(found, -math.log(max(found, 1e-6))),
                    Fit(epochs, epochs * math.ceil(labels / 32), epochs * labels, 0.1),
                    77_754,
                )
                if (by_epoch := curve(method, seed, labels)) is not None:
                    outcome = Outcome(outcome.evaluation, outcome.fit, outcome.parameters, tuple(by_epoch))
                total = sum(stage.seconds for stage in stages.values())
                store.write_round(
                    Round(
                        number=number,
                        query=torch.tensor(queries[number], dtype=torch.int64),
                        labels=labels,
                        selector=None,
                        selector_outcome=outcome if needs_selector else None,
                        target_outcome=outcome,
                        bill=Bill(1.01 * total, stages),
                        tied=0 if number else None,
                    ),
                    {**MACHINE, **machine(method, seed)},
                )
            if (method, seed) in failed:
                store.write_failure(CellFailed(reason))
    run.add_cells(suite, grid)
    return folder


def _bytes(method: str) -> bytes:
    """A name as numbers, whatever it is made of."""
    return method.encode("utf-8", "surrogatepass")


def _recipe(method: str) -> dict[str, Any]:
    start: dict[str, Any] = {"type": "Fused", "rest": "reinit", "distillation": None}
    proxy: dict[str, Any] = {"type": "Pruned", "ratio": 0.5, "criterion": "magnitude"}
    if method == "random":
        start, proxy = {"type": "Fresh", "distillation": None}, {"type": "Target"}
    elif method == "al":
        start, proxy = {"type": "TrainedSelector"}, {"type": "Target"}
    return {
        "type": "Recipe",
        "proxy": proxy,
        "committee": {"type": "OnePass", "augmented": False},
        "acquisition": "random" if method == "random" else "least_confidence",
        "target_start": start,
        "sync_every": 0,
        # Two methods of one run differ in their settings; here it is only their name.
        "options": {"made": method},
        "own_training": None,
    }


def _drawn(method: str, seed: int, label_counts: Sequence[int], pool: int) -> list[list[int]]:
    """A common start for every method of a seed, then a draw of the method's own from what is left."""
    start = numpy.random.default_rng([seed, 0]).permutation(pool)[: label_counts[0]]
    rest = numpy.setdiff1d(numpy.arange(pool), start)
    numpy.random.default_rng([seed, *_bytes(method)]).shuffle(rest)
    ends = [count - label_counts[0] for count in label_counts]
    later = [rest[first:end].tolist() for first, end in itertools.pairwise(ends)]
    return [start.tolist(), *later]


def _stages(
    method: str, number: int, labels: int, pool: int, test: int, seconds: float, epochs: int
) -> dict[str, StageCost]:
    """Costs of one round: FLOPs follow from the samples, seconds are shares of the target's training."""
    share = {"random": 0.0, "al": 1.0}.get(method, 0.25)
    samples, left = epochs * labels, pool - labels
    stages = {}
    if number:
        if share:
            stages["selector/infer"] = _passes(0.2 * share * seconds, left, share)
        stages["selector/rank"] = StageCost(0.001, 0.001, left)
    if share:
        stages["selector/train"] = _passes((0.4 + 0.6 * share) * seconds, samples, share, backward=True)
    stages["fuse"] = StageCost(0.01, 0.01)
    if share < 1:
        stages["target/train"] = _passes(seconds, samples, 1, backward=True)
        stages["target/eval"] = _passes(0.01 * seconds, test, 1)
    else:
        stages["selector/eval"] = _passes(0.01 * seconds, test, 1)
    return stages


def _passes(seconds: float, samples: int, share: float, *, backward: bool = False) -> StageCost:
    """So many samples through a network of this share of the target's FLOPs."""
    forward = int(1_500_000 * share) * samples
    times = 3 if backward else 1
    return StageCost(
        seconds,
        2 * seconds,
        samples,
        forward,
        (times - 1) * forward,
        20.0 * times * forward,
        ("aten.add", "aten.relu_"),
    )
