"""Kills at random moments and random damages: the small ones in make test, the large ones in make faults."""

from __future__ import annotations

import errno
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from quick_start import PROGRAM, QuickStart

from prunefuse_bench import load_results
from prunefuse_bench.atomic import make_folder, remove_litter, write_atomically, write_json
from prunefuse_bench.cell import Cell
from prunefuse_bench.config import load_suite
from prunefuse_bench.errors import BadInput, CannotWrite, CellFailed
from prunefuse_bench.records import RunFolder, recover, recoveries
from prunefuse_bench.records.tensors import pack_tensors, read_tensors
from prunefuse_bench.runner import PlannedCell, plan, run_cells

RunCli = Callable[..., tuple[int, str, str]]

RECIPES = (
    "recipes=[{method: prunefuse, sync_every: 2, label: fused}, {method: prunefuse, label: synced, sync_every: 1}, al]"
)
GRID = (RECIPES, "task.budgets=[0.02, 0.03, 0.04, 0.05]", "seeds=[0]")
"""Of a method that synchronises now and then, one that always does, and one that never does."""

READER = """
# Read every record of a folder again and again until a file says stop; print what was read, and what could not be.
import json, sys, time
from pathlib import Path
from prunefuse_bench.records.checksums import read_record
from prunefuse_bench.records.tensors import read_tensors

run, stop = map(Path, sys.argv[1:])
read, bad = 0, []
while not stop.exists():
    for file in [*run.glob("suite.json"), *run.glob("cells/*/*.json"), *run.rglob("[!.]*.safetensors")]:
        try:
            if file.suffix == ".json":
                read_record(file, "")
            else:
                read_tensors(file)
            read += 1
        except Exception as error:
            if file.exists():  # a selector goes when the next one is there
                bad.append(f"{file}: {error}")
    time.sleep(0.01)
print(json.dumps([read, bad]))
"""


def results_of(run: Path) -> dict[tuple[str, int], Any]:
    """All that a run found, and nothing about when or how fast."""
    found = {}
    for entry in RunFolder(run).read_suite()["cells"]:
        store = RunFolder(run).open_cell(entry["id"])
        assert store is not None
        keys = "round", "labels", "tied", "query", "selector", "target"
        rounds = [{key: record[key] for key in keys} for record in store.read_rounds()]
        found[entry["method"], entry["seed"]] = rounds
    return found


def tensors_of(run: Path) -> dict[str, dict[str, bytes]]:
    """Every selector and all losses that a run keeps, by the file's name within the run."""
    return {
        str(file.relative_to(run)): {
            name: tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            for name, tensor in read_tensors(file)[0].items()
        }
        for file in sorted(run.glob("cells/*/*.safetensors"))
    }


class Listening:
    """An observer that remembers what was said."""

    def __init__(self) -> None:
        self.outcomes: list[str] = []

    def cell_started(self, cell: PlannedCell, position: int, total: int) -> None: ...

    def stage(self, stage: str, done: int, total: int) -> None: ...

    def cell_ended(self, cell: PlannedCell, outcome: str) -> None:
        self.outcomes.append(f"{cell.recipe.label}: {outcome}")

    def recovered(self, what: str) -> None: ...


TINY = (
    "task.model.width=0.25",
    "task.training.epochs=1",
    "task.training.min_steps=2",
    "task.accuracy_by_epoch=true",
)


@functools.cache
def planned(*overrides: str) -> tuple[Any, list[PlannedCell]]:
    suite = load_suite("quick", [*TINY, *GRID, *overrides])
    return suite, plan(suite)


def go_on(folder: Path, *overrides: str) -> list[str]:
    """What ``run --resume`` does, with what it says of damage."""
    said = recover(folder)
    suite, cells = planned(*overrides)
    stores = run_cells(suite, cells, folder, resume=True, observer=Listening())
    assert all(store.finished for store in stores)
    return said


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run."""
    folder = tmp_path_factory.mktemp("faults") / "run"
    suite, cells = planned()
    run_cells(suite, cells, folder, resume=False, observer=Listening())
    return folder


@pytest.fixture(scope="module")
def halfway(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, stopped after the third round of each cell, with a failure and a shelf of selectors."""
    folder = tmp_path_factory.mktemp("faults") / "run"
    suite, cells = planned()

    with pytest.MonkeyPatch.context() as patch:
        close = Cell.close_round

        def close_round(self: Cell, number: int, *rest: Any) -> Any:
            if number == 3:
                raise CellFailed("stopped by the test")
            return close(self, number, *rest)

        patch.setattr(Cell, "close_round", close_round)
        run_cells(suite, cells, folder, resume=False, observer=Listening())
    return folder


