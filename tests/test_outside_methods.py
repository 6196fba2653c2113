"""Methods from outside the package: by an entry point, by a file, and when they are wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from quick_start import PROGRAM, QuickStart

from prunefuse_bench.records import load_results

RunCli = Callable[..., tuple[int, str, str]]
EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "mirror"
Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example of docs/, installed as its users would install it, into a folder of its own."""
    folder = tmp_path_factory.mktemp("installed")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
    source = folder / "source"
    source.mkdir()
    for file in ("pyproject.toml", "mirror_methods.py"):
        (source / file).write_text((EXAMPLE / file).read_text())
    subprocess.run([*install, "--target", folder / "packages", source], check=True)
    return folder / "packages"


@pytest.fixture
def call(python: QuickStart) -> Call:
    """The program in a process of its own, where the packages of a folder are installed too."""

    def run(packages: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return python.run(*PROGRAM, *arguments, environment={**os.environ, "PYTHONPATH": str(packages)})

    return run


def test_the_example_appears_among_the_methods(installed: Path, call: Call) -> None:
    listed = call(installed, "methods")
    assert listed.returncode == 0, listed.stderr
    for name in ("density", "mirror", "information_density", "half"):
        assert name in listed.stdout
    assert "information_density" not in call(installed.parent / "none", "methods").stdout


def test_the_example_appears_on_a_leaderboard(installed: Path, call: Call, tiny: Path, tmp_path: Path) -> None:
    fused = "{method: combine, proxy: half, target_start: fused, label: half-fused}"
    recipes = f"recipes=[random, density, mirror, {fused}]"
    ran = call(installed, "run", tiny, "--out", tmp_path / "run", "--set", recipes)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    board = (tmp_path / "run" / "leaderboard.md").read_text()
    for name in ("density", "mirror", "half-fused"):
        assert f"| {name} |" in board
    results = load_results(tmp_path / "run")
    assert set(results["method"]) == {"random", "density", "mirror", "half-fused"}
    assert results["accuracy"].notna().all()


def test_methods_from_a_file(call: Call, tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    text = (EXAMPLE / "mirror_methods.py").read_text()
    file.write_text(text.replace('"mirror"', '"my-mirror"').replace('"density"', '"my-density"'))
    arguments = ("run", tiny, "--out", tmp_path / "run", "--set", "recipes=[my-mirror]")
    ran = call(tmp_path, *arguments, "--methods-from", file)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "my-mirror" in ran.stdout
    assert call(tmp_path, *arguments).returncode == 2


BROKEN = """
from dataclasses import dataclass
import torch
from prunefuse_bench.acquisition import Needs, acquisition, batch_acquisition
from prunefuse_bench.recipe import Committee, Recipe, committee, method

def broken(name, choose):
    batch_acquisition(name, needs=Needs.NOTHING, source="a test")(choose)
    method(name, source="a test")(lambda: Recipe(name, acquisition=name))

def score(name, values):
    acquisition(name, needs=Needs.NOTHING, source="a test")(values)
    method(name, source="a test")(lambda: Recipe(name, acquisition=name))

@committee("wrong-committee")
@dataclass(frozen=True)
class Wrong(Committee):
    provides = Needs.LOGITS

    def ask(self, selector, question):
        raise RuntimeError("no idea")

@committee("short-committee")
@dataclass(frozen=True)
class Short(Committee):
    provides = Needs.LOGITS

    def ask(self, selector, question):
        return question.answer(logits=torch.zeros(5, 10))

def make(name, kind):
    return lambda: Recipe(name, committee=kind())

for kind in (Wrong, Short):
    name = kind.__name__.lower() + "-committee"
    method(name, source="a test")(make(name, kind))

broken("twice", lambda k, opinions: torch.zeros(k, dtype=torch.int64))
broken("outside", lambda k, opinions: torch.arange(k) + len(opinions) - 1)
broken("negative", lambda k, opinions: torch.arange(k) - 1)
broken("too-few", lambda k, opinions: torch.arange(k - 1))
broken("floats", lambda k, opinions: torch.arange(float(k)))
broken("a-list", lambda k, opinions: list(range(k)))
broken("raises", lambda k, opinions: {}["missing"])
score("not-a-number", lambda opinions: torch.full((len(opinions),), torch.nan))
score("too-short", lambda opinions: torch.zeros(3))
"""


def test_a_method_that_chooses_wrongly_fails_its_cell_by_name_and_the_others_go_on(
    call: Call, tiny: Path, tmp_path: Path
) -> None:
    file = tmp_path / "broken.py"
    file.write_text(BROKEN)
    wrong = {
        "twice": "expected 43 different positions, got 1",
        "outside": "expected positions from 0 to 1407, got 1407 to 1449",
        "negative": "expected positions from 0 to 1407, got -1 to 41",
        "too-few": "expected 43 positions, int64 [43], got torch.int64 [42]",
        "floats": "expected 43 positions, int64 [43], got torch.float32 [43]",
        "a-list": "expected 43 positions, int64 [43], got list",
        "raises": "raised KeyError: 'missing'",
        "not-a-number": "scores: 1408 of 1408 rows cannot be ranked (NaN), the first is row 0",
        "wrong-committee": "committee Wrong raised RuntimeError: no idea",
        "short-committee": "committee Short: expected opinions about 1408 candidates, got [1408, 5]",
        "too-short": "expected one score per sample, float [1408], got torch.float32 [3]",
    }
    recipes = f"recipes=[{', '.join(wrong)}, random]"
    ran = call(tmp_path, "run", tiny, "--out", tmp_path / "run", "--set", recipes, "--methods-from", file)
    assert ran.returncode == 1, ran.stderr
    results = load_results(tmp_path / "run")
    assert set(results.loc[results["method"] == "random", "status"]) == {"finished"}
    for name, reason in wrong.items():
        (given,) = set(results.loc[results["method"] == name, "reason"])
        assert f"method '{name}': acquisition '{name}'" in given or "committee" in name
        assert f"method '{name}'" in given
        assert reason in given, (name, given)
    traces = [json.loads(file.read_text())["traceback"] for file in tmp_path.glob("run/cells/*/failure.json")]
    assert len(traces) == len(wrong)
    assert any("KeyError" in trace for trace in traces)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nothing_of_the_kind", "ModuleNotFoundError: No module named 'nothing_of_the_kind'"),
        (
            "from prunefuse_bench.recipe import *\n@method('al', source='')\ndef al(): ...",
            "ValueError: method 'al' is registered already",
        ),
        ("def", "SyntaxError"),
    ],
)
def test_a_file_that_cannot_be_used_is_bad_input(
    tmp_path: Path, run_cli: RunCli, tiny: Path, text: str, message: str
) -> None:
    file = tmp_path / "bad.py"
    file.write_text(text)
    code, _, errors = run_cli("run", tiny, "--out", tmp_path / "run", "--methods-from", file)
    assert code == 2
    assert message in errors
    assert not (tmp_path / "run").exists()


