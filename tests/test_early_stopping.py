"""Training that ends before its schedule (paper, section 9.10 and Table 24)."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunefuse_bench.cell import Cell
from prunefuse_bench.config import load_suite
from prunefuse_bench.data import Augmentation, Normalisation
from prunefuse_bench.errors import BadInput
from prunefuse_bench.loop import active_learning
from prunefuse_bench.models import CifarResNet, count_parameters
from prunefuse_bench.publishing import verify
from prunefuse_bench.randomness import derive_seed, generator
from prunefuse_bench.recipe.originals import SVP_TRAINING
from prunefuse_bench.records import load_results
from prunefuse_bench.report.deviations import deviations
from prunefuse_bench.runner import PlannedCell, plan
from prunefuse_bench.training import EarlyStopping, Fit, StepSchedule, TrainingObserver, TrainingRecipe, evaluate, fit
from prunefuse_bench.training.stopping import hold_out

EPOCHS = 8
IMAGES = torch.randint(0, 256, (90, 1, 8, 8), generator=generator(0, "images"), dtype=torch.uint8)
LABELS = torch.tensor([0] * 60 + [1] * 30)[torch.randperm(90, generator=generator(0, "labels"))]


class Filming(TrainingObserver):
    """Copies the network after every epoch."""

    def __init__(self) -> None:
        self.films: list[nn.Module] = []

    def passed(self, network: nn.Module, epochs: int) -> None:
        self.films.append(copy.deepcopy(network))


def train(stopping: EarlyStopping | None, images: Tensor = IMAGES) -> tuple[Fit, CifarResNet, list[nn.Module]]:
    training = TrainingRecipe(
        StepSchedule(EPOCHS, ((5, 0.1), (3, 0.01))), 16, 0.9, 5e-4, Augmentation(1, flip=True),
        Normalisation((127.5,), (60.0,)), "fp32", stopping=stopping,
    )  # fmt: skip
    torch.manual_seed(0)
    network, filming = CifarResNet(8, 2, in_channels=1, width=0.25), Filming()
    result = fit(network, images, LABELS, training, generator(0, "t"), observers=[filming])
    return result, network, filming.films


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_stopping_after_some_epochs_is_the_beginning_of_the_whole_training() -> None:
    """To the bit, so at the learning rates of the whole schedule: here six epochs, of which one at the second rate."""
    whole, final, films = train(None)
    stopped, network, _ = train(EarlyStopping(after=6))
    assert same(network, films[6])
    assert not same(network, final)
    assert (stopped.epochs, stopped.steps, stopped.samples, stopped.stopped) == (6, 36, 540, "stop_after")
    assert (whole.epochs, whole.stopped, whole.judged) == (EPOCHS, None, 0)


def test_a_training_that_is_stretched_stops_at_the_same_share_of_its_schedule() -> None:
    assert EarlyStopping(after=110).epochs_of(181, 181) == 110
    assert EarlyStopping(after=110).epochs_of(362, 181) == 220
    assert EarlyStopping(patience=3).epochs_of(362, 181) == 362


@pytest.mark.parametrize("patience", [1, 2])
def test_a_plateau_stops_when_the_held_out_samples_brought_no_new_best(patience: int) -> None:
    """Judged by hand on the films of a training that never stops; what is kept is the last epoch, not the best."""
    draws = torch.Generator().manual_seed(derive_seed(generator(0, "t").initial_seed(), "holdout"))
    kept, held = hold_out(LABELS, 0.2, draws)
    never, _, films = train(EarlyStopping(patience=1000, holdout=0.2))
    assert (never.epochs, never.stopped, never.judged) == (EPOCHS, None, EPOCHS * len(held))
    training = TrainingRecipe(
        StepSchedule(1), 16, 0, 0, Augmentation(0, flip=False), Normalisation((127.5,), (60.0,)), "fp32"
    )
    accuracies = [evaluate(copy.deepcopy(film), IMAGES[held], LABELS[held], training).accuracy for film in films[1:]]
    expected = next(
        end
        for end in range(patience + 1, EPOCHS + 1)
        if max(accuracies[end - patience : end]) <= max(accuracies[: end - patience])
    )
    assert expected < EPOCHS
    stopped, network, _ = train(EarlyStopping(patience=patience, holdout=0.2))
    assert (stopped.epochs, stopped.stopped) == (expected, "plateau")
    assert (stopped.samples, stopped.judged) == (expected * len(kept), expected * len(held))
    assert same(network, films[expected])
    assert not same(network, films[expected - patience])


def test_held_out_samples_are_not_trained_on() -> None:
    draws = torch.Generator().manual_seed(derive_seed(generator(0, "t").initial_seed(), "holdout"))
    kept, held = hold_out(LABELS, 0.2, draws)
    black, other = IMAGES.clone(), IMAGES.clone()
    black[held] = 0
    other[kept[0]] = 0
    never = EarlyStopping(patience=1000, holdout=0.2)
    networks = [train(never, images)[1] for images in (IMAGES, black, other)]
    assert same(networks[0], networks[1])
    assert not same(networks[0], networks[2])


def test_every_class_gives_its_share_of_the_held_out_samples() -> None:
    labels = torch.tensor([0] * 200 + [1] * 95 + [2] * 5)[torch.randperm(300, generator=generator(0, "shuffle"))]
    parts = [hold_out(labels, 0.1, generator(seed, "draw")) for seed in range(3)]
    for kept, held in parts:
        assert torch.equal(torch.cat([kept, held]).sort().values, torch.arange(300))
        assert len(held) == 30
        counts = labels[held].bincount(minlength=3)
        assert (counts - torch.tensor([20, 9.5, 0.5])).abs().max() < 1
    assert not torch.equal(parts[0][1], parts[1][1])
    assert torch.equal(parts[0][1], hold_out(labels, 0.1, generator(0, "draw"))[1])


def plan_cells(tiny: Path, recipes: str, *overrides: str) -> list[PlannedCell]:
    shared = [f"recipes=[{recipes}]", "task.training.epochs=6", "task.training.min_steps=0", "task.budgets=[0.02,0.03]"]
    return plan(load_suite(str(tiny), [*shared, *overrides]))


@pytest.mark.parametrize(("selectors", "epochs"), [("false", 6), ("true", 4)])
def test_targets_and_fused_networks_stop_and_selectors_only_if_asked(tiny: Path, selectors: str, epochs: int) -> None:
    (cell,) = plan_cells(
        tiny,
        "{method: prunefuse, sync_every: 1}",
        "task.training.stop_after=4",
        f"task.training.stop_selectors={selectors}",
    )
    first, second = active_learning(Cell(cell.task, cell.recipe, cell.seed))
    for round_, labels in ((first, 29), (second, 43)):
        assert round_.target_outcome is not None
        assert round_.selector_outcome is not None
        assert (round_.target_outcome.fit.epochs, round_.target_outcome.fit.stopped) == (4, "stop_after")
        assert round_.selector_outcome.fit.epochs == epochs
        assert round_.bill.stages["selector/train"].samples == epochs * labels
    assert second.bill.stages["sync/train"].samples == 4 * 43


def test_a_selector_that_is_the_target_stops_and_is_charged_for_what_was_run(
    tiny: Path, tmp_path: Path, run_cli: Any
) -> None:
    out = tmp_path / "run"
    code, _, errors = run_cli(
        "run", tiny, "--out", out, "--set", "recipes=[random, al]", "--set", "task.training.epochs=6",
        "--set", "task.training.plateau={patience: 1, holdout: 0.25}", "--set", "task.budgets=[0.05]",
    )  # fmt: skip
    assert code == 0, errors
    rows = load_results(out)
    assert rows["stopped"].tolist() == ["plateau"] * 2
    assert rows["epochs"].nunique() == 1  # one network on one random start
    epochs = int(rows["epochs"].iloc[0])
    assert 1 < epochs < 6
    cell, _ = plan_cells(tiny, "random, al")
    work = Cell(cell.task, cell.recipe, cell.seed)
    parameters, values = count_parameters(work.new_target()), work.example_input.numel()
    held = round(0.25 * 72)
    by_paper = parameters * values * epochs * (6 * (72 - held) + 2 * held)
    assert rows["target_paper_flops"].tolist() == pytest.approx([by_paper] * 2)
    assert rows["steps"].tolist() == [epochs * 2] * 2  # 54 samples in batches of 32
    assert "stop 1 epochs without a better accuracy" in (out / "leaderboard.md").read_text()
    assert run_cli("submit", out, "--out", tmp_path / "submission.zip")[0] == 0
    assert verify(tmp_path / "submission.zip").summary.rounds == 2


def test_a_network_that_is_pruned_meanwhile_does_not_stop_before_its_last_step(tiny: Path) -> None:
    (cell,) = plan_cells(
        tiny,
        "{method: prunefuse, pruning: dynamic, pruning_steps: 2, pruning_epochs: 4}",
        "task.training.plateau={patience: 1, holdout: 0.5}",
        "task.training.stop_selectors=true",
    )
    first = next(active_learning(Cell(cell.task, cell.recipe, cell.seed)))
    assert first.selector_outcome is not None
    assert first.selector_outcome.removed is not None
    assert first.selector_outcome.fit.epochs > 4
    before, after = first.selector_outcome.removed.channels
    assert 1 - after / before == pytest.approx(0.5, abs=0.02)


def test_without_early_stopping_a_cell_keeps_its_settings(tiny: Path) -> None:
    (plain,) = plan_cells(tiny, "al")
    (stopped,) = plan_cells(tiny, "al", "task.training.stop_after=4")
    assert "stopping" not in plain.settings["task"]["training"]
    assert stopped.settings["task"]["training"].pop("stopping")["after"] == 4
    assert stopped.settings == plain.settings


def test_the_originals_own_schedule_is_run_to_its_end(tiny: Path) -> None:
    (cell,) = plan_cells(tiny, "al", "task.training.stop_after=4")
    assert cell.task.training.stopping is not None
    assert SVP_TRAINING.apply(cell.task.training).stopping is None


def test_early_stopping_is_said_where_results_are_read(tiny: Path) -> None:
    (cell,) = plan_cells(tiny, "al", "task.training.stop_after=4")
    said = [text for text in deviations([cell.settings]) if text.startswith("Early stopping")]
    assert said == [
        "Early stopping: targets stop after 4 of 6 epochs. The paper's (Table 24) is after 110 of 181 epochs."
    ]


@pytest.mark.parametrize(
    ("recipe", "overrides", "said"),
    [
        ("al", ["task.training.stop_after=6"], "stop_after: expected fewer than the 6 epochs"),
        ("al", ["task.training.stop_selectors=true"], "expected stop_after or plateau.patience with it"),
        ("al", ["task.training.plateau.holdout=0.2"], "expected a patience with it"),
        ("al", ["task.training.plateau={patience: 2, holdout: 0.01}"], "0.01 of the 29 labels"),
        ("alse", ["task.training.plateau.patience=2"], "snapshots are taken at shares of the selector's training"),
        (
            "forgetting",
            ["task.training.plateau.patience=2", "task.training.stop_selectors=true", "protocol=coreset"],
            "needs the training history of every sample",
        ),
        (
            "{method: prunefuse, pruning: dynamic, pruning_steps: 1, pruning_epochs: 4}",
            ["task.training.stop_after=4", "task.training.stop_selectors=true"],
            "until epoch 4, but its training has only 4",
        ),
    ],
)
def test_what_cannot_be_stopped_is_refused_before_any_training(
    tiny: Path, recipe: str, overrides: list[str], said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        plan_cells(tiny, recipe, *overrides)
