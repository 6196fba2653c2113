"""Cells of one run that would train the very same selector train it once."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch

from prunefuse_bench import cell as steps
from prunefuse_bench import runner
from prunefuse_bench.cell import Cell
from prunefuse_bench.config import load_suite
from prunefuse_bench.loop import active_learning
from prunefuse_bench.pruning import PrunedNetwork
from prunefuse_bench.publishing import verify
from prunefuse_bench.records import Shelf, describe_environment, load_results
from prunefuse_bench.records.curves import load_curves
from prunefuse_bench.rounds import Round
from prunefuse_bench.runner import PlannedCell, plan

RETAINED = "{method: prunefuse, rest: retain, label: retained}"
ZERO = "{method: prunefuse, rest: zero, label: zero}"
ENTROPY = "{method: prunefuse, acquisition: entropy}"
TARGET = "{method: combine, label: apart}"


def plan_cells(tiny: Path, *recipes: str, budgets: str = "[0.02, 0.03, 0.04]", **more: str) -> list[PlannedCell]:
    overrides = [f"recipes=[{', '.join(recipes)}]", f"task.budgets={budgets}"]
    return plan(load_suite(str(tiny), [*overrides, *(f"{key}={value}" for key, value in more.items())]))


def run(cell: PlannedCell, shelf: Shelf | None) -> list[Round]:
    return list(active_learning(Cell(cell.task, cell.recipe, cell.seed, shelf=shelf, shared_rounds=cell.shared_rounds)))


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stage of every training, in order."""
    done: list[str] = []
    train = Cell._train

    def counted(self: Cell, network: Any, labeled: Any, number: int, stage: str, *more: Any, **settings: Any) -> Any:
        done.append(f"{stage} {number}")
        return train(self, network, labeled, number, stage, *more, **settings)

    monkeypatch.setattr(steps.Cell, "_train", counted)
    return done


