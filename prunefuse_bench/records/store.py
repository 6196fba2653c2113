"""Folders of records: a run has cells, a cell has rounds.

    RUN/suite.json                     what was asked for, and the cells of the grid
    RUN/cells/ID/cell.json             settings of the cell; ID is their hash
    RUN/cells/ID/round-003.json        one whole round: rows, chosen indices, seconds by stage, environment
    RUN/cells/ID/selector-003.safetensors   the selector after the last whole round
    RUN/cells/ID/losses-003.safetensors     losses of the pool after it, if the task decomposes errors
    RUN/cells/ID/failure.json          why the cell failed, if it did
    RUN/cells/ID/recovery.json         what was found damaged and set aside, if anything was; RUN has one as well
    RUN/selectors/                     selectors that cells share; can be removed, they are then trained anew

A cell is finished when its last round is there: nothing says so but the rounds themselves. Every .json carries the
SHA-256 of its content (see :mod:`prunefuse_bench.records.checksums`); those written before there were checksums are
read as well, and :attr:`RunFolder.unverified` names them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock
import torch

from prunefuse_bench.atomic import make_folder, remove_litter, write_atomically, write_json
from prunefuse_bench.config import content_hash
from prunefuse_bench.cost.memory import process_peak_bytes
from prunefuse_bench.decomposition import PoolLosses
from prunefuse_bench.errors import BadInput, CannotWrite, CellLocked
from prunefuse_bench.plain_text import printable, shown_value
from prunefuse_bench.records.checksums import Record, read_record, sealed
from prunefuse_bench.records.selectors import Shelf, pack_selector, unpack_selector
from prunefuse_bench.records.tensors import pack_tensors, read_tensors
from prunefuse_bench.rounds import Checkpoint, Outcome, Round, SavedSelector
from prunefuse_bench.training import Fit

__all__ = ["SCHEMA", "CellStore", "OtherSchema", "RunFolder", "describe_results", "grid_hash", "task_hash"]

SCHEMA = 3
"""Version of the records' layout and meaning; part of every cell's settings, so older results are never mixed in."""


GRID_KEYS = {"id", "method", "seed", "target_needs_selector"}
"""What suite.json says of each cell."""


class OtherSchema(BadInput):
    """Records of another version of this package; they are not damaged."""


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
        make_folder(folder)
        if not (folder / "cell.json").exists():
            write_json(folder / "cell.json", sealed({"schema": SCHEMA, "settings": settings}))
        return cls(folder, settings)

    @classmethod
    def open(cls, folder: Path) -> CellStore | None:
        """The cell in this folder, or None if none was begun there.

        Raises:
            BadInput: the settings are not readable, damaged, of another schema, or not those that the folder is named
                after.
        """
        file = folder / "cell.json"
        if not file.exists():
            return None
        content = _read(file).content
        _check_schema(file, content)
        settings = content.get("settings")
        if not isinstance(settings, dict):
            raise BadInput(f"{file}: expected the settings of a cell, got another record; {_remedy(file)}")
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
        while self.round_file(done).exists():
            done += 1
        return done

    @property
    def finished(self) -> bool:
        """Whether every round is there."""
        return self.rounds_done == self.rounds_expected

    @property
    def failure(self) -> dict[str, Any] | None:
        """Why the cell could not go on from where it is, if so."""
        failure = self.read_failure()
        # A failure that rounds have been added to since is history.
        return failure if failure and failure["round"] == self.rounds_done and not self.finished else None

    def read_failure(self) -> dict[str, Any] | None:
        """What failure.json says, be it history or not; None if there is none.

        Raises:
            BadInput: not readable, damaged, or of another cell.
        """
        file = self.folder / "failure.json"
        if not file.exists():
            return None
        failure = _read(file).content
        if failure.get("cell", self.folder.name) != self.folder.name or not {"round", "error", "reason"} <= {*failure}:
            raise BadInput(f"{file}: expected why cell {self.folder.name} failed, got another record; {_remedy(file)}")
        return failure

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the cell for this process; the lock goes with the process, however that ends.

        Raises:
            CellLocked: another process holds it.
        """
        try:
            with _locked(self.folder, timeout=0):
                yield
        except filelock.Timeout:
            raise CellLocked(
                f"cell {self.folder.name} in {self.folder.parent.parent} is being run by another process; "
                "wait for it, or give another folder with --out"
            ) from None

    def drop_lock(self) -> None:
        """Set the lock aside, whoever holds it: the next to ask for it gets a new one."""
        (self.folder / ".lock").unlink(missing_ok=True)

    def write_round(self, round_: Round, environment: Mapping[str, Any]) -> None:
        """Store a whole round. The selector first, then the round that makes it count, then the old selector goes."""
        if round_.selector is not None:
            packed = pack_selector(round_.selector, cell=self.folder.name, round=round_.number)
            write_atomically(self.selector_file(round_.number), lambda stream: stream.write(packed))
        if round_.losses is not None:
            whose = json.dumps({"cell": self.folder.name, "round": round_.number})
            losses = pack_tensors(round_.losses.tensors(), {"more": whose})
            write_atomically(self.losses_file(round_.number), lambda stream: stream.write(losses))
        record = {
            "cell": self.folder.name,
            **describe_results(round_),
            "seconds": round_.bill.seconds,
            **({"borrowed_seconds": round_.bill.borrowed} if round_.bill.borrowed else {}),
            "unaccounted_seconds": round_.bill.unaccounted,
            "stages": {name: dataclasses.asdict(cost) for name, cost in round_.bill.stages.items()},
            "peak_memory_bytes": process_peak_bytes(),
            "environment": environment,
            **({"peak_memory_bytes_by_rank": list(round_.bill.peaks)} if round_.bill.peaks else {}),
        }
        write_json(self.round_file(round_.number), sealed(record))
        (self.folder / "failure.json").unlink(missing_ok=True)
        self._remove_before(round_.number)

    def _remove_before(self, number: int) -> None:
        """Selectors and losses of earlier rounds, those included that a killed process had no time to remove."""
        for earlier in range(number):
            for file in self.files_to_go_on(earlier):
                file.unlink(missing_ok=True)

    def write_failure(self, error: Exception) -> None:
        """Record why the cell cannot go on."""
        reason = {
            "cell": self.folder.name,
            "round": self.rounds_done,
            "error": type(error).__name__,
            "reason": printable(str(error)),
            "traceback": printable("".join(traceback.format_exception(error))),
        }
        write_json(self.folder / "failure.json", sealed(reason))

    def read_rounds(self) -> list[dict[str, Any]]:
        """All whole rounds as plain data, in order.

        Raises:
            BadInput: a file is not readable, damaged, or not that round of this cell.
        """
        return [self._read_round(number).content for number in range(self.rounds_done)]

    @property
    def unverified(self) -> tuple[Path, ...]:
        """Records without a checksum: they were written before records had one.

        Raises:
            BadInput: a record is damaged.
        """
        begun = self.folder / "cell.json"
        rounds = ((self.round_file(number), self._read_round(number)) for number in range(self.rounds_done))
        return tuple(file for file, record in ((begun, _read(begun)), *rounds) if not record.verified)

    def checkpoint(self) -> Checkpoint | None:
        """Where to go on, or None if no round is whole.

        Raises:
            BadInput: a record, or what is needed to go on after the last one, is damaged.
        """
        rounds = self.read_rounds()
        if not rounds:
            return None
        queries = tuple(torch.tensor(row["query"], dtype=torch.int64) for row in rounds)
        last = len(rounds) - 1
        needed = self.needed_to_go_on(rounds[-1])
        if any(not file.exists() for file in needed):
            return Checkpoint(last, queries, None, is_lost=True)
        selector, losses = (file if file in needed else None for file in self.files_to_go_on(last))
        return Checkpoint(
            last,
            queries,
            self.read_selector(last, rounds[-1]) if selector else None,
            self.read_losses(last) if losses else None,
        )

    def files_to_go_on(self, number: int) -> tuple[Path, Path]:
        """Where the selector after a round is kept, and the losses of the pool, if the cell has them."""
        return self.selector_file(number), self.losses_file(number)

    def needed_to_go_on(self, record: Mapping[str, Any]) -> tuple[Path, ...]:
        """Those of these files without which the round after this record cannot begin at once."""
        selector, losses = self.files_to_go_on(record["round"])
        return (*([selector] if record["selector"] else []), *([losses] if record.get("decomposition") else []))

    def read_selector(self, number: int, record: Mapping[str, Any]) -> SavedSelector:
        """The trained selector after a round, given its record.

        Raises:
            BadInput: not readable, damaged, or the selector of another round or cell.
        """
        fit = Fit(**record["selector"]["fit"])
        return unpack_selector(self.selector_file(number), fit, cell=self.folder.name, round=number)

    def read_losses(self, number: int) -> PoolLosses:
        """The losses of the pool after a round.

        Raises:
            BadInput: not readable, damaged, or those of another round or cell.
        """
        file, whose = self.losses_file(number), {"cell": self.folder.name, "round": number}
        try:
            tensors, metadata = read_tensors(file)
            if "more" in metadata and json.loads(metadata["more"]) != whose:
                raise ValueError(f"they are those of {metadata['more'][:100]}")
            return PoolLosses.of(tensors)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BadInput(
                f"{file}: expected losses of the pool, but they are not readable ({error}); {_remedy(file)}"
            ) from None

    def _read_round(self, number: int) -> Record:
        file = self.round_file(number)
        record = _read(file)
        content = record.content
        for key, expected in (("round", number), ("cell", self.folder.name)):
            # Those of before there were checksums do not name their cell.
            if (record.verified or key in content) and content.get(key) != expected:
                raise BadInput(
                    f"{file}: expected {key} {expected}, got {str(content.get(key))[:50]}: it is the record of another "
                    f"{key}; {_remedy(file)}"
                )
        if "query" not in content:
            raise BadInput(f"{file}: expected round {number}, got another record; {_remedy(file)}")
        if not record.verified and _read(self.folder / "cell.json").verified:
            raise BadInput(f"{file}: expected a checksum, as its cell.json has one, got none; {_remedy(file)}")
        return record

    def read_round(self, number: int) -> dict[str, Any]:
        """One whole round as plain data.

        Raises:
            BadInput: as for :meth:`read_rounds`.
        """
        return self._read_round(number).content

    def round_file(self, number: int) -> Path:
        """Where a round is recorded."""
        return self.folder / f"round-{number:03d}.json"

    def selector_file(self, number: int) -> Path:
        """Where the selector after a round is kept."""
        return self.folder / f"selector-{number:03d}.safetensors"

    def losses_file(self, number: int) -> Path:
        """Where the losses of the pool after a round are kept."""
        return self.folder / f"losses-{number:03d}.safetensors"


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
        with self.lock():
            begun = (self.folder / "suite.json").exists()
            before = self.check_task(suite["task"]) if begun else {"cells": []}
            if not begun:
                self._check_cells(suite["task"])
            grid = {cell["id"]: dict(cell) for cell in (*before["cells"], *cells)}
            write_json(self.folder / "suite.json", sealed({"schema": SCHEMA, **suite, "cells": list(grid.values())}))

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold suite.json for this process, once no other does; the lock goes with the process.

        Raises:
            CannotWrite: the folder cannot be written.
        """
        with _locked(self.folder, timeout=-1):
            yield

    def remove_litter(self) -> list[Path]:
        """Remove what killed processes left half-written; returns the files."""
        return remove_litter(self.folder)

    def _check_cells(self, task: str) -> None:
        """BadInput if a cell in this folder is of another task; for a folder whose suite.json is gone."""
        for file in sorted(self.folder.glob("cells/*/cell.json")):
            store = CellStore.open(file.parent)
            assert store is not None
            if task_hash(store.settings) != task:
                raise self._another_task()

    def check_task(self, task: str) -> dict[str, Any]:
        """What :meth:`read_suite` says; BadInput if the run is of another task than the one of this hash."""
        suite = self.read_suite()
        if suite["task"] != task:
            raise self._another_task()
        return suite

    def _another_task(self) -> BadInput:
        return BadInput(
            f"{self.folder} holds a run of another task (other data, network, training or budgets), and "
            "results of different tasks do not belong in one table: give another folder with --out"
        )

    def read_suite(self) -> dict[str, Any]:
        """What :meth:`add_cells` wrote.

        Raises:
            BadInput: the folder holds no run, one of another schema, or one whose suite.json is damaged.
        """
        file = self.folder / "suite.json"
        if not file.exists():
            raise BadInput(
                f"{self.folder}: expected the folder of a run (with suite.json in it); "
                "start one with: prunefuse-bench run quick"
            )
        content = _read(file).content
        _check_schema(file, content)
        if not {"suite", "dataset", "model", "task", "cells"} <= {*content}:
            raise BadInput(f"{file}: expected what was asked for and its cells, got another record; {_remedy(file)}")
        try:
            _check_names(content)
        except ValueError as error:
            raise BadInput(f"{file}: {error}; {_remedy(file)}") from None
        return content

    @property
    def unverified(self) -> tuple[Path, ...]:
        """Records of the run without a checksum, suite.json included: written before records had one.

        Raises:
            BadInput: the folder holds no run, or a record is damaged or of another schema.
        """
        of_cells = [file for _, store in self.begun_cells() for file in store.unverified]
        suite = self.folder / "suite.json"
        return (*(() if _read(suite).verified else (suite,)), *of_cells)

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

    def begun_cells(self) -> Iterator[tuple[dict[str, Any], CellStore]]:
        """What suite.json says of each cell that was begun, and its records, in the order of the grid.

        Raises:
            BadInput: the folder holds no run, or a record is damaged or of another schema.
        """
        for cell in self.read_suite()["cells"]:
            if (store := self.open_cell(cell["id"])) is not None:
                yield cell, store


def task_hash(settings: Mapping[str, Any]) -> str:
    """Of all settings of a cell that the cells of a run share."""
    return content_hash({key: value for key, value in settings.items() if key not in ("recipe", "seed")})


def describe_results(round_: Round) -> dict[str, Any]:
    """All that a round found, and nothing about when or how fast, as plain data."""
    return {
        "round": round_.number,
        "labels": round_.labels,
        "selector": _with_robustness(round_.selector_outcome),
        "target": _with_curve(round_.target_outcome),
        "tied": round_.tied,
        "query": round_.query.tolist(),
        **_decomposition(round_),
    }


@contextlib.contextmanager
def _locked(folder: Path, timeout: float) -> Iterator[None]:
    """Raises filelock.Timeout if another process holds it, CannotWrite if the folder cannot be written."""
    lock = filelock.FileLock(folder / ".lock", timeout=timeout)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise
    except OSError as error:
        raise CannotWrite(f"{folder} cannot be written ({error}): allow writing there, and try again") from error
    try:
        yield
    finally:
        lock.release()


def _outcome(outcome: Outcome | None) -> dict[str, Any] | None:
    if outcome is None:
        return None
    return {
        "accuracy": outcome.evaluation.accuracy,
        "loss": outcome.evaluation.loss,
        "parameters": outcome.parameters,
        "fit": _fit(outcome.fit),
        **({"removed": dataclasses.asdict(outcome.removed)} if outcome.removed else {}),
    }


def _fit(fit: Fit) -> dict[str, Any]:
    """Of a training without early stopping, what was always recorded."""
    return {key: value for key, value in dataclasses.asdict(fit).items() if value or key not in ("stopped", "judged")}


def _with_robustness(outcome: Outcome | None) -> dict[str, Any] | None:
    plain = _outcome(outcome)
    if plain is not None and outcome is not None and outcome.robustness is not None:
        found = outcome.robustness
        plain["corruptions"] = {
            "accuracies": {name: list(values) for name, values in found.accuracies.items()},
            "means": {name: found.of(name) for name in found.accuracies},
            "mean": found.mean,
        }
    return plain


def _decomposition(round_: Round) -> dict[str, Any]:
    """Only what there is, so that rounds of other tasks are what they were."""
    found = {"decomposition": round_.decomposition, "query_gaps": round_.query_gaps}
    return {name: dataclasses.asdict(value) for name, value in found.items() if value is not None}


def _with_curve(outcome: Outcome | None) -> dict[str, Any] | None:
    plain = _with_robustness(outcome)
    if plain is not None and outcome is not None and outcome.accuracy_by_epoch is not None:
        plain["accuracy_by_epoch"] = list(outcome.accuracy_by_epoch)
    return plain


def grid_hash(suite: Mapping[str, Any]) -> str:
    """64 hexadecimal digits that name a grid: the task and every cell that was asked for, run or not.

    Two runs of the same grid have the same hash; a seed or a method left out gives another.

    Args:
        suite: what :meth:`RunFolder.read_suite` returns.
    """
    names = "\n".join((suite["task"], *sorted(cell["id"] for cell in suite["cells"])))
    return hashlib.sha256(names.encode()).hexdigest()


def _read(file: Path) -> Record:
    return read_record(file, _remedy(file))


def _remedy(file: Path) -> str:
    if file.name == "suite.json":
        return "restore it, or remove it and run the suite again with --resume: its cells are kept"
    return (
        f"restore it, or remove the folder {file.parent} to run the cell again; run with --resume sets the file aside "
        "and goes on from what is whole"
    )


def _check_names(suite: Mapping[str, Any]) -> None:
    """ValueError unless what tables show and sort by is what it must be; a file made by hand can say anything."""
    _expect_text("dataset", suite["dataset"])
    _expect_text("model", suite["model"])
    cells = suite["cells"]
    if not isinstance(cells, list) or not all(isinstance(cell, dict) and {*cell} >= GRID_KEYS for cell in cells):
        raise ValueError(f"expected cells, each with {', '.join(sorted(GRID_KEYS))}, got {shown_value(cells)}")
    for cell in cells:
        _expect_text("id of a cell", cell["id"])
        _expect_text("method", cell["method"])
        if type(cell["seed"]) is not int:
            raise ValueError(f"expected a whole number as seed, got {shown_value(cell['seed'])}")


def _expect_text(what: str, text: Any) -> None:
    if not isinstance(text, str):
        raise ValueError(f"expected a text as {what}, got {shown_value(text)}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"expected text as {what}, got half of a surrogate pair in {shown_value(text)}") from None


def _check_schema(file: Path, content: Mapping[str, Any]) -> None:
    if "schema" not in content:
        raise BadInput(f"{file}: expected a record with a schema, got another one; {_remedy(file)}")
    if content.get("schema") != SCHEMA:
        found = str(content.get("schema"))[:50]
        raise OtherSchema(f"{file}: expected records of schema {SCHEMA}, got {found}; run the suite again")
