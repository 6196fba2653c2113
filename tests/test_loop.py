from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from prunefuse_bench.cell import Cell
from prunefuse_bench.config import load_suite
from prunefuse_bench.loop import active_learning
from prunefuse_bench.pruning import prune
from prunefuse_bench.randomness import derive_seed, generator
from prunefuse_bench.records import CellStore
from prunefuse_bench.rounds import Round
from prunefuse_bench.runner import PlannedCell, plan
from prunefuse_bench.training import evaluate, fit


def plan_cells(tiny: Path, *recipes: str, budgets: str = "[0.02, 0.05, 0.1]", **settings: str) -> list[PlannedCell]:
    overrides = [f"recipes=[{', '.join(recipes)}]", f"task.budgets={budgets}"]
    return plan(load_suite(str(tiny), overrides + [f"{key}={value}" for key, value in settings.items()]))


def run(cell: PlannedCell) -> list[Round]:
    return list(active_learning(Cell(cell.task, cell.recipe, cell.seed)))


def accuracy(round_: Round) -> float:
    assert round_.target_outcome is not None
    return round_.target_outcome.evaluation.accuracy


def test_methods_of_one_seed_share_the_initial_labels_weights_and_batches(tiny: Path) -> None:
    """random and al train the same network on the same labels first: equal to the bit, not nearly."""
    random, al, prunefuse = (run(cell) for cell in plan_cells(tiny, "random", "al", "prunefuse"))
    assert torch.equal(random[0].query, al[0].query)
    assert torch.equal(random[0].query, prunefuse[0].query)
    assert accuracy(random[0]) == accuracy(al[0])
    assert random[0].target_outcome.evaluation.loss == al[0].target_outcome.evaluation.loss  # type: ignore[union-attr]
    assert not torch.equal(random[1].query, al[1].query)


def test_seeds_differ(tiny: Path) -> None:
    first, second = (run(cell) for cell in plan_cells(tiny, "random", seeds="[0, 1]"))
    assert not torch.equal(first[0].query, second[0].query)
    assert not torch.equal(first[1].query, second[1].query)


@pytest.mark.parametrize("recipe", ["random", "al", "{method: prunefuse, acquisition: kcenters}"])
def test_budgets_are_met_and_nothing_is_labeled_twice(tiny: Path, recipe: str) -> None:
    (cell,) = plan_cells(tiny, recipe)
    rounds = run(cell)
    assert [round_.labels for round_ in rounds] == [29, 72, 144]
    assert [len(round_.query) for round_ in rounds] == [29, 43, 72]
    everything = torch.cat([round_.query for round_ in rounds])
    assert len(everything.unique()) == 144


def test_all_of_the_pool_can_be_labeled(tiny: Path) -> None:
    (cell,) = plan_cells(tiny, "al", budgets="[0.02, 1.0]")
    rounds = run(cell)
    assert sorted(torch.cat([round_.query for round_ in rounds]).tolist()) == list(range(1437))


def test_active_learnings_target_is_its_selector(tiny: Path) -> None:
    (cell,) = plan_cells(tiny, "al")
    for round_ in run(cell):
        assert round_.target_outcome == round_.selector_outcome
        assert "target/train" not in round_.bill.stages


def test_random_has_no_selector_and_no_cost_of_one(tiny: Path) -> None:
    (cell,) = plan_cells(tiny, "random")
    for round_ in run(cell):
        assert round_.selector is None
        assert not set(round_.bill.stages) & {"prune", "selector/train", "selector/infer", "selector/eval"}


def test_prunefuse_selects_with_the_small_network_and_reports_the_dense_one(tiny: Path) -> None:
    (cell,) = plan_cells(tiny, "prunefuse")
    for round_ in run(cell):
        assert round_.selector_outcome is not None
        assert round_.target_outcome is not None
        assert round_.selector_outcome.parameters < 0.35 * round_.target_outcome.parameters
        assert {"selector/train", "fuse", "target/train"} <= set(round_.bill.stages)


