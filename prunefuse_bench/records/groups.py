"""Folders that hold several runs: those of a suite with parts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

__all__ = ["find_runs"]


def find_runs(folders: Iterable[Path]) -> list[Path]:
    """The folders of the runs: each given one, or, if that holds no run itself, those right below it that do."""
    found: list[Path] = []
    for folder in folders:
        below = [] if (folder / "suite.json").exists() else sorted(folder.glob("*/suite.json"))
        found += [file.parent for file in below] or [folder]
    return list(dict.fromkeys(found))
