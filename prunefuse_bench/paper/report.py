"""The report: published beside recomputed beside measured, as Markdown and HTML with figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prunefuse_bench.atomic import make_folder, write_atomically
from prunefuse_bench.paper.figures import Figure, write_figures
from prunefuse_bench.paper.published import PublishedTable
from prunefuse_bench.paper.sheets import Sheet, overview, table_sheets, unmatched_notes

if TYPE_CHECKING:
    from prunefuse_bench.paper.measured import MeasuredMethod

__all__ = ["markdown", "write_report"]

TITLE = "The paper's tables: published, recomputed, measured"
PREFACE = (
    "Published figures are those of Kousar, Bhatti and Moon 2026 (arXiv:2603.26138), digit by digit. Recomputed are "
    "selector FLOPs by the rule that was fitted from the published cells. Measured are runs of this program, each with "
    "all that differs from the published experiment.",
    "FLOPs by the paper's rule, FLOPs counted on the real graph, and measured seconds are three quantities. The rule's "
    "are for comparison with the paper alone: it charges a ResNet-56 on 32x32 images 21 times what its layers do.",
)


def write_report(tables: Sequence[PublishedTable], methods: Sequence[MeasuredMethod], out: Path) -> list[Path]:
    """Write ``paper.md``, ``paper.html`` and ``figures/``; returns the files.

    Args:
        tables: those to show, in this order.
        methods: measured; may be empty.
        out: folder, made if it is not there.

    Raises:
        BadInput: the folder cannot be made.
        CannotWrite: a file cannot be written.
    """
    make_folder(out)
    sheets = [overview(tables, methods), *(sheet for table in tables for sheet in table_sheets(table, methods))]
    unmatched = unmatched_notes(tables, methods)
    figures = write_figures(tables, out / "figures")
    texts = {
        out / "paper.md": markdown(sheets, unmatched, figures),
        out / "paper.html": _html(sheets, unmatched, figures),
    }
    for file, text in texts.items():
        _save(file, text)
    return [*texts, *(out / figure.file for figure in figures)]


def markdown(sheets: Sequence[Sheet], unmatched: Sequence[str], figures: Sequence[Figure]) -> str:
    """The report as Markdown."""
    lines = [f"# {TITLE}", "", *(line for text in PREFACE for line in (_escape(text), ""))]
    for figure in figures:
        lines += [f"![{_escape(figure.caption)}]({figure.file})", "", _escape(figure.caption), ""]
    for sheet in sheets:
        lines += [f"## {_escape(sheet.title)}", ""]
        if sheet.lines:
            lines.append("| " + " | ".join(map(_escape, sheet.columns)) + " |")
            lines.append("|" + "---|" * len(sheet.columns))
            for line in sheet.lines:
                first, *others = map(_escape, line.cells)
                start = f"**{first}**" if line.kind == "published" else first
                lines.append("| " + " | ".join((start, *others)) + " |")
            lines.append("")
        if sheet.notes:
            lines += [*(f"- {_escape(note)}" for note in sheet.notes), ""]
    if unmatched:
        lines += ["## Measured, and beside no cell", "", *(f"- {_escape(note)}" for note in unmatched), ""]
    return "\n".join(lines)


def _save(file: Path, text: str) -> None:
    write_atomically(file, lambda stream: stream.write(text.encode()))


def _html(sheets: Sequence[Sheet], unmatched: Sequence[str], figures: Sequence[Figure]) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("prunefuse_bench.paper"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("paper.html")
    return page.render(title=TITLE, preface=PREFACE, sheets=sheets, unmatched=unmatched, figures=figures)


def _escape(text: str) -> str:
    """Text that means nothing to Markdown or HTML."""
    for character in "\\`*_[]<>|#~":
        text = text.replace(character, f"\\{character}")
    return text.replace("\r", " ").replace("\n", " ").replace("&", "&amp;")
