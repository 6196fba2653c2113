"""Suites of several parts: read, checked before anything is trained, run one after another, reported together."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from prunefuse_bench.config import content_hash, load_suite, presets
from prunefuse_bench.errors import BadInput
from prunefuse_bench.groups import load_group
from prunefuse_bench.records import RunFolder, find_runs, load_results
from prunefuse_bench.runner import plan

RunCli = Callable[..., tuple[int, str, str]]

PARTS = """
description: Two pools.
task:
  dataset: {name: digits}
  model: {name: resnet8, width: 0.125}
  training: {epochs: 1, min_steps: 2, batch_size: 32}
  budgets: [0.02]
recipes: [random]
seeds: [0]
precision: fp32
parts:
  small-pool:
    task: {dataset: {train_size: 200}, training: {min_steps: 1}}
  large-pool:
    task: {dataset: {train_size: 400}}
    recipes: [random, al]
"""


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    file = tmp_path / "pools.yaml"
    file.write_text(PARTS)
    return file


def test_parts_have_their_own_keys_and_the_shared_ones(parts: Path) -> None:
    group = load_group(str(parts))
    assert (group.name, group.description, group.stands_alone) == ("pools", "Two pools.", False)
    small, large = (part.suite for part in group.parts)
    assert [part.name for part in group.parts] == ["small-pool", "large-pool"]
    assert (small.name, large.name) == ("pools.small-pool", "pools.large-pool")
    assert (small.task.dataset.train_size, small.task.training.min_steps, small.task.training.batch_size) == (
        200,
        1,
        32,
    )
    assert (large.task.dataset.train_size, large.task.training.min_steps) == (400, 2)
    assert (len(small.recipes), len(large.recipes)) == (1, 2)


def test_overrides_hold_for_all_parts_or_for_one_and_the_later_wins(parts: Path) -> None:
    overrides = [
        "task.training.min_steps=7",
        "parts.large-pool.task.training.min_steps=8",
        "parts.small-pool.task.dataset.path=a=b",
        "seeds=0-1",
    ]
    small, large = (part.suite for part in load_group(str(parts), overrides).parts)
    assert (small.task.training.min_steps, large.task.training.min_steps) == (7, 8)
    assert str(small.task.dataset.path) == "a=b"
    assert large.task.dataset.path is None
    assert small.seeds == large.seeds == (0, 1)
    later = load_group(str(parts), [overrides[1], overrides[0]]).parts[1].suite
    assert later.task.training.min_steps == 7


def test_parts_can_be_chosen(parts: Path) -> None:
    group = load_group(str(parts), only=["large-pool"])
    assert [part.name for part in group.parts] == ["large-pool"]
    assert not group.stands_alone


@pytest.mark.parametrize("name", list(presets()))
def test_a_suite_without_parts_is_what_it_was(name: str) -> None:
    group = load_group(name, ["seeds=0-1"])
    if group.stands_alone:
        assert group.parts[0].suite == load_suite(name, ["seeds=0-1"])
        assert group.parts[0].folder(Path("runs") / group.name) == Path("runs") / name


def test_cells_of_a_suite_without_parts_keep_their_names(tiny: Path) -> None:
    """The hash of the settings as the release before suites had parts: results on record stay found."""
    alone = plan(load_group(str(tiny)).parts[0].suite)
    assert [cell.identity for cell in alone] == [content_hash(cell.settings) for cell in plan(load_suite(str(tiny)))]


@pytest.mark.parametrize(
    ("change", "overrides", "only", "message"),
    [
        ("", [], ["small"], "unknown part 'small': did you mean 'small-pool'"),
        ("", ["parts.small.seeds=1"], [], "unknown part 'small'"),
        ("", ["parts.small-pool=1"], [], r"expected parts\.small-pool\.KEY=VALUE"),
        ("", ["name=x"], [], "the parts have names of their own"),
        ("", ["task.epochs=1"], [], "part 'small-pool': unknown key in task 'epochs'"),
        ("", ["parts.large-pool.task.training.epochs=0"], [], r"part 'large-pool': task\.training\.epochs: .*got 0"),
        ("  a.b: {seeds: [1]}", [], [], r"expected names of letters, digits, '-' and '_', got 'a\.b'"),
        ("  other: 3", [], [], r"parts\.other: expected keys and values, got 3"),
        ("  other: {name: x}", [], [], r"parts\.other\.name: a part has the name"),
        ("  other: {parts: {}}", [], [], "part 'other': unknown key in the suite 'parts'"),
        ("parts: []", [], [], "the key 'parts' is there twice"),
    ],
)
def test_bad_parts_are_refused(change: str, overrides: list[str], only: list[str], message: str, parts: Path) -> None:
    parts.write_text(f"{PARTS}{change}\n")
    with pytest.raises(BadInput, match=message):
        load_group(str(parts), overrides, only)


def test_parts_run_one_after_another_and_are_reported_together(
    parts: Path, tmp_path: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, printed, errors = run_cli("run", parts, "--part", "large-pool")
    assert code == 0, errors
    folder = tmp_path / "runs" / "pools"
    assert [run.name for run in find_runs([folder])] == ["large-pool"]
    before = (folder / "large-pool" / "suite.json").stat().st_mtime_ns
    code, printed, errors = run_cli("run", parts)
    assert code == 0, errors
    runs = find_runs([folder, folder])
    assert [run.name for run in runs] == ["large-pool", "small-pool"]
    assert before < (folder / "large-pool" / "suite.json").stat().st_mtime_ns
    rounds = [cell for run in runs for cell in RunFolder(run).read_suite()["cells"]]
    assert len(rounds) == 3
    assert set(load_results(runs)["status"]) == {"finished"}
    assert len(json.loads((folder / "leaderboard.json").read_text())) == 2
    assert len(json.loads((folder / "small-pool" / "leaderboard.json").read_text())) == 1
    assert "digits, 200 of" in printed
    code, printed, errors = run_cli("report", folder, "--no-figures")
    assert code == 0, errors
    assert "digits, 400 of" in printed
    assert not (folder / "comparison.md").exists()
    code, _, errors = run_cli("submit", folder)
    assert code == 2
    assert "holds 2 runs, of the parts of a suite: pack each of them" in errors
    code, _, errors = run_cli("verify", folder)
    assert code == 2
    assert "holds 2 runs, of the parts of a suite: verify each of them" in errors
    shutil.rmtree(folder / "large-pool")
    code, _, errors = run_cli("submit", folder)
    assert code == 2
    assert "holds a run of one part of a suite: pack each of them" in errors


def test_a_fault_of_the_last_part_is_found_before_the_first_is_trained(
    parts: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    out = tmp_path / "run"
    for fault, message in (
        ("parts.large-pool.task.dataset.name=image-archive", "--set parts.large-pool.task.dataset.path=PATH"),
        ("parts.large-pool.task.budgets=[0.02, 900]", "part 'large-pool': task.budgets: 900 asks for 900 labels"),
    ):
        code, _, errors = run_cli("run", parts, "--out", out, "--set", fault)
        assert code == 2
        assert message in errors
        assert not out.exists()


def test_folders_in_which_a_part_cannot_run_are_found_first(parts: Path, tmp_path: Path, run_cli: RunCli) -> None:
    out = tmp_path / "run"
    run_cli("run", parts, "--part", "large-pool", "--out", out)
    code, _, errors = run_cli("run", parts, "--out", out, "--set", "task.training.min_steps=3")
    assert code == 2
    assert "part 'large-pool'" in errors
    assert "holds a run of another task" in errors
    assert not (out / "small-pool").exists()
    code, _, errors = run_cli("run", parts, "--out", out / "large-pool")
    assert code == 2
    assert "holds the run of one suite, and pools has parts" in errors
