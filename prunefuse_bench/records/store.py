"""Folders of records: a run has cells, a cell has rounds.

    RUN/suite.json                     what was asked for, and the cells of the grid
    RUN/cells/ID/cell.json             settings of the cell; ID is their hash
    RUN/cells/ID/round-003.json        one whole round: rows, chosen indices, seconds by stage, environment
    RUN/cells/ID/selector-003.safetensors   the selector after the last whole round
    RUN/cells/ID/failure.json          why the cell failed, if it did
    RUN/selectors/                     selectors that cells of the coreset protocol share

A cell is finished when its last round is there: nothing says so but the rounds themselves.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock
import torch

from prunefuse_bench.atomic import write_atomically, write_json
from prunefuse_bench.config import content_hash
from prunefuse_bench.cost.memory import process_peak_bytes
from prunefuse_bench.errors import BadInput, CellLocked
from prunefuse_bench.loop import Checkpoint, Outcome, Round
from prunefuse_bench.records.selectors import Shelf, pack_selector, unpack_selector
from prunefuse_bench.training import Fit

__all__ = ["SCHEMA", "CellStore", "RunFolder"]

SCHEMA = 3
"""Version of the records' layout and meaning; part of every cell's settings, so older results are never mixed in."""


class CellStore:
    """The records of one cell.

    Args:
        folder: of this cell.
        settings: all that determines the cell's results, as plain data.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.settings = settings

    @classmethod
    def create(cls, folder: Path, settings: Mapping[str, Any]) -> CellStore:
        """Make the folder if it is not there, and state the settings in it."""
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "cell.json").exists():
            write_json(folder / "cell.json", {"schema": SCHEMA, "settings": settings})
        return cls(folder, settings)

    @classmethod
    def open(cls, folder: Path) -> CellStore | None:
        """The cell in this folder, or None if none was begun there.

        Raises:
            BadInput: the settings are not readable, or not those that the folder is named after.
        """
        file = folder / "cell.json"
        if not file.exists():
            return None
        settings = _read_json(file).get("settings", {})
        if content_hash(settings) != folder.name:
            raise BadInput(
                f"{file}: expected the settings with hash {folder.name}, got {content_hash(settings)}: "
                "the file was changed; remove the folder to run the cell again"
            )
        return cls(folder, settings)

    @property
    def rounds_expected(self) -> int:
        """Rounds of the whole cell, the random start included."""
        return len(self.settings["task"]["label_counts"])

    @property
    def rounds_done(self) -> int:
        """Whole rounds on disk, counted from the first without a gap."""
        done = 0
        while self._round_file(done).exists():
            done += 1
        return done

    @property
    def finished(self) -> bool:
        """Whether every round is there."""
        return self.rounds_done == self.rounds_expected

    @property
    def failure(self) -> dict[str, Any] | None:
        """Why the cell could not go on from where it is, if so."""
        file = self.folder / "failure.json"
        failure = _read_json(file) if file.exists() else None
        # A failure that rounds have been added to since is history.
        return failure if failure and failure["round"] == self.rounds_done and not self.finished else None

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the cell for this process; the lock goes with the process, however that ends.

        Raises:
            CellLocked: another process holds it.
        """
        lock = filelock.FileLock(self.folder / ".lock", timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise CellLocked(
                f"cell {self.folder.name} in {self.folder.parent.parent} is being run by another process; "
                "wait for it, or give another folder with --out"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def write_round(self, round_: Round, environment: Mapping[str, Any]) -> None:
        """Store a whole round. The selector first, then the round that makes it count, then the old selector goes."""
        if round_.selector is not None:
            packed = pack_selector(round_.selector)
            write_atomically(self._selector_file(round_.number), lambda stream: stream.write(packed))
        write_json(
            self._round_file(round_.number),
            {
                "round": round_.number,
                "labels": round_.labels,
                "selector": _outcome(round_.selector_outcome),
                "target": _outcome(round_.target_outcome),
                "seconds": round_.bill.seconds,
                "unaccounted_seconds": round_.bill.unaccounted,
                "stages": {name: dataclasses.asdict(cost) for name, cost in round_.bill.stages.items()},
                "peak_memory_bytes": process_peak_bytes(),
                "tied": round_.tied,
                "query": round_.query.tolist(),
                "environment": environment,
            },
        )
        (self.folder / "failure.json").unlink(missing_ok=True)
        if round_.number:
            self._selector_file(round_.number - 1).unlink(missing_ok=True)

    def write_failure(self, error: Exception) -> None:
        """Record why the cell cannot go on."""
        reason = {
            "round": self.rounds_done,
            "error": type(error).__name__,
            "reason": str(error),
            "traceback": "".join(traceback.format_exception(error)),
        }
        write_json(self.folder / "failure.json", reason)

    def read_rounds(self) -> list[dict[str, Any]]:
        """All whole rounds as plain data, in order."""
        return [_read_json(self._round_file(number)) for number in range(self.rounds_done)]

    def checkpoint(self) -> Checkpoint | None:
        """Where to go on, or None if no round is whole."""
        rounds = self.read_rounds()
        if not rounds:
            return None
        queries = tuple(torch.tensor(row["query"], dtype=torch.int64) for row in rounds)
        last, selector = len(rounds) - 1, rounds[-1]["selector"]
        if selector is None:
            return Checkpoint(last, queries, None)
        return Checkpoint(last, queries, unpack_selector(self._selector_file(last), Fit(**selector["fit"])))

    def _round_file(self, number: int) -> Path:
        return self.folder / f"round-{number:03d}.json"

    def _selector_file(self, number: int) -> Path:
        return self.folder / f"selector-{number:03d}.safetensors"


class RunFolder:
    """The folder of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add_cells(self, suite: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> None:
        """State the grid, so that a cell that is missing shows; cells that were asked for before stay in it.

        The run's folder must be there.

        Args:
            suite: what was asked for, with ``dataset`` and ``model`` as tables name them and ``task``, the hash of all
                settings that the cells share.
            cells: of each its ``id``, ``method`` (as tables name it), ``seed`` and ``target_needs_selector``.

        Raises:
            BadInput: the folder holds a run of another task.
        """
        with filelock.FileLock(self.folder / ".lock"):
            begun = (self.folder / "suite.json").exists()
            before = self.read_suite() if begun else {"task": suite["task"], "cells": []}
            if before["task"] != suite["task"]:
                raise BadInput(
                    f"{self.folder} holds a run of another task (other data, network, training or budgets), and "
                    "results of different tasks do not belong in one table: give another folder with --out"
                )
            grid = {cell["id"]: dict(cell) for cell in (*before["cells"], *cells)}
            write_json(self.folder / "suite.json", {"schema": SCHEMA, **suite, "cells": list(grid.values())})

    def read_suite(self) -> dict[str, Any]:
        """What :meth:`add_cells` wrote.

        Raises:
            BadInput: the folder holds no run, or one of another schema.
        """
        file = self.folder / "suite.json"
        if not file.exists():
            raise BadInput(
                f"{self.folder}: expected the folder of a run (with suite.json in it); "
                "start one with: prunefuse-bench run quick"
            )
        data = _read_json(file)
        if data.get("schema") != SCHEMA:
            raise BadInput(
                f"{file}: expected records of schema {SCHEMA}, got {data.get('schema')}; run the suite again"
            )
        return data

    def create_cell(self, settings: Mapping[str, Any]) -> CellStore:
        """The records of the cell with these settings, begun if there are none."""
        return CellStore.create(self.folder / "cells" / content_hash(settings), settings)

    @property
    def shelf(self) -> Shelf:
        """Selectors that cells of this run share."""
        return Shelf(self.folder / "selectors")

    def open_cell(self, cell: str) -> CellStore | None:
        """The records of a cell by its hash, or None if it was never begun."""
        return CellStore.open(self.folder / "cells" / cell)


def _outcome(outcome: Outcome | None) -> dict[str, Any] | None:
    if outcome is None:
        return None
    return {
        "accuracy": outcome.evaluation.accuracy,
        "loss": outcome.evaluation.loss,
        "parameters": outcome.parameters,
        "fit": dataclasses.asdict(outcome.fit),
    }


def _read_json(file: Path) -> dict[str, Any]:
    try:
        data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{file}: not readable ({error}); remove its folder to run it again") from None
    return data
