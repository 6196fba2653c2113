"""The paper's tables as suites: every published cell is an experiment of the suite that is derived from its table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas
import pytest

from prunefuse_bench.config import Suite, load_suite, presets
from prunefuse_bench.data import DATASETS
from prunefuse_bench.forecast.sizes import PUBLISHED, sizes_of
from prunefuse_bench.groups import load_group
from prunefuse_bench.models import MODELS
from prunefuse_bench.paper import published_table, published_tables
from prunefuse_bench.paper.measured import MeasuredMethod, _differences, _fits
from prunefuse_bench.paper.names import DATASETS as NAMES
from prunefuse_bench.paper.names import registered_network
from prunefuse_bench.paper.networks import NETWORKS
from prunefuse_bench.paper.published import Experiment
from prunefuse_bench.paper.suites import FIGURES, paper_presets
from prunefuse_bench.recipe import Fresh, Fused, Pruned
from prunefuse_bench.records import find_runs
from prunefuse_bench.report.deviations import CIFAR, IMAGENET, TEXT
from prunefuse_bench.runner import check_kind, resolve_recipes

ROOT = Path(__file__).parents[1]
RunCli = Callable[..., tuple[int, str, str]]
TABLES = [table.number for table in published_tables() if table.parts]
NOT_COMPARABLE = {"8": 10, "17": 20}
"""Accuracies that no run is set beside: the differences of Table 8, and Table 17."""


def measured(suite: Suite) -> Iterator[MeasuredMethod]:
    """The suite as if it had been run: nothing but its settings, and an accuracy at each budget that it reports."""
    sizes = PUBLISHED[suite.task.dataset.name]
    training = suite.task.training
    for recipe in resolve_recipes(suite):
        settings: dict[str, Any] = {
            "protocol": suite.protocol,
            "task": {
                "dataset": {"name": suite.task.dataset.name, "train_size": sizes.train, "image": list(sizes.shape)},
                "model": suite.task.model.model_dump(),
                "training": {
                    "schedule": dataclasses.asdict(training.schedule),
                    "batch_size": training.batch_size,
                    "momentum": training.momentum,
                    "weight_decay": training.weight_decay,
                    "precision": "fp32",
                    "augmentation": dict(CIFAR.augmentation or {}),
                    **({"stopping": dataclasses.asdict(training.stopping)} if training.stopping else {}),
                },
                "label_counts": suite.task.label_counts(sizes.train),
            },
            "recipe": recipe.settings(),
            "seed": 0,
        }
        budgets = suite.task.report or suite.task.budgets
        rows = [
            {"budget": budget, "accuracy": 0.5, "selector_accuracy": 0.4, "selector_paper_flops": 1.0, "seed": seed}
            for budget in budgets
            for seed in suite.seeds
        ]
        title = sizes.title
        yield MeasuredMethod(
            Path("run"), title, suite.task.model.name, recipe.label, settings, len(suite.seeds), pandas.DataFrame(rows)
        )


def published_cells(number: str) -> list[tuple[str, Experiment]]:
    return [
        (column.quantity, experiment)
        for part in published_table(number).parts
        for row in part.rows
        for column, experiment in zip(part.columns, row.experiments, strict=True)
    ]


@pytest.mark.parametrize("number", TABLES)
def test_every_published_cell_is_an_experiment_of_the_suite(number: str) -> None:
    suites = [part.suite for part in load_group(f"paper-table{number}").parts]
    runs = [method for suite in suites for method in measured(suite)]
    outside = 0
    for quantity, experiment in published_cells(number):
        if experiment.not_comparable or experiment.measured_on == "difference":
            outside += 1
            continue
        beside = [run for run in runs if _fits(experiment, run)]
        assert beside, (number, quantity, experiment)
        exact = [run for run in beside if not list(unexplained(experiment, run))]
        assert exact, (experiment, [list(unexplained(experiment, run)) for run in beside])
        assert len(exact) == 1 or experiment.path == "unstated"
    assert outside == NOT_COMPARABLE.get(number, 0)


ALWAYS = (
    "distillation at temperature",
    "25 dropout passes",
    "fine-tuning at a synchronisation",
    "other settings of the training are not compared",
    "the paper does not say which it is",
    "the paper does not state its own",
)
"""Differences that no suite can avoid, for the paper does not say what it did."""


def unexplained(experiment: Experiment, run: MeasuredMethod) -> Iterator[str]:
    return (one for one in _differences(experiment, run) if not any(words in one for words in ALWAYS))


@pytest.mark.parametrize("number", TABLES)
def test_no_suite_has_a_method_that_its_table_has_not(number: str) -> None:
    experiments = [experiment.model_copy(update={"not_comparable": None}) for _, experiment in published_cells(number)]
    for part in load_group(f"paper-table{number}").parts:
        for run in measured(part.suite):
            assert any(_fits(experiment, run) for experiment in experiments), (part.name, run.name)


def test_all_tables_with_numbers_have_a_preset() -> None:
    names = paper_presets()
    for table in published_tables()[1:]:
        assert f"paper-table{table.number}" in names
        assert f"paper-table{table.number}-small" in names
    assert list(FIGURES) == ["3", "4", "5", "6", "7", "8"]
    assert set(NOT_COMPARABLE) <= {table.number for table in published_tables()}


@pytest.mark.parametrize("name", list(paper_presets()))
def test_presets_are_valid(name: str) -> None:
    group = load_group(name)
    assert group.name == name
    assert group.description
    assert len({part.name for part in group.parts}) == len(group.parts)
    for part in group.parts:
        suite = part.suite
        assert resolve_recipes(suite)
        MODELS[suite.task.model.name]
        DATASETS[suite.task.dataset.name]
        if not name.endswith("-small"):
            assert suite.seeds == (0, 1, 2)
        if suite.task.dataset.name in (*PUBLISHED, "digits"):
            sizes = sizes_of(suite.task.dataset)
            check_kind(suite.task, is_text=sizes.is_text)
            suite.task.label_counts(sizes.train)


def test_runs_of_all_parts_of_a_folder_are_set_beside_the_tables(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / "group" / name).mkdir(parents=True)
        (tmp_path / "group" / name / "suite.json").touch()
    one = tmp_path / "group" / "a"
    assert find_runs([tmp_path / "group"]) == [one, tmp_path / "group" / "b"]
    assert find_runs([one, one]) == [one]
    assert find_runs([tmp_path / "none"]) == [tmp_path / "none"]  # so that it is refused by its name


@pytest.mark.parametrize(("name", "paper"), [("cifar10", CIFAR), ("imagenet", IMAGENET), ("amazon-full", TEXT)])
def test_schedules_are_those_of_section_9_3(name: str, paper: Any) -> None:
    tables = {"cifar10": "paper-table9", "imagenet": "paper-table2", "amazon-full": "paper-table16"}
    (suite,) = [p.suite for p in load_group(tables[name]).parts if p.suite.task.dataset.name == name]
    training = suite.task.training
    assert training.epochs == {"cifar10": 181, "imagenet": 100, "amazon-full": 15}[name]
    assert training.batch_size == {"cifar10": 128, "imagenet": 256, "amazon-full": 128}[name]
    assert training.weight_decay == {"cifar10": 5e-4, "imagenet": 1e-4, "amazon-full": 1e-4}[name]
    assert training.segments == tuple(tuple(segment) for segment in paper.segments)
    assert suite.task.budgets == (0.02, 0.1, 0.2, 0.3, 0.4, 0.5)


def test_names_of_the_paper_are_names_of_this_package() -> None:
    experiments = [experiment for table in TABLES for _, experiment in published_cells(table)]
    assert {experiment.dataset for experiment in experiments} <= set(NAMES)
    assert set(NAMES.values()) == set(PUBLISHED) - {"fashion-mnist"}
    known = {(network.model, network.dataset) for network in NETWORKS}
    for experiment in experiments:
        name = registered_network(experiment.network, experiment.dataset)
        assert name in MODELS
        if experiment.network != name:  # a choice of this suite, and the same as in the list of the paper's networks
            assert (name, experiment.dataset) in known or experiment.dataset == "CIFAR-100"


def test_tables_that_compare_ways_to_a_budget_go_those_ways() -> None:
    budgets = {part.name: part.suite.task.budgets for part in load_group("paper-table22").parts}
    assert budgets["steps-of-15-percent"] == (0.02, 0.15, 0.3, 0.45, 0.6, 0.75)
    small = [part.suite.task.budgets for part in load_group("paper-table23-small").parts]
    assert small == [(0.02, 0.1, 0.2, 0.3, 0.4), (0.02, 0.2, 0.4)]


def test_figures_of_fusion_vary_the_start_of_the_target_alone() -> None:
    (part,) = load_group("paper-figure4").parts
    assert part.suite.task.accuracy_by_epoch
    assert part.suite.task.report == (0.3,)
    recipes = resolve_recipes(part.suite)
    assert [recipe.proxy for recipe in recipes] == [Pruned(ratio) for ratio in (0.5, 0.6, 0.7) for _ in range(4)]
    kinds = {(type(recipe.target_start), recipe.target_start.distillation is not None) for recipe in recipes}  # type: ignore[attr-defined]
    assert kinds == {(Fresh, False), (Fresh, True), (Fused, False), (Fused, True)}
    assert {(recipe.acquisition, recipe.sync_every) for recipe in recipes} == {("least_confidence", 0)}


def test_a_file_comes_before_what_is_derived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "paper-table5-small.yaml"
    file.write_text("recipes: [random]\nseeds: [7]\n")
    known = {**presets(), file.stem: file}
    monkeypatch.setattr("prunefuse_bench.config.presets", lambda: known)
    monkeypatch.setattr("prunefuse_bench.groups.presets", lambda: known)
    (part,) = load_group("paper-table5-small").parts
    assert part.suite.seeds == (7,)
    assert load_suite("paper-table5-small") == part.suite


def test_twins_in_small_keep_the_methods() -> None:
    for name in ("paper-table2", "paper-table3", "paper-table4", "paper-table21", "paper-figure8"):
        whole = {recipe.label for part in load_group(name).parts for recipe in resolve_recipes(part.suite)}
        small = {recipe.label for part in load_group(f"{name}-small").parts for recipe in resolve_recipes(part.suite)}
        assert {label.partition("model=")[0] for label in whole} == {label.partition("model=")[0] for label in small}


def test_the_page_of_presets_is_what_the_code_says(run_cli: RunCli) -> None:
    page = (ROOT / "docs" / "presets.md").read_text()
    code, printed, _ = run_cli("presets", "--markdown")
    assert code == 0
    assert printed == page, "write it anew: prunefuse-bench presets --markdown > docs/presets.md"


def test_the_list_of_presets_names_every_table_once(run_cli: RunCli) -> None:
    code, printed, _ = run_cli("presets")
    assert code == 0
    for name in (f"paper-table{number}" for number in TABLES):
        assert printed.count(f"  {name} ") == 1
    assert "paper-table2-small" not in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "paper-table1", "--dry-run"], "unknown preset 'paper-table1': did you mean 'paper-table"),
        (["run", "paper-table2", "--part", "imagnet"], "unknown part 'imagnet': did you mean 'imagenet'"),
        (["run", "paper-table2", "--part", "imagenet"], "--set parts.imagenet.task.dataset.path=PATH"),
        (["run", "paper-table12"], "--set task.dataset.path=PATH"),
        (["run", "paper-table6", "--part", "amazon-full"], "--set parts.amazon-full.task.dataset.path=PATH"),
    ],
)
def test_bad_input_says_what_to_do(arguments: list[str], message: str, run_cli: RunCli) -> None:
    code, _, errors = run_cli(*arguments)
    assert code == 2
    assert message in errors
