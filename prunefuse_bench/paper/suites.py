"""The paper's tables and figures as suites, derived from the published cells so that the two cannot drift apart.

Every published cell states its experiment (:class:`prunefuse_bench.paper.published.Experiment`). Cells that share a
task (data, network, protocol, budgets, length of training) become one suite, whose methods are those of the cells; a
table of several tasks is a group of suites. Figures, of which no numbers are published, are written out here. Each has
a twin, ``NAME-small``, with the same methods on a small task: see :mod:`prunefuse_bench.paper.small`.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from prunefuse_bench.paper.names import DATASETS, UNSTATED_NETWORKS, registered_network
from prunefuse_bench.paper.published import UNSTATED, Experiment, PublishedTable, published_table, published_tables
from prunefuse_bench.paper.small import shrink
from prunefuse_bench.report.deviations import CIFAR, IMAGENET, TEXT, PaperTraining

__all__ = ["FIGURES", "Settings", "derived_suites", "method_of", "paper_preset", "paper_presets"]

Settings = dict[str, Any]
"""A suite, or several as ``parts``, as a YAML file would state it."""

START = 0.02
"""Share that is labeled by lot (section 6.1); where a table does not state its budgets, the first of them too."""
SIDE = 224
"""Of the images of Tiny-ImageNet-200 as the paper's costs count them (Table 2): 3*224*224 values."""

TRAININGS: Mapping[str, PaperTraining] = MappingProxyType(
    {
        **dict.fromkeys(("cifar10", "cifar100"), CIFAR),
        **dict.fromkeys(("tiny-imagenet-200", "imagenet"), IMAGENET),
        **dict.fromkeys(("amazon-polarity", "amazon-full"), TEXT),
    }
)
"""Section 9.3 for each data set."""


@dataclass(frozen=True)
class _Task:
    """What cells have in common that one suite can run."""

    dataset: str
    network: str
    protocol: str
    epochs: int
    budgets: tuple[float, ...]
    stop_after: int | None = None

    @property
    def step(self) -> float:
        """How much of the pool a query asks for, the first one aside."""
        return self.budgets[-1] - self.budgets[-2]


def paper_presets() -> dict[str, str]:
    """The presets that are derived here, and what each is about."""
    found = {f"paper-table{table.number}": table.caption for table in _tables()}
    found |= {f"paper-figure{number}": figure.summary for number, figure in FIGURES.items()}
    return {**found, **{f"{name}-small": f"{name} in small" for name in found}}


@functools.cache
def paper_preset(name: str) -> Settings:
    """The settings of one of :func:`paper_presets`; not to be changed."""
    if name.endswith("-small"):
        return shrink(copy.deepcopy(paper_preset(name.removesuffix("-small"))), name.removesuffix("-small"))
    if name.startswith("paper-figure"):
        figure = FIGURES[name.removeprefix("paper-figure")]
        return _group(_described(f"Figure {name.removeprefix('paper-figure')}", figure.summary, ()), figure.suites())
    table = published_table(name.removeprefix("paper-table"))
    suites = derived_suites(table)
    return _group(_described(f"Table {table.number}", table.caption, _notes(table)), suites)


def derived_suites(table: PublishedTable) -> dict[str, Settings]:
    """The suites of a table by the name of the part, each without its seeds and description; none for Table 1."""
    cells: dict[_Task, list[Experiment]] = {}
    for part in table.parts:
        of_part = [e for row in part.rows for e in row.experiments if e.measured_on != "difference"]
        for experiment in of_part:
            cells.setdefault(_task(experiment, of_part), []).append(experiment)
    names = _names(list(cells))
    return {names[task]: _suite(table.number, task, experiments) for task, experiments in cells.items()}


def method_of(experiment: Experiment) -> Settings:
    """The method that does a published experiment, with the settings in which it differs from the method's defaults."""
    wanted = {
        "ratio": experiment.ratio,
        "acquisition": experiment.acquisition,
        "sync_every": experiment.sync_every,
        "distil": experiment.distilled,
        "rest": experiment.rest,
        "criterion": experiment.criterion,
        "pruning": experiment.pruning,
        "model": experiment.selector_network,
    }
    method = _method_name(experiment)
    known = _parameters(method, experiment.protocol)
    always = ("ratio", "model")
    kept = {
        key: value
        for key, value in wanted.items()
        if value is not None and (key in always or (key in known and known[key] != value))
    }
    if experiment.selector == "pruned" and experiment.criterion != "magnitude":
        kept["criterion"] = experiment.criterion
    if experiment.selector == "pruned" and experiment.pruning != "static":
        kept["pruning"] = experiment.pruning
    return {"method": method, **kept}


