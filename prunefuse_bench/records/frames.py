"""From folders of records to data frames: the walk that every kind of row has in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunefuse_bench.records.store import CellStore, RunFolder

if TYPE_CHECKING:
    import pandas

__all__ = ["IDENTITY", "begun_cell_rows", "frame_of_runs"]

IDENTITY = ("run", "cell", "method", "seed")
"""Columns that say whose row it is."""


def frame_of_runs(
    path: str | Path | Iterable[str | Path],
    rows_of: Callable[[RunFolder], Iterable[dict[str, Any]]],
    columns: Sequence[str],
) -> pandas.DataFrame:
    """The rows of one or more run folders, in their order; with these columns also where there is no row.

    Raises:
        BadInput: not the folder of a run.
    """
    import pandas

    folders = [path] if isinstance(path, str | Path) else list(path)
    rows = [row for folder in folders for row in rows_of(RunFolder(Path(folder)))]
    return pandas.DataFrame(rows, columns=list(columns))


def begun_cell_rows(
    rows_of: Callable[[CellStore], Iterable[dict[str, Any]]],
) -> Callable[[RunFolder], Iterator[dict[str, Any]]]:
    """For :func:`frame_of_runs`: the rows of every cell that was begun, each with :data:`IDENTITY` before it."""

    def rows(run: RunFolder) -> Iterator[dict[str, Any]]:
        for cell, store in run.begun_cells():
            whose = {"run": str(run.folder), "cell": cell["id"], "method": cell["method"], "seed": cell["seed"]}
            for row in rows_of(store):
                yield {**whose, **row}

    return rows
