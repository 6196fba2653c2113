"""The charts of the leaderboard page as plain data: the page draws them, and says in words what they show.

Numbers of methods are positions in the order in which the run names them; budgets are positions in ascending order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prunefuse_bench import stats
from prunefuse_bench.report.costs import IN_NO_STAGE, STAGE_GROUPS, MachineCosts
from prunefuse_bench.report.numbers import flops, known, percent, seconds
from prunefuse_bench.report.payload import Board, MethodRow
from prunefuse_bench.report.rows import rows_of

if TYPE_CHECKING:
    import pandas

__all__ = ["Figure", "board_data", "convergence", "figures_of", "overlap"]

Numbers = list[float | None]
DIGITS = 5


@dataclass(frozen=True)
class Figure:
    """One chart.

    Attributes:
        key: names it within the page.
        section: of the board that it belongs to.
        kind: how it is drawn.
        title, caption: above and below it.
        alternative: what it shows, for those who do not see it.
        data: what it is drawn from, plain.
        absent: why there is nothing to draw, if there is not.
    """

    key: str
    section: str
    kind: str
    title: str
    caption: str
    alternative: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    absent: str = ""


def board_data(board: Board) -> dict[str, Any]:
    """What the charts of a board share."""
    return {
        "chance": board.chance,
        "budgets": [{"labels": budget.labels, "heading": budget.heading} for budget in board.budgets],
        "methods": [row.name for row in board.in_order_of_name],
        "order": [row.number for row in board.methods],
        "area": [_interval(row.area) if row.area else None for row in board.in_order_of_name],
        "complete": [_is_complete(row) for row in board.in_order_of_name],
        "accuracy": [_accuracies(board, row) for row in board.in_order_of_name],
    }


def figures_of(board: Board) -> Iterator[Figure]:
    """Every chart that needs nothing but the board."""
    yield _areas(board)
    yield _curves(board)
    yield _cost_in_flops(board)
    for number, machine in enumerate(board.machines):
        yield _cost_in_seconds(board, machine, number)
        yield _stages(board, machine, number)
    yield _pairs(board)


def convergence(board: Board, curves: pandas.DataFrame) -> Figure:
    """Accuracy by epoch, fused beside fresh: the paper's Figure 4."""
    lines = []
    rows = {row.key: row.number for row in board.methods}
    means = curves.groupby(["labels", "method", "start", "epoch"], sort=False)["accuracy"].mean().reset_index()
    for _, found in means.groupby(["labels", "method", "start"], sort=False):
        first = rows_of(found)[0]
        lines.append(
            {
                "labels": int(first["labels"]),
                "method": rows[first["method"]],
                "start": first["start"],
                "epoch": found["epoch"].astype(int).tolist(),
                "mean": _short(found["accuracy"].tolist()),
            }
        )
    starts = sorted({str(line["start"]) for line in lines})
    return Figure(
        f"{board.key}-convergence",
        "convergence",
        "convergence",
        "Accuracy by epoch of the target's training",
        "Mean over seeds. Epoch 0 is before the first step. Solid lines start fresh, dashed ones fused. Nothing is "
        "chosen by these curves: accuracy on the leaderboard is the last epoch's.",
        f"Line chart of test accuracy against epoch for targets that start {' or '.join(starts)}.",
        {"lines": lines},
        "" if lines else "Not recorded: set task.accuracy_by_epoch to true and run again.",
    )


def overlap(board: Board, overlaps: pandas.DataFrame) -> Figure:
    """How much of what two methods bought is the same."""
    rows = {row.key: row.number for row in board.methods}
    found = [
        [
            int(row["labels"]),
            rows[row["one"]],
            rows[row["other"]],
            *_short([row["overlap"], row["expected"]]),
            int(row["seeds"]),
        ]
        for row in rows_of(overlaps)
    ]
    return Figure(
        f"{board.key}-overlap",
        "choices",
        "overlap",
        "Overlap of what two methods bought",
        "Of all that either had bought beyond the common start, the share that both had bought; mean over seeds. In "
        "small print what two draws by lot would share.",
        "Heat map of the overlap between every two methods; the data are in the table below it.",
        {"rows": found},
        "" if found else "Nothing to compare: that takes two methods with a seed and a budget in common.",
    )


def _areas(board: Board) -> Figure:
    ranked = [row for row in board.methods if row.area]
    words = "; ".join(f"{row.name} {percent(row.area.mean)}" for row in ranked[:8] if row.area)
    return Figure(
        f"{board.key}-areas",
        "accuracy",
        "areas",
        "Average accuracy over the budgets, with 95% intervals",
        "Area under accuracy over budget, divided by the width of the budgets; mean over seeds and 95% interval by "
        "Student's t. Intervals of two methods may overlap and the methods still be told apart, since methods of one "
        "seed are compared with each other: that is what the table's standing and the matrix of pairs do. An open "
        "marker has cells without a result.",
        f"Dot chart of the average accuracy in percent, by rank: {words}.",
        absent="" if ranked else "No cell has a result at every budget.",
    )


def _curves(board: Board) -> Figure:
    last = board.last
    ends = [
        f"{row.name} {percent(row.accuracies[last.labels].estimate.mean)}"
        for row in board.methods
        if last and last.labels in row.accuracies and row.accuracies[last.labels].estimate.count
    ]
    where = last.heading if last else ""
    return Figure(
        f"{board.key}-curves",
        "accuracy",
        "curves",
        "Accuracy against budget",
        "Mean over seeds; the band is the 95% interval of the mean. Accuracy is the last epoch's on the test set.",
        f"Line chart of test accuracy against labels. At {where} of the pool: {'; '.join(ends[:8])}.",
        absent="" if ends else "No cell has a result.",
    )


