"""Tables as CSV for spreadsheets, in which a name that somebody chose stays a text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas

__all__ = ["FORMULA_STARTS", "as_csv"]

FORMULA_STARTS = "=", "+", "-", "@", "\t", "\r"
"""A spreadsheet takes a cell that begins with one of these for a formula, which can read other cells and files."""


def as_csv(frame: pandas.DataFrame) -> str:
    """The rows as CSV; a text that a spreadsheet would take for a formula has an apostrophe before it."""
    texts = frame.select_dtypes(include=["object", "string"]).map(_as_text)
    return frame.assign(**{str(name): texts[name] for name in texts.columns}).to_csv(index=False)


def _as_text(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value
