"""Seconds of a run, machine by machine: what ran on different hardware is never in one table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prunefuse_bench import stats
from prunefuse_bench.report.machines import machine_of
from prunefuse_bench.report.rows import groups_of, rows_of

if TYPE_CHECKING:
    import pandas

__all__ = ["IN_NO_STAGE", "STAGE_GROUPS", "MachineCosts", "Saving", "Seconds", "costs_by_machine", "read_savings"]

STAGE_GROUPS: Mapping[str, tuple[str, ...]] = {
    "pruning": ("prune",),
    "selector: training": ("selector/train",),
    "selector: scoring the pool": ("selector/infer",),
    "selector: ranking": ("selector/rank",),
    "synchronisation": ("sync/fuse", "sync/train"),
    "fusion": ("fuse",),
    "target: training": ("target/train",),
    "evaluation": ("selector/eval", "target/eval", "selector/corruptions", "target/corruptions", "decomposition"),
    "data, building, records": (),
}
"""Stages as the chart shows them; what is in none of the others is in the last."""
IN_NO_STAGE = "in no stage"

Rounds = Mapping[str, Sequence[Mapping[str, Any]]]
"""Records of the rounds of each cell, by its id."""


@dataclass(frozen=True)
class Saving:
    """How many times less than the reference a method needs; None for what is not known, ``reason`` says why.

    ``at_least``: the method may save more than could be seen.
    """

    value: float | None
    low: float | None
    high: float | None
    at_least: bool
    reason: str


@dataclass(frozen=True)
class Seconds:
    """Seconds at one budget over cells: to choose its labels, with its target, and of the whole curve up to it."""

    selector: stats.Estimate | None
    to_target: stats.Estimate | None
    total: stats.Estimate | None


@dataclass(frozen=True)
class MachineCosts:
    """What the cells of one machine took.

    Attributes:
        machine: in words.
        several: whether these are cells that moved from one machine to another; their seconds say nothing.
        cells: how many of each method.
        seconds: by method and size of the labeled set.
        savings: seconds that ``al`` needs for one of this method's, by method and size of the labeled set.
        stages: mean seconds of a finished cell, by method and group of stages.
    """

    machine: str
    several: bool
    cells: Mapping[str, int]
    seconds: Mapping[str, Mapping[int, Seconds]]
    savings: Mapping[str, Mapping[int, Saving]]
    stages: Mapping[str, Mapping[str, float]]


def costs_by_machine(results: pandas.DataFrame, rounds: Rounds) -> Iterator[MachineCosts]:
    """The seconds of each machine, the one with most cells first.

    Args:
        results: of one run, with the column ``to_target_seconds``.
        rounds: of every cell that was begun.
    """
    machines: dict[tuple[str, ...], list[str]] = {}
    for cell, records in rounds.items():
        names = tuple(dict.fromkeys(machine_of(record["environment"]) for record in records))
        if names:
            machines.setdefault(names, []).append(cell)
    for names, cells in sorted(machines.items(), key=lambda entry: -len(entry[1])):
        yield _costs(names, results[results["cell"].isin(cells)], {cell: rounds[cell] for cell in cells})


def _costs(names: tuple[str, ...], results: pandas.DataFrame, rounds: Rounds) -> MachineCosts:
    reached = results.dropna(subset=["labels"])
    seconds: dict[str, dict[int, Seconds]] = {}
    for method, rows in groups_of(reached, "method"):
        for labels, at in groups_of(rows, "labels"):
            columns = ("selector_seconds", "to_target_seconds", "total_seconds")
            seconds.setdefault(method, {})[int(labels)] = Seconds(*(_estimate(at[column]) for column in columns))
    finished = results.loc[results["status"] == "finished", ["cell", "method"]].drop_duplicates()
    return MachineCosts(
        machine=" and ".join(names),
        several=len(names) > 1,
        cells={str(method): int(count) for method, count in results.groupby("method")["cell"].nunique().items()},
        seconds=seconds,
        savings=read_savings(stats.cost_savings(reached, quantity="to_target_seconds")),
        stages={
            method: _mean_stages([rounds[cell] for cell in cells["cell"]])
            for method, cells in groups_of(finished, "method")
        },
    )


def read_savings(table: pandas.DataFrame) -> dict[str, dict[int, Saving]]:
    """What ``label_savings`` or ``cost_savings`` of :mod:`prunefuse_bench.stats` found, by method and labels."""
    savings: dict[str, dict[int, Saving]] = {}
    for row in rows_of(table):
        value, low, high = (None if math.isnan(row[name]) else float(row[name]) for name in ("value", "low", "high"))
        saving = Saving(value, low, high, bool(row["at_least"]), row["reason"])
        savings.setdefault(row["method"], {})[int(row["labels"])] = saving
    return savings


def _mean_stages(cells: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, float]:
    """Mean seconds of a cell in each group of stages, and in none."""
    group_of = {stage: group for group, stages in STAGE_GROUPS.items() for stage in stages}
    rest = list(STAGE_GROUPS)[-1]
    sums = dict.fromkeys((*STAGE_GROUPS, IN_NO_STAGE), 0.0)
    for record in (record for records in cells for record in records):
        for stage, cost in record["stages"].items():
            sums[group_of.get(stage, rest)] += cost["seconds"]
        sums[IN_NO_STAGE] += record["unaccounted_seconds"]
    return {group: total / len(cells) for group, total in sums.items()}


def _estimate(values: pandas.Series) -> stats.Estimate | None:
    known = values.dropna()
    return stats.estimate(known) if len(known) else None