def _method_name(experiment: Experiment) -> str:
    rivals = {"one_pass": "", "mc_dropout": "bald", "snapshots": "alse"}
    rival = rivals[experiment.committee]
    if experiment.selector == "pruned":
        return f"prunefuse+{rival}" if rival else "prunefuse"
    if experiment.selector == "smaller":
        return "svp"
    if experiment.acquisition == "random":
        return "random"
    if experiment.protocol == "coreset":
        return experiment.acquisition.replace("_", "-")
    return rival or "al"


@functools.cache
def _parameters(method: str, protocol: Any) -> dict[str, Any]:
    from prunefuse_bench.recipe import methods

    return methods(protocol)[method].parameters


def _tables() -> Iterator[PublishedTable]:
    return (table for table in published_tables() if table.parts)


def _task(experiment: Experiment, others: list[Experiment]) -> _Task:
    dataset = DATASETS[experiment.dataset]
    network = registered_network(experiment.network, experiment.dataset)
    budgets = _budgets(experiment, others)
    return _Task(dataset, network, experiment.protocol, experiment.epochs, budgets, experiment.stop_after)


def _budgets(experiment: Experiment, others: list[Experiment]) -> tuple[float, ...]:
    """The path as published; if it is not, all budgets of such cells, after the usual start. Coresets have no start."""
    if experiment.path != UNSTATED:
        return _shares(experiment.path)
    alike = {other.budget for other in others if (other.path, other.network) == (UNSTATED, experiment.network)}
    return tuple(sorted(alike | (set() if experiment.protocol == "coreset" else {START})))


def _shares(path: str) -> tuple[float, ...]:
    return tuple(float(share.removesuffix("%")) / 100 for share in path.split())


def _suite(number: str, task: _Task, experiments: list[Experiment]) -> Settings:
    methods: list[Settings] = []
    for experiment in experiments:
        if (method := method_of(experiment)) not in methods:
            methods.append(method)
    reported = sorted({experiment.budget for experiment in experiments})
    settings = _settings(task, methods, reported)
    if number == "8":
        settings["task"]["decomposition"] = True
    if any(experiment.dataset == "CIFAR-10-C" for experiment in experiments):
        settings["task"]["corruptions"] = {"names": ["published"]}
    return settings


def _settings(task: _Task, methods: list[Settings], reported: list[float]) -> Settings:
    paper = TRAININGS[task.dataset]
    training: Settings = {} if paper is CIFAR else {"segments": [list(segment) for segment in paper.segments]}
    training = {
        "epochs": task.epochs,
        **training,
        "batch_size": paper.batch_size,
        "momentum": paper.momentum,
        "weight_decay": paper.weight_decay,
    }
    if task.stop_after is not None:
        training["stop_after"] = task.stop_after
    dataset = {"name": task.dataset, **({"resize": SIDE} if task.dataset.startswith("tiny") else {})}
    budgets = {"budgets": list(task.budgets)}
    if reported != list(task.budgets):
        budgets["report"] = reported
    return {
        **({"protocol": task.protocol} if task.protocol != "active_learning" else {}),
        "task": {"dataset": dataset, "model": {"name": task.network}, "training": training, **budgets},
        "recipes": [method if len(method) > 1 else method["method"] for method in methods],
    }


_NAMINGS: tuple[Callable[[_Task], str], ...] = (
    lambda task: task.dataset,
    lambda task: task.network,
    lambda task: f"{task.dataset}-{task.network}",
    lambda task: f"{task.stop_after or task.epochs}-epochs",
    lambda task: f"steps-of-{round(100 * task.step)}-percent",
)
"""What tells the suites of a table apart, the first that does."""


def _names(tasks: list[_Task]) -> dict[_Task, str]:
    for naming in _NAMINGS:
        names = {task: naming(task) for task in tasks}
        if len(set(names.values())) == len(tasks):
            return names
    raise ValueError(f"no names for {tasks}")


def _group(description: str, suites: dict[str, Settings]) -> Settings:
    """One suite stands alone; more are the parts of a group."""
    shared: Settings = {"description": description}
    if len(suites) == 1:
        (suite,) = suites.values()
        return {**shared, **suite, "seeds": [0, 1, 2]}
    return {**shared, "seeds": [0, 1, 2], "parts": suites}


