"""One side of a comparison: all that runs of one task left behind, method by method and seed by seed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunefuse_bench.errors import BadInput
from prunefuse_bench.records import RunFolder, grid_hash, load_results
from prunefuse_bench.report.machines import machine_of

__all__ = ["MethodPair", "Side", "SideCell", "read_sides"]

ONLY_RECORDED = ("accuracy_by_epoch", "corruptions", "decomposition")
"""Settings of a task that change what is on record, and no result."""
OWN = ("recipe", "seed")
"""Of a cell's settings, those that are its own; all others are shared by the cells of a task."""


@dataclass(frozen=True)
class SideCell:
    """One cell.

    Attributes:
        recipe: its settings; None if the cell was never begun.
        rounds: whole rounds as recorded.
        rows: of :func:`prunefuse_bench.load_results`, one for each reported budget, by labels.
        status: finished, unfinished, failed or missing, with the reason.
    """

    recipe: Mapping[str, Any] | None
    rounds: Sequence[Mapping[str, Any]]
    rows: Mapping[int, Mapping[str, Any]]
    status: str


@dataclass(frozen=True)
class MethodPair:
    """A method before and what it is called after."""

    before: str
    after: str

    @property
    def name(self) -> str:
        """How tables name it."""
        return self.before if self.before == self.after else f"{self.before} -> {self.after}"


@dataclass(frozen=True)
class Side:
    """The runs of one task on one side.

    Attributes:
        folders: of the runs.
        title: data set, target network and protocol.
        task_hash: of all settings that the cells share.
        shared: these settings; None if no cell was begun.
        asked: the task as the suite stated it.
        grids: hash of each folder's grid.
        cells: by method and seed.
    """

    folders: tuple[Path, ...]
    title: str
    task_hash: str
    shared: Mapping[str, Any] | None
    asked: Mapping[str, Any]
    grids: tuple[str, ...]
    cells: Mapping[tuple[str, int], SideCell]

    def __str__(self) -> str:
        return f"{self.title} ({', '.join(map(str, self.folders))})"

    @property
    def task(self) -> dict[str, Any] | None:
        """Of the shared settings, those that accuracies depend on: not the device, nor what else is recorded."""
        if self.shared is None:
            return None
        task = {name: value for name, value in self.shared["task"].items() if name not in ONLY_RECORDED}
        return {"protocol": self.shared["protocol"], "task": task}

    @property
    def methods(self) -> list[str]:
        """Labels, in order of first appearance."""
        return list(dict.fromkeys(method for method, _ in self.cells))

    @property
    def seeds(self) -> list[int]:
        """All seeds of the grid, in order."""
        return sorted({seed for _, seed in self.cells})

    @property
    def reported(self) -> list[int]:
        """Numbers of labels at which some cell has an accuracy, in order."""
        return sorted({labels for cell in self.cells.values() for labels in cell.rows})

    @property
    def environments(self) -> list[Mapping[str, Any]]:
        """Every different environment that a round was run in."""
        found: dict[str, Mapping[str, Any]] = {}
        for cell in self.cells.values():
            for record in cell.rounds:
                found.setdefault(json.dumps(record["environment"], sort_keys=True), record["environment"])
        return list(found.values())

    def recipe(self, method: str) -> Mapping[str, Any] | None:
        """Settings of a method; None if none of its cells was begun."""
        return next((cell.recipe for (name, _), cell in self.cells.items() if name == method and cell.recipe), None)

    def seeds_of(self, method: str) -> list[int]:
        """Seeds of this method's cells."""
        return sorted(seed for name, seed in self.cells if name == method)

    def machines_of(self, method: str, seeds: Sequence[int]) -> list[str]:
        """Every machine that rounds of these cells were run on."""
        rounds = (record for seed in seeds for record in self.cells[method, seed].rounds)
        return list(dict.fromkeys(machine_of(record["environment"]) for record in rounds))

    def methods_beside(self, after: Side) -> list[MethodPair]:
        """Methods of both sides: of the same label, and of those left the ones with the same recipe."""
        pairs = [MethodPair(method, method) for method in self.methods if method in after.methods]
        taken = {pair.before for pair in pairs}
        left = [method for method in after.methods if method not in taken]
        for method in self.methods:
            recipe = self.recipe(method)
            other = next((name for name in left if recipe and after.recipe(name) == recipe), None)
            if method not in taken and other is not None:
                pairs.append(MethodPair(method, other))
                left.remove(other)
        return pairs


def read_sides(runs: Path | Sequence[Path]) -> list[Side]:
    """The runs of one side, those of one task as one.

    Raises:
        BadInput: none is given, a folder holds no run, or two cells are of the same task, method and seed.
    """
    folders = [runs] if isinstance(runs, Path) else list(runs)
    if not folders:
        raise BadInput("expected at least one folder of a run on each side of a comparison")
    sides: dict[str, Side] = {}
    for folder in folders:
        side = _read(folder)
        before = sides.get(side.task_hash)
        sides[side.task_hash] = _join(before, side) if before else side
    return list(sides.values())


def _read(folder: Path) -> Side:
    run = RunFolder(folder)
    suite, results = run.read_suite(), load_results(folder)
    rows_of: dict[str, list[dict[str, Any]]] = {}
    for row in results.to_dict(orient="records"):
        rows_of.setdefault(str(row["cell"]), []).append({str(name): value for name, value in row.items()})
    cells: dict[tuple[str, int], SideCell] = {}
    shared: dict[str, Any] | None = None
    for cell in suite["cells"]:
        store = run.open_cell(cell["id"])
        own = rows_of[cell["id"]]
        status, reason = own[0]["status"], own[0]["reason"]
        key = cell["method"], cell["seed"]
        if key in cells:
            raise BadInput(f"{folder}: two cells of method {key[0]} and seed {key[1]}: they cannot be told apart")
        cells[key] = SideCell(
            store.settings["recipe"] if store else None,
            store.read_rounds() if store else (),
            {int(row["labels"]): row for row in own if not math.isnan(row["accuracy"])},
            f"{status} ({reason})" if reason else status,
        )
        if store and shared is None:
            shared = {name: value for name, value in store.settings.items() if name not in OWN}
    asked = suite["suite"]
    title = f"{suite['dataset']}, {suite['model']}, {asked['protocol']}"
    return Side((folder,), title, suite["task"], shared, asked.get("task", {}), (grid_hash(suite),), cells)


def _join(one: Side, other: Side) -> Side:
    if twice := one.cells.keys() & other.cells.keys():
        method, seed = min(twice)
        raise BadInput(
            f"{', '.join(map(str, one.folders))} and {other.folders[0]} both hold method {method} and seed {seed} of "
            "the same task: give each cell once on each side"
        )
    return Side(
        (*one.folders, *other.folders),
        one.title,
        one.task_hash,
        one.shared if one.shared is not None else other.shared,
        one.asked,
        (*one.grids, *other.grids),
        {**one.cells, **other.cells},
    )
