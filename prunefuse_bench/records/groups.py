"""Folders that hold several runs: those of a suite with parts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from prunefuse_bench.errors import BadInput

__all__ = ["expect_one_run", "find_runs"]


def find_runs(folders: Iterable[Path]) -> list[Path]:
    """The folders of the runs: each given one, or, if that holds no run itself, those right below it that do."""
    found: list[Path] = []
    for folder in folders:
        below = [] if (folder / "suite.json").exists() else sorted(folder.glob("*/suite.json"))
        found += [file.parent for file in below] or [folder]
    return list(dict.fromkeys(found))


def expect_one_run(folder: Path, verb: str) -> None:
    """Refuse the folder of several runs.

    Args:
        verb: what is to be done with each of them.

    Raises:
        BadInput: it holds no run itself, but folders in it do.
    """
    if (parts := find_runs([folder])) != [folder]:
        held = "a run of one part" if len(parts) == 1 else f"{len(parts)} runs, of the parts"
        raise BadInput(f"{folder} holds {held} of a suite: {verb} each of them, as in {parts[0]}")
