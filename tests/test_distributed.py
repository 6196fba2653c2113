"""One cell on several processes: what is chosen is what one process chooses, what is trained is nearly the same."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from kcenters_data import DATA
from quick_start import QuickStart
from torch import Tensor

from prunefuse_bench.distributed.kcenters import RowShard, sharded_kcenters
from prunefuse_bench.distributed.world import World
from prunefuse_bench.records import RunFolder

TOLERANCE = 1e-3
"""Largest difference of weights after some twenty steps in float32, as a share of the tensor's largest entry."""

CHOOSE = """
import json, sys, torch
from prunefuse_bench.cell import Cell
from prunefuse_bench.config import load_suite
from prunefuse_bench.distributed import joined
from prunefuse_bench.recipe import Trained
from prunefuse_bench.runner import plan
from prunefuse_bench.training import Fit

with joined() as world:
    chosen = {}
    for cell in plan(load_suite(sys.argv[1], sys.argv[3:])):
        work = Cell(cell.task, cell.recipe, cell.seed)
        untrained = work.new_selector(work.new_target())
        labeled = work.pool.label(work.random_start())
        selector = Trained(untrained, Fit(0, 0, 0, 0.0))
        opinions = work.ask(selector, work.pool.unlabeled, labeled, 1)
        choice = work.choose(200, opinions)
        rows = -1 if opinions.feature_shard is None else len(opinions.feature_shard.rows)
        chosen[cell.recipe.label] = choice.indices.tolist(), choice.tied, world.gather_objects(rows)
    if world.is_first:
        json.dump(chosen, open(sys.argv[2], "w"))
"""

TRAIN = """
import copy, json, sys, torch, safetensors.torch
from prunefuse_bench.data import Augmentation, Normalisation
from prunefuse_bench.distributed import joined
from prunefuse_bench.models import build_model
from prunefuse_bench.training import (
    Distillation, HistoryRecorder, SnapshotRecorder, StepSchedule, TrainingRecipe, evaluate, fit,
)
from prunefuse_bench.training.stopping import EarlyStopping

torch.use_deterministic_algorithms(True)
asked = json.loads(sys.argv[2])
draws = torch.Generator().manual_seed(0)
count = asked["count"]
images = torch.randint(0, 256, (count, 1, 8, 8), generator=draws).to(torch.uint8)
labels = (images.float().mean((1, 2, 3)) > 127).long() + 2 * (images[:, 0, 0, 0] > 127).long()
stopping = EarlyStopping(patience=1, holdout=0.2) if asked.get("patience") else None
training = TrainingRecipe(
    StepSchedule(3, ((1.0, 0.05),)), 32, 0.9, 5e-4, Augmentation(1), Normalisation((127.0,), (70.0,)), "fp32",
    stopping=stopping,
)
with joined() as world:
    torch.manual_seed(world.rank)  # what is not drawn from a generator of its own would differ
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = build_model("resnet8", num_classes=4, in_channels=1, width=0.25)
        teacher = build_model("resnet8", num_classes=4, in_channels=1, width=0.25).eval()
    distilled = {"teacher": teacher, "distillation": Distillation()} if asked.get("distil") else {}
    history, snapshots = HistoryRecorder(), SnapshotRecorder((0.5, 1.0))
    result = fit(
        network, images, labels, training, torch.Generator().manual_seed(2), **distilled,
        head_dropout=asked.get("dropout", 0.0), observers=[history, snapshots],
    )
    judged = evaluate(network, images, labels, training)
    state = {f"network {name}": tensor for name, tensor in network.state_dict().items()}
    for place, snapshot in enumerate(snapshots.snapshots):
        state |= {f"snapshot {place} {name}": tensor for name, tensor in snapshot.items()}
    state |= {f"history {name}": tensor for name, tensor in history.history().tensors().items() if name != "correct"}
    facts = [result.epochs, result.steps, result.samples, result.judged, len(snapshots.snapshots)]
    state["facts"] = torch.tensor(facts)
    state["loss"] = torch.tensor([result.loss, judged.loss])
    weights = torch.cat([tensor.flatten().double() for tensor in network.state_dict().values()])
    assert bool((world.stack(weights) == weights).all()), "the processes have trained different networks"
    if world.is_first:
        safetensors.torch.save_file({name: tensor.contiguous().clone() for name, tensor in state.items()}, sys.argv[1])
"""

