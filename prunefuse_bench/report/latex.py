"""Text and tables for LaTeX: whatever a name holds, it appears as it is and the document compiles.

The tables need the package booktabs and nothing else: any engine, any font encoding.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Cell", "PaperTable", "escape_latex", "latex_table"]

Emphasis = Literal["", "best", "inseparable"]
COMMANDS: dict[Emphasis, str] = {"": "", "best": r"\textbf", "inseparable": r"\underline"}

WRITTEN = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "{}$&#_%"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"{\char34}",
    "`": r"{\char96}",
    # After the end of a row these two would be its options.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "–": "{--}",
    "—": "{---}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "∞": r"$\infty$",
    "≥": r"$\geq$",
    "→": r"$\rightarrow$",
    "…": r"\ldots{}",
}
OTHER_LETTERS = "ßÆæØøŒœŁłıÅå"
"""Letters that every font encoding has, beside those with an accent."""
ACCENTS = "\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327"
LONG_NAME = 40
"""Characters from which a name is set in several lines."""


@dataclass(frozen=True)
class Cell:
    """One cell: plain text, and how it stands among the others of its column."""

    text: str
    emphasis: Emphasis = ""


@dataclass(frozen=True)
class PaperTable:
    """A table for a paper.

    Attributes:
        name: letters, digits and ``-``: part of its label.
        caption: plain text.
        columns: headings, plain text; the first column is the methods'.
        rows: as many cells each as there are columns.
    """

    name: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def escape_latex(text: str) -> str:
    """Text on one line that any LaTeX engine sets as it is written; what no usual font has, as its code point."""
    # Two hyphens, quotes or commas in a row would be another character.
    apart = re.split(r"(?<=-)(?=-)|(?<=')(?=')|(?<=,)(?=,)", " ".join(text.split()))
    return "{}".join("".join(map(_character, part)) for part in apart)


def latex_table(table: PaperTable) -> str:
    """The table as a float, for ``\\input``."""
    several_lines = max((len(row[0].text) for row in table.rows), default=0) > LONG_NAME
    first = r"p{0.35\linewidth}" if several_lines else "l"
    environment = "table*" if len(table.columns) > 5 else "table"
    lines = [
        rf"\begin{{{environment}}}[t]",
        r"  \centering",
        rf"  \caption{{{escape_latex(table.caption)}}}",
        rf"  \label{{tab:{table.name}}}",
        r"  \small",
        r"  \setlength{\tabcolsep}{4pt}",
        rf"  \begin{{tabular}}{{{first}{'r' * (len(table.columns) - 1)}}}",
        r"    \toprule",
        f"    {_row([Cell(column) for column in table.columns])}",
        r"    \midrule",
        *(f"    {_row(row)}" for row in table.rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        rf"\end{{{environment}}}",
    ]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[Cell]) -> str:
    return " & ".join(map(_cell, cells)) + r" \\"


def _cell(cell: Cell) -> str:
    text = escape_latex(cell.text)
    return f"{COMMANDS[cell.emphasis]}{{{text}}}" if cell.emphasis else text


def _character(character: str) -> str:
    if character in WRITTEN:
        return WRITTEN[character]
    if " " <= character <= "~" or character in OTHER_LETTERS or _has_a_usual_accent(character):
        return character
    return rf"\texttt{{U+{ord(character):04X}}}"


def _has_a_usual_accent(character: str) -> bool:
    parts = unicodedata.normalize("NFD", character)
    return "À" <= character <= "ž" and len(parts) == 2 and parts[0].isascii() and parts[1] in ACCENTS