def _described(what: str, caption: str, notes: Iterable[str]) -> str:
    return " ".join([f"{what} of the paper: {caption}. The paper's schedule, three seeds.", *notes])


def _notes(table: PublishedTable) -> Iterator[str]:
    experiments = [e for part in table.parts for row in part.rows for e in row.experiments]
    datasets = {e.dataset for e in experiments}
    if any(e.path == UNSTATED and e.protocol == "active_learning" for e in experiments):
        yield "Where the paper does not state the way to a budget, it begins with 2% by lot and takes equal steps."
    if unstated := sorted({e.network for e in experiments} & {*UNSTATED_NETWORKS}):
        yield f"The paper does not say which {' and '.join(unstated)} it trains."
    if "Tiny-ImageNet-200" in datasets:
        yield "Images of Tiny-ImageNet are scaled to 224x224, 15 GB of memory, as the paper's costs have it."
    if any(column.unit == "minutes" for part in table.parts for column in part.columns):
        yield "These are the runs that the table times."


# Figures


@dataclass(frozen=True)
class _Figure:
    """A figure: what it shows, and the suites that it is drawn from."""

    summary: str
    suites: Callable[[], dict[str, Settings]]


PATH = (0.02, 0.1, 0.2, 0.3, 0.4, 0.5)


def _cifar(network: str, budgets: tuple[float, ...], reported: list[float], recipes: list[Settings]) -> Settings:
    return _settings(_Task("cifar10", network, "active_learning", CIFAR.epochs, budgets), recipes, reported)


def _trade_off() -> dict[str, Settings]:
    """Figure 3."""
    pruned = [
        {"method": "prunefuse", "ratio": ratio, "sync_every": sync_every}
        for ratio in (0.5, 0.6, 0.7, 0.8)
        for sync_every in (0, 1)
    ]
    return {"cifar10": _cifar("resnet56", PATH, [0.1, 0.3, 0.5], [{"method": "al"}, *pruned])}


def _fusion(ratios: Iterable[float], budgets: tuple[float, ...], reported: list[float]) -> dict[str, Settings]:
    """Figures 4 to 7: one network chooses for all four, as all of them draw its weights and batches from one seed."""
    recipes = [variant for ratio in ratios for variant in _variants(ratio)]
    suite = _cifar("resnet56", budgets, reported, recipes)
    suite["task"]["accuracy_by_epoch"] = True
    return {"cifar10": suite}


def _variants(ratio: float) -> list[Settings]:
    proxy = {"name": "pruned", "ratio": ratio}
    return [
        {"method": "combine", "proxy": proxy, "target_start": "fresh", "label": f"scratch (p={ratio})"},
        {"method": "combine", "proxy": proxy, "target_start": {"name": "fresh", "distillation": {}},
         "label": f"KD only (p={ratio})"},
        {"method": "prunefuse", "ratio": ratio, "distil": False, "label": f"fusion only (p={ratio})"},
        {"method": "prunefuse", "ratio": ratio, "label": f"fusion + KD (p={ratio})"},
    ]  # fmt: skip


def _sizes() -> dict[str, Settings]:
    """Figure 8."""
    recipes: list[Settings] = [
        {"method": "svp", "model": "resnet8"},
        {"method": "prunefuse", "ratio": 0.5},
        {"method": "prunefuse", "ratio": 0.6},
    ]
    return {network: _cifar(network, PATH, [0.5], recipes) for network in ("resnet14", "resnet20")}


FIGURES: Mapping[str, _Figure] = MappingProxyType(
    {
        "3": _Figure("Accuracy and FLOPs of the selector, T_sync = 0 and 1, by pruning ratio", _trade_off),
        "4": _Figure(
            "Accuracy by epoch at 30% with fusion, distillation, both and neither, by pruning ratio",
            lambda: _fusion((0.5, 0.6, 0.7), (0.02, 0.1, 0.2, 0.3), [0.3]),
        ),
        **{
            number: _Figure(
                f"Accuracy by epoch at 10, 30 and 50% with fusion, distillation, both and neither, p = {ratio}",
                functools.partial(_fusion, (ratio,), PATH, [0.1, 0.3, 0.5]),
            )
            for number, ratio in (("5", 0.5), ("6", 0.6), ("7", 0.7))
        },
        "8": _Figure("SVP and PruneFuse by the size of selector and target, ResNet-14 and ResNet-20 at 50%", _sizes),
    }
)
"""Figures 3 to 8 by number; the others show no experiments."""
