"""Rows of a data frame as plain data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

__all__ = ["groups_of", "rows_of"]


def rows_of(frame: pandas.DataFrame) -> list[dict[str, Any]]:
    """One dictionary per row, by name of the column."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict(orient="records")]


def groups_of(frame: pandas.DataFrame, column: str) -> Iterator[tuple[Any, pandas.DataFrame]]:
    """(value, rows with it) for every value of a column, in order of first appearance."""
    yield from frame.groupby(column, sort=False)
