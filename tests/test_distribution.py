"""Source archive and wheel: what is in them, and that the wheel works where there is no source tree.

``make test`` puts the core that is built already into the wheel; ``make package`` compiles it from the archive.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest

from prunefuse_bench import _C, __version__, config

ROOT = Path(__file__).parents[1]
NAME = f"prunefuse_bench-{__version__}"
NOT_PUBLISHED = {".ci/run", ".gitignore"}
"""Tracked, but for those who work on the repository alone."""
GENERATED = {"PKG-INFO", "setup.cfg"}

BUILD = """
import os, pathlib, shutil, sys
from setuptools import build_meta
from torch.utils.cpp_extension import BuildExtension

out, core = sys.argv[1:]
archive = build_meta.build_sdist(out)
shutil.unpack_archive(pathlib.Path(out, archive), out)
os.chdir(pathlib.Path(out, archive.removesuffix(".tar.gz")))

def copy_extensions(self):
    for extension in self.extensions:
        target = pathlib.Path(self.get_ext_fullpath(extension.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(pathlib.Path(core, target.name), target)

if core:
    BuildExtension.build_extensions = copy_extensions
build_meta.build_wheel(out)
"""
"""Arguments: folder to write to, folder of a core that is built already (empty: compile)."""

TRY = """
import json, pathlib, sys
import torch
import prunefuse_bench
from prunefuse_bench import _C, _host, config, ops
from prunefuse_bench.paper.published import published_tables
from prunefuse_bench.recipe import methods
from prunefuse_bench.report import page

logits = torch.tensor([[0.0, 0.0], [9.0, 0.0], [1.0, 0.0]])
print(json.dumps({
    "modules": [module.__file__ for module in (prunefuse_bench, _C, _host)],
    "kernels": ops.top_k(ops.score(logits, "entropy"), 2).tolist(),
    "presets": sorted(config.presets()),
    "tables": len(published_tables()),
    "methods": sorted(name for name, _ in methods("active_learning").items()),
    "templates": sorted(file.name for file in (pathlib.Path(page.__file__).parent / "templates").iterdir()),
}))
"""


@dataclass(frozen=True)
class Built:
    """A source archive, the wheel that was built from it, and a Python that has this wheel and nothing of the tree."""

    archive: Path
    wheel: Path
    python: Path

    def run(self, program: str, *arguments: str) -> str:
        """What it prints, in an empty folder."""
        folder = self.archive.parent / "empty"
        folder.mkdir(exist_ok=True)
        command = [self.python.with_name(program), *arguments]
        ran = subprocess.run(command, cwd=folder, env=without_paths(), capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout


def without_paths() -> dict[str, str]:
    """The environment without what leads Python elsewhere: the wheel is not to be taken for installed, or shadowed."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}


def published_files() -> set[str]:
    """What git would track, without what is for the repository alone."""
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout: what belongs to the project cannot be told from what lies there")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return {name for name in listed if (ROOT / name).is_file()} - NOT_PUBLISHED


@pytest.fixture(scope="module", params=["built core", pytest.param("compiled core", marks=pytest.mark.slow)])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    tree, out, home = (tmp_path_factory.mktemp(name) for name in ("tree", "out", "home"))
    for name in published_files():  # setuptools leaves files in the tree that it builds
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tree / name)
    core = str(Path(_C.__file__).parent) if request.param == "built core" else ""
    settings = {**without_paths(), "PRUNEFUSE_BENCH_CUDA": "0", "MAX_JOBS": os.environ.get("MAX_JOBS", "2")}
    command = [sys.executable, "-c", BUILD, out, core]
    ran = subprocess.run(command, cwd=tree, env=settings, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    (wheel,) = out.glob("*.whl")

    venv.create(home, with_pip=False)
    python = home / "bin/python"
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet", wheel]
    ran = subprocess.run(install, cwd=out, env=without_paths(), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    # The packages that are installed here are seen there, too, but not what makes this tree importable: a folder that
    # is named in a .pth file is searched, and its own .pth files are not read.
    paths = {scheme: sysconfig.get_path(scheme) for scheme in ("purelib", "platlib")}
    (folder,) = home.glob("lib/python*/site-packages")
    (folder / "installed_here.pth").write_text("".join(f"{path}\n" for path in dict.fromkeys(paths.values())))
    return Built(out / f"{NAME}.tar.gz", wheel, python)


def test_the_archive_holds_every_file_of_the_project_and_no_other(built: Built) -> None:
    with tarfile.open(built.archive) as archive:
        members = {str(PurePosixPath(one.name).relative_to(NAME)) for one in archive.getmembers() if one.isfile()}
    members = {name for name in members - GENERATED if ".egg-info/" not in name}
    expected = published_files()
    assert sorted(expected - members) == [], "missing: see MANIFEST.in"
    assert sorted(members - expected) == []


def test_the_wheel_holds_the_package_and_its_data_alone(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        names = set(wheel.namelist())
        entry_points = wheel.read(f"{NAME}.dist-info/entry_points.txt").decode()
    inside = {name for name in names if not name.startswith(f"{NAME}.dist-info/")}
    cores = {name for name in inside if name.endswith(".so")}
    assert len(cores) == 2
    published = published_files()
    package = {name for name in published if name.startswith("prunefuse_bench/")}
    package |= {f"prunefuse_bench/{name}" for name in published if name.startswith("baselines/")}
    assert sorted(inside - cores - package) == []
    assert sorted(package - inside) == [], "missing: see packages and package-data in pyproject.toml"
    assert "prunefuse-bench = prunefuse_bench.cli:main" in entry_points
    assert f"{NAME}.dist-info/licenses/LICENSE" in names


def test_the_wheel_works_without_the_source_tree(built: Built) -> None:
    found = json.loads(built.run("python", "-c", TRY))
    home = built.python.parents[1]
    assert [file for file in found["modules"] if not Path(file).is_relative_to(home)] == []
    assert found["kernels"] == [0, 2]
    assert found["presets"] == sorted(config.presets())
    assert found["tables"] == 31
    assert {"random", "prunefuse", "bald", "kcenters"} <= set(found["methods"])
    assert found["templates"] == ["leaderboard.html", "page.css", "page.js"]


def test_the_program_of_the_wheel_explains_itself(built: Built) -> None:
    assert "leaderboard" in built.run("prunefuse-bench", "--help")
