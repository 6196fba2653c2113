"""What is shown of a published table: sheets of text, the same for the terminal, Markdown and HTML."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from prunefuse_bench.paper.published import Number, Part, PublishedTable
from prunefuse_bench.paper.recompute import (
    DENSE_TOLERANCE,
    PRUNED_TOLERANCE,
    Recomputed,
    RecomputedCell,
    best_fit,
    notes,
    recompute,
)

if TYPE_CHECKING:
    from prunefuse_bench.paper.measured import MeasuredLine, MeasuredMethod

__all__ = ["Line", "LineKind", "Sheet", "overview", "table_sheets", "unmatched_notes"]

LineKind = Literal["published", "recomputed", "measured"]
NOTHING = "–"
MEASURED_FLOPS = (
    "FLOPs on a measured line are by the paper's rule too, of what the run did: its own network, pool and schedule, so "
    "they compare with each other, and with the published ones only if nothing differs."
)


@dataclass(frozen=True)
class Line:
    """One line of a sheet."""

    kind: LineKind
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Sheet:
    """One table to print.

    Attributes:
        title: above it.
        columns: headings; the first column is text, the others are numbers.
        lines: as many cells each as there are columns.
        notes: below it.
        is_text: all columns are text.
    """

    title: str
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    is_text: bool = False


def overview(tables: Sequence[PublishedTable], methods: Sequence[MeasuredMethod] = ()) -> Sheet:
    """One line per table: what it shows, and what this program can set beside it."""
    columns = ("table", "section", "what it shows", "numbers", "beside it", *(["rows measured"] if methods else []))
    lines = []
    for table in tables:
        numbers = sum(len(row.numbers) for part in table.parts for row in part.rows)
        cells = [table.number, table.section, table.caption, str(numbers), "; ".join(_beside(table)) or NOTHING]
        if methods:
            cells.append(str(_rows_measured(table, methods)))
        lines.append(Line("published", tuple(cells)))
    return Sheet("The tables of the paper (arXiv:2603.26138)", columns, tuple(lines), is_text=True)


def table_sheets(table: PublishedTable, methods: Sequence[MeasuredMethod] = ()) -> list[Sheet]:
    """The sheets of a table: each part as published with runs beside it, and its compute column computed again."""
    sheets = []
    for part in table.parts:
        title = f"Table {table.number}{f'({part.letter})' if part.letter else ''}: {table.caption}; {part.title}"
        sheets.append(_published_sheet(title, table, part, methods))
        if part.quantity("flops"):
            sheets.append(_recomputed_sheet(f"Table {table.number}, {part.title}: selector FLOPs by the rule", part))
    if not sheets:
        sheets.append(Sheet(f"Table {table.number}: {table.caption}", (), (), table.notes))
    return sheets


def unmatched_notes(tables: Sequence[PublishedTable], methods: Sequence[MeasuredMethod]) -> list[str]:
    """What was measured and is beside no cell of these tables, so that no run is left out in silence."""
    if not methods:
        return []
    from prunefuse_bench.paper.measured import unmatched

    left = unmatched(tables, methods)
    notes_ = [f"{method.run}: {method.name} ({method.title}, {method.model})" for method in left]
    if notes_:
        notes_.append(
            "These are beside no cell: data, protocol, selector, pruning ratio, committee, acquisition, T_sync and the "
            "start of the target have to agree, and a budget has to be reported. Data of your own counts as the "
            "paper's by its title, as in --set 'task.dataset.title=CIFAR-10 (JPEG)'."
        )
    return notes_


def _beside(table: PublishedTable) -> Iterator[str]:
    if table.has("flops"):
        rows = [row for part in table.parts for row in best_fit(recompute(part))]
        cells, beyond = sum(len(row.cells) for row in rows), sum(len(row.beyond_rounding) for row in rows)
        misfits = sum(len(row.misfits) for row in rows)
        yield (
            f"FLOPs by the rule: {cells - beyond} of {cells} cells within {DENSE_TOLERANCE:.0%} or rounding, "
            f"{beyond - misfits} more within {PRUNED_TOLERANCE:.0%}" + (f", {misfits} do not fit" if misfits else "")
        )
    experiments = [e for part in table.parts for row in part.rows for e in row.experiments]
    if table.has("accuracy") and any(e.not_comparable is None for e in experiments):
        yield "accuracy of your runs (--runs)"
    elif table.has("accuracy"):
        yield f"nothing: {experiments[0].not_comparable}"
    if table.has("selector_training_time"):
        yield "nothing: minutes of other machines"


def _rows_measured(table: PublishedTable, methods: Sequence[MeasuredMethod]) -> int:
    from prunefuse_bench.paper.measured import measured_lines

    return sum(bool(lines) for part in table.parts for lines in measured_lines(part, methods))


def _published_sheet(title: str, table: PublishedTable, part: Part, methods: Sequence[MeasuredMethod]) -> Sheet:
    several_groups = len({column.group for column in part.columns}) > 1
    headings = [_heading(column.group, column.heading, several_groups) for column in part.columns]
    with_params = any(row.params for row in part.rows)
    units = dict.fromkeys(f"{column.group}: {column.unit}" for column in part.columns)
    lines: list[Line] = []
    notes_: list[str] = []
    for row, measured in zip(part.rows, _measured(part, methods), strict=True):
        params = [row.params or NOTHING] if with_params else []
        lines.append(Line("published", (" / ".join(row.name), *params, *map(str, row.numbers))))
        for one in measured:
            mark = _footnote(one, notes_)
            name = f"measured: {', '.join(one.methods)} [{mark}]"
            lines.append(Line("measured", (name, *([""] if params else []), *(cell or NOTHING for cell in one.cells))))
    reasons = dict.fromkeys(e.not_comparable for row in part.rows for e in row.experiments if e.not_comparable)
    return Sheet(
        title,
        ("published row", *(["parameters"] if with_params else []), *headings),
        tuple(lines),
        (
            "Units: " + "; ".join(units) + ". ± is the published standard deviation.",
            *table.notes,
            *(f"No run is set beside these figures: {reason}." for reason in reasons),
            *([MEASURED_FLOPS] if notes_ and part.quantity("flops") else []),
            *notes_,
        ),
    )


def _heading(group: str, heading: str, several_groups: bool) -> str:
    return f"{group}\n{heading}" if several_groups and group != heading else heading


def _measured(part: Part, methods: Sequence[MeasuredMethod]) -> list[list[MeasuredLine]]:
    if not methods:
        return [[] for _ in part.rows]
    from prunefuse_bench.paper.measured import measured_lines

    return measured_lines(part, methods)


def _footnote(line: MeasuredLine, notes_: list[str]) -> int:
    """The number of the note that says where the line is from and how it differs, written if it is new."""
    differs = f"differs: {'; '.join(line.differences)}" if line.differences else "as published, as far as is stated"
    text = f"{line.run}: {differs}."
    known = [note.partition(" ")[2] for note in notes_]
    if text not in known:
        notes_.append(f"[{len(notes_) + 1}] {text}")
        return len(notes_)
    return known.index(text) + 1


def _recomputed_sheet(title: str, part: Part) -> Sheet:
    headings = [part.columns[i].heading for i in part.quantity("flops")]
    lines, named = [], None
    for computed in recompute(part):
        if named != computed.row.name:
            named = computed.row.name
            published = [cell.published.text for cell in computed.cells]
            params = computed.row.params or NOTHING
            lines.append(Line("published", (" / ".join(named), params, *published, "", "")))
        largest = f"{computed.largest_difference:.1%}" if computed.largest_difference else "rounding"
        values = [_value_and_difference(cell) for cell in computed.cells]
        name = f"rule, {computed.count.name}"
        lines.append(Line("recomputed", (name, f"{computed.count.params:,.0f}", *values, largest, _verdict(computed))))
    columns = ("row", "parameters", *headings, "largest difference", "fits")
    return Sheet(title, columns, tuple(lines), tuple(notes(part)))


def _verdict(computed: Recomputed) -> str:
    if computed.misfits:
        return f"beyond {computed.count.tolerance:.0%}"
    if computed.beyond_rounding:
        return f"within {PRUNED_TOLERANCE:.0%}"
    return f"within {DENSE_TOLERANCE:.0%}"


def _value_and_difference(cell: RecomputedCell) -> str:
    return f"{cell.value:.{_digits(cell.published) + 1}f} ({cell.difference:+.1%}{' r' if cell.only_rounding else ''})"


def _digits(number: Number) -> int:
    """Printed digits after the point."""
    return len(number.text.partition(".")[2])
