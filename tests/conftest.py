from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from flat_images import png
from quick_start import QuickStart

from prunefuse_bench.cli import main

# What tests start is no worker of theirs: pytest-benchmark measures nothing in one.
os.environ.pop("PYTEST_XDIST_WORKER", None)

TINY = """
task:
  dataset: {name: digits}
  model: {name: resnet8, width: 0.25}
  training: {epochs: 1, min_steps: 4, batch_size: 32}
  budgets: [0.02, 0.05, 0.1]
recipes: [random, al, prunefuse]
seeds: [0]
precision: fp32
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNEFUSE_BENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QuickStart]:
    """Starts processes of Python in which everything is imported already."""
    with QuickStart(tmp_path_factory.mktemp("python")) as started:
        yield started


@pytest.fixture(scope="session")
def tiny_text() -> str:
    """What is in ``tiny``."""
    return TINY


@pytest.fixture
def tiny(tmp_path: Path, tiny_text: str) -> Path:
    """A suite that runs in seconds."""
    file = tmp_path / "tiny.yaml"
    file.write_text(tiny_text)
    return file


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def image_files() -> dict[str, bytes]:
    """Two classes, 20 images to train and 4 to test each: dark cats, bright dogs."""
    return {
        f"{split}/{name}/{i:02d}.png": png(level + i)
        for split, count in (("train", 20), ("test", 4))
        for name, level in (("cat", 20), ("dog", 200))
        for i in range(count)
    }


@pytest.fixture
def make_zip(tmp_path: Path) -> Callable[[dict[str, bytes]], Path]:
    def make(files: dict[str, bytes]) -> Path:
        path = tmp_path / "images.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path

    return make


@pytest.fixture
def run_cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Call the program; returns (exit code, what it printed, what it printed to stderr)."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["prunefuse-bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        printed = capsys.readouterr()
        return int(stop.value.code or 0), printed.out, printed.err

    return run
