"""Choosing from a stream of shards: the answer of one sorted list, whatever is stopped, damaged or out of order."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from flat_images import png
from made_stream import Brightness, MadeShard, made
from torch import Tensor

from prunefuse_bench.data import Augmentation, Normalisation
from prunefuse_bench.errors import BadInput, CellFailed
from prunefuse_bench.models import build_model
from prunefuse_bench.randomness import derive_seed
from prunefuse_bench.streaming import (
    ImageFolderShard,
    LinesShard,
    NetworkScorer,
    ParquetShard,
    StreamChoice,
    image_folder_shards,
    lot_of,
    score_stream,
)
from prunefuse_bench.training import StepSchedule, TrainingRecipe

SHARDS = [MadeShard(1000 * number, 1000 if number % 3 else 700) for number in range(8)]


def lot(name: int, seed: int) -> int:
    """The lot as plain Python has it."""
    value = (name + derive_seed(seed, "stream")) % 2**63
    for factor in (0x1E3779B97F4A7C15, 0x3F58476D1CE4E5B9):
        value = (value ^ (value >> 32)) * factor % 2**63
    return value ^ (value >> 32)


def in_memory(k: int, seed: int, step: int) -> list[tuple[int, int]]:
    """(shard, row) of the k best, by sorting a list of everything."""
    everything = []
    for number, shard in enumerate(SHARDS):
        scores = Brightness(step)(made(torch.arange(shard.first, shard.first + shard.count)))
        everything += [
            (-score, lot(number * 2**32 + row, seed), (number, row)) for row, score in enumerate(scores.tolist())
        ]
    return [where for _, _, where in sorted(everything)[:k]]


def places(choice: StreamChoice) -> list[tuple[int, int]]:
    return list(zip(choice.shards.tolist(), choice.rows.tolist(), strict=True))


@pytest.mark.parametrize(("k", "step"), [(0, 1), (1, 1), (50, 1), (500, 400), (3000, 10_000), (9000, 1)])
def test_the_choice_is_that_of_one_sorted_list(tmp_path: Path, k: int, step: int) -> None:
    choice = score_stream(SHARDS, Brightness(step), k, tmp_path, seed=5, batch_size=64)
    assert places(choice) == in_memory(k, 5, step)
    assert choice.samples == sum(map(len, SHARDS))


def test_the_order_of_shards_and_the_size_of_batches_decide_nothing(tmp_path: Path) -> None:
    one = score_stream(SHARDS, Brightness(400), 500, tmp_path / "one", batch_size=64)
    other = score_stream(SHARDS[::-1], Brightness(400), 500, tmp_path / "other", batch_size=1000)
    assert places(one) == places(other)
    assert one.names == other.names


def test_equal_scores_are_drawn_by_a_lot_that_the_seed_determines(tmp_path: Path) -> None:
    one, other = (score_stream(SHARDS, Brightness(10**9), 100, tmp_path / str(seed), seed=seed) for seed in (0, 1))
    assert set(places(one)) != set(places(other))
    assert len(set(one.shards.tolist())) > 4, "not the first shards only"


def test_every_name_has_a_lot_of_its_own_and_the_way_back(tmp_path: Path) -> None:
    names = torch.cat([torch.arange(100_000), torch.arange(1000) * 2**32, torch.tensor([2**63 - 1])]).unique()
    lots = lot_of(names, 3)
    assert len(lots.unique()) == len(names)
    assert int(lots.min()) >= 0
    assert lots[:100].tolist() == [lot(name, 3) for name in names[:100].tolist()]


@pytest.mark.parametrize("stop", [1, 4, 8, 29])
def test_a_stopped_stream_goes_on_with_the_shards_that_are_not_done(tmp_path: Path, stop: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        score_stream(SHARDS, Brightness(400, fails_at=stop), 500, tmp_path, batch_size=250)
    scorer = Brightness(400)
    choice = score_stream(SHARDS, scorer, 500, tmp_path, batch_size=250)
    assert choice.resumed == sum(calls_until(n) < stop for n in range(1, 9))
    assert scorer.calls == calls_until(8) - calls_until(choice.resumed)
    assert places(choice) == in_memory(500, 0, 400)
    assert choice.samples == sum(map(len, SHARDS))


def calls_until(shards: int) -> int:
    return sum(-(-len(shard) // 250) for shard in SHARDS[:shards])


def test_a_finished_stream_is_read_and_not_scored_again(tmp_path: Path) -> None:
    first = score_stream(SHARDS, Brightness(400), 500, tmp_path)
    scorer = Brightness(400)
    again = score_stream(SHARDS, scorer, 500, tmp_path)
    assert scorer.calls == 0
    assert places(again) == places(first)
    assert torch.equal(again.scores, first.scores)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_damaged_progress_is_found_and_scored_again(tmp_path: Path, damage: str) -> None:
    score_stream(SHARDS, Brightness(400), 500, tmp_path)
    file = tmp_path / "shard-000003.safetensors"
    content = bytearray(file.read_bytes())
    if damage == "truncated":
        content = content[:-5]
    elif damage == "empty":
        content.clear()
    else:
        content[-3] ^= 4
    file.write_bytes(content)
    choice = score_stream(SHARDS, Brightness(400), 500, tmp_path)
    assert choice.damaged == (file,)
    assert choice.resumed == 7
    assert places(choice) == in_memory(500, 0, 400)


def test_the_progress_of_other_work_is_refused(tmp_path: Path) -> None:
    score_stream(SHARDS, Brightness(400), 500, tmp_path)
    for shards, scorer, k in (
        (SHARDS, Brightness(400), 501),
        (SHARDS, Brightness(3), 500),
        ([*SHARDS[:-1], MadeShard(7000, 999)], Brightness(400), 500),
    ):
        with pytest.raises(BadInput, match="holds the progress of a stream with another"):
            score_stream(shards, scorer, k, tmp_path)


def test_a_score_that_is_no_number_is_named(tmp_path: Path) -> None:
    class Nan(Brightness):
        def __call__(self, samples: Tensor) -> Tensor:
            scores = super().__call__(samples)
            if self.calls == 12:  # batches of 100: the second shard, its fifth
                scores[7] = torch.nan
            return scores

    with pytest.raises(CellFailed, match="made-000001000, row 407: the score is NaN"):
        score_stream(SHARDS, Nan(), 10, tmp_path, batch_size=100)


def test_images_of_a_folder_are_scored_in_shards(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    for number in range(25):
        (folder / str(number % 3)).mkdir(parents=True, exist_ok=True)
        (folder / str(number % 3) / f"{number:02d}.png").write_bytes(png(10 * number))
    shards = image_folder_shards(folder, side=8, files_per_shard=10)
    assert [len(shard) for shard in shards] == [10, 10, 5]
    choice = score_stream(shards, Brightness(), 3, tmp_path / "out")
    files = [shards[shard].names[row] for shard, row in places(choice)]
    assert files == ["0/24.png", "2/23.png", "1/22.png"]


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(BadInput, match=r"a\.png cannot be read"):
        score_stream([ImageFolderShard(tmp_path, ("a.png",))], Brightness(), 1, tmp_path / "out")


def test_texts_are_scored_line_by_line(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("a\nzzz\nzz\nA\n")
    batches = list(LinesShard(file, length=4).batches(3))
    assert [batch.tolist() for batch in batches] == [[[1, 0, 0, 0], [26, 26, 26, 0], [26, 26, 0, 0]], [[1, 0, 0, 0]]]
    assert len(LinesShard(file)) == 4


def test_a_network_scores_a_stream_as_it_scores_a_pool(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_model("resnet8", num_classes=4, in_channels=3, width=0.25).eval()
    normalisation = Normalisation((127.0,) * 3, (70.0,) * 3)
    training = TrainingRecipe(StepSchedule(1), 32, 0.9, 0.0, Augmentation(), normalisation, "fp32")
    shards = SHARDS[:2]
    choice = score_stream(shards, NetworkScorer(network, training, "entropy"), 20, tmp_path, batch_size=100)
    with torch.no_grad():
        logits = torch.cat([network(normalisation.apply(batch)) for shard in shards for batch in shard.batches(5000)])
    entropy = torch.distributions.Categorical(logits=logits.double()).entropy()
    best = entropy.topk(20)
    assert set(choice.shards.mul(700).add(choice.rows).tolist()) == set(best.indices.tolist())
    assert torch.allclose(choice.scores.double(), best.values, atol=1e-5)


def test_an_acquisition_that_looks_at_other_samples_is_refused() -> None:
    network = build_model("resnet8", num_classes=4, in_channels=3, width=0.25)
    training = TrainingRecipe(StepSchedule(1), 32, 0.9, 0.0, Augmentation(), Normalisation((0.0,), (1.0,)), "fp32")
    with pytest.raises(BadInput, match="cannot score a stream"):
        NetworkScorer(network, training, "kcenters")


@pytest.mark.parametrize("kind", ["files", "pixels", "texts"])
def test_parquet_files_hold_images_or_texts(tmp_path: Path, kind: str) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    pixels = made(torch.arange(30))
    column = {
        "files": pyarrow.array([png(8 * number) for number in range(30)]),
        "pixels": pyarrow.array(list(pixels.flatten(1).numpy())),
        "texts": pyarrow.array(["a" * number for number in range(30)]),
    }[kind]
    parquet.write_table(pyarrow.table({"data": column}), tmp_path / "a.parquet", row_group_size=7)
    shard = ParquetShard(tmp_path / "a.parquet", "data", side=8, shape=(3, 8, 8), length=40)
    samples = torch.cat(list(shard.batches(4)))
    assert len(shard) == len(samples) == 30
    if kind == "pixels":
        assert torch.equal(samples, pixels)
    choice = score_stream([shard], Brightness(), 1, tmp_path / "out")
    assert choice.rows.tolist() == [int(Brightness()(samples).argmax())]
    with pytest.raises(BadInput, match="expected a column 'other'"):
        list(ParquetShard(tmp_path / "a.parquet", "other").batches(4))


@pytest.mark.slow
def test_two_million_images_on_one_process_take_little_memory(tmp_path: Path) -> None:
    shards = [MadeShard(number * 20_000, 20_000) for number in range(100)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    choice = score_stream(shards, Brightness(), 1000, tmp_path, batch_size=5000)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert choice.samples == 2_000_000
    assert grown < 200 * 1024  # kilobytes
    small = score_stream(shards[:5], Brightness(), 1000, tmp_path / "small", batch_size=5000)
    scores = Brightness()(made(torch.arange(100_000)))
    assert torch.equal(small.scores, scores.sort(descending=True).values[:1000])


@pytest.mark.slow
@pytest.mark.parametrize("readers", [0, 1])
def test_a_ray_data_stream_chooses_what_one_process_chooses(readers: int, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    told = json.loads(in_a_process_of_its_own("equal", readers, 1, tmp_path))
    assert told["samples"] == [100_000, 100_000]
    assert told["equal"]


@pytest.mark.slow
@pytest.mark.parametrize(("readers", "most"), [(0, 2 * 10**9), (1, 2.5 * 10**9)])
def test_a_ray_data_stream_of_two_million_images_takes_memory_that_does_not_grow(
    readers: int, most: float, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    pytest.importorskip("psutil")
    told = json.loads(in_a_process_of_its_own("large", readers, 1, tmp_path))
    assert told["samples"] == 2_000_000
    first, largest = told["memory"]
    print(
        f"{readers} readers, 1 scorer: {first / 1e9:.2f} GB in all processes after two shards, "
        f"{largest / 1e9:.2f} GB at most, {told['seconds']:.0f} s"
    )
    assert largest - first < 4 * 10**8
    assert largest < most


def in_a_process_of_its_own(*arguments: object) -> str:
    """The last line that tests/ray_stream.py prints; its memory is none of the tests' before."""
    root = Path(__file__).parents[1]
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    ran = subprocess.run(
        [sys.executable, Path(__file__).with_name("ray_stream.py"), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-5000:]
    return ran.stdout.strip().splitlines()[-1]