# Kills


def killed_again_and_again(
    python: QuickStart, suite: Path, out: Path, kills: int, draws: random.Random, longest: float
) -> tuple[int, int]:
    """Kill a run at random moments, and resume it; returns (kills, last seed of the grid that it grew to)."""
    done = last = 0
    while done < kills:
        arguments = ("run", suite, "--out", out, "--resume", "--seeds", f"0-{last}")
        process = python.start(*PROGRAM, *arguments)
        end = time.monotonic() + draws.uniform(0, longest)
        while time.monotonic() < end and process.is_alive():
            time.sleep(0.002)
        if process.is_alive():
            process.send_signal(signal.SIGKILL)
        printed, errors = process.communicate()
        if process.returncode == -signal.SIGKILL:
            done += 1
        else:
            assert process.returncode == 0, printed + errors
            last += 1  # it was finished: the grid grows by a seed
        assert "recovered" not in errors, errors
    process = python.start(*PROGRAM, *arguments)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return done, int(arguments[-1].removeprefix("0-"))


@pytest.mark.parametrize("kills", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_a_run_that_is_killed_at_random_moments_ends_like_one_that_is_not(
    kills: int, tiny: Path, tmp_path: Path, python: QuickStart
) -> None:
    """And whoever reads it meanwhile finds no record that is not whole."""
    suite = tmp_path / "suite.yaml"
    suite.write_text(
        tiny.read_text()
        .replace("[random, al, prunefuse]", "[al, {method: prunefuse, sync_every: 2, label: prunefuse}]")
        .replace("[0.02, 0.05, 0.1]", "[0.02, 0.03, 0.04, 0.05, 0.06]")
    )
    began = time.monotonic()
    assert python.run(*PROGRAM, "run", suite, "--out", tmp_path / "whole").returncode == 0
    whole_seconds = time.monotonic() - began
    out, stop = tmp_path / "killed", tmp_path / "stop"
    reader = python.start("-c", READER, out, stop)
    try:
        done, last = killed_again_and_again(python, suite, out, kills, random.Random(kills), 0.6 * whole_seconds)
    finally:
        stop.touch()
        printed, errors = reader.communicate()
    assert reader.returncode == 0, errors
    read, bad = json.loads(printed)
    assert bad == []
    assert read > 0
    assert done == kills
    whole = python.run(*PROGRAM, "run", suite, "--out", tmp_path / "whole", "--seeds", f"0-{last}")
    assert whole.returncode == 0, whole.stderr
    assert results_of(out) == results_of(tmp_path / "whole")
    kept, wanted = tensors_of(out), tensors_of(tmp_path / "whole")
    assert {name: kept[name] for name in wanted} == wanted
    assert list(out.rglob("*.part")) == [], "what the killed left is gone"
    print(f"{done} kills, {read} records read meanwhile, seeds 0-{last}, {whole_seconds:.1f} s for a whole seed")


# Damages


def flip(content: bytes, draws: random.Random) -> bytes:
    data = bytearray(content)
    data[draws.randrange(len(data))] ^= 1 << draws.randrange(8)
    return bytes(data)


def truncate(content: bytes, draws: random.Random) -> bytes:
    return content[: draws.randrange(len(content))]


def zero_fill(content: bytes, draws: random.Random) -> bytes:
    start = draws.randrange(len(content))
    end = min(len(content), start + draws.randint(1, 4096))
    return content[:start] + bytes(end - start) + content[end:]


def lose_the_middle(content: bytes, draws: random.Random) -> bytes:
    start = draws.randrange(len(content))
    return content[:start] + content[start + draws.randint(1, 512) :]


CHANGES = (flip, truncate, zero_fill, lose_the_middle)


def kinds(run: Path) -> list[list[Path]]:
    """The files of a run by kind."""
    patterns = (
        "suite.json", "cells/*/cell.json", "cells/*/round-*.json", "cells/*/selector-*", "cells/*/losses-*",
        "selectors/**/*.safetensors", "cells/*/failure.json",
    )  # fmt: skip
    found = [sorted(file for file in run.glob(pattern) if file.is_file()) for pattern in patterns]
    return [files for files in found if files]


def damage(run: Path, draws: random.Random) -> str:
    """One damage to one file of any kind; returns which."""
    everything = kinds(run)
    file = draws.choice(draws.choice(everything))
    if draws.random() < 0.2:
        other = draws.choice([one for files in everything for one in files if one != file])
        one, two = file.read_bytes(), other.read_bytes()
        file.write_bytes(two)
        other.write_bytes(one)
        return f"swap {file.relative_to(run)} and {other.relative_to(run)}"
    change = draws.choice(CHANGES)
    file.write_bytes(change(file.read_bytes(), draws))
    return f"{change.__name__} {file.relative_to(run)}"


def error_of(call: Callable[[], object]) -> str | None:
    try:
        call()
    except BadInput as error:
        return str(error)
    return None


def read_all(run: Path, wanted: dict[tuple[str, int], Any]) -> None:
    load_results(run)
    for cell, rounds in results_of(run).items():
        assert rounds == wanted[cell][: len(rounds)]


@pytest.mark.parametrize("damages", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_any_damage_is_noticed_or_mended_and_no_result_is_wrong(
    damages: int, finished: Path, halfway: Path, tmp_path: Path
) -> None:
    """On a run that is finished, and on one that was stopped half-way, whose cells then go on."""
    wanted, weights = results_of(finished), tensors_of(finished)
    draws = random.Random(damages)
    recovered = refused = 0
    for number in range(damages):
        run = tmp_path / f"run-{number}"
        shutil.copytree(halfway if number % 2 else finished, run)
        what = damage(run, draws)
        error = error_of(functools.partial(read_all, run, wanted))
        assert error is None or str(run) in error, what
        said = go_on(run)
        recovered += bool(said)
        refused += error is not None
        assert said or error is None, f"{what}: mended, but not said"
        assert results_of(run) == wanted, what
        kept = tensors_of(run)
        assert kept == {name: weights[name] for name in kept}, what
        for one in list(run.rglob("recovery.json")):
            for entry in recoveries(one.parent):
                assert (one.parent / entry["aside"]).exists(), what
        shutil.rmtree(run)
    assert recovered > damages // 4
    print(f"{damages} damages: {refused} refused by name, {recovered} mended and said, none with a wrong result")


def cell_of(run: Path, method: str) -> Path:
    entry = next(one for one in RunFolder(run).read_suite()["cells"] if one["method"] == method)
    return run / "cells" / str(entry["id"])


@pytest.mark.parametrize("method", ["fused", "synced", "al"])
@pytest.mark.parametrize("which", ["the last selector", "the last record", "a record in the middle", "no selector"])
def test_a_cell_goes_back_to_what_is_whole_and_ends_with_the_same_bits(
    method: str, which: str, halfway: Path, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(halfway, run)
    cell = cell_of(run, method)
    file = {
        "the last selector": cell / "selector-002.safetensors",
        "the last record": cell / "round-002.json",
        "a record in the middle": cell / "round-001.json",
        "no selector": cell / "selector-002.safetensors",
    }[which]
    content = file.read_bytes()
    if which == "no selector":
        file.unlink()
    else:
        file.write_bytes(flip(content, random.Random(1)))
    damaged = None if which == "no selector" else file.read_bytes()
    said = go_on(run)
    about = [line for line in said if file.name in line and cell.name in line]
    assert len(about) == 1, said
    assert results_of(run) == results_of(finished)
    assert tensors_of(run) == tensors_of(finished)
    if damaged is not None:
        assert file.with_name(f"{file.name}.damaged").read_bytes() == damaged, "set aside as it was"
        assert {"file": file.name, "aside": f"{file.name}.damaged"}.items() <= recoveries(cell)[-1].items()
    if which == "a record in the middle":
        assert (cell / "round-002.json.superseded").exists()
    # What it took to train the selector again is charged, under its own name, to the round that followed.
    again = json.loads((cell / ("round-003.json" if "selector" in which else "round-002.json")).read_text())
    if which != "a record in the middle":
        assert again["stages"]["recovery"]["seconds"] > 0
        assert again["stages"]["recovery"]["samples"] > 0
    assert go_on(run) == [], "once is enough"


def test_losses_of_the_decomposition_are_made_again(tmp_path: Path) -> None:
    overrides = ("task.decomposition=true", "recipes=[{method: prunefuse, sync_every: 2, label: p}]")
    folders = [tmp_path / "whole", tmp_path / "damaged"]
    suite, cells = planned(*overrides)
    for folder in folders:
        run_cells(suite, cells, folder, resume=False, observer=Listening())
    cell = cell_of(folders[1], "p")
    last = json.loads((cell / "round-003.json").read_text())
    (cell / "round-003.json").write_text("{")
    said = go_on(folders[1], *overrides)
    assert any("round-003.json was damaged" in line for line in said)
    again = json.loads((cell / "round-003.json").read_text())
    assert again["query_gaps"] == last["query_gaps"]
    assert again["query_gaps"] is not None
    assert again["decomposition"] == last["decomposition"]
    assert tensors_of(folders[0]) == tensors_of(folders[1])


def test_recovery_is_said_on_the_terminal_and_a_damaged_run_is_refused_without_resume(
    tiny: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    out = tmp_path / "run"
    arguments = ("run", tiny, "--out", out, "--set", "recipes=[al]")
    assert run_cli(*arguments)[0] == 0
    last = next(out.glob("cells/*/round-002.json"))
    whole = json.loads(last.read_text())
    last.write_bytes(last.read_bytes()[:-100])
    code, _, errors = run_cli(*arguments)
    assert code == 2
    assert f"{last}: not readable or damaged" in errors
    assert "--resume" in errors
    code, _, errors = run_cli(*arguments, "--resume")
    assert code == 0
    said = [line for line in errors.splitlines() if line.startswith("recovered:")]
    assert len(said) == 1
    assert "round-002.json was damaged, and is now round-002.json.damaged: the cell goes back to the round" in said[0]
    again = json.loads(last.read_text())
    assert {key: again[key] for key in ("query", "target")} == {key: whole[key] for key in ("query", "target")}


def test_records_of_another_schema_are_not_taken_for_damaged(halfway: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(halfway, run)
    content = json.loads((run / "suite.json").read_text())
    content["schema"] = 2
    del content["sha256"]
    (run / "suite.json").write_text(json.dumps(content))
    with pytest.raises(BadInput, match="expected records of schema"):
        recover(run)
    assert not list(run.glob("*.damaged"))


def test_a_lost_suite_is_not_begun_anew_with_another_task(halfway: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(halfway, run)
    (run / "suite.json").write_bytes(b"\0" * 500)
    assert "suite.json was damaged" in recover(run)[0]
    suite, cells = planned("task.training.min_steps=3")
    with pytest.raises(BadInput, match="holds a run of another task"):
        run_cells(suite, cells, run, resume=True, observer=Listening())


# Temporary files


def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_is_not(
    tmp_path: Path, python: QuickStart
) -> None:
    write = (
        "import sys, time; from pathlib import Path; from prunefuse_bench.atomic import write_atomically\n"
        "write_atomically(Path(sys.argv[1]), lambda stream: (stream.write(b'half'), stream.flush(), time.sleep(60)))"
    )
    writers = [python.start("-c", write, tmp_path / f"{name}.json") for name in ("killed", "living")]
    while len(list(tmp_path.glob(".*.part"))) < 2:
        time.sleep(0.01)
    assert remove_litter(tmp_path) == []
    writers[0].send_signal(signal.SIGKILL)
    writers[0].communicate()
    removed = remove_litter(tmp_path)
    assert [file.name.rsplit(".", 2)[0] for file in removed] == [".killed.json"]
    assert [file.name.rsplit(".", 2)[0] for file in tmp_path.glob(".*")] == [".living.json"]
    writers[1].send_signal(signal.SIGKILL)
    writers[1].communicate()


def test_the_next_start_removes_what_killed_processes_left(halfway: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(halfway, run)
    left = [run / ".suite.json.999999.part", next(run.glob("cells/*")) / ".round-002.json.999999.part"]
    for file in left:
        file.write_bytes(b"half")
    go_on(run)
    assert not any(file.exists() for file in left)


# A disk that is full, or cannot be written


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"a file system can be mounted by root alone: {mount.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_full_ends_the_run_and_what_is_on_it_is_whole(
    small_disk: Path, tiny: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    out = small_disk / "run"
    arguments = ("run", tiny, "--out", out, "--set", "recipes=[al]")
    code, _, errors = run_cli(*arguments)
    assert code == 1
    assert "No space left on device" in errors
    assert "--resume" in errors
    assert not list(out.rglob("*.part"))
    before = len(list(out.glob("cells/*/round-*.json")))
    assert before < 3
    assert recover(out) == [], "nothing is damaged"
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    code, _, errors = run_cli(*arguments, "--resume")
    assert code == 0, errors
    assert run_cli("run", tiny, "--out", tmp_path / "whole", "--set", "recipes=[al]")[0] == 0
    assert results_of(out) == results_of(tmp_path / "whole")


def test_a_folder_that_cannot_be_written_is_an_error_before_training(
    small_disk: Path, tiny: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    (small_disk / "run").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    monkeypatch.setattr("prunefuse_bench.cell.fit", lambda *_, **__: pytest.fail("it trains"))
    for out, expected in ((small_disk / "run", 1), (small_disk / "new", 2)):
        code, _, errors = run_cli("run", tiny, "--out", out)
        assert code == expected
        assert "Read-only file system" in errors
        assert "Traceback" not in errors


@pytest.mark.parametrize("fails", ["write", "flush", "os.fsync", "pathlib.Path.replace"])
def test_a_write_that_fails_anywhere_leaves_the_old_file_alone(
    fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same by an injected error, for machines where nothing can be mounted."""
    file = tmp_path / "record.json"
    write_json(file, {"old": 1})

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(stream: Any) -> None:
        stream.write(b"new")
        if fails in ("write", "flush"):
            full()

    with monkeypatch.context() as patch:
        if fails not in ("write", "flush"):
            patch.setattr(fails, full)
        with pytest.raises(CannotWrite, match="No space left"):
            write_atomically(file, write)
        if fails == "os.fsync":
            with pytest.raises(CannotWrite, match="No space left"):
                make_folder(tmp_path / "new")
            (tmp_path / "new").rmdir()
    assert [one.name for one in tmp_path.iterdir()] == ["record.json"]
    assert json.loads(file.read_text()) == {"old": 1}


# Memory


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 7 PiB"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
        None,
    ],
)
def test_a_cell_that_runs_out_of_memory_fails_and_the_others_go_on(
    error: Exception | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, cells = planned()
    train = Cell.train_selector

    def train_selector(self: Cell, *rest: Any) -> Any:
        if self.recipe.label == "al":
            if error is None:
                torch.empty(2**55)  # torch's own
            else:
                raise error
        return train(self, *rest)

    monkeypatch.setattr(Cell, "train_selector", train_selector)
    listening = Listening()
    stores = run_cells(suite, cells, tmp_path / "run", resume=False, observer=listening)
    assert listening.outcomes == ["fused: finished", "synced: finished", "al: failed"]
    assert stores[2].failure is not None
    assert stores[2].failure["reason"].startswith("out of memory: ")
    assert "llocate" in stores[2].failure["reason"]


def test_other_errors_are_not_taken_for_a_lack_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite, cells = planned()

    def broken(*_: Any) -> None:
        raise RuntimeError("expected scalar type Float but found Half")

    monkeypatch.setattr(Cell, "train_selector", broken)
    with pytest.raises(RuntimeError, match="scalar type"):
        run_cells(suite, cells, tmp_path / "run", resume=False, observer=Listening())


# Data that changes, and clocks that jump


def image_suite(folder: Path, image_files: dict[str, bytes]) -> Path:
    for name, content in image_files.items():
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / name).write_bytes(content)
    suite = folder / "images.yaml"
    suite.write_text(
        f"""
task:
  dataset: {{name: imagenet, path: {folder / "images"}, resize: 16, keep_decoded: false}}
  model: {{name: resnet8, width: 0.25}}
  training: {{epochs: 1, min_steps: 1, batch_size: 16}}
  budgets: [8, 12, 16]
recipes: [al]
seeds: [0]
precision: fp32
"""
    )
    return suite


def test_data_that_changes_while_a_run_is_going_ends_it_by_name(
    image_files: dict[str, bytes], tmp_path: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images that are read whenever they are needed; what is in memory cannot change."""
    suite, out = image_suite(tmp_path, image_files), tmp_path / "run"
    files = sorted((tmp_path / "images" / "train").rglob("*.png"))
    contents = [file.read_bytes() for file in files]
    close = Cell.close_round

    def close_round(self: Cell, *rest: Any) -> Any:
        for file in files:
            file.write_bytes(contents[0] + b"\0")
        return close(self, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Cell, "close_round", close_round)
        code, _, errors = run_cli("run", suite, "--out", out)
    assert code == 2
    assert "was changed or removed while the run was going" in errors
    assert "Traceback" not in errors
    # Changed data is another task, before anything is trained.
    monkeypatch.setattr("prunefuse_bench.cell.fit", lambda *_, **__: pytest.fail("it trains"))
    code, _, errors = run_cli("run", suite, "--out", out, "--resume")
    assert code == 2
    assert "holds a run of another task (other data" in errors
    monkeypatch.undo()
    monkeypatch.setenv("PRUNEFUSE_BENCH_CACHE", str(tmp_path / "cache"))
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    assert run_cli("run", suite, "--out", out, "--resume")[0] == 0


def test_data_that_changes_while_it_is_decoded_is_not_kept(
    image_files: dict[str, bytes], make_zip: Callable[[dict[str, bytes]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from prunefuse_bench.data import DatasetRequest, archive, load_dataset

    path, decode = make_zip(image_files), archive._decode

    def decode_and_change(*arguments: Any) -> Any:
        pixels = decode(*arguments)
        with path.open("ab") as stream:
            stream.write(b"more")
        return pixels

    with monkeypatch.context() as patch:
        patch.setattr(archive, "_decode", decode_and_change)
        with pytest.raises(BadInput, match="was changed while it was read"):
            load_dataset("image-archive", DatasetRequest(path=path))


def test_a_clock_that_jumps_changes_nothing(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = random.Random(0)
    monkeypatch.setattr("time.time", lambda: draws.uniform(-1e9, 4e9))
    monkeypatch.setattr("time.time_ns", lambda: draws.randrange(4 * 10**18))
    suite, cells = planned()
    stores = run_cells(suite, cells, tmp_path / "run", resume=False, observer=Listening())
    assert results_of(tmp_path / "run") == results_of(finished)
    for record in stores[0].read_rounds():
        assert 0 < record["seconds"] < 600
        assert all(0 <= cost["seconds"] < 600 for cost in record["stages"].values())


def test_tensors_of_another_place_are_noticed(halfway: Path, tmp_path: Path) -> None:
    """Their checksum is right, so only what is stored with them tells."""
    run = tmp_path / "run"
    shutil.copytree(halfway, run)
    one, two = (cell_of(run, method) / "selector-002.safetensors" for method in ("fused", "synced"))
    shutil.copy(two, one)
    store = RunFolder(run).open_cell(one.parent.name)
    assert store is not None
    with pytest.raises(BadInput, match=f"expected the selector of cell {one.parent.name}, got that of"):
        store.checkpoint()


def test_tensors_are_compared_with_their_checksum(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    packed = pack_tensors({"a": torch.arange(4.0)}, {"more": "{}"})
    file.write_bytes(packed)
    assert torch.equal(read_tensors(file)[0]["a"], torch.arange(4.0))
    file.write_bytes(packed[:-1] + b"\1")
    with pytest.raises(ValueError, match="checksum"):
        read_tensors(file)
