"""Tables of text, the same for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["NOTHING", "Sheet", "escape_markdown", "sheets_as_markdown"]

NOTHING = "–"
"""What a table shows where there is no number."""


@dataclass(frozen=True)
class Sheet:
    """One table to print.

    Attributes:
        title: above it.
        columns: headings; the first column is text.
        rows: as many cells each as there are columns.
        notes: below it; there may be notes and no table.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def markdown(self, level: int = 2) -> str:
        """The table under a heading of this level; every cell appears as it is written, whatever it holds."""
        lines = [f"{'#' * level} {escape_markdown(self.title)}", ""]
        if self.rows:
            lines += [_line(self.columns), "|" + "---|" * len(self.columns), *map(_line, self.rows), ""]
        if self.notes:
            lines += [*(f"- {escape_markdown(note)}" for note in self.notes), ""]
        return "\n".join(lines)


def sheets_as_markdown(title: str, sheets: Iterable[Sheet]) -> str:
    """A page of sheets."""
    return "\n".join([f"# {escape_markdown(title)}", "", *(sheet.markdown() for sheet in sheets)])


def escape_markdown(text: str) -> str:
    """Text that means nothing to Markdown or HTML, on one line."""
    for character in "\\`*_[]<>|#~$":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.replace("&", "&amp;").split())


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(escape_markdown, cells)) + " |"
