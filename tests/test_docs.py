"""Every command in the README and the documentation runs, or says why no test runs it."""

from __future__ import annotations

import html
import inspect
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, get_origin

import pytest
import torch
import typer.main
import yaml
from documented import LANGUAGES, NOT_RUN, PAGES, ROOT, SMALL, Block, blocks, inline_commands
from flat_images import png
from quick_start import QuickStart

from prunefuse_bench import config, publishing
from prunefuse_bench.cli import app
from prunefuse_bench.models import build_model

INSTALLED = Path(sys.executable).parent
BLOCKS = [block for page in PAGES for block in blocks(page)]
RUN_PAGES = [page for page in PAGES if any(block.is_run for block in blocks(page))]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def of_marker(prefix: str) -> list[Block]:
    return [block for block in BLOCKS if block.marker.startswith(prefix)]


def test_every_command_is_run_or_says_why_not() -> None:
    assert len([block for block in BLOCKS if block.is_shell]) > 20
    for block in BLOCKS:
        assert block.language in (*LANGUAGES, ""), f"{block.where}: no language {block.language!r} is known here"
        kind, _, rest = block.marker.partition(": ")
        if not block.is_code:
            assert kind in ("", "file"), f"{block.where}: this is no code, nothing to {block.marker!r}"
            continue
        assert block.marker, f"{block.where}: say before it what runs it, see tests/documented.py"
        known = kind in ("run", "run small", "run given", "file", "not run", "run by")
        assert known, f"{block.where}: {block.marker!r} is none of those in tests/documented.py"
        if kind == "not run":
            assert rest in NOT_RUN, f"{block.where}: expected a reason out of {NOT_RUN}, got {rest!r}"


