"""``report`` and ``submit`` from the command line, on real runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_runs import tiny_run

RunCli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run(tmp_path_factory.mktemp("real") / "mine")


def test_a_report_goes_to_the_folder_of_a_single_run_with_page_tables_and_figures(
    run: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    mine = Path(shutil.copytree(run, tmp_path / "mine"))
    code, printed, _ = run_cli("report", mine)
    assert code == 0
    for name in ("leaderboard.html", "leaderboard.md", "leaderboard.csv", "leaderboard.json", "leaderboard.tex"):
        assert (mine / name).stat().st_size > 0
        assert name.removeprefix("leaderboard") in printed
    for kind in ("pdf", "png"):
        assert list((mine / "figures").glob(f"accuracy*.{kind}"))
    assert "figures/" in printed


def test_the_markdown_says_what_could_have_been_shown(run: Path, tmp_path: Path, run_cli: RunCli) -> None:
    run_cli("report", run, "--out", tmp_path, "--no-figures")
    text = (tmp_path / "leaderboard.md").read_text()
    assert "2 seeds and 3 pairs of methods show" in text
    assert "not separable from it" in text
    assert not (tmp_path / "figures").exists()


def test_one_seed_tells_nothing_apart(tmp_path: Path, run_cli: RunCli) -> None:
    tiny_run(tmp_path / "run", "seeds=[0]", "recipes=[random, al]")
    run_cli("report", tmp_path / "run", "--no-figures")
    assert "1 seed: no difference can be told from chance" in (tmp_path / "run" / "leaderboard.md").read_text()


def test_two_runs_are_compared(run: Path, tmp_path: Path, run_cli: RunCli) -> None:
    again = Path(shutil.copytree(run, tmp_path / "again"))
    code, printed, _ = run_cli("report", run, again, "--out", tmp_path / "report", "--no-figures")
    assert code == 0
    assert "identical" in printed
    assert "identical" in (tmp_path / "report" / "comparison.md").read_text()


def test_what_one_sends_another_merges(run: Path, tmp_path: Path, run_cli: RunCli) -> None:
    file = tmp_path / "mine.zip"
    code, printed, _ = run_cli("submit", run, "--out", file)
    assert code == 0
    assert str(file) in printed
    copy = Path(shutil.copy(file, tmp_path / "copy.zip"))
    (tmp_path / "broken.zip").write_bytes(file.read_bytes()[:-100])
    files = [argument for one in (file, copy, tmp_path / "broken.zip") for argument in ("--merge", one)]
    code, printed, _ = run_cli("report", *files, "--out", tmp_path / "report", "--no-figures")
    assert code == 1, "a file was refused"
    assert "refused:" in printed
    assert "broken.zip" in printed
    assert "is the same as" in printed
    run_cli("report", run, "--out", tmp_path / "own", "--no-figures")
    merged, original = (json.loads((tmp_path / where / "leaderboard.json").read_text()) for where in ("report", "own"))
    assert merged[0]["table"] == original[0]["table"]
    assert len(merged) == 1


def test_nothing_but_refused_files_is_an_error(tmp_path: Path, run_cli: RunCli) -> None:
    (tmp_path / "a.zip").write_bytes(b"not a zip")
    code, printed, errors = run_cli("report", "--merge", tmp_path / "a.zip", "--out", tmp_path / "report")
    assert code == 2
    assert "refused:" in printed
    assert "none of the 1 files can be used" in errors