FAIL = """
import os, sys
from prunefuse_bench import cell
from prunefuse_bench.cli import main
from prunefuse_bench.errors import CannotWrite

def fail(self):
    raise CannotWrite("the disk of one machine is full")

if os.environ["RANK"] == "1":
    cell.Cell.random_start = fail
sys.argv = ["prunefuse-bench", "run", *sys.argv[1:]]
main()
"""


def started(python: QuickStart, processes: int, script: str, *arguments: str) -> list[tuple[int, str]]:
    """Exit code and stderr of every process, as torchrun would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {**os.environ, "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if processes == 1:
        del common["WORLD_SIZE"]
    at_work = [
        python.start("-c", script, *arguments, environment={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(processes)
    ]
    said = [one.communicate()[1] for one in at_work]
    return [(int(one.returncode or 0), text) for one, text in zip(at_work, said, strict=True)]


def check(ended: Sequence[tuple[int, str]]) -> None:
    assert [code for code, _ in ended] == [0] * len(ended), "\n".join(text for _, text in ended)


SUITE = """
task:
  dataset: {name: digits}
  model: {name: resnet8, width: 0.25}
  training: {epochs: 1, min_steps: 4, batch_size: 32}
  budgets: [0.02, 0.2]
recipes: [al, {method: prunefuse, acquisition: kcenters}, {method: prunefuse, acquisition: least_confidence}]
seeds: [0]
precision: fp32
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    file = tmp_path / "suite.yaml"
    file.write_text(SUITE)
    return file


def choices(python: QuickStart, processes: int, suite: Path, *overrides: str) -> dict[str, Any]:
    file = suite.with_name(f"chosen-{processes}.json")
    check(started(python, processes, CHOOSE, str(suite), str(file), *overrides))
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def trained(python: QuickStart, processes: int, folder: Path, **asked: object) -> dict[str, Tensor]:
    file = folder / f"trained-{processes}.safetensors"
    check(started(python, processes, TRAIN, str(file), json.dumps(asked)))
    return safetensors.torch.load_file(file)


def assert_nearly_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert torch.equal(found["facts"], expected["facts"])
    for name, tensor in expected.items():
        difference = (found[name].double() - tensor.double()).abs().max()
        assert difference <= TOLERANCE * tensor.double().abs().max().clamp(min=1e-2), f"{name}: {difference:.2g}"


def test_two_processes_choose_what_one_chooses(python: QuickStart, suite: Path) -> None:
    one, two = choices(python, 1, suite), choices(python, 2, suite)
    assert one.keys() == two.keys()
    assert len(one) == 3
    for label in one:
        assert two[label][:2] == one[label][:2], label
    held = two["prunefuse(acquisition=kcenters)"][2]
    assert len(held) == 2
    assert min(held) > 0, "each process holds some of the features"
    assert one["prunefuse(acquisition=kcenters)"][2] == [-1]


