"""Two runs of the same suite: what changed, with intervals, and what cannot be said."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunefuse_bench.errors import BadInput
from prunefuse_bench.report.compared import (
    AccuracyChange,
    CostChange,
    PicksChange,
    accuracy_changes,
    cost_changes,
    picks_changes,
)
from prunefuse_bench.report.machines import Change, changes, machine_of, software_of
from prunefuse_bench.report.numbers import flops, percent, points, seconds
from prunefuse_bench.report.sheets import NOTHING, Sheet, sheets_as_markdown
from prunefuse_bench.report.sides import Side, read_sides

__all__ = ["PairOfRuns", "RunComparison", "compare_runs"]

COST_NAMES = {
    "selector_flops": "selector FLOPs",
    "target_flops": "target FLOPs",
    "selector_seconds": "selector seconds",
    "target_seconds": "target seconds",
}


@dataclass(frozen=True)
class PairOfRuns:
    """A run before and the run that is set beside it.

    Attributes:
        title: data set and target network.
        facts: folders, grid hashes, settings, software, machines that differ.
        is_paired: whether accuracies are compared seed by seed.
        refused: what is not compared, and why.
        notes: methods, seeds and budgets that are in one only, and what a reader must know.
        accuracies, picks, costs: what was compared.
    """

    title: str
    facts: tuple[Change, ...]
    is_paired: bool
    refused: tuple[str, ...]
    notes: tuple[str, ...]
    accuracies: tuple[AccuracyChange, ...]
    picks: tuple[PicksChange, ...]
    costs: tuple[CostChange, ...]

    @property
    def sheets(self) -> tuple[Sheet, ...]:
        """For the terminal."""
        facts = tuple((fact.path, fact.before, fact.after) for fact in self.facts)
        summary = (*(f"Cannot be said: {reason}" for reason in self.refused), *self.notes)
        sheets = [Sheet(f"{self.title}: what differs", ("what", "before", "after"), facts, summary)]
        if self.accuracies:
            sheets.append(_accuracy_sheet(self.title, self.accuracies, self.is_paired))
        if self.picks:
            sheets.append(_picks_sheet(self.title, self.picks))
        if self.costs:
            sheets.append(_costs_sheet(self.title, self.costs))
        return tuple(sheets)

    def data(self) -> dict[str, Any]:
        """The same as plain data; accuracies are shares."""
        return {
            "title": self.title,
            "facts": [vars(fact) for fact in self.facts],
            "is_paired": self.is_paired,
            "refused": list(self.refused),
            "notes": list(self.notes),
            "accuracies": [vars(change) for change in self.accuracies],
            "picks": [vars(change) for change in self.picks],
            "costs": [vars(change) for change in self.costs],
        }


@dataclass(frozen=True)
class RunComparison:
    """Two sets of runs.

    Attributes:
        pairs: runs that are set beside each other: of the same task; if there is none, of the same title; if one is
            left on either side, these.
        only_before, only_after: titles and folders of the others.
    """

    pairs: tuple[PairOfRuns, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]

    @property
    def sheets(self) -> tuple[Sheet, ...]:
        """For the terminal."""
        sheets = tuple(sheet for pair in self.pairs for sheet in pair.sheets)
        alone = (
            *(f"Only before: {run}." for run in self.only_before),
            *(f"Only after: {run}." for run in self.only_after),
        )
        return (*sheets, Sheet("Runs beside no other", (), (), alone)) if alone else sheets

    def markdown(self) -> str:
        """The same as a page."""
        return sheets_as_markdown("Runs before and after", self.sheets)

    def data(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "pairs": [pair.data() for pair in self.pairs],
            "only_before": list(self.only_before),
            "only_after": list(self.only_after),
        }


def compare_runs(before: Path | Sequence[Path], after: Path | Sequence[Path]) -> RunComparison:
    """Compare runs before and after a change, or of two machines.

    Args:
        before, after: a folder that ``run`` wrote, or several. Folders of one task count as one run.

    Raises:
        BadInput: a folder holds no run, the same cell is there twice on one side, or no run fits any other.
    """
    befores, afters = read_sides(before), read_sides(after)
    pairs, alone_before, alone_after = _match(befores, afters)
    if not pairs:
        raise BadInput(
            f"no run of {_names(befores)} is of the same task as one of {_names(afters)}: give two folders to have "
            "two different tasks compared"
        )
    return RunComparison(
        tuple(_compare(*pair) for pair in pairs), tuple(map(str, alone_before)), tuple(map(str, alone_after))
    )


def _match(befores: Sequence[Side], afters: Sequence[Side]) -> tuple[list[tuple[Side, Side]], list[Side], list[Side]]:
    pairs: list[tuple[Side, Side]] = []
    left, right = list(befores), list(afters)
    for attribute in ("task_hash", "title"):
        for one in list(left):
            same = (other for other in right if getattr(other, attribute) == getattr(one, attribute))
            if (beside := next(same, None)) is not None:
                pairs.append((one, beside))
                left.remove(one)
                right.remove(beside)
    if len(left) == len(right) == 1:
        pairs.append((left.pop(), right.pop()))
    return pairs, left, right


def _compare(before: Side, after: Side) -> PairOfRuns:
    is_paired = before.task is not None and before.task == after.task
    refused = tuple(_refusals(before, after))
    comparable = not refused
    methods = before.methods_beside(after) if comparable else []
    budgets = [labels for labels in before.reported if labels in after.reported]
    title = before.title if before.title == after.title else f"{before.title} -> {after.title}"
    picks = tuple(picks_changes(before, after, methods))
    accuracies = tuple(accuracy_changes(before, after, methods, picks, is_paired=is_paired))
    return PairOfRuns(
        title=title,
        facts=tuple(_facts(before, after)),
        is_paired=is_paired,
        refused=refused,
        notes=tuple(_notes(before, after, is_paired=is_paired, comparable=comparable)),
        accuracies=accuracies,
        picks=picks,
        costs=tuple(cost_changes(before, after, methods, budgets[-1:])),
    )


def _facts(before: Side, after: Side) -> Iterator[Change]:
    """Everything that is stated of both and differs; the folders in any case."""
    yield Change("folder", _joined(before.folders), _joined(after.folders))
    if before.grids != after.grids:
        yield Change("grid hash", *(", ".join(grid[:16] for grid in side.grids) for side in (before, after)))
    if before.shared is not None and after.shared is not None:
        yield from changes(before.shared, after.shared)
    elif before.task_hash != after.task_hash:
        yield from changes(before.asked, after.asked, "task")
        yield Change("task hash", before.task_hash, after.task_hash)
    for pair in before.methods_beside(after):
        old, new = before.recipe(pair.before), after.recipe(pair.after)
        if old is not None and new is not None:
            yield from changes(old, new, f"method {pair.name}")
    yield from _environment_facts(before, after)


def _environment_facts(before: Side, after: Side) -> Iterator[Change]:
    machines, software = (
        [list(dict.fromkeys(map(of, side.environments))) for side in (before, after)]
        for of in (machine_of, lambda environment: json.dumps(software_of(environment), sort_keys=True))
    )
    if machines[0] != machines[1] and machines[0] and machines[1]:
        yield Change("machine", *(" and ".join(names) for names in machines))
    # Each key with all values that it has on a side: a run may have been gone on with by another version.
    olds, news = ([json.loads(text) for text in side] for side in software)
    keys = dict.fromkeys(path for one in (*olds, *news) for path in _leaves(one))
    for path in keys:
        old, new = (list(dict.fromkeys(_leaves(one).get(path, NOTHING) for one in side)) for side in (olds, news))
        if old != new and old and new:
            yield Change(path, " and ".join(old), " and ".join(new))


def _leaves(data: Mapping[str, Any], path: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in data.items():
        inner = f"{path}.{key}" if path else key
        found |= _leaves(value, inner) if isinstance(value, dict) else {inner: str(value)}
    return found


def _refusals(before: Side, after: Side) -> Iterator[str]:
    """Why neither accuracy nor picks nor costs are compared."""
    if before.shared is None or after.shared is None:
        yield f"no cell was begun {'before' if before.shared is None else 'after'}"
        return
    old, new = before.shared, after.shared
    if old["protocol"] != new["protocol"]:
        yield f"the protocols differ ({old['protocol']} -> {new['protocol']}): the same labels mean other things"
    if differing := list(changes(old["task"]["dataset"], new["task"]["dataset"], "task.dataset")):
        yield f"the data differ ({'; '.join(map(str, differing))}): accuracies are of other test sets"
    if not before.methods_beside(after):
        yield "no method is in both, by its label or by its settings"
    if not before.reported or not after.reported:
        yield f"no cell has a result {'before' if not before.reported else 'after'}"
    elif not {*before.reported} & {*after.reported}:
        yield f"no budget is in both ({_joined(before.reported)} -> {_joined(after.reported)} labels)"


def _notes(before: Side, after: Side, *, is_paired: bool, comparable: bool) -> Iterator[str]:
    pairs = before.methods_beside(after)
    for when, side, names in (
        ("before", before, {pair.before for pair in pairs}),
        ("after", after, {pair.after for pair in pairs}),
    ):
        if alone := [method for method in side.methods if method not in names]:
            yield f"Methods only {when}: {', '.join(alone)}."
        for (method, seed), cell in side.cells.items():
            if cell.status != "finished":
                yield f"Without a whole result {when}: {method}, seed {seed}: {cell.status}."
    for pair in pairs:
        old, new = {*before.seeds_of(pair.before)}, {*after.seeds_of(pair.after)}
        if old - new:
            yield f"Seeds only before: {pair.name}: {_joined(sorted(old - new))}."
        if new - old:
            yield f"Seeds only after: {pair.name}: {_joined(sorted(new - old))}."
    if not comparable:
        return
    if before.reported != after.reported:
        yield (
            f"Accuracies are at other budgets ({_joined(before.reported)} -> {_joined(after.reported)} labels): only "
            "those of both are compared, and no area."
        )
    if not is_paired:
        yield (
            "The settings of the task differ, so seeds are not paired: intervals are Welch's, of two independent "
            "groups. What is shown is the effect of all that differs together."
        )
    if before.task_hash == after.task_hash and _all_same(before, after):
        yield "Every cell of both has the same accuracy to the bit."


def _all_same(before: Side, after: Side) -> bool:
    common = before.cells.keys() & after.cells.keys()
    values = [
        {labels: row["accuracy"] for labels, row in side.cells[key].rows.items()}
        for key in sorted(common)
        for side in (before, after)
    ]
    return bool(values) and all(old == new for old, new in zip(values[::2], values[1::2], strict=True))


def _accuracy_sheet(title: str, accuracies: Sequence[AccuracyChange], is_paired: bool) -> Sheet:
    columns = ("method", "labels", "seeds", "before", "after", "difference", "95% interval", "p (Holm)", "verdict")
    rows = tuple(
        (
            change.method,
            "area" if change.labels is None else f"{change.labels:,}",
            str(change.seeds[0]) if is_paired else f"{change.seeds[0]}, {change.seeds[1]}",
            percent(change.before),
            percent(change.after),
            points(change.difference),
            NOTHING if change.low is None or change.high is None else f"{points(change.low)} to {points(change.high)}",
            NOTHING if change.p_adjusted is None else f"{change.p_adjusted:.2g}",
            change.verdict,
        )
        for change in accuracies
    )
    how = "paired by seed, Student's t" if is_paired else "Welch's, seeds not paired"
    return Sheet(
        f"{title}: accuracy",
        columns,
        rows,
        (
            "Accuracy in percent, differences in points (after - before). Area: mean accuracy over the budgets.",
            f"Intervals: {how}. p by Holm over the methods of a budget, not over budgets: the area is one summary of "
            "all of them.",
            "A change 'would have been found' four times in five.",
        ),
    )


def _picks_sheet(title: str, picks: Sequence[PicksChange]) -> Sheet:
    columns = ("method", "seeds", "equal starts", "equal queries", "samples in both", "first difference by")
    rows = tuple(
        (
            change.method,
            str(change.seeds),
            f"{change.equal_starts} of {change.seeds}",
            f"{change.equal_rounds} of {change.rounds}",
            NOTHING if change.share is None else f"{100 * change.share:.1f}%",
            NOTHING if change.first_difference is None else f"{change.first_difference:,} labels",
        )
        for change in picks
    )
    notes = ("Once a query differs, the later ones are made of another pool by another selector.",)
    return Sheet(f"{title}: samples chosen", columns, rows, notes)


def _costs_sheet(title: str, costs: Sequence[CostChange]) -> Sheet:
    """One row per method and budget, a column for each cost."""
    rows: dict[tuple[str, int], dict[str, str]] = {}
    for change in costs:
        rows.setdefault((change.method, change.labels), {})[change.quantity] = _cost(change)
    reasons = dict.fromkeys(f"{change.method}: seconds {change.reason}." for change in costs if change.reason)
    return Sheet(
        f"{title}: costs",
        ("method", "labels", *COST_NAMES.values()),
        tuple(
            (method, f"{labels:,}", *(cells.get(quantity, NOTHING) for quantity in COST_NAMES))
            for (method, labels), cells in rows.items()
        ),
        (
            "Selector: all that was spent to choose the labels of this budget. Target: all else that its target needs.",
            "FLOPs are counted, so their ratio (after / before) is exact. Seconds: geometric mean of the ratios seed "
            "by seed, in brackets the smallest and the largest. No interval and no verdict: what else the machine did "
            "is in all seeds of a run, so runs of the same code differ by more than their seeds do. Run one side twice "
            "to see by how much; for a claim, compare benchmarks.",
            *reasons,
        ),
    )


def _cost(change: CostChange) -> str:
    written = flops if change.quantity.endswith("flops") else seconds
    if change.before == change.after:
        return f"{written(change.before)}, equal"
    text = f"{written(change.before)} -> {written(change.after)}"
    if change.reason:
        return f"{text}, not comparable"
    if change.ratio is None:
        return text
    ends = f" [{change.low:.2f}, {change.high:.2f}]" if change.low is not None and change.high is not None else ""
    return f"{text}: ×{change.ratio:.2f}{ends}" if ends else f"{text}: ×{change.ratio:.4g}"


def _joined(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def _names(sides: Sequence[Side]) -> str:
    return "; ".join(map(str, sides))
