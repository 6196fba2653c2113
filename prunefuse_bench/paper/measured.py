"""Runs beside the published accuracies.

A run is set beside a published cell if it is the same experiment in kind: data, family of the network, protocol,
selector, pruning ratio, committee, acquisition, T_sync and the start of the target agree, and it reports that budget.
Everything else in which it differs (depth of the network, size of the pool, schedule, seeds, …) is said beside it. A
run that fits no cell is listed as such.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas

from prunefuse_bench.paper.names import DATASETS, UNSTATED_NETWORKS, family, registered_network
from prunefuse_bench.paper.published import UNSTATED, Column, Experiment, Part, PublishedTable, Row
from prunefuse_bench.pruning import DYNAMIC_EPOCHS, DYNAMIC_STEPS
from prunefuse_bench.records import RunFolder, load_results
from prunefuse_bench.report.deviations import CIFAR, COMPARED, PAPER_SEEDS
from prunefuse_bench.training.schedule import PAPER_SEGMENTS

__all__ = ["MeasuredLine", "MeasuredMethod", "load_methods", "measured_lines", "unmatched"]

BUDGET_TOLERANCE = 0.001
"""Largest difference of two shares of the pool that count as the same budget."""
PAPER_POOLS = {"CIFAR-10": 50_000, "CIFAR-100": 50_000, "Tiny-ImageNet-200": 100_000, "ImageNet-1K": 1_281_167}
PAPER_SNAPSHOTS = 5


@dataclass(frozen=True)
class MeasuredMethod:
    """All cells of one method of a run.

    Attributes:
        run: the folder, or the file that was sent.
        title: the data set as the run's tables name it.
        model: the target network as they name it.
        name: of the method.
        settings: of a cell, as recorded; the cells differ in their seed alone.
        seeds: how many were asked for.
        results: rows of :func:`prunefuse_bench.load_results`.
    """

    run: Path
    title: str
    model: str
    name: str
    settings: Mapping[str, Any]
    seeds: int
    results: pandas.DataFrame

    def accuracies(self, budget: float, measured_on: str) -> list[float]:
        """Test accuracy in percent at this share of the pool, one of each seed that got there."""
        rows = self.results[(self.results["budget"] - budget).abs() <= BUDGET_TOLERANCE]
        column = "selector_accuracy" if measured_on == "selector" else "accuracy"
        return [100 * float(value) for value in rows[column].dropna()]

    def paper_flops(self, budget: float) -> list[float]:
        """What choosing the labels of this budget cost by the paper's rule, one of each seed that got there."""
        rows = self.results[(self.results["budget"] - budget).abs() <= BUDGET_TOLERANCE]
        return [float(value) for value in rows["selector_paper_flops"].dropna()]


@dataclass(frozen=True)
class MeasuredLine:
    """Measured values under one published row.

    Attributes:
        methods: of the run, in order of the columns.
        cells: accuracies and, by the paper's rule, what choosing the labels cost the run; one text for each column,
            None where nothing was measured.
        differences: from the published experiments, in words; empty if there are none.
    """

    run: Path
    methods: tuple[str, ...]
    cells: tuple[str | None, ...]
    differences: tuple[str, ...]


def load_methods(runs: Sequence[Path]) -> list[MeasuredMethod]:
    """The methods of these runs.

    Raises:
        BadInput: a folder holds no run.
    """
    return [method for run in runs for method in _load(run)]


def measured_lines(part: Part, methods: Sequence[MeasuredMethod]) -> list[list[MeasuredLine]]:
    """For each row of a published table, what the runs measured of it; a list per row, mostly empty."""
    return [list(_lines_of_row(part.columns, row, methods)) for row in part.rows]


def unmatched(tables: Sequence[PublishedTable], methods: Sequence[MeasuredMethod]) -> list[MeasuredMethod]:
    """Methods that are beside no cell of these tables."""
    rows = [row for table in tables for part in table.parts for row in part.rows]
    return [method for method in methods if not any(_fits(e, method) for row in rows for e in row.experiments)]


def _load(run: Path) -> Iterator[MeasuredMethod]:
    results, folder = load_results(run), RunFolder(run)
    suite = folder.read_suite()
    cells: dict[tuple[str, str], list[tuple[str, Mapping[str, Any]]]] = {}
    for cell, store in folder.begun_cells():
        recipe = json.dumps(store.settings["recipe"], sort_keys=True)
        cells.setdefault((cell["method"], recipe), []).append((cell["id"], store.settings))
    for (name, _), group in cells.items():
        own = results[results["cell"].isin([identity for identity, _ in group])]
        yield MeasuredMethod(run, suite["dataset"], suite["model"], name, group[0][1], len(group), own)