def test_two_processes_train_what_one_trains(python: QuickStart, tmp_path: Path) -> None:
    asked = {"count": 101, "distil": True, "dropout": 0.3}  # a last batch of 5: 2 and 3 rows
    assert_nearly_equal(trained(python, 2, tmp_path, **asked), trained(python, 1, tmp_path, **asked))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_three_processes_choose_what_one_chooses(python: QuickStart, suite: Path, precision: str) -> None:
    changes = f"precision={precision}", "task.dataset.train_size=1100"  # five batches for three processes
    one, three = choices(python, 1, suite, *changes), choices(python, 3, suite, *changes)
    for label in one:
        assert three[label][:2] == one[label][:2], label


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "asked"),
    [
        (2, {"count": 97}),  # the last sample joins the batch before
        (3, {"count": 98}),  # a last batch of two rows, which all three take whole
        (3, {"count": 120, "patience": True}),
    ],
)
def test_any_last_batch_and_early_stopping_are_those_of_one_process(
    python: QuickStart, tmp_path: Path, processes: int, asked: dict[str, Any]
) -> None:
    assert_nearly_equal(trained(python, processes, tmp_path, **asked), trained(python, 1, tmp_path, **asked))


@pytest.mark.slow
def test_a_failure_of_one_process_ends_all_with_one_message(python: QuickStart, suite: Path, tmp_path: Path) -> None:
    ended = started(python, 2, FAIL, str(suite), "--out", str(tmp_path / "run"))
    assert [code for code, _ in ended] == [1, 1]
    said = "".join(text for _, text in ended)
    assert said.count("error:") == 1
    assert "the disk of one machine is full" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_run_under_torchrun_is_one_run_whose_records_say_how_many_there_were(suite: Path, tmp_path: Path) -> None:
    command = "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "prunefuse_bench", "run", str(suite)
    folder = tmp_path / "run"
    subprocess.run([sys.executable, *command, "--out", str(folder)], check=True)
    run = RunFolder(folder)
    stores = [run.open_cell(cell["id"]) for cell in run.read_suite()["cells"]]
    assert len(stores) == 3
    for store in stores:
        assert store is not None
        assert store.finished
        for record in store.read_rounds():
            assert record["environment"]["ranks"] == 2
            assert len(record["peak_memory_bytes_by_rank"]) == 2
    assert (folder / "leaderboard.md").exists()


def brute_force(points: Tensor, k: int, centers: list[int]) -> list[int]:
    """The definition, one distance at a time in float64."""
    exact, picks = points.double(), list(centers)
    nearest = torch.stack([(exact - exact[center]).square().sum(1) for center in picks]).amin(0)
    for _ in range(k):
        nearest[picks] = -1
        picks.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, (exact - exact[picks[-1]]).square().sum(1))
    return picks[len(centers) :]


@pytest.mark.parametrize("name", ["manifold", "clustered", "duplicated", "constant", "outliers", "line"])
def test_k_centers_by_rounds_of_candidates_are_those_of_the_definition(name: str) -> None:
    points = DATA[name](400)
    shard = RowShard.of(World(), points)
    first = torch.tensor([7, 3])
    found = sharded_kcenters(World(), shard, torch.arange(400), 150, points[:0], first)
    assert found.tolist() == brute_force(points, 150, [7, 3])


def test_further_centers_are_no_rows_and_lower_priorities_come_first() -> None:
    points = torch.tensor([[0.0], [1.0], [1.0], [-1.0], [-1.0]])
    priority = torch.tensor([0, 4, 3, 2, 1])
    shard = RowShard.of(World(), points)
    nothing = torch.empty(0, dtype=torch.int64)
    found = sharded_kcenters(World(), shard, priority, 3, torch.zeros(1, 1), nothing)
    assert found.tolist() == [4, 2, 0]


def test_a_world_of_one_process_changes_nothing() -> None:
    world, rows = World(), torch.arange(5)
    assert world.part(5) == slice(0, 5)
    assert world.gather(rows) is rows
    assert world.sum(rows) is rows
    assert world.gather_objects("a") == ["a"]
    assert world.from_first(lambda: 3) == 3


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shares_are_even_and_cover_everything_once(size: int) -> None:
    for units in (0, 1, 5, 100):
        parts = [World(rank, size).part(units) for rank in range(size)]
        assert [place for part in parts for place in range(units)[part]] == list(range(units))
        counts = [part.stop - part.start for part in parts]
        assert max(counts) - min(counts) <= 1
