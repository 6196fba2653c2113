"""Accuracy by epoch: recorded, charged as evaluation, and without any influence on the result."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from prunefuse_bench import load_results
from prunefuse_bench.cell import Cell
from prunefuse_bench.config import load_suite
from prunefuse_bench.cost import Ledger
from prunefuse_bench.cost.flops import count_flops
from prunefuse_bench.models import build_model
from prunefuse_bench.randomness import derive_seed
from prunefuse_bench.records import load_curves
from prunefuse_bench.runner import plan
from prunefuse_bench.training import evaluate

RunCli = Callable[..., tuple[int, str, str]]
NO_CURVE = ("--set", "task.accuracy_by_epoch=false")
CURVE = ("--set", "task.accuracy_by_epoch=true")


def test_every_target_has_its_accuracy_before_training_and_after_every_epoch(
    tiny: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    assert run_cli("run", tiny, "--out", tmp_path / "run", *CURVE)[0] == 0
    curves, results = load_curves(tmp_path / "run"), load_results(tmp_path / "run")
    assert set(curves["start"]) == {"fresh", "fused, distilled"}
    assert set(curves.loc[curves["method"] == "prunefuse", "start"]) == {"fused, distilled"}
    for row in results.to_dict(orient="records"):
        curve = curves[(curves["cell"] == row["cell"]) & (curves["labels"] == row["labels"])]
        assert curve["epoch"].tolist() == list(range(row["epochs"] + 1))
        assert curve["accuracy"].iloc[-1] == row["accuracy"]
        assert curve["accuracy"].between(0, 1).all()


def test_recording_changes_no_result(tiny: Path, tmp_path: Path, run_cli: RunCli) -> None:
    assert run_cli("run", tiny, "--out", tmp_path / "with", *CURVE)[0] == 0
    assert run_cli("run", tiny, "--out", tmp_path / "without", *NO_CURVE)[0] == 0
    columns = ["method", "seed", "labels", "accuracy", "loss", "selector_accuracy", "tied"]
    with_curve, without = load_results(tmp_path / "with"), load_results(tmp_path / "without")
    assert with_curve[columns].equals(without[columns])
    assert with_curve["target_flops"].equals(without["target_flops"]), "judging is no part of training"
    assert (with_curve["total_flops"] > without["total_flops"]).all()
    assert load_curves(tmp_path / "without").empty


def test_every_judgement_is_charged_as_evaluation(tiny: Path, tmp_path: Path, run_cli: RunCli) -> None:
    assert run_cli("run", tiny, "--out", tmp_path / "run", *CURVE, "--set", "recipes=[random]")[0] == 0
    forward = count_flops(build_model("resnet8", num_classes=10, in_channels=1, width=0.25), torch.zeros(1, 1, 8, 8))
    for file in (tmp_path / "run").glob("cells/*/round-*.json"):
        record = json.loads(file.read_text())
        passes = len(record["target"]["accuracy_by_epoch"]) + 1  # and once more for the result
        test_size = record["stages"]["target/eval"]["samples"] // passes
        assert record["stages"]["target/eval"]["samples"] == passes * test_size
        assert record["stages"]["target/eval"]["flops_forward"] == passes * test_size * forward.forward


def test_a_stage_within_a_stage_is_charged_once() -> None:
    ledger = Ledger(torch.device("cpu"))
    with ledger.stage("training"):
        time.sleep(0.01)
        with ledger.stage("evaluation"):
            time.sleep(0.05)
            with ledger.stage("counting"):
                time.sleep(0.02)
    bill = ledger.close_round()
    stages = bill.stages
    assert stages["training"].seconds >= 0.01
    assert stages["evaluation"].seconds >= 0.05
    assert stages["counting"].seconds >= 0.02
    assert sum(cost.seconds for cost in stages.values()) <= bill.seconds
    assert bill.seconds - sum(cost.seconds for cost in stages.values()) == pytest.approx(bill.unaccounted)


def test_a_stage_that_fails_within_a_stage_is_taken_out_all_the_same() -> None:
    ledger = Ledger(torch.device("cpu"))

    def fail() -> None:
        with ledger.stage("evaluation"):
            time.sleep(0.05)
            raise ValueError("broken")

    with ledger.stage("training"):
        with pytest.raises(ValueError, match="broken"):
            fail()
        time.sleep(0.01)
    bill = ledger.close_round()
    assert sum(cost.seconds for cost in bill.stages.values()) <= bill.seconds


def test_epoch_0_of_a_fused_start_is_the_fused_network_and_its_selector_stands_beside_it(
    tiny: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    only = ("--set", "recipes=[prunefuse, random]", "--set", "task.budgets=[0.02, 0.05]")
    assert run_cli("run", tiny, "--out", tmp_path / "run", *CURVE, *only)[0] == 0
    cell = plan(load_suite(str(tiny), ["recipes=[prunefuse]", "task.budgets=[0.02, 0.05]"]))[0]
    work = Cell(cell.task, cell.recipe, cell.seed)
    target = work.new_target()
    labeled = work.pool.label(work.random_start())
    selector = work.train_selector(work.new_selector(target), labeled, 0)
    assert selector is not None
    start = cell.recipe.target_start.begin(target, selector.network, derive_seed(cell.seed, "rest", 0)).network
    found = evaluate(start, work.test_images, work.test_labels, cell.task.training).accuracy
    curves, results = load_curves(tmp_path / "run"), load_results(tmp_path / "run")
    own = curves[(curves["method"] == "prunefuse") & (curves["labels"] == 29)]
    assert own["accuracy"].iloc[0] == found
    assert set(own["selector_accuracy"]) == set(
        results.loc[(results["method"] == "prunefuse") & (results["labels"] == 29), "selector_accuracy"]
    )
    assert curves.loc[curves["method"] == "random", "selector_accuracy"].isna().all()
