"""The parts of the paper's bound (sections 5 and 9.2), against numbers that are reckoned by hand."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from tiny_runs import TINY, tiny_run
from torch import Tensor, nn

from prunefuse_bench import load_results
from prunefuse_bench.cell import Cell
from prunefuse_bench.config import load_suite
from prunefuse_bench.data import Augmentation, Normalisation
from prunefuse_bench.decomposition import Decomposition, Gaps, PoolLosses, parameter_distance, sample_losses
from prunefuse_bench.errors import CellFailed
from prunefuse_bench.fusion import fuse
from prunefuse_bench.loop import active_learning
from prunefuse_bench.models import build_model
from prunefuse_bench.pruning import Extent, Network, PrunedNetwork, prune
from prunefuse_bench.publishing import pack, verify
from prunefuse_bench.randomness import generator
from prunefuse_bench.records import CellStore, load_decomposition
from prunefuse_bench.report import write_leaderboard, write_page, write_tables
from prunefuse_bench.rounds import Round
from prunefuse_bench.runner import PlannedCell, plan
from prunefuse_bench.training import StepSchedule, TrainingRecipe, evaluate, fit

RunCli = Callable[..., tuple[int, str, str]]
TRAINING = TrainingRecipe(
    StepSchedule(1), 8, 0.9, 0.0, Augmentation(), Normalisation((0.0,), (255.0,)), precision="fp32"
)
FEW = ("task.budgets=[0.02, 0.03, 0.04, 0.05]", "task.accuracy_by_epoch=false")
SYNCED = "{method: prunefuse, sync_every: 2, label: synced}"
METHODS = f"recipes=[random, al, {SYNCED}]"


class TwoLayers(nn.Module):
    """Two linear layers without a bias, in float64."""

    def __init__(self, first: list[list[float]], second: list[list[float]]) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.tensor(first, dtype=torch.float64))
        self.second = nn.Parameter(torch.tensor(second, dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        return (images.flatten(1).double() @ self.first.T).relu() @ self.second.T


DENSE = TwoLayers([[1.0, -2.0], [0.5, 0.25], [3.0, 1.0]], [[1.0, 2.0, -1.0], [0.0, -1.0, 0.5]])
PRUNED = PrunedNetwork(
    TwoLayers([[1.5, -2.0], [3.0, 0.0]], [[1.0, -1.0], [0.5, 2.5]]),  # hidden units 0 and 2 are kept
    {"first": torch.tensor([[0, 1], [4, 5]]), "second": torch.tensor([[0, 2], [3, 5]])},
    (),
    Extent(None, (3, 2), (12, 8)),
)
PIXELS = torch.tensor([[255, 0], [51, 102], [0, 255], [204, 153]], dtype=torch.uint8).reshape(4, 1, 1, 2)
LABELS = torch.tensor([0, 1, 1, 0])


def losses_by_hand(first: list[list[float]], second: list[list[float]]) -> list[float]:
    found = []
    for (a, b), label in zip([(1.0, 0.0), (0.2, 0.4), (0.0, 1.0), (0.8, 0.6)], [0, 1, 1, 0], strict=True):
        hidden = [max(0.0, one * a + two * b) for one, two in first]
        logits = [sum(weight * value for weight, value in zip(row, hidden, strict=True)) for row in second]
        found.append(math.log(sum(map(math.exp, logits))) - logits[label])
    return found


def test_gaps_and_delta_of_a_tiny_network_by_hand() -> None:
    theta = losses_by_hand([[1, -2], [0.5, 0.25], [3, 1]], [[1, 2, -1], [0, -1, 0.5]])
    theta_p = losses_by_hand([[1.5, -2], [3, 0]], [[1, -1], [0.5, 2.5]])
    losses = PoolLosses(*(sample_losses(n, PIXELS, LABELS, TRAINING) for n in (DENSE, PRUNED.model)))
    assert losses.target.dtype == torch.float64
    assert losses.target.tolist() == pytest.approx(theta, rel=1e-6)  # pixels are float32
    assert losses.selector is not None
    assert losses.selector.tolist() == pytest.approx(theta_p, rel=1e-6)
    gaps = losses.gaps(torch.tensor([3, 1]))
    assert gaps.target == pytest.approx(abs((theta[3] + theta[1]) / 2 - sum(theta) / 4), rel=1e-5)
    assert gaps.selector == pytest.approx(abs((theta_p[3] + theta_p[1]) / 2 - sum(theta_p) / 4), rel=1e-5)
    assert losses.gaps(torch.arange(4)) == Gaps(0.0, 0.0), "of the whole pool"


def test_rho_of_a_tiny_network_by_hand() -> None:
    found = parameter_distance(DENSE, PRUNED)
    assert found is not None
    kept = 0.5**2 + 1.0**2 + 0.5**2 + 2.0**2  # 1 -> 1.5, 1 -> 0, 0 -> 0.5, 0.5 -> 2.5
    pruned = 0.5**2 + 0.25**2 + 2.0**2 + 1.0**2  # the coordinates of hidden unit 1
    norm = 1 + 4 + 0.25 + 0.0625 + 9 + 1 + 1 + 4 + 1 + 0 + 1 + 0.25
    assert found.kept == pytest.approx(math.sqrt(kept), rel=1e-15)
    assert found.rho == pytest.approx(math.sqrt(kept + pruned), rel=1e-15)
    assert found.target_norm == pytest.approx(math.sqrt(norm), rel=1e-15)


def test_rho_is_zero_where_nothing_was_trained_and_the_rest_is_zero() -> None:
    dense = build_model("resnet8", num_classes=10, in_channels=1, width=0.5)
    pruned = prune(dense, torch.zeros(1, 1, 8, 8), 0.5)
    fused = fuse(dense, pruned, rest="zero")
    found = parameter_distance(fused, pruned)
    assert found is not None
    assert found.rho == found.kept == 0.0
    small = sum(float(value.detach().double().square().sum()) for value in pruned.model.parameters())
    assert found.target_norm == pytest.approx(math.sqrt(small))


def test_of_a_selector_that_was_only_pruned_the_distance_is_what_was_removed() -> None:
    dense = build_model("resnet8", num_classes=10, in_channels=1, width=0.5)
    pruned = prune(dense, torch.zeros(1, 1, 8, 8), 0.5)
    found = parameter_distance(dense, pruned)
    assert found is not None
    assert found.kept == 0.0
    whole, small = (
        sum(float(value.detach().double().square().sum()) for value in model.parameters())
        for model in (dense, pruned.model)
    )
    assert found.rho == pytest.approx(math.sqrt(whole - small))


def test_other_selectors_have_a_distance_if_they_are_of_the_target_s_architecture() -> None:
    same = parameter_distance(DENSE, Network(DENSE))
    assert same is not None
    assert same.rho == same.kept == 0.0
    assert parameter_distance(DENSE, Network(PRUNED.model)) is None, "without an index map"


def test_delta_sync_and_delta_fresh() -> None:
    synced = Decomposition("synchronised", 0.75, 0.5, 1.0, Gaps(0.0, 0.0), None)
    assert (synced.sync_gap, synced.fresh_gap) == (0.25, 0.25)
    plain = Decomposition("reported", 0.75, 0.5, None, Gaps(0.0, 0.0), None)
    assert (plain.sync_gap, plain.fresh_gap) == (None, 0.25)
    assert Decomposition("reported", 0.75, None, None, Gaps(0.0, None), None).fresh_gap is None


def test_a_loss_that_is_no_number_is_never_averaged() -> None:
    broken = TwoLayers([[math.nan, 0.0]], [[1.0], [1.0]])
    with pytest.raises(CellFailed, match="decomposition: the loss of sample 0 of the pool is nan"):
        sample_losses(broken, PIXELS, LABELS, TRAINING)


@functools.cache
def planned(recipe: str, *, decomposition: bool = True) -> PlannedCell:
    asked = f"task.decomposition={str(decomposition).lower()}"
    (cell,) = plan(load_suite("quick", [*TINY, *FEW, f"recipes=[{recipe}]", asked, "seeds=[0]"]))
    return cell


@functools.cache
def rounds_of(recipe: str, *, decomposition: bool = True) -> list[Round]:
    cell = planned(recipe, decomposition=decomposition)
    return list(active_learning(Cell(cell.task, cell.recipe, cell.seed)))


def test_every_draw_and_every_weight_is_the_same_with_and_without() -> None:
    for one, other in zip(rounds_of(SYNCED, decomposition=False), rounds_of(SYNCED), strict=True):
        assert one.decomposition is None
        assert other.decomposition is not None
        assert torch.equal(one.query, other.query)
        assert one.target_outcome == other.target_outcome
        assert one.selector_outcome == other.selector_outcome
        assert one.selector is not None
        assert other.selector is not None
        weights = other.selector.network.model.state_dict()
        assert all(torch.equal(weights[name], value) for name, value in one.selector.network.model.state_dict().items())


def test_no_draw_is_taken_from_torch_s_own_generator() -> None:
    cell = planned(SYNCED)
    work = Cell(cell.task, cell.recipe, cell.seed)
    rounds = rounds_of(SYNCED)
    target, labeled = work.new_target(), work.pool.label(work.random_start())
    work.train_target(target, rounds[1].selector, labeled, 2, stage="sync")
    state = torch.get_rng_state()
    found, _ = work._decompose(2, target, None, rounds[2].selector, labeled)
    assert torch.equal(torch.get_rng_state(), state)
    assert found is not None
    assert found.fresh_accuracy is not None


def test_a_synchronised_round_by_hand() -> None:
    """Round 2 of T_sync = 2: theta is line 12's network, the fresh selector is line 10's."""
    cell, rounds = planned(SYNCED), rounds_of(SYNCED)
    assert [r.decomposition.target for r in rounds if r.decomposition] == [
        "reported", "reported", "synchronised", "reported",
    ]  # fmt: skip
    work = Cell(cell.task, cell.recipe, cell.seed)
    target = work.new_target()
    for round_ in rounds[:3]:
        labeled = work.pool.label(round_.query)
    fused = work.train_target(target, rounds[1].selector, labeled, 2, stage="sync").network.model
    fresh = prune(target, work.example_input, 0.5).model
    fit(fresh, labeled.images, labeled.labels, cell.task.training, generator(cell.seed, "training", 2))
    found, selector = rounds[2].decomposition, rounds[2].selector
    assert found is not None
    assert selector is not None

    def accuracy(model: nn.Module) -> float:
        return evaluate(model, work.test_images, work.test_labels, cell.task.training).accuracy

    assert found.target_accuracy == accuracy(fused)
    assert found.selector_accuracy == accuracy(selector.network.model)
    assert found.fresh_accuracy == accuracy(fresh)
    assert found.sync_gap == abs(accuracy(fused) - accuracy(selector.network.model))
    assert found.fresh_gap == abs(accuracy(fused) - accuracy(fresh))

    def losses(model: nn.Module) -> numpy.ndarray:
        with torch.no_grad():
            logits = model(cell.task.training.normalisation.apply(work.pool.images)).double().numpy()
        labels = cell.task.dataset.train_labels.numpy()
        return numpy.log(numpy.exp(logits).sum(1)) - logits[numpy.arange(len(logits)), labels]

    bought, query = labeled.indices.numpy(), rounds[3].query.numpy()
    under_target, under_selector = losses(fused), losses(selector.network.model)
    assert found.labeled.target == pytest.approx(abs(under_target[bought].mean() - under_target.mean()), abs=1e-5)
    assert found.labeled.selector == pytest.approx(abs(under_selector[bought].mean() - under_selector.mean()), abs=1e-5)
    following = rounds[3].query_gaps
    assert following is not None
    assert following.target == pytest.approx(abs(under_target[query].mean() - under_target.mean()), abs=1e-5)
    assert following.selector == pytest.approx(abs(under_selector[query].mean() - under_selector.mean()), abs=1e-5)
    assert rounds[0].query_gaps is None, "the random start was chosen by no network"


@pytest.mark.parametrize(("recipe", "number"), [("random", 0), ("al", 1), (SYNCED, 2)])
def test_going_on_from_a_round_gives_the_same_decomposition(tmp_path: Path, recipe: str, number: int) -> None:
    cell, rounds = planned(recipe), rounds_of(recipe)
    store = CellStore.create(tmp_path / "cell", cell.settings)
    for done in rounds[: number + 1]:
        store.write_round(done, {})
    following = next(iter(active_learning(Cell(cell.task, cell.recipe, cell.seed), store.checkpoint())))
    assert following.decomposition == rounds[number + 1].decomposition
    assert following.query_gaps == rounds[number + 1].query_gaps
    assert following.query_gaps is not None
    losses = list((tmp_path / "cell").glob("losses-*.safetensors"))
    assert [file.name for file in losses] == [f"losses-{number:03d}.safetensors"]
    losses[0].unlink()
    without = store.checkpoint()
    assert without is not None
    assert without.is_lost  # they are computed anew: tests/test_faults.py


def test_a_round_that_is_neither_synchronised_nor_reported_has_none() -> None:
    cell = planned(SYNCED)
    task = dataclasses.replace(cell.task, report_rounds=frozenset([0]))
    rounds = list(active_learning(Cell(task, cell.recipe, cell.seed)))
    assert [round_.decomposition is not None for round_ in rounds] == [True, False, True, False]
    assert [round_.query_gaps is not None for round_ in rounds] == [False, True, False, True]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNEFUSE_BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        return tiny_run(
            tmp_path_factory.mktemp("runs") / "run",
            METHODS,
            "task.accuracy_by_epoch=false",
            "task.decomposition=true",
            "seeds=[0]",
        )


def test_the_data_frame_joins_each_pair_of_networks_with_the_query_that_it_chose(folder: Path) -> None:
    frame = load_decomposition(folder)
    assert len(frame) == 3 * 3
    last = frame["labels"] == frame["labels"].max()
    assert frame.loc[last, "gap"].isna().all(), "no query follows"
    assert frame.loc[~last, "gap"].notna().all()
    random, al, synced = (frame[frame["method"] == method] for method in ("random", "al", "synced"))
    assert random[["delta", "rho", "fresh_gap"]].isna().all(axis=None)
    assert (al[["rho", "fresh_gap"]] == 0).all(axis=None), "the selector is the target"
    assert synced["target"].tolist() == ["reported", "reported", "synchronised"]
    assert synced["sync_gap"].notna().tolist() == [False, False, True]
    assert synced[["fresh_gap", "rho"]].notna().all(axis=None)
    assert (synced["rho"] > synced["rho_kept"]).all()
    gaps = (synced["target_accuracy"] - synced["selector_accuracy"]).abs()
    assert (synced["sync_gap"].dropna() == gaps[synced["target"] == "synchronised"]).all()


def test_it_is_charged_to_a_stage_of_its_own_and_to_no_selection(folder: Path, tmp_path: Path) -> None:
    plain = tiny_run(
        tmp_path / "plain",
        METHODS,
        "task.accuracy_by_epoch=false",
        "seeds=[0]",
    )
    same = ["method", "labels", "accuracy", "loss", "selector_accuracy", "selector_flops", "target_flops",
            "selector_paper_flops", "target_paper_flops"]  # fmt: skip
    with_it, without = load_results(folder), load_results(plain)
    assert with_it[same].equals(without[same])
    assert (with_it["total_flops"] > without["total_flops"]).all()
    assert load_decomposition(plain).empty


def test_reports_show_it_and_say_that_it_is_a_diagnosis(folder: Path, tmp_path: Path) -> None:
    write_leaderboard([folder], tmp_path)
    write_page([folder], tmp_path)
    files = write_tables([folder], tmp_path)
    frame = load_decomposition(folder)
    own = frame[(frame["method"] == "synced") & (frame["labels"] == 86)]
    for name in ("leaderboard.md", "leaderboard.html"):
        text = (tmp_path / name).read_text()
        assert "Error decomposition (the paper" in text
        assert "labels that no method was given" in text
        assert f"{own['rho'].item():.3f}" in text
    assert tmp_path / "leaderboard-decomposition.csv" in files
    assert len((tmp_path / "leaderboard-decomposition.csv").read_text().splitlines()) == len(frame) + 1


def test_such_a_run_can_be_published(folder: Path, tmp_path: Path) -> None:
    assert verify(pack(folder, tmp_path / "run.zip")).summary.cells == 3


def test_it_is_for_active_learning_alone(tmp_path: Path, tiny: Path, run_cli: RunCli) -> None:
    asked = ("--set", "protocol=coreset", "--set", "task.decomposition=true", "--set", "recipes=[random]")
    code, _, errors = run_cli("run", tiny, "--out", tmp_path / "run", *asked)
    assert code == 2
    assert "task.decomposition: expected the protocol active_learning" in errors
