from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pandas
import pytest

from prunefuse_bench.config import load_suite
from prunefuse_bench.report.deviations import deviations
from prunefuse_bench.report.leaderboard import budget_headings
from prunefuse_bench.runner import plan


@pytest.fixture
def as_in_the_paper() -> list[dict[str, Any]]:
    """Settings that differ from the paper's in nothing but the data behind them."""
    recipes = "recipes=[al, {method: prunefuse, distil: false}]"
    whole = ["task.training.segments=[[1, 0.01], [90, 0.1], [45, 0.01], [45, 0.001]]", "task.training.epochs=181",
             "task.training.batch_size=128", "task.training.min_steps=0", "task.augmentation.flip=true",
             "task.augmentation.crop_padding=4"]  # fmt: skip
    cells = [copy.deepcopy(cell.settings) for cell in plan(load_suite("quick", [recipes, *whole]))]
    for cell in cells:
        cell["task"]["dataset"]["name"] = "cifar10"
    return cells


def test_no_difference_no_deviation(as_in_the_paper: list[dict[str, Any]]) -> None:
    assert list(deviations(as_in_the_paper)) == []


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("task.dataset.name", "digits", "not a data set of the paper"),
        ("task.label_counts", [29, 144], "Budgets: only 2.02%, 10%"),
        ("task.label_counts", [100, 200], "instead of 2, 10, 20, 30, 40, 50%"),
        ("seed", 0, "Seeds: 1 instead of 3"),
        ("task.training.schedule.epochs", 90, "90 epochs instead of 181"),
        ("task.training.schedule.segments", [[1, 0.5]], "Learning rates: 0.5 for 1 instead of"),
        ("task.training.schedule.min_steps", 50, "at least 50 optimisation steps"),
        ("task.training.batch_size", 64, "Batch size: 64 instead of 128"),
        ("task.training.momentum", 0.5, "Momentum: 0.5 instead of 0.9"),
        ("task.training.weight_decay", 0, "Weight decay: 0 instead of 0.0005"),
        ("task.training.augmentation.flip", False, "flip off instead of"),
        ("task.training.precision", "bf16", "Precision: bf16"),
        ("recipe.sync_every", 1, "the paper's costs fit 110 epochs"),
        ("recipe.target_start", {"distillation": {"temperature": 4.0}}, "Distillation at temperature 4"),
    ],
)
def test_every_difference_is_said(as_in_the_paper: list[dict[str, Any]], path: str, value: object, said: str) -> None:
    for cell in as_in_the_paper:
        node = cell
        *keys, last = path.split(".")
        for key in keys:
            node = node[key]
        node[last] = value
    assert len(list(deviations(as_in_the_paper))) == 1
    assert said in next(iter(deviations(as_in_the_paper)))


def test_budgets_that_are_close_keep_their_own_columns() -> None:
    budgets = pandas.DataFrame({"budget": [0.1, 0.1004, 0.5]})
    assert budget_headings(budgets) == ["10%", "10.04%", "50%"]


def test_presets_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_suite("quick").name == "quick"