def test_what_is_run_elsewhere_is_run_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert of_marker("run by: ")
    for block in of_marker("run by: "):
        runners = block.marker.removeprefix("run by: ").split(", ")
        if runners[0].startswith("tests/"):
            for command in block.commands():
                assert f'"{command.split()[1]}"' in (ROOT / runners[0]).read_text(), f"{block.where}: {runners[0]}"
            continue
        targets = [name.removeprefix("make ") for name in runners]
        for target in targets:
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{block.where}: no target {target}"
        recipes = subprocess.run(
            ["make", "--dry-run", "--always-make", *targets], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.replace(".venv/bin/", "")
        for command in block.commands():
            called = [f"make {target}" for target in targets if f"{command} ".startswith(f"make {target} ")]
            assert called or command in recipes, f"{block.where}: {block.marker!r}, but none of them runs {command!r}"


def test_commands_have_the_options_that_the_program_has() -> None:
    program: Any = typer.main.get_command(app)
    calls = [(b.where, call) for b in BLOCKS if b.is_shell for call in b.commands()]
    calls += [(name_of(page), call) for page in PAGES for call in inline_commands(page)]
    calls = [(where, call) for where, call in calls if call.startswith("prunefuse-bench ")]
    assert len(calls) > 30
    for where, call in calls:
        words = shlex.split(call)[1:]
        if words[0].startswith("-"):
            continue
        assert words[0] in program.commands, f"{where}: {call}: there is no command {words[0]!r}"
        options = {option for parameter in program.commands[words[0]].params for option in parameter.opts} | {"--help"}
        for word in words[1:]:
            name = word.partition("=")[0]
            assert not name.startswith("--") or name in options, f"{where}: {call}: no option {name}"


@pytest.mark.parametrize("page", RUN_PAGES, ids=name_of)
def test_the_commands_of_a_page_run_one_after_another(
    page: Path, tmp_path: Path, small_run: Path, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = os.pathsep.join((str(program), str(INSTALLED), os.environ["PATH"]))
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    folder = tmp_path / "reader"
    folder.mkdir()
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    for block in blocks(page):
        for thing in block.first:
            prepare(thing, folder, small_run)
        if block.marker.startswith("file: "):
            (folder / block.marker.removeprefix("file: ")).write_text(block.text)
        elif block.is_run and block.is_shell:
            script = ["bash", "-eu", "-o", "pipefail", "-c", block.script()]
            ran = subprocess.run(script, cwd=folder, env=environment, capture_output=True, text=True, check=False)
            assert ran.returncode == 0, f"{block.where}: exit code {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
        elif block.is_run:
            run_python(block, names)


def run_python(block: Block, names: dict[str, Any]) -> None:
    """In this process: importing torch anew takes seconds."""
    given = given_names()
    asked = [name for name in block.marker.partition("given: ")[2].split(", ") if name]
    names.update({name: given[name] for name in asked})
    exec(compile("\n" * block.line + block.text, str(block.page), "exec"), names)


def given_names() -> dict[str, Any]:
    """Names that a block may take as given: what its reader would have."""
    draws = torch.Generator().manual_seed(0)
    return {
        "model": build_model("resnet8", num_classes=10, in_channels=3),
        "example_input": torch.zeros(1, 3, 32, 32),
        "train": lambda network: network,
        "logits": torch.randn(2_000, 10, generator=draws),
        "logits_of_members": torch.randn(5, 2_000, 10, generator=draws),
        "features": torch.randn(2_000, 16, generator=draws),
        "weight": torch.randn(10, 16, generator=draws),
        "bias": torch.randn(10, generator=draws),
        "labeled": torch.arange(20),
    }


def prepare(thing: str, folder: Path, small_run: Path) -> None:
    """What a page's commands take as there already."""
    what, _, name = thing.rpartition(" ")
    there = folder / name
    if what == "a run in":
        shutil.copytree(small_run, there)
    elif what == "the folder":
        shutil.copytree(ROOT / "docs" / name, there, ignore=shutil.ignore_patterns("__pycache__"))
    elif what == "a suite in":
        shutil.copy(config.presets()["quick"], there)
    elif what == "images in":
        with zipfile.ZipFile(there, "w") as archive:
            for split, class_name, number in itertools.product(("train", "test"), ("cat", "dog"), range(40)):
                archive.writestr(f"{split}/{class_name}/{number}.png", png(number + 100 * (class_name == "dog")))
    elif what == "a submission in":
        publishing.pack(small_run, there)
    elif what == "a measurement in":
        benchmark = folder / "bench_nothing.py"
        benchmark.write_text("def bench_nothing(benchmark):\n    benchmark(sum, range(100))\n")
        command = ["pytest", "-q", "--benchmark-only", f"--benchmark-json={there}", "--benchmark-max-time=0.05"]
        options = ["-o", "python_functions=bench_*", "-p", "no:cacheprovider", benchmark]
        subprocess.run([sys.executable, "-m", *command, *options], check=True, capture_output=True)
    else:
        raise ValueError(f"first: nothing is known of {thing!r}")


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the preset quick, as small as they get, by the installed program."""
    folder = tmp_path_factory.mktemp("small") / "run"
    command = [INSTALLED / "prunefuse-bench", "run", "quick", "--out", folder, *SMALL]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return folder


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory, python: QuickStart) -> Path:
    """A folder with the program in it, of which only the start is another: ``small_run`` is by the installed one."""
    folder = tmp_path_factory.mktemp("bin")
    python.write_program(folder)
    return folder


def test_every_part_of_the_leaderboard_is_explained(small_run: Path) -> None:
    board = html.unescape((small_run / "leaderboard.html").read_text())
    page = (ROOT / "docs" / "leaderboard.md").read_text()
    charts = re.findall(r"<figcaption><strong>(.*?)</strong>", board)
    parts = re.findall(r'<h3 id="[^"]*">(.*?)</h3>', board)
    assert len(charts) >= 8
    assert len(parts) >= 6
    for chart in charts:
        assert f"**{chart}**" in page, chart
    for part in parts:
        assert f"\n## {part}\n" in page, part


def test_what_readers_are_told_to_save_is_used_by_a_command_that_runs() -> None:
    assert of_marker("file: ")
    for block in of_marker("file: "):
        name = block.marker.removeprefix("file: ")
        later = [other.text for other in blocks(block.page) if other.is_run and other.line > block.line]
        assert any(name in text for text in later), f"{block.where}: no command uses {name}"


def test_yaml_in_the_documentation_is_read() -> None:
    for block in BLOCKS:
        if block.language == "yaml":
            assert isinstance(yaml.safe_load(block.text), dict), block.where


def test_every_key_of_a_suite_is_documented_with_its_default() -> None:
    page = (ROOT / "docs" / "suites.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \| (.*?) \|", page, re.MULTILINE))
    defaults = dict(keys_of(config.Suite))
    assert rows.keys() == defaults.keys()
    for key, default in defaults.items():
        written = re.fullmatch(r"`(.*)`", rows[key])
        if written and default is not None:
            value = yaml.safe_load(written[1])
            value = config.parse_seeds(value) if key == "seeds" else value
            assert as_lists(value) == as_lists(default), f"{key}: the page says {value}, the program {default}"


def keys_of(spec: Any, prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, field in spec.model_fields.items():
        plain = get_origin(field.annotation) is None  # Python 3.10 takes tuple[str, ...] for a class
        nested = plain and inspect.isclass(field.annotation) and issubclass(field.annotation, config._Spec)
        default = None if field.is_required() else field.default
        found += keys_of(field.annotation, f"{prefix}{name}.") if nested else [(f"{prefix}{name}", default)]
    return found


def as_lists(value: Any) -> Any:
    return [as_lists(one) for one in value] if isinstance(value, list | tuple) else value


MADE_UP = """Text:

    prunefuse-bench run quick \\
        --seeds 0  # why

- a point

    continued, no code

More:

<!-- first: a run in a, a run in b -->
<!-- run small -->

```sh
make x # y

prunefuse-bench run z
```

<!-- run -->

Text comes between.

```python
x = 1
```

    csrc/ops   a listing
"""


def test_a_block_is_found_however_it_is_written(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(MADE_UP)
    shell, marked, python, listing = blocks(page)
    assert [block.is_code for block in (shell, marked, python, listing)] == [True, True, True, False]
    assert shell.marker == python.marker == ""
    assert [command.split() for command in shell.commands()] == [["prunefuse-bench", "run", "quick", "--seeds", "0"]]
    assert marked.marker == "run small"
    assert marked.first == ("a run in a", "a run in b")
    first, second = marked.script().splitlines()
    assert first == "make x"
    assert second.startswith("prunefuse-bench run z --set task.training.epochs=1")