def test_a_package_that_cannot_be_loaded_is_named(call: Call, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "gone-1.0.dist-info").mkdir()
    (tmp_path / "gone-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: gone\nVersion: 1.0\n")
    (tmp_path / "gone-1.0.dist-info" / "entry_points.txt").write_text("[prunefuse_bench]\nmine = gone_module\n")
    ran = call(tmp_path, "run", tiny, "--out", tmp_path / "run")
    assert ran.returncode == 2
    assert "the entry point 'mine' (gone_module) cannot be loaded: ModuleNotFoundError" in ran.stderr


def test_the_code_of_the_page_runs(call: Call, tiny: Path, tmp_path: Path) -> None:
    page = (EXAMPLE.parents[1] / "your-own-method.md").read_text()
    file = tmp_path / "mine.py"
    file.write_text(page.split("```python\n")[1].split("```")[0])
    arguments = ("--out", tmp_path / "run", "--set", "recipes=[random, al, confident]")
    ran = call(tmp_path, "run", tiny, "--methods-from", file, *arguments)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "| confident |" in (tmp_path / "run" / "leaderboard.md").read_text()


def test_the_example_holds_its_acquisition_against_the_conformance_suite(installed: Path, python: QuickStart) -> None:
    command = "-m", "pytest", "-q", "-p", "no:cacheprovider", EXAMPLE / "test_mirror_methods.py"
    ran = python.run(*command, environment={**os.environ, "PYTHONPATH": str(installed)})
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "passed" in ran.stdout
