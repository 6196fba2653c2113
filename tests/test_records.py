from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from quick_start import PROGRAM, QuickStart, Started
from torch import Tensor

from prunefuse_bench import load_results
from prunefuse_bench.atomic import write_atomically, write_json
from prunefuse_bench.cli import main
from prunefuse_bench.cost import StageCost
from prunefuse_bench.errors import BadInput, CannotWrite
from prunefuse_bench.records import CellStore, RunFolder
from prunefuse_bench.records.checksums import sealed

RunCli = Callable[..., tuple[int, str, str]]
SYNCED = "recipes=[{method: prunefuse, sync_every: 2, label: prunefuse}, al, random]"
FIVE_ROUNDS = "task.budgets=[0.02, 0.04, 0.06, 0.08, 0.1]"


def results_of(run: Path) -> dict[str, Any]:
    """All that a run found, and nothing about when or how fast: chosen indices, accuracies and losses."""
    found = {}
    for cell in RunFolder(run).read_suite()["cells"]:
        store = RunFolder(run).open_cell(cell["id"])
        assert store is not None
        found[cell["method"]] = [
            {key: record[key] for key in ("round", "labels", "query", "selector", "target")}
            for record in store.read_rounds()
        ]
    return found


@pytest.fixture
def start(python: QuickStart) -> Callable[..., Started]:
    """Run a suite in a process of its own: (suite, folder, more arguments)."""
    return lambda suite, out, *more: python.start(*PROGRAM, "run", suite, "--out", out, *more)


KILLED = """
import importlib, os, signal, sys

def kill_at(module, name, call, after):
    # End this process by SIGKILL before or after the given call of a function.
    home, calls = importlib.import_module(module), 0
    function = getattr(home, name)
    def counted(*arguments, **named):
        nonlocal calls
        calls += 1
        if calls == call and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **named)
        if calls == call and after:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(home, name, counted)

kill_at(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "after")
sys.argv = ["prunefuse-bench", *sys.argv[5:]]
from prunefuse_bench.cli import main
main()
"""