def _lines_of_row(columns: Sequence[Column], row: Row, methods: Sequence[MeasuredMethod]) -> Iterator[MeasuredLine]:
    """One line for each run, and more where several of its methods are the same experiment in kind."""
    for run in dict.fromkeys(method.run for method in methods):
        found = [[m for m in methods if m.run == run and _fits(e, m)] for e in row.experiments]
        for position in range(max(map(len, found), default=0)):
            chosen = [candidates[position] if position < len(candidates) else None for candidates in found]
            differences: dict[str, None] = {}
            for experiment, method in zip(row.experiments, chosen, strict=True):
                if method is not None:
                    differences |= dict.fromkeys(_differences(experiment, method))
            yield MeasuredLine(
                run,
                tuple(dict.fromkeys(method.name for method in chosen if method is not None)),
                tuple(
                    _text(column, experiment, method) if method else None
                    for column, experiment, method in zip(columns, row.experiments, chosen, strict=True)
                ),
                tuple(differences),
            )


def _fits(experiment: Experiment, method: MeasuredMethod) -> bool:
    """Whether it is the same experiment in kind, and was measured at this budget."""
    return (
        experiment.not_comparable is None
        and experiment.measured_on != "difference"
        and _same_data(experiment.dataset, method)
        and _kind_of_experiment(experiment) == _kind_of_cell(method.settings)
        and bool(method.accuracies(experiment.budget, experiment.measured_on))
    )


def _same_data(dataset: str, method: MeasuredMethod) -> bool:
    """By the data set's name, or by the title that the user gave it, up to a bracket or comma: ``CIFAR-10 (JPEG)``."""
    title = re.split(r"[(,]", method.title)[0]
    return _plain(dataset) in (_plain(method.settings["task"]["dataset"]["name"]), _plain(title))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _kind_of_experiment(experiment: Experiment) -> dict[str, Any]:
    pruned = experiment.selector == "pruned"
    return {
        "network": family(registered_network(experiment.network, experiment.dataset)),
        "protocol": experiment.protocol,
        "selector": experiment.selector,
        "ratio": experiment.ratio,
        "criterion": experiment.criterion if pruned else None,
        "pruning": experiment.pruning,
        "committee": experiment.committee,
        "acquisition": experiment.acquisition,
        "sync_every": experiment.sync_every,
        "rest": experiment.rest if pruned else None,
        "distilled": experiment.distilled and pruned,
    }


_SELECTORS = {"Target": "target", "Pruned": "pruned", "Smaller": "smaller"}
_COMMITTEES = {"OnePass": "one_pass", "MCDropout": "mc_dropout", "Snapshots": "snapshots"}


