"""Tables for papers: LaTeX and Markdown, and the numbers behind them as tidy CSV."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prunefuse_bench import stats
from prunefuse_bench.atomic import make_folder, write_atomically
from prunefuse_bench.records import load_corruptions, load_decomposition, load_results
from prunefuse_bench.report.costs import MachineCosts, Saving
from prunefuse_bench.report.latex import Cell, Emphasis, PaperTable, latex_table
from prunefuse_bench.report.numbers import flops, percent, rank, ratio, seconds
from prunefuse_bench.report.payload import Board, read_board
from prunefuse_bench.report.sheets import NOTHING, Sheet, sheets_as_markdown
from prunefuse_bench.report.spreadsheets import as_csv

if TYPE_CHECKING:
    import pandas

__all__ = ["paper_tables", "write_tables"]

HEAD = """% Tables of prunefuse-bench. Needs \\usepackage{booktabs}; any engine.
"""
MARKS: Mapping[Emphasis, str] = {"": "{}", "best": "{} (best)", "inseparable": "{} (=)"}
"""What Markdown has instead of bold and underlined."""


def write_tables(runs: Sequence[Path], out: Path) -> list[Path]:
    """Write what a paper needs of these runs into ``out``.

    - ``leaderboard.tex`` and ``leaderboard-tables.md``: accuracy, costs, and seconds machine by machine, a table each;
    - ``leaderboard-accuracy.csv``: run, method, labels, budget, count, expected, mean, deviation, low, high;
    - ``leaderboard-areas.csv``: run, method, seed, area;
    - ``leaderboard-pairs.csv``: every two methods of a run, compared by area: difference, intervals, p;
    - ``leaderboard-savings.csv``: labels saved against random and cost saved against al;
    - ``leaderboard-corruptions.csv`` and ``leaderboard-decomposition.csv``, where runs recorded them: see
      :func:`prunefuse_bench.records.load_corruptions` and :func:`prunefuse_bench.records.load_decomposition`.

    Returns:
        The files, in this order.

    Raises:
        BadInput: a folder holds no run, no cell of it was begun, or the folder cannot be made.
        CannotWrite: a file cannot be written.
    """
    boards = [read_board(run, str(number)) for number, run in enumerate(runs, start=1)]
    make_folder(out)
    tables = [table for board in boards for table in paper_tables(board)]
    texts = {
        "leaderboard.tex": HEAD + "\n" + "\n".join(map(latex_table, tables)),
        "leaderboard-tables.md": sheets_as_markdown("Tables", map(_sheet, tables)),
        **{f"leaderboard-{name}.csv": as_csv(frame) for name, frame in _frames(runs, boards).items()},
    }
    for name, text in texts.items():
        # A lone surrogate, which UTF-8 cannot hold, is shown as ?.
        _write(out / name, text.encode("utf-8", "replace"))
    return [out / name for name in texts]


def paper_tables(board: Board) -> Iterator[PaperTable]:
    """Accuracy, costs, and the seconds of each machine."""
    key = f"{board.grid[:12]}-{board.key}"
    yield _accuracy_table(board, f"{key}-accuracy")
    if board.last is not None:
        yield _cost_table(board, f"{key}-costs")
        for number, machine in enumerate(board.machines, start=1):
            if not machine.several:
                yield _seconds_table(board, machine, f"{key}-seconds-{number}")


def _accuracy_table(board: Board, name: str) -> PaperTable:
    by_budget = [_compare(board, budget.labels) for budget in board.budgets]
    rows = []
    for row in board.methods:
        cells = [Cell(row.name)]
        for budget, comparisons in zip(board.budgets, by_budget, strict=True):
            score = row.accuracies.get(budget.labels)
            text = _interval(score.estimate, score.expected) if score else NOTHING
            cells.append(Cell(text, _emphasis(row.key, comparisons) if score and score.estimate.count else ""))
        area = _interval(row.area, row.expected) if row.area else NOTHING
        cells.append(Cell(area, _emphasis(row.key, board.comparisons) if row.area else ""))
        rows.append((*cells, Cell(rank(row.rank))))
    headings = [f"{budget.heading} ({budget.labels:,})" for budget in board.budgets]
    return PaperTable(name, _accuracy_caption(board), ("Method", *headings, "Area", "Rank"), tuple(rows))


def _accuracy_caption(board: Board) -> str:
    several = len(board.seeds) > 1
    smallest = board.comparisons.smallest_difference
    deviations = len(board.leaderboard.deviations)
    sentences = [
        f"Test accuracy in percent on {board.title}, at budgets in percent of the pool (labels).",
        f"Mean over seeds {', '.join(map(str, board.seeds))}"
        + (" ± half the width of the 95% interval by Student's t." if several else ": one seed has no interval."),
        "Area: mean accuracy over the budgets. Rank: mean over seeds of the rank by area.",
        "Bold: best; underlined: not separable from it (paired t-tests by seed, Holm over all pairs, 5%)."
        if several
        else "With one seed no method can be told from another.",
        _smallest(smallest) if several and smallest is not None else "",
        f"The setting differs from the paper's in {deviations} point{'s' * (deviations != 1)}."
        if deviations
        else "The setting is the paper's.",
        f"Grid {board.grid[:12]}.",
    ]
    return " ".join(filter(None, sentences))


def _smallest(difference: float) -> str:
    if difference >= 1:
        return "So few seeds show no difference in area, whatever its size, four times in five."
    return f"The smallest difference in area that these seeds show four times in five: {100 * difference:.2g} points."


def _cost_table(board: Board, name: str) -> PaperTable:
    last = board.last
    assert last is not None
    rows = []
    for row in board.methods:
        spent, score = row.flops.get(last.labels), row.accuracies.get(last.labels)
        labels_saved, flops_saved = row.label_savings.get(last.labels), row.flops_savings.get(last.labels)
        rows.append(
            (
                Cell(row.name),
                Cell(percent(score.estimate.mean) if score else NOTHING),
                Cell(flops(spent.selector) if spent else NOTHING),
                Cell(flops(spent.to_target) if spent else NOTHING),
                Cell(_with_ends(labels_saved) if labels_saved else NOTHING),
                Cell(_with_ends(flops_saved) if flops_saved else NOTHING),
            )
        )
    caption = (
        f"Cost on {board.title}, up to {last.labels:,} labels ({last.heading}); means over seeds "
        f"{', '.join(map(str, board.seeds))}. FLOPs are counted on the real graph, two per multiply-add. Selector: all "
        "that was spent to choose these labels; to target: that, and all else that one target at this budget needs. "
        "Labels saved: labels that random needs for its accuracy here, for one that the method needs for the same. "
        "FLOPs saved: FLOPs to target that al needs for its accuracy here, for one of the method's. 95% intervals over "
        f"seeds in brackets; ≥: the method had the accuracy at its first budget already. Grid {board.grid[:12]}."
    )
    columns = ("Method", "Accuracy", "Selector", "To target", "Labels saved", "FLOPs saved")
    return PaperTable(name, caption, columns, tuple(rows))


def _seconds_table(board: Board, machine: MachineCosts, name: str) -> PaperTable:
    last = board.last
    assert last is not None
    rows = []
    for row in board.methods:
        measured = machine.seconds.get(row.key, {}).get(last.labels)
        if measured is None:
            continue
        spent = (measured.selector, measured.to_target, measured.total)
        texts = [seconds(one.mean) if one else NOTHING for one in spent]
        rows.append((Cell(row.name), Cell(str(machine.cells.get(row.key, 0))), *map(Cell, texts)))
    caption = (
        f"Seconds on {board.title}, up to {last.labels:,} labels ({last.heading}), of the cells that ran on: "
        f"{machine.machine}. Selector: all that was spent to choose these labels; to target: that, and all else that "
        "one target at this budget needs; total: with the targets of all reported budgets and their evaluation. Means "
        f"over seeds. Grid {board.grid[:12]}."
    )
    return PaperTable(name, caption, ("Method", "Cells", "Selector", "To target", "Total"), tuple(rows))


def _compare(board: Board, labels: int) -> stats.Comparisons:
    """The methods at one budget, paired by seed; a seed without a result is missing."""
    import pandas

    values = [
        (cell.seed, row.key, cell.accuracies.get(labels, math.nan)) for row in board.methods for cell in row.cells
    ]
    return stats.compare(pandas.DataFrame(values, columns=["block", "method", "value"]))


def _emphasis(method: str, comparisons: stats.Comparisons) -> Emphasis:
    # Of one method, or of methods of which nothing is known, none is the best.
    if len(comparisons.ranks) < 2:
        return ""
    return "best" if method == comparisons.best else "inseparable" if method in comparisons.inseparable else ""


def _interval(found: stats.Estimate, expected: int) -> str:
    if not found.count:
        return NOTHING
    half = f" ± {100 * (found.high - found.mean):.2f}" if found.high is not None else ""
    return f"{percent(found.mean)}{half}" + (f" ({found.count} of {expected})" if found.count < expected else "")


def _with_ends(saving: Saving) -> str:
    if saving.value is None:
        return NOTHING
    value = f"{'≥' * saving.at_least}{ratio(saving.value)}"
    if saving.low is None and saving.high is None:
        return value
    return f"{value} [{ratio(saving.low)}, {ratio(saving.high)}]"


def _frames(runs: Sequence[Path], boards: Sequence[Board]) -> Mapping[str, pandas.DataFrame]:
    import pandas

    results = load_results(runs)
    accuracy = stats.summarise(results)
    pairs = [board.comparisons.pairs.assign(run=str(board.run)) for board in boards]
    labels_saved = stats.label_savings(results).assign(quantity="labels", reference="random")
    flops = results.assign(to_target_flops=results["selector_flops"] + results["target_flops"])
    flops_saved = stats.cost_savings(flops, quantity="to_target_flops").assign(
        quantity="to_target_flops", reference="al"
    )
    recorded = {"corruptions": load_corruptions(runs), "decomposition": load_decomposition(runs)}
    return {
        "accuracy": accuracy,
        "areas": stats.curve_areas(results),
        "pairs": pandas.concat(pairs, ignore_index=True),
        "savings": pandas.concat([labels_saved, flops_saved], ignore_index=True),
        **{name: frame for name, frame in recorded.items() if len(frame)},
    }


def _sheet(table: PaperTable) -> Sheet:
    rows = tuple(tuple(MARKS[cell.emphasis].format(cell.text) for cell in row) for row in table.rows)
    caption = table.caption.replace("Bold: best; underlined: not", "(best): best; (=): not")
    return Sheet(table.name, table.columns, rows, (caption,))


def _write(file: Path, content: bytes) -> None:
    write_atomically(file, lambda stream: stream.write(content))