@pytest.fixture(scope="module")
def run_once(tmp_path_factory: pytest.TempPathFactory, tiny_text: str) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    (folder / "tiny.yaml").write_text(tiny_text)
    arguments = ["run", folder / "tiny.yaml", "--out", folder / "run", "--set", SYNCED, "--set", FIVE_ROUNDS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNEFUSE_BENCH_CACHE", str(folder / "cache"))
        patch.setattr("sys.argv", ["prunefuse-bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
    assert not stop.value.code
    return folder / "run"


@pytest.fixture
def uninterrupted(run_once: Path, tmp_path: Path) -> Path:
    """The folder of a run, for the test alone."""
    return shutil.copytree(run_once, tmp_path / "uninterrupted")


@pytest.mark.parametrize(
    "kills",
    [
        # In training; between the selector's file and its round's; after the round, before the old selector goes.
        [
            ("prunefuse_bench.cell", "fit", 4, "before"),
            ("prunefuse_bench.cell", "fit", 2, "after"),
            ("prunefuse_bench.records.store", "pack_selector", 2, "after"),
        ],
        [
            ("prunefuse_bench.records.store", "write_atomically", 2, "after"),
            ("prunefuse_bench.records.store", "write_json", 4, "after"),
            ("prunefuse_bench.cell", "evaluate", 3, "before"),
        ],
    ],
)
def test_killed_in_the_middle_of_a_round_and_resumed(
    tiny: Path,
    tmp_path: Path,
    uninterrupted: Path,
    kills: list[tuple[str, str, int, str]],
    python: QuickStart,
    start: Callable[..., Started],
) -> None:
    """kill -9 again and again; the result is the uninterrupted run's, to the bit."""
    out = tmp_path / "killed"
    arguments = ["run", str(tiny), "--out", str(out), "--resume", "--set", SYNCED, "--set", FIVE_ROUNDS]
    for module, function, call, when in kills:
        killed = python.run("-c", KILLED, module, function, str(call), when, *arguments)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert len(list(out.glob("cells/*/round-*.json"))) < 15
    finished = start(tiny, out, *arguments[4:])
    _, errors = finished.communicate()
    assert finished.returncode == 0, errors
    assert results_of(out) == results_of(uninterrupted)
    assert not list(out.rglob("*.part")) or all(file.name.startswith(".") for file in out.rglob("*.part"))


def test_killed_at_any_moment_and_resumed(
    tiny: Path, tmp_path: Path, uninterrupted: Path, start: Callable[..., Started]
) -> None:
    """From outside, by the clock, in whatever the program is doing."""
    out = tmp_path / "killed"
    arguments = ("--resume", "--set", SYNCED, "--set", FIVE_ROUNDS)
    for delay in (0.0, 0.15):
        process = start(tiny, out, *arguments)
        before = len(list(out.glob("cells/*/round-*.json")))
        while len(list(out.glob("cells/*/round-*.json"))) <= before and process.is_alive():
            time.sleep(0.002)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finished = start(tiny, out, *arguments)
    _, errors = finished.communicate()
    assert finished.returncode == 0, errors
    assert results_of(out) == results_of(uninterrupted)


def test_run_twice_gives_the_same_to_the_bit(tiny: Path, tmp_path: Path, uninterrupted: Path) -> None:
    """The other run is of an interpreter of its own, with another seed for its hashes."""
    arguments = ["run", tiny, "--out", tmp_path / "again", "--set", SYNCED, "--set", FIVE_ROUNDS]
    command = [sys.executable, "-m", "prunefuse_bench", *arguments]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert results_of(tmp_path / "again") == results_of(uninterrupted)


def test_finished_cells_are_not_run_again(tiny: Path, tmp_path: Path, run_cli: RunCli) -> None:
    out = tmp_path / "run"
    run_cli("run", tiny, "--out", out)
    written = {file: file.stat().st_mtime_ns for file in out.glob("cells/*/round-*.json")}
    assert len(written) == 9
    assert run_cli("run", tiny, "--out", out, "--seeds", "0-1")[0] == 0
    assert {file: file.stat().st_mtime_ns for file in written} == written
    assert len(list(out.glob("cells/*/round-*.json"))) == 18
    results = load_results(out)
    assert len(results) == 18
    assert set(results["seed"]) == {0, 1}


def test_a_stopped_run_is_not_overwritten_without_resume(tiny: Path, tmp_path: Path, run_cli: RunCli) -> None:
    out = tmp_path / "run"
    run_cli("run", tiny, "--out", out)
    last = min(out.glob("cells/*/round-002.json"))
    last.unlink()
    code, _, errors = run_cli("run", tiny, "--out", out)
    assert code == 2
    assert "add --resume to go on with it" in errors
    assert not last.exists()


def test_a_second_process_on_the_same_cell_is_refused(
    tiny: Path, tmp_path: Path, run_cli: RunCli, start: Callable[..., Started]
) -> None:
    out = tmp_path / "run"
    long = ("--set", "task.training.min_steps=100000", "--set", "recipes=[random]")
    first = start(tiny, out, *long)
    try:
        while not list(out.glob("cells/*/.lock")):
            assert first.is_alive(), first.communicate()
            time.sleep(0.01)
        time.sleep(0.2)
        code, _, errors = run_cli("run", tiny, "--out", out, *long)
        assert code == 2
        assert "is being run by another process" in errors
        # Another grid in the same folder adds to the first one's, and does not replace it.
        assert run_cli("run", tiny, "--out", out, *long[:2], "--set", "recipes=[random, al]")[0] == 2
        assert [cell["method"] for cell in RunFolder(out).read_suite()["cells"]] == ["random", "al"]
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate()
    assert not list(out.glob("cells/*/round-*.json"))


def test_a_failed_cell_is_recorded_and_the_others_go_on(tiny: Path, tmp_path: Path, run_cli: RunCli) -> None:
    out = tmp_path / "run"
    wild = "recipes=[random, {method: prunefuse, temperature: 1e+30, label: wild}, al]"
    code, printed, errors = run_cli("run", tiny, "--out", out, "--set", wild)
    assert code == 1
    assert "wild, seed 0: failed" in errors
    results = load_results(out)
    assert results.groupby("method")["status"].first().to_dict() == {
        "random": "finished",
        "wild": "failed",
        "al": "finished",
    }
    failed = results[results["method"] == "wild"]
    assert failed["reason"].str.contains("training diverged: the loss is (?:nan|inf) after epoch").all()
    assert failed["accuracy"].isna().all()
    assert "wild, seed 0: failed (training diverged" in printed
    assert "Cells without a result" in (out / "leaderboard.md").read_text()
    # The suite can be extended around it.
    assert run_cli("run", tiny, "--out", out, "--set", wild, "--seeds", "0-1")[0] == 1
    # Once more without --resume: it stays failed; with it, it is tried again (and fails again).
    assert run_cli("run", tiny, "--out", out, "--set", wild)[0] == 1
    assert run_cli("run", tiny, "--out", out, "--set", wild, "--resume")[0] == 1


def test_a_cell_that_fails_after_its_first_round(
    tiny: Path, tmp_path: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    arguments = ("run", tiny, "--out", out, "--set", "recipes=[al, random]")

    def not_a_number(logits: Tensor, _: str) -> Tensor:
        return torch.full((len(logits),), torch.nan)

    with monkeypatch.context() as broken:
        broken.setattr("prunefuse_bench.acquisition.uncertainty.ops.score", not_a_number)
        code, printed, _ = run_cli(*arguments)
        assert code == 1
        assert "al, seed 0: failed (method 'al': acquisition 'least_confidence': scores: 1408 of 1408 rows" in printed
        assert run_cli(*arguments)[0] == 1, "without --resume it stays failed, and nothing is refused"
    assert load_results(out).groupby("method")["status"].first().to_dict() == {"al": "failed", "random": "finished"}
    assert run_cli(*arguments, "--resume")[0] == 0
    assert set(load_results(out)["status"]) == {"finished"}
    assert len(load_results(out)) == 6


def test_a_test_loss_that_is_no_number_fails_the_cell(tiny: Path, tmp_path: Path, run_cli: RunCli) -> None:
    """Training whose only step blows up has a finite training loss."""
    out = tmp_path / "run"
    wild = ("--set", "task.training.segments=[[1, 1e38]]", "--set", "task.training.min_steps=1")
    code, printed, _ = run_cli("run", tiny, "--out", out, *wild, "--set", "recipes=[random]")
    assert code == 1
    assert "training diverged: target/eval: the test loss is" in printed


def test_another_task_needs_another_folder(tiny: Path, tmp_path: Path, run_cli: RunCli) -> None:
    out = tmp_path / "run"
    run_cli("run", tiny, "--out", out, "--set", "recipes=[random]")
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*.json")}
    code, _, errors = run_cli("run", tiny, "--out", out, "--set", "task.training.epochs=2")
    assert code == 2
    assert "holds a run of another task" in errors
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*.json")} == before


def test_a_failure_that_was_overcome_is_history(tmp_path: Path) -> None:
    store = CellStore.create(tmp_path / "cell", {"task": {"label_counts": [2, 4]}})
    store.write_failure(ValueError("bad"))
    assert store.failure == {
        "cell": "cell",
        "round": 0,
        "error": "ValueError",
        "reason": "bad",
        "traceback": "ValueError: bad\n",
    }
    write_json(tmp_path / "cell" / "round-000.json", {})
    assert store.failure is None


def test_records_describe_themselves(uninterrupted: Path) -> None:
    cell = json.loads(next(uninterrupted.glob("cells/*/cell.json")).read_text())
    assert cell["settings"]["task"]["dataset"]["name"] == "digits"
    assert cell["settings"]["task"]["training"]["precision"] == "fp32"
    record = json.loads(next(uninterrupted.glob("cells/*/round-001.json")).read_text())
    environment = record["environment"]
    assert environment["packages"]["torch"]
    assert environment["threads"] >= 1
    assert environment["cpu"]
    assert "commit" in environment
    assert all(min(cost["seconds"], cost["cpu_seconds"], cost["samples"]) >= 0 for cost in record["stages"].values())
    assert record["peak_memory_bytes"] > 1e8
    assert len(record["query"]) == record["labels"] - 29


def test_results_are_one_row_per_cell_and_budget(uninterrupted: Path) -> None:
    results = load_results(uninterrupted)
    assert len(results) == 15
    assert (results["status"] == "finished").all()
    assert results["accuracy"].between(0, 1).all()
    random, al, prunefuse = (results[results["method"] == name].reset_index() for name in ("random", "al", "prunefuse"))
    assert (random["selector_seconds"] < 0.5).all()
    assert al.loc[0, "selector_seconds"] == 0
    for method in (al, prunefuse):
        assert method["selector_seconds"].is_monotonic_increasing
        assert (method["selector_seconds"] + method["target_seconds"] <= method["total_seconds"] + 1e-9).all()


def test_selector_seconds_are_what_choosing_the_labels_cost(tiny: Path, tmp_path: Path, run_cli: RunCli) -> None:
    """The definition, on a record with round numbers."""
    out = tmp_path / "run"
    run_cli("run", tiny, "--out", out, "--set", "recipes=[prunefuse]")
    stages = [
        "prune",
        "selector/train",
        "selector/infer",
        "selector/rank",
        "fuse",
        "target/train",
        "target/eval",
    ]
    for number in range(3):
        file = next(out.glob(f"cells/*/round-{number:03d}.json"))
        record = json.loads(file.read_text())
        record["stages"] = {name: dataclasses.asdict(StageCost(seconds=10.0**-i)) for i, name in enumerate(stages)}
        del record["sha256"]
        write_json(file, sealed(record))
    results = load_results(out)
    rank_and_infer, update = 1e-2 + 1e-3, 1 + 0.1
    assert results["selector_seconds"].tolist() == pytest.approx(
        [rank_and_infer, 2 * rank_and_infer + update, 3 * rank_and_infer + 2 * update]
    )
    assert results["target_seconds"].tolist() == pytest.approx([update + 1e-4 + 1e-5] * 3)
    assert results["total_seconds"].tolist() == pytest.approx([1.111111, 2.222222, 3.333333])


def test_missing_cells_are_shown(tiny: Path, tmp_path: Path, run_cli: RunCli) -> None:
    out = tmp_path / "run"
    run_cli("run", tiny, "--out", out)
    folder = next(out.glob("cells/*/round-000.json")).parent
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    assert load_results(out)["status"].value_counts().to_dict() == {"finished": 6, "missing": 1}
    assert run_cli("report", out, "--out", tmp_path / "report", "--no-figures")[0] == 0
    assert "missing (not run)" in (tmp_path / "report" / "leaderboard.md").read_text()


def test_a_full_disk_is_an_error_and_the_old_file_stays(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    write_json(file, {"old": 1})

    def fill_the_disk(stream: BinaryIO) -> None:
        stream.write(b"half of a rec")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(CannotWrite, match="No space left"):
        write_atomically(file, fill_the_disk)
    assert json.loads(file.read_text()) == {"old": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]


def test_numbers_that_json_does_not_know_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "record.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_full_disk_ends_the_run_with_a_message(
    tiny: Path, tmp_path: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("os.fsync", full)
        code, _, errors = run_cli("run", tiny, "--out", out)
    assert code == 1
    assert "cannot be written ([Errno 28] No space left on device)" in errors
    assert "--resume" in errors
    assert not [file for file in out.rglob("*") if file.is_file() and file.name != ".lock"]


def test_changed_settings_are_noticed(uninterrupted: Path) -> None:
    file = next(uninterrupted.glob("cells/*/cell.json"))
    data = json.loads(file.read_text())
    data["settings"]["task"]["training"]["schedule"]["epochs"] = 181
    del data["sha256"]
    file.write_text(json.dumps(sealed(data)))
    with pytest.raises(BadInput, match=r"cell\.json: expected the settings with hash .* the file was changed"):
        load_results(uninterrupted)