@pytest.mark.parametrize(("every", "synced"), [(0, []), (1, [1, 2, 3, 4]), (2, [2, 4]), (3, [3])])
def test_synchronisation_happens_when_r_is_a_multiple_of_the_interval(
    tiny: Path, every: int, synced: list[int]
) -> None:
    (cell,) = plan_cells(tiny, f"{{method: prunefuse, sync_every: {every}}}", budgets="[0.02, 0.03, 0.04, 0.05, 0.06]")
    rounds = run(cell)
    assert [round_.number for round_ in rounds if "sync/train" in round_.bill.stages] == synced
    assert [round_.number for round_ in rounds if "sync/fuse" in round_.bill.stages] == synced
    histories = [round_.selector.network.history for round_ in rounds]  # type: ignore[union-attr]
    for number in range(1, 5):
        pruned_anew = number in synced
        assert (histories[number] != histories[0]) == pruned_anew, number


def test_the_selector_is_trained_from_scratch_every_round(tiny: Path) -> None:
    """Round 2's selector is what training the untouched start on round 2's labels gives."""
    (cell,) = plan_cells(tiny, "prunefuse")
    rounds = run(cell)
    work = Cell(cell.task, cell.recipe, cell.seed)
    for round_ in rounds:
        labeled = work.pool.label(round_.query)
    again = work.train_selector(work.new_selector(work.new_target()), labeled, 2)
    assert again is not None
    assert rounds[2].selector is not None
    state = rounds[2].selector.network.model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in again.network.model.state_dict().items())


def test_a_synchronised_round_line_by_line(tiny: Path) -> None:
    """Round 1 of T_sync = 1, built by hand from round 0's selector: lines 12, 13 and then 14, 15."""
    (cell,) = plan_cells(tiny, "{method: prunefuse, sync_every: 1}", budgets="[0.02, 0.05]")
    rounds = run(cell)
    work = Cell(cell.task, cell.recipe, cell.seed)
    target = work.new_target()
    for round_ in rounds:
        labeled = work.pool.label(round_.query)
    first = rounds[0].selector
    assert first is not None
    training, start = cell.task.training, cell.recipe.target_start
    begun = start.begin(target, first.network, derive_seed(cell.seed, "rest", 1))
    assert begun.teacher is first.network.model
    fit(begun.network, labeled.images, labeled.labels, training, generator(cell.seed, "training", 1),
        teacher=begun.teacher, distillation=begun.distillation)  # fmt: skip
    pruned = prune(begun.network, work.example_input, 0.5)
    fit(pruned.model, labeled.images, labeled.labels, training, generator(cell.seed, "training", 1))
    found = rounds[1].selector
    assert found is not None
    state = found.network.model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in pruned.model.state_dict().items())
    final = start.begin(target, pruned, derive_seed(cell.seed, "rest", 1))
    fit(final.network, labeled.images, labeled.labels, training, generator(cell.seed, "training", 1),
        teacher=final.teacher, distillation=final.distillation)  # fmt: skip
    evaluation = evaluate(final.network, work.test_images, work.test_labels, training)
    assert rounds[1].target_outcome is not None
    assert rounds[1].target_outcome.evaluation == evaluation


@pytest.mark.parametrize("recipe", ["random", "al", "{method: prunefuse, sync_every: 2}"])
def test_going_on_from_any_round_gives_the_same_rest(tiny: Path, tmp_path: Path, recipe: str) -> None:
    (cell,) = plan_cells(tiny, recipe, budgets="[0.02, 0.03, 0.04, 0.05]")
    rounds = run(cell)
    store = CellStore.create(tmp_path / "cell", cell.settings)
    for done in rounds[:-1]:
        store.write_round(done, {})
        again = list(active_learning(Cell(cell.task, cell.recipe, cell.seed), store.checkpoint()))
        assert [round_.number for round_ in again] == list(range(done.number + 1, 4))
        for first, second in zip(rounds[done.number + 1 :], again, strict=True):
            assert torch.equal(first.query, second.query)
            assert first.selector_outcome == second.selector_outcome
            assert first.target_outcome == second.target_outcome


