"""Selectors that lose their channels while they train (paper, section 9.14)."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunefuse_bench.cell import Cell
from prunefuse_bench.config import load_suite
from prunefuse_bench.cost.flops import count_flops
from prunefuse_bench.data import Augmentation, Normalisation
from prunefuse_bench.errors import BadInput
from prunefuse_bench.loop import active_learning, coreset
from prunefuse_bench.models import CifarResNet, count_parameters
from prunefuse_bench.pruning import PrunedNetwork, entries_kept, gather, prune, prune_further, replay_pruning
from prunefuse_bench.publishing import verify
from prunefuse_bench.randomness import derive_seed, generator
from prunefuse_bench.recipe import resolve_recipe
from prunefuse_bench.records import CellStore, load_results
from prunefuse_bench.rounds import Round
from prunefuse_bench.runner import PlannedCell, plan
from prunefuse_bench.training import Remade, StepSchedule, TrainingRecipe, fit

DYNAMIC = "{method: prunefuse, pruning: dynamic, pruning_steps: 2, pruning_epochs: 2%s}"


def plan_cells(tiny: Path, *recipes: str, epochs: int = 4, budgets: str = "[0.02, 0.05]", **more: str) -> Any:
    overrides = [f"recipes=[{', '.join(recipes)}]", f"task.budgets={budgets}", f"task.training.epochs={epochs}"]
    return plan(load_suite(str(tiny), [*overrides, *(f"{key}={value}" for key, value in more.items())]))


def run(cell: PlannedCell) -> list[Round]:
    return list(active_learning(Cell(cell.task, cell.recipe, cell.seed)))


def pruned_selector(round_: Round) -> PrunedNetwork:
    assert round_.selector is not None
    assert isinstance(round_.selector.network, PrunedNetwork)
    return round_.selector.network


class _NothingRemoved:
    """Takes a copy of the network in the midst of its training, and nothing from it."""

    epochs = (1, 3)

    def __init__(self) -> None:
        self.network: nn.Module | None = None

    def __call__(self, network: nn.Module, epochs: int) -> Remade:
        assert not network.training
        self.network = copy.deepcopy(network)
        everything = {name: torch.arange(p.numel()).view(p.shape) for name, p in network.named_parameters()}
        return Remade(self.network, everything)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_network_that_is_remade_as_it_was_trains_as_if_it_were_not(optimizer: Any) -> None:
    """Momentum or moments, batches, dropout masks, learning rates and batch norms all go on: equal to the bit."""
    images = torch.randint(0, 256, (60, 1, 8, 8), generator=generator(0, "images"), dtype=torch.uint8)
    labels = torch.arange(60) % 3
    training = TrainingRecipe(
        StepSchedule(4, ((1, 0.05), (1, 0.01))), 16, 0.9, 5e-4, Augmentation(1, flip=True),
        Normalisation((127.5,), (60.0,)), "fp32", optimizer=optimizer,
    )  # fmt: skip
    torch.manual_seed(0)
    plain = CifarResNet(8, 3, in_channels=1, width=0.25)
    begun, remaking = copy.deepcopy(plain), _NothingRemoved()
    first = fit(plain, images, labels, training, generator(0, "t"), head_dropout=0.5)
    second = fit(begun, images, labels, training, generator(0, "t"), head_dropout=0.5, remaking=remaking)
    assert first == second
    assert remaking.network is not None
    assert not remaking.network.training
    for (name, one), other in zip(plain.state_dict().items(), remaking.network.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    assert not any(torch.equal(*pair) for pair in zip(plain.parameters(), begun.parameters(), strict=True))


def test_entries_kept_lead_from_each_network_to_the_one_before() -> None:
    torch.manual_seed(0)
    dense, example = CifarResNet(8, 3, in_channels=1), torch.zeros(1, 1, 8, 8)
    first = prune(dense, example, 0.25, criterion="random", seed=1)
    second = prune_further(dense, first, example, 0.5, criterion="random", seed=1)
    kept = entries_kept(first, second)
    before = first.model.state_dict()
    assert kept.keys() == second.model.state_dict().keys()
    for name, tensor in second.model.state_dict().items():
        assert torch.equal(before[name].reshape(-1)[kept[name]], tensor), name


def test_the_selector_is_trained_and_pruned_as_by_hand(tiny: Path) -> None:
    """Plain torch epoch by epoch; momentum goes through the coordinates of the dense network."""
    (cell,) = plan_cells(tiny, DYNAMIC % "", **{"task.augmentation.crop_padding": "0"})
    rounds = run(cell)
    work = Cell(cell.task, cell.recipe, cell.seed)
    dense, labeled = work.new_target(), work.pool.label(rounds[0].query)
    training, draws = cell.task.training, generator(cell.seed, "training", 0)
    current = replay_pruning(dense, work.example_input, ())
    momentum: dict[str, Tensor] = {name: torch.zeros_like(p) for name, p in dense.named_parameters()}
    for epoch in range(4):  # of one step each: 29 samples in batches of 32
        order = torch.randperm(len(labeled), generator=draws)
        training.augmentation.draw(len(labeled), draws, torch.device("cpu"))
        current.model.train()
        rate = training.schedule.learning_rate(epoch, 4)
        images = training.normalisation.apply(labeled.images[order])
        current.model.zero_grad()
        F.cross_entropy(current.model(images), labeled.labels[order]).backward()
        with torch.no_grad():
            for name, parameter in current.model.named_parameters():
                index = current.index_map[name]
                assert parameter.grad is not None
                velocity = momentum[name].flatten()[index] * training.momentum
                velocity += parameter.grad + training.weight_decay * parameter
                momentum[name].view(-1)[index.flatten()] = velocity.flatten()
                parameter.sub_(rate * velocity)
        for done, ratio in ((1, 0.25), (2, 0.5)):
            if epoch + 1 == done:
                current = prune_further(dense, current, work.example_input, ratio, seed=derive_seed(cell.seed, "proxy"))
    found = pruned_selector(rounds[0])
    assert found.history == current.history
    for name, tensor in current.model.state_dict().items():
        assert torch.equal(found.index_map[name], current.index_map[name]), name
        torch.testing.assert_close(found.model.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)
    reached = prune(dense, work.example_input, 0.5)
    assert found.extent == reached.extent
    assert found.history != reached.history  # other channels than at the start are the least important by then


@pytest.mark.parametrize(
    "recipe",
    [
        "{method: prunefuse+bald, sync_every: 1, pruning: dynamic, pruning_steps: 2, pruning_epochs: 3}",
        "{method: prunefuse+alse, pruning: dynamic, pruning_steps: 1, pruning_epochs: 1, snapshots: 2}",
    ],
)
def test_going_on_after_a_round_gives_the_same_next(tiny: Path, tmp_path: Path, recipe: str) -> None:
    (cell,) = plan_cells(tiny, recipe)
    first, second = run(cell)
    store = CellStore.create(tmp_path / "cell", cell.settings)
    store.write_round(first, {})
    (again,) = active_learning(Cell(cell.task, cell.recipe, cell.seed), store.checkpoint())
    assert torch.equal(again.query, second.query)
    assert again.selector_outcome == second.selector_outcome
    assert again.target_outcome == second.target_outcome


def test_the_fused_start_holds_every_entry_of_the_selector(tiny: Path) -> None:
    (cell,) = plan_cells(tiny, DYNAMIC % ", sync_every: 1")
    rounds = run(cell)
    target = Cell(cell.task, cell.recipe, cell.seed).new_target()
    for round_ in rounds:
        selector = pruned_selector(round_)
        begun = cell.recipe.target_start.begin(target, selector, 0).network
        for name, entries in gather(begun.state_dict(), selector.index_map).items():
            assert torch.equal(entries, selector.model.state_dict()[name]), name


def test_training_is_charged_by_the_network_of_each_epoch(tiny: Path) -> None:
    """Epochs 1, 2, and 3 to 4 in networks of their own; local sparsity gives their sizes whatever the weights."""
    (cell,) = plan_cells(tiny, DYNAMIC % "")
    rounds = run(cell)
    work = Cell(cell.task, cell.recipe, cell.seed)
    dense, example = work.new_target(), work.example_input
    flops, by_paper, samples = [0, 0], 0.0, 29
    for epochs, ratio in ((1, 0.0), (1, 0.25), (2, 0.5)):
        network = prune(dense, example, ratio).model
        counted = count_flops(network, example)
        flops = [flops[0] + epochs * samples * counted.forward, flops[1] + epochs * samples * counted.backward]
        by_paper += 6.0 * count_parameters(network) * example[0].numel() * epochs * samples
    stages = rounds[0].bill.stages
    training = stages["selector/train"]
    assert [training.flops_forward, training.flops_backward, training.samples] == [*flops, 4 * samples]
    assert training.paper_flops == pytest.approx(by_paper)
    assert stages["prune"].seconds > 0
    small = count_flops(prune(dense, example, 0.5).model, example).forward
    assert rounds[1].bill.stages["selector/infer"].flops_forward == small * (1437 - samples)


def test_how_much_was_removed_is_on_record(tiny: Path, tmp_path: Path, run_cli: Any) -> None:
    out = tmp_path / "run"
    code, _, errors = run_cli(
        "run", tiny, "--out", out, "--set", f"recipes=[prunefuse, {DYNAMIC % ''}, al]",
        "--set", "task.training.epochs=3", "--set", "task.budgets=[0.02]",
    )  # fmt: skip
    assert code == 0, errors
    cell, *_ = plan_cells(tiny, "prunefuse")
    work = Cell(cell.task, cell.recipe, cell.seed)
    dense, example = work.new_target(), work.example_input
    small = prune(dense, example, 0.5).model
    results = load_results(out)
    rows = results[results["method"] != "al"]
    assert len(rows) == 2
    assert (rows["pruning_ratio"] == 0.5).all()
    assert (rows["pruning_parameters_before"] == count_parameters(dense)).all()
    assert (rows["pruning_parameters_after"] == count_parameters(small)).all()
    assert (rows["pruning_flops_before"] == count_flops(dense, example).forward).all()
    assert (rows["pruning_flops_after"] == count_flops(small, example).forward).all()
    convolutions = [m.out_channels for m in dense.modules() if isinstance(m, nn.Conv2d)]
    left = [m.out_channels for m in small.modules() if isinstance(m, nn.Conv2d)]
    assert rows["pruning_ratio_reached"].tolist() == pytest.approx([1 - sum(left) / sum(convolutions)] * 2)
    assert results[results["method"] == "al"]["pruning_ratio"].isna().all()
    code, _, errors = run_cli("submit", out, "--out", tmp_path / "submission.zip")
    assert code == 0, errors
    assert verify(tmp_path / "submission.zip").summary.rounds == 3


def test_the_ratio_is_still_on_record_after_a_coreset_was_resumed(tiny: Path, tmp_path: Path) -> None:
    (cell,) = plan_cells(tiny, DYNAMIC % "", budgets="[0.01, 0.02]", protocol="coreset", epochs=3)
    first, second = coreset(Cell(cell.task, cell.recipe, cell.seed))
    store = CellStore.create(tmp_path / "cell", cell.settings)
    store.write_round(first, {})
    (again,) = coreset(Cell(cell.task, cell.recipe, cell.seed), store.checkpoint())
    assert again.selector_outcome == second.selector_outcome
    assert again.selector_outcome is not None
    assert again.selector_outcome.removed is not None
    assert again.selector_outcome.removed.ratio == 0.5
    record = json.loads((tmp_path / "cell" / "round-000.json").read_text())
    assert record["selector"]["removed"]["ratio"] == 0.5


@pytest.mark.parametrize(
    ("recipe", "epochs", "said"),
    [
        ("{method: prunefuse, pruning: dynamic}", 20, r"until epoch 20, but its training has only 20.*at most 19"),
        (DYNAMIC % "", 2, "expected more epochs than steps"),
        (
            "{method: prunefuse+alse, pruning: dynamic}",
            34,
            r"first snapshot is taken after epoch 20.4.*\(after epoch 20\)",
        ),
        (DYNAMIC % ", ratio: 0.99", 4, "nothing would be left"),
        (DYNAMIC % ", criterion: taste", 4, "expected one of group_norm"),
        ("{method: prunefuse, pruning: dynamic, pruning_epochs: 3}", 9, "at most one step after each of the 3"),
        ("{method: prunefuse, pruning_epochs: 3}", 9, "only with pruning: dynamic"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_training(tiny: Path, recipe: str, epochs: int, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        plan_cells(tiny, recipe, epochs=epochs)


def test_the_papers_steps_fit_into_its_schedule_with_snapshots_too(tiny: Path) -> None:
    recipes = ("{method: prunefuse, pruning: dynamic}", "{method: prunefuse+alse, pruning: dynamic}")
    for cell in plan_cells(tiny, *recipes, epochs=181):
        steps = cell.recipe.proxy.pruning_steps_to_come
        assert [epochs for epochs, _ in steps] == [4, 8, 12, 16, 20]
        assert [ratio for _, ratio in steps] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


def test_static_pruning_keeps_the_settings_that_cells_had_before() -> None:
    static, dynamic = (
        resolve_recipe({"method": "prunefuse", "pruning": mode}).settings()["proxy"] for mode in ("static", "dynamic")
    )
    before = {"type": "Pruned", "ratio": 0.5, "criterion": "magnitude", "sparsity": "local", "round_to": 1}
    assert static == before
    assert dynamic == {**before, "pruning": "dynamic"}
