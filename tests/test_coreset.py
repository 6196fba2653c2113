"""The coreset protocol: train the selector on everything, pick once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from prunefuse_bench.cell import Cell
from prunefuse_bench.config import load_suite
from prunefuse_bench.loop import coreset
from prunefuse_bench.recipe import methods
from prunefuse_bench.records import CellStore, Shelf, load_results
from prunefuse_bench.rounds import Round
from prunefuse_bench.runner import PlannedCell, plan

TINY = """
protocol: coreset
task:
  dataset: {name: digits, train_size: 300}
  model: {name: resnet8, width: 0.25}
  training: {epochs: 2, batch_size: 32}
  budgets: [0.25, 0.5]
recipes: [random]
seeds: [0]
precision: fp32
"""
RunCli = Callable[..., tuple[int, str, str]]
EVERY = sorted(set(methods("coreset")) - {"combine"})


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(TINY)
    return file


def plan_cells(tiny: Path, *recipes: str) -> list[PlannedCell]:
    return plan(load_suite(str(tiny), [f"recipes=[{', '.join(recipes)}]"]))


def run(cell: PlannedCell, shelf: Shelf | None = None) -> list[Round]:
    return list(coreset(Cell(cell.task, cell.recipe, cell.seed, shelf=shelf)))


@pytest.mark.parametrize("method", EVERY)
def test_every_method_picks_each_budget_once_from_the_whole_pool(tiny: Path, method: str) -> None:
    (cell,) = plan_cells(tiny, method)
    rounds = run(cell)
    assert [len(round_.query) for round_ in rounds] == [75, 150]
    for round_ in rounds:
        assert len(round_.query.unique()) == len(round_.query) == round_.labels
        assert 0 <= int(round_.query.min()) <= int(round_.query.max()) < 300
        assert round_.target_outcome is not None
    assert ("selector/train" in rounds[0].bill.stages) == (method != "random")
    assert "selector/train" not in rounds[1].bill.stages


def test_the_selector_is_trained_on_the_whole_pool_and_its_history_is_kept(tiny: Path) -> None:
    (cell,) = plan_cells(tiny, "forgetting")
    first, second = run(cell)
    assert first.bill.stages["selector/train"].samples == 2 * 300
    assert first.selector is second.selector
    assert first.selector is not None
    assert first.selector.history is not None
    assert first.selector.history.correct.shape == (2, 300)


def test_all_methods_with_the_same_proxy_have_the_same_selector(tiny: Path) -> None:
    """So a run can train it once, and what it shares is what each would have trained by itself."""
    states = []
    for cell in plan_cells(tiny, "entropy", "css"):
        selector = run(cell)[0].selector
        assert selector is not None
        states.append(selector.network.model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_run_trains_a_shared_selector_once_and_charges_it_to_every_method(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prunefuse_bench import cell as steps

    fit, trainings = steps.fit, []

    def counted(network: torch.nn.Module, images: torch.Tensor, *arguments: object, **settings: object) -> object:
        trainings.append(len(images))
        return fit(network, images, *arguments, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(steps, "fit", counted)
    shelf = Shelf(tmp_path / "selectors")
    names = ("entropy", "css", "forgetting", "prunefuse", "{method: prunefuse, acquisition: moderate}")
    cells = plan_cells(tiny, *names)
    shared = [run(cell, shelf) for cell in cells]
    assert trainings.count(300) == 2  # the target, and the pruned one
    apart = [run(cell) for cell in cells]
    for first, second in zip(shared, apart, strict=True):
        for one, two in zip(first, second, strict=True):
            assert torch.equal(one.query, two.query)
            assert one.target_outcome == two.target_outcome
    seconds = {round_[0].bill.stages["selector/train"].seconds for round_ in shared[:3]}
    assert len(seconds) == 1
    assert seconds.pop() > 0
    assert all(round_[0].bill.stages["selector/train"].samples == 600 for round_ in shared)


@pytest.mark.parametrize("recipe", ["random", "css", "typiclust", "{method: prunefuse, acquisition: forgetting}"])
def test_going_on_after_the_first_budget_gives_the_same_second(tiny: Path, tmp_path: Path, recipe: str) -> None:
    (cell,) = plan_cells(tiny, recipe)
    first, second = run(cell)
    store = CellStore.create(tmp_path / "cell", cell.settings)
    store.write_round(first, {})
    (again,) = coreset(Cell(cell.task, cell.recipe, cell.seed), store.checkpoint())
    assert torch.equal(again.query, second.query)
    assert again.target_outcome == second.target_outcome
    assert again.selector_outcome == second.selector_outcome
    store.write_round(again, {})
    assert list(coreset(Cell(cell.task, cell.recipe, cell.seed), store.checkpoint())) == []


def test_budgets_pay_for_the_selector_the_scoring_and_their_own_ranking(
    tiny: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    code, printed, _ = run_cli("run", tiny, "--out", tmp_path / "run", "--set", "recipes=[random, entropy, css]")
    assert code == 0
    assert "css" in printed
    results = load_results(tmp_path / "run").set_index(["method", "labels"])
    assert (results.loc["random", "selector_seconds"] < 0.1).all()
    entropy = results.loc["entropy", "selector_seconds"]
    assert entropy.min() > 0
    # The second budget has a ranking of its own and nothing else.
    assert abs(entropy.iloc[1] - entropy.iloc[0]) < 0.5 * entropy.iloc[0]
    assert entropy.iloc[0] == pytest.approx(results.loc["css", "selector_seconds"].iloc[0], rel=0.5)
    page = (tmp_path / "run" / "leaderboard.md").read_text()
    assert "coreset selection: the selector is trained on the whole pool" in page
    assert "Budgets:" not in page  # 25 and 50% are the paper's


def test_coreset_and_active_learning_do_not_share_a_folder(tiny: Path, tmp_path: Path, run_cli: RunCli) -> None:
    assert run_cli("run", tiny, "--out", tmp_path / "run")[0] == 0
    code, _, errors = run_cli("run", tiny, "--out", tmp_path / "run", "--set", "protocol=active_learning")
    assert code == 2
    assert "holds a run of another task" in errors