def _cost_in_flops(board: Board) -> Figure:
    def column(name: str) -> list[Numbers]:
        return [
            _short([getattr(row.flops[at.labels], name) if at.labels in row.flops else None for at in board.budgets])
            for row in board.in_order_of_name
        ]

    columns = {
        "selector FLOPs, counted": column("selector"),
        "FLOPs to the target, counted": column("to_target"),
        "selector FLOPs by the paper's rule": column("selector_by_rule"),
        "FLOPs to the target by the paper's rule": column("to_target_by_rule"),
    }
    spent = [
        f"{row.name} {flops(row.flops[board.last.labels].selector)}"
        for row in board.methods
        if board.last and board.last.labels in row.flops
    ]
    return Figure(
        f"{board.key}-flops",
        "cost",
        "cost",
        "Accuracy against FLOPs",
        "Each method's way through the budgets, with the chosen budget marked; the dotted line is the Pareto front: "
        "nothing cheaper is as accurate. Counted FLOPs are two per multiply-add on the real graph. The paper's rule "
        "reckons about 20 times as many: compare those with the paper's tables alone.",
        f"Scatter chart of accuracy against selector FLOPs at the largest budget: {'; '.join(spent[:8])}.",
        {"columns": columns, "unit": "FLOPs"},
        absent="" if spent else "No cell has a result.",
    )


def _cost_in_seconds(board: Board, machine: MachineCosts, number: int) -> Figure:
    names = {
        "selector": "selector seconds",
        "to_target": "seconds to the target",
        "total": "seconds of the whole curve",
    }
    columns: dict[str, list[Numbers]] = {heading: [] for heading in names.values()}
    for row in board.in_order_of_name:
        mine = machine.seconds.get(row.key, {})
        for name, heading in names.items():
            found = [getattr(mine[at.labels], name) if at.labels in mine else None for at in board.budgets]
            columns[heading].append(_short([estimate.mean if estimate else None for estimate in found]))
    return Figure(
        f"{board.key}-seconds-{number}",
        f"machine-{number}",
        "cost",
        "Accuracy against seconds",
        f"On {machine.machine}. Seconds are those of this machine alone; accuracy is the method's over all its seeds. "
        "The dotted line is the Pareto front at the chosen budget.",
        f"Scatter chart of accuracy against seconds on {machine.machine}; the data are in the table below it.",
        {"columns": columns, "unit": "s"},
        absent="These cells moved from one machine to another: their seconds say nothing." if machine.several else "",
    )


def _stages(board: Board, machine: MachineCosts, number: int) -> Figure:
    groups = [*STAGE_GROUPS, IN_NO_STAGE]
    values = [
        _short([machine.stages[row.key][group] for group in groups]) if row.key in machine.stages else None
        for row in board.in_order_of_name
    ]
    sums = [f"{row.name} {seconds(sum(machine.stages[row.key].values()))}" for row in board.methods
            if row.key in machine.stages]  # fmt: skip
    return Figure(
        f"{board.key}-stages-{number}",
        f"machine-{number}",
        "stages",
        "Where the seconds go",
        f"Seconds of a finished cell by stage, mean over seeds, on {machine.machine}: the whole curve, all its "
        "targets and their evaluation included.",
        f"Stacked bars of the seconds of a cell by stage; in all: {'; '.join(sums[:8])}.",
        {"groups": groups, "values": values},
        absent="" if sums and not machine.several else "No cell finished on this machine alone.",
    )


def _pairs(board: Board) -> Figure:
    rows = {row.key: row.number for row in board.methods}
    found = [
        [
            rows[row["one"]],
            rows[row["other"]],
            *_short([row[name] for name in ("difference", "low", "high")]),
            *(int(row[name]) for name in ("wins", "ties", "losses")),
            *_short([row[name] for name in ("p_t", "p_wilcoxon", "p_adjusted")]),
            bool(row["different"]),
        ]
        for row in rows_of(board.comparisons.pairs)
    ]
    different = sum(1 for row in found if row[-1])
    return Figure(
        f"{board.key}-pairs",
        "pairs",
        "pairs",
        "Every method against every other",
        "Difference of the average accuracy, row minus column, in points; below it wins, ties and losses over seeds. "
        "A frame marks pairs that are told apart: paired t-test, Holm's correction over all pairs, 5%.",
        f"Matrix of {len(found)} pairs of methods, of which {different} are told apart.",
        {"rows": found},
        absent="" if found else "There is only one method.",
    )


def _is_complete(row: MethodRow) -> bool:
    return row.area is not None and row.area.count == row.expected


def _accuracies(board: Board, row: MethodRow) -> dict[str, list[Any]]:
    scores = [row.accuracies.get(budget.labels) for budget in board.budgets]
    estimates = [score.estimate if score and score.estimate.count else None for score in scores]
    return {
        "mean": _short([found.mean if found else None for found in estimates]),
        "low": _short([found.low if found else None for found in estimates]),
        "high": _short([found.high if found else None for found in estimates]),
        "count": [found.count if found else 0 for found in estimates],
        "expected": [row.expected for _ in board.budgets],
    }


def _interval(estimate: stats.Estimate) -> Numbers:
    return _short([estimate.mean, estimate.low, estimate.high])


def _short(values: Sequence[float | None]) -> Numbers:
    """Five digits are more than a chart can show; what is not a number is None."""
    return [None if known(value) is None else float(f"{value:.{DIGITS}g}") for value in values]
