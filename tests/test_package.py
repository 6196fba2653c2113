"""What is installed, held against what there is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
def test_every_folder_of_the_package_is_installed() -> None:
    import tomllib

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {file.parent.relative_to(ROOT) for file in (ROOT / "prunefuse_bench").rglob("__init__.py")}
    names = {".".join(folder.parts) for folder in folders}
    assert set(settings["packages"]) == names | {"prunefuse_bench.baselines"}