def _kind_of_cell(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same of a recorded cell; parts from outside keep their own names, which no published experiment has."""
    recipe = settings["recipe"]
    proxy, committee, start = recipe["proxy"], recipe["committee"]["type"], recipe["target_start"]
    return {
        "network": family(settings["task"]["model"]["name"]),
        "protocol": settings["protocol"],
        "selector": _SELECTORS.get(proxy["type"], proxy["type"]),
        "ratio": proxy.get("ratio"),
        "criterion": proxy.get("criterion"),
        "pruning": proxy.get("pruning", "static"),
        "committee": _COMMITTEES.get(committee, committee),
        "acquisition": recipe["acquisition"],
        "sync_every": recipe["sync_every"],
        "rest": start.get("rest"),
        "distilled": start.get("distillation") is not None,
    }


def _text(column: Column, experiment: Experiment, method: MeasuredMethod) -> str | None:
    if column.quantity == "flops":
        flops = pandas.Series(method.paper_flops(experiment.budget))
        return None if flops.empty else f"{flops.mean() / float(column.unit.split()[0]):.3g}"
    if column.quantity != "accuracy":
        return None
    values = pandas.Series(method.accuracies(experiment.budget, experiment.measured_on))
    text = f"{values.mean():.2f}" + (f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else "")
    return text if len(values) == method.seeds else f"{text} ({len(values)} of {method.seeds} seeds)"


def _differences(experiment: Experiment, method: MeasuredMethod) -> Iterator[str]:
    """All that is known to differ from the published experiment, shortest words first."""
    task, recipe = method.settings["task"], method.settings["recipe"]
    yield from _data(experiment, method)
    model = task["model"]
    network = registered_network(experiment.network, experiment.dataset)
    if model["name"] != network or model["width"] != 1:
        yield f"network {method.model} instead of {network}"
    elif experiment.network in UNSTATED_NETWORKS:
        yield f"network {network}; the paper does not say which it is"
    yield from _training(experiment, task["training"])
    yield from _budgets(experiment, task)
    if method.seeds != PAPER_SEEDS:
        yield f"{method.seeds} seed{'s' if method.seeds > 1 else ''} instead of {PAPER_SEEDS}"
    if recipe["own_training"]:
        yield "the method's own training (preset faithful) instead of the shared one"
    yield from _parts(experiment, recipe, stops_early=bool(task["training"].get("stopping")))


def _data(experiment: Experiment, method: MeasuredMethod) -> Iterator[str]:
    data = method.settings["task"]["dataset"]
    if data["name"] != DATASETS.get(experiment.dataset):
        yield f"data {method.title} instead of {experiment.dataset}"
    size = PAPER_POOLS.get(experiment.dataset)
    if size is not None and data["train_size"] != size:
        yield f"a pool of {data['train_size']:,} images instead of {size:,}"
    if experiment.dataset.startswith("CIFAR") and data["image"] != [3, 32, 32]:
        channels, height, width = data["image"]
        yield f"images of {width}x{height}x{channels} instead of 32x32x3"


def _training(experiment: Experiment, training: Mapping[str, Any]) -> Iterator[str]:
    schedule = training["schedule"]
    if schedule["epochs"] != experiment.epochs:
        yield f"{schedule['epochs']} epochs instead of {experiment.epochs}"
    yield from _stopping(experiment, training.get("stopping"))
    if schedule["min_steps"]:
        yield f"at least {schedule['min_steps']} optimisation steps for small labeled sets"
    if training["precision"] != "fp32":
        yield f"precision {training['precision']}; the paper states none"
    if training.get("screening"):
        yield "pools looked at in 8 bits first, in fp32 again near the threshold"
    if not experiment.dataset.startswith("CIFAR"):
        yield "other settings of the training are not compared"
        return
    if [tuple(segment) for segment in schedule["segments"]] != [tuple(segment) for segment in PAPER_SEGMENTS]:
        yield "other learning rates"
    for name in COMPARED:
        value = getattr(CIFAR, name)
        if training[name] != value:
            yield f"{name.replace('_', ' ')} {training[name]:g} instead of {value:g}"
    if training["augmentation"] != CIFAR.augmentation:
        yield "other augmentation"


def _stopping(experiment: Experiment, stopping: Mapping[str, Any] | None) -> Iterator[str]:
    """The paper stops the target's training (Table 24); whether the selector's too it does not say."""
    after = stopping["after"] if stopping else None
    if after != experiment.stop_after:
        words = [f"stopped after {epochs} epochs" if epochs else "not stopped early" for epochs in
                 (after, experiment.stop_after)]  # fmt: skip
        yield " instead of ".join(words)
    if stopping and stopping["patience"]:
        yield f"stopped at a plateau of {stopping['patience']} epochs"
    if stopping and stopping["selectors"]:
        yield "selectors are stopped early too"


def _budgets(experiment: Experiment, task: Mapping[str, Any]) -> Iterator[str]:
    if experiment.protocol == "coreset":
        return
    size = task["dataset"]["train_size"]
    shares = [count / size for count in task["label_counts"]]
    taken = [share for share in shares if share <= experiment.budget + BUDGET_TOLERANCE]
    way = ", ".join(f"{100 * share:.3g}%" for share in taken)
    if experiment.path == UNSTATED:
        yield f"budgets {way}; the paper does not state its own up to {experiment.budget:.0%}"
        return
    paper = [float(share.removesuffix("%")) / 100 for share in experiment.path.split()]
    paper = [share for share in paper if share <= experiment.budget + BUDGET_TOLERANCE]
    if len(paper) != len(taken) or any(abs(a - b) > BUDGET_TOLERANCE for a, b in zip(paper, taken, strict=True)):
        start = f"{100 * taken[0]:.3g}%"
        yield f"budgets {', '.join(f'{100 * share:.3g}%' for share in shares)}, so other steps from a start of {start}"


def _parts(experiment: Experiment, recipe: Mapping[str, Any], *, stops_early: bool) -> Iterator[str]:
    proxy, committee, start = recipe["proxy"], recipe["committee"], recipe["target_start"]
    if experiment.selector == "smaller" and proxy["model"] != experiment.selector_network:
        chosen = proxy["model"] or "the largest network of at most half the target's parameters"
        yield f"proxy {chosen}; the paper's is {experiment.selector_network}"
    yield from _pruning(proxy)
    if committee["type"] == "MCDropout":
        yield f"{committee['passes_of_head']} dropout passes through the classifier; the paper states no number"
    if committee["type"] == "Snapshots" and committee["count"] != PAPER_SNAPSHOTS:
        yield f"{committee['count']} snapshots instead of {PAPER_SNAPSHOTS}"
    if committee.get("augmented"):
        yield "scores augmented images"
    if start.get("distillation"):
        yield f"distillation at temperature {start['distillation']['temperature']:g}; the paper states none"
    if recipe["sync_every"] and not stops_early:
        yield "fine-tuning at a synchronisation takes the whole schedule; the paper's costs fit 110 epochs"


def _pruning(proxy: Mapping[str, Any]) -> Iterator[str]:
    """The paper's dynamic pruning is five steps in 20 epochs; whether sparsity is local it does not state."""
    steps, epochs = proxy.get("pruning_steps", DYNAMIC_STEPS), proxy.get("pruning_epochs", DYNAMIC_EPOCHS)
    if (steps, epochs) != (DYNAMIC_STEPS, DYNAMIC_EPOCHS):
        yield f"{steps} steps of pruning in {epochs} epochs instead of {DYNAMIC_STEPS} in {DYNAMIC_EPOCHS}"
    if proxy.get("sparsity", "local") != "local":
        yield f"{proxy['sparsity']} sparsity; the paper's parameter counts are those of local sparsity"
    if proxy.get("round_to", 1) != 1:
        yield f"channels rounded to multiples of {proxy['round_to']}"