def test_only_reported_budgets_train_a_target(tiny: Path) -> None:
    (cell,) = plan_cells(tiny, "prunefuse", **{"task.report": "[0.1]"})
    rounds = run(cell)
    assert [round_.target_outcome is not None for round_ in rounds] == [False, False, True]


def test_what_does_not_change_the_result_does_not_change_the_identity(tiny: Path) -> None:
    def identity(*overrides: str) -> str:
        return plan(load_suite(str(tiny), ["recipes=[prunefuse]", *overrides]))[0].identity

    assert identity("name=other", "description=words", "task.dataset.title=Digits") == identity()
    changes: list[Any] = [
        "task.training.epochs=2",
        "task.training.weight_decay=0",
        "task.model.width=0.5",
        "task.budgets=[0.02, 0.1]",
        "task.augmentation.flip=true",
        "precision=bf16",
        "seeds=1",
        "recipes=[{method: prunefuse, ratio: 0.6}]",
    ]
    assert len({identity(), *(identity(change) for change in changes)}) == len(changes) + 1


@pytest.mark.parametrize(
    ("recipe", "epochs"),
    [
        ("{method: svp, model: resnet8, width: 0.125, preset: faithful}", 181),
        ("{method: alse, preset: faithful}", 200),
        ("{method: bald, preset: faithful}", 50),
    ],
)
def test_a_faithful_preset_trains_by_the_originals_settings_whatever_the_tasks(
    tiny: Path, recipe: str, epochs: int
) -> None:
    fair, faithful = plan_cells(tiny, recipe.replace("faithful", "fair"), recipe, budgets="[0.02, 0.03]")
    assert fair.identity != faithful.identity
    assert fair.recipe.own_training is None
    for round_ in run(faithful):
        assert round_.target_outcome is not None
        assert round_.target_outcome.fit.epochs == epochs
    assert all(round_.target_outcome.fit.epochs < epochs for round_ in run(fair))  # type: ignore[union-attr]


def test_a_selector_that_nobody_asks_any_more_is_not_trained(tiny: Path) -> None:
    (cell,) = plan_cells(tiny, "bald")
    rounds = run(cell)
    assert ["selector/train" in round_.bill.stages for round_ in rounds] == [True, True, False]
    assert all("target/train" in round_.bill.stages for round_ in rounds)
    (cell,) = plan_cells(tiny, "prunefuse+bald")
    assert all("selector/train" in round_.bill.stages for round_ in run(cell))


def test_balds_target_is_trained_as_every_other_target(tiny: Path) -> None:
    """The first labels are the same, so the first targets of random, bald and svp are the same to the bit."""
    cells = plan_cells(tiny, "random", "bald", "{method: svp, model: resnet8, width: 0.125}", "alse")
    losses = {run(cell)[0].target_outcome.evaluation.loss for cell in cells}  # type: ignore[union-attr]
    assert len(losses) == 1


@pytest.mark.parametrize("recipe", ["alse", "bald", "badge", "typiclust", "batchbald", "prunefuse+alse"])
def test_going_on_with_committees_and_batches_gives_the_same_rest(tiny: Path, tmp_path: Path, recipe: str) -> None:
    (cell,) = plan_cells(tiny, recipe)
    rounds = run(cell)
    store = CellStore.create(tmp_path / "cell", cell.settings)
    store.write_round(rounds[0], {})
    again = list(active_learning(Cell(cell.task, cell.recipe, cell.seed), store.checkpoint()))
    for first, second in zip(rounds[1:], again, strict=True):
        assert torch.equal(first.query, second.query)
        assert first.target_outcome == second.target_outcome
        assert first.tied == second.tied