def assert_same(one: list[Round], other: list[Round]) -> None:
    for first, second in zip(one, other, strict=True):
        assert torch.equal(first.query, second.query)
        assert (first.tied, first.selector_outcome) == (second.tied, second.selector_outcome)
        assert first.target_outcome == second.target_outcome
        assert first.bill.stages.keys() - {"records"} == second.bill.stages.keys() - {"records"}
        for stage, cost in first.bill.stages.items():
            if stage != "records":
                for count in ("samples", "flops_forward", "flops_backward", "paper_flops", "uncounted"):
                    assert getattr(cost, count) == getattr(second.bill.stages[stage], count), (stage, count)
        if first.selector is None:
            assert second.selector is None
            continue
        assert second.selector is not None
        ours, theirs = first.selector.network, second.selector.network
        pairs = zip(ours.model.state_dict().values(), theirs.model.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        if isinstance(ours, PrunedNetwork):
            assert isinstance(theirs, PrunedNetwork)
            assert ours.history == theirs.history
            assert ours.extent == theirs.extent
            assert all(torch.equal(index, theirs.index_map[name]) for name, index in ours.index_map.items())


def test_rounds_that_are_shared(tiny: Path) -> None:
    shared = {
        cell.recipe.label: sorted(cell.shared_rounds)
        for cell in plan_cells(
            tiny, "random", "al", TARGET, "prunefuse", RETAINED, "{method: prunefuse, sync_every: 2, label: synced}",
            "{method: prunefuse, acquisition: entropy, label: entropy}", "{method: prunefuse, ratio: 0.6, label: p06}",
            "bald", "{method: svp, model: resnet8, width: 0.125, label: svp}",
        )
    }  # fmt: skip
    assert shared == {
        "random": [], "bald": [], "svp": [], "p06": [],
        "al": [0, 1], "apart": [0, 1],  # whose last selector nobody asks
        "prunefuse": [0, 1, 2], "retained": [0, 1, 2],
        "synced": [0, 1],  # round 2 makes one of its own
        "entropy": [0],  # the random start is the same
    }  # fmt: skip


@pytest.mark.parametrize(
    ("recipes", "expected", "more"),
    [
        (["prunefuse", RETAINED, ENTROPY], {"selector/train 0": 1, "selector/train 1": 2, "selector/train 2": 2}, {}),
        (
            [TARGET, "al"],
            # The first to train round 0 and 1 is no target, so it has drawn no curve, which al needs.
            {"selector/train 0": 2, "selector/train 1": 2, "selector/train 2": 1},
            {"task.accuracy_by_epoch": "true"},
        ),
        (
            ["al", TARGET],
            {"selector/train 0": 1, "selector/train 1": 1, "selector/train 2": 1},
            {"task.accuracy_by_epoch": "true"},
        ),
        (
            [
                "{method: prunefuse, pruning: dynamic, pruning_steps: 2, pruning_epochs: 2}",
                "{method: prunefuse, pruning: dynamic, pruning_steps: 2, pruning_epochs: 2, distil: false}",
            ],
            {"selector/train 0": 1, "selector/train 1": 1},
            {"task.training.epochs": "3", "budgets": "[0.02, 0.03]"},
        ),
        (
            [
                "prunefuse+alse",
                "{method: combine, proxy: pruned, committee: snapshots, acquisition: mean_least_confidence}",
            ],
            {"selector/train 0": 1, "selector/train 1": 1},
            {"budgets": "[0.02, 0.03]"},
        ),
    ],
    ids=["starts of the target", "curve is needed later", "curve was drawn", "dynamic", "snapshots"],
)  # fmt: skip
def test_sharing_changes_no_result_and_no_count(
    tiny: Path, tmp_path: Path, trainings: list[str], recipes: list[str], expected: dict[str, int], more: dict[str, str]
) -> None:
    cells = plan_cells(tiny, *recipes, **more)
    shelf = Shelf(tmp_path / "selectors")
    together = [run(cell, shelf) for cell in cells]
    counts = {stage: trainings.count(stage) for stage in trainings if stage.startswith("selector")}
    assert counts == expected
    for cell, rounds in zip(cells, together, strict=True):
        assert_same(rounds, run(cell, None))


def test_a_shared_selector_is_charged_as_it_was_measured(tiny: Path, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "selectors")
    first, second = (run(cell, shelf) for cell in plan_cells(tiny, "prunefuse", RETAINED))
    for one, two in zip(first, second, strict=True):
        measured, charged = one.bill.stages["selector/train"], two.bill.stages["selector/train"]
        assert measured == charged
        assert measured.seconds > 0
        assert one.bill.borrowed == 0
        assert two.bill.borrowed == pytest.approx(measured.seconds + one.bill.stages["counting"].seconds, rel=0.5)


@pytest.mark.parametrize("damage", ["bit", "cut", "metadata"])
def test_a_damaged_selector_is_trained_anew(tiny: Path, tmp_path: Path, trainings: list[str], damage: str) -> None:
    first, second = plan_cells(tiny, "prunefuse", RETAINED, budgets="[0.02, 0.03]")
    shelf = Shelf(tmp_path / "selectors")
    run(first, shelf)
    files = sorted((tmp_path / "selectors").glob("*/*.safetensors"))
    assert len(files) == 2
    for file in files:
        content = bytearray(file.read_bytes())
        if damage == "bit":
            content[-5] ^= 1
        elif damage == "metadata":
            place = content.index(b"steps")
            content[place + 9 : place + 10] = b"9" if content[place + 9 : place + 10] != b"9" else b"8"
        file.write_bytes(content[: len(content) // 2 if damage == "cut" else len(content)])
    trainings.clear()
    rounds = run(second, shelf)
    assert [stage for stage in trainings if stage.startswith("selector")] == ["selector/train 0", "selector/train 1"]
    assert_same(rounds, run(second, None))
    trainings.clear()
    run(second, shelf)  # what was trained anew is whole
    assert not [stage for stage in trainings if stage.startswith("selector")]


def test_a_selector_of_another_version_is_not_taken(tiny: Path, tmp_path: Path, trainings: list[str]) -> None:
    first, second = plan_cells(tiny, "prunefuse", RETAINED, budgets="[0.02, 0.03]")
    shelf = Shelf(tmp_path / "selectors")
    run(first, shelf.of({"packages": {"torch": "1.0"}}))
    trainings.clear()
    run(second, shelf.of({"packages": {"torch": "1.1"}}))
    assert [stage for stage in trainings if stage.startswith("selector")] == ["selector/train 0", "selector/train 1"]
    trainings.clear()
    run(second, shelf.of({"packages": {"torch": "1.0"}}))
    assert not [stage for stage in trainings if stage.startswith("selector")]


def test_a_selector_left_by_another_version_is_trained_anew_by_resume(
    tiny: Path, tmp_path: Path, run_cli: Any, trainings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    command = ("run", tiny, "--out", out, "--set", "task.budgets=[0.02]", "--resume")
    first, second = (("--set", f"recipes=[{recipes}]") for recipes in (f"prunefuse, {RETAINED}", f"{RETAINED}, {ZERO}"))
    monkeypatch.setattr(runner, "_tidy", lambda *more: None)
    assert run_cli(*command, *first)[0] == 0
    assert trainings.count("selector/train 0") == 1
    monkeypatch.setattr(runner, "describe_environment", lambda device: {**describe_environment(device), "cpu": "new"})
    assert run_cli(*command, *second)[0] == 0
    assert trainings.count("selector/train 0") == 2
    assert len(list(out.glob("selectors/*/*.safetensors"))) == 2


def test_a_run_shares_tidies_up_and_can_be_submitted(
    tiny: Path, tmp_path: Path, run_cli: Any, trainings: list[str]
) -> None:
    out = tmp_path / "run"
    common = ("run", tiny, "--out", out, "--set", "task.budgets=[0.02, 0.03]")
    code, _, errors = run_cli(
        *common, "--set", f"recipes=[al, {TARGET}, prunefuse, {ZERO}]", "--set", "task.accuracy_by_epoch=true"
    )
    assert code == 0, errors
    assert trainings.count("selector/train 0") == trainings.count("selector/train 1") == 2
    assert not list(out.glob("selectors/*"))
    results = load_results(out).set_index(["method", "labels"])
    for column in ("selector_flops", "selector_paper_flops", "selector_accuracy", "pruning_ratio"):
        one, two = (results.loc[method, column].dropna().tolist() for method in ("prunefuse", "zero"))
        assert one == two
    assert set(load_curves(out)["method"]) == {"al", "apart", "prunefuse", "zero"}
    records = [json.loads(file.read_text()) for file in out.glob("cells/*/round-*.json")]
    borrowed = [record for record in records if "borrowed_seconds" in record]
    assert len(borrowed) == 3  # rounds 0 and 1 of the second pruned cell, round 0 of the second with the target
    for record in borrowed:
        accounted = sum(stage["seconds"] for stage in record["stages"].values()) + record["unaccounted_seconds"]
        assert accounted == pytest.approx(record["seconds"] + record["borrowed_seconds"])
    assert run_cli("submit", out, "--out", tmp_path / "submission.zip")[0] == 0
    assert verify(tmp_path / "submission.zip").summary.rounds == 8


class _NobodyYet(Shelf):
    """What a cell sees of the shelf while another is still training the selector that it wants."""

    def within(self, settings: Any) -> Shelf:
        return _NobodyYet(super().within(settings).folder)

    def get(self, settings: Any) -> None:
        return None


def test_two_cells_may_train_the_same_selector_at_once(tiny: Path, tmp_path: Path, trainings: list[str]) -> None:
    first, second = plan_cells(tiny, "prunefuse", RETAINED, budgets="[0.02, 0.03]")
    folder = tmp_path / "selectors"
    for cell in (first, second):
        run(cell, _NobodyYet(folder))
    assert trainings.count("selector/train 0") == 2
    assert len(list(folder.glob("*/*"))) == 2
    assert_same(run(second, Shelf(folder)), run(second, None))


def _run_in_a_process(suite: Path, out: Path, recipes: str) -> None:
    cell, _ = plan(load_suite(str(suite), ["task.budgets=[0.02, 0.03]", f"recipes=[{recipes}]"]))
    run(cell, Shelf(out))


@pytest.mark.slow
def test_two_processes_share_a_shelf(tiny: Path, tmp_path: Path) -> None:
    context, out = multiprocessing.get_context("spawn"), tmp_path / "selectors"
    processes = [
        context.Process(target=_run_in_a_process, args=(tiny, out, recipes))
        for recipes in (f"prunefuse, {RETAINED}", f"{RETAINED}, prunefuse")
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    assert sorted(file.suffix for file in out.glob("*/*")) == [".safetensors"] * 2
    cell, _ = plan_cells(tiny, RETAINED, "prunefuse", budgets="[0.02, 0.03]")
    assert_same(run(cell, Shelf(out)), run(cell, None))
