"""Damaged files of a run are set aside, never deleted, and the run goes back to what is whole.

What is damaged gets the ending ``.damaged``; later rounds of the same cell, which are whole but were chosen after the
damaged one, get ``.superseded``: they are run again. Each folder that lost something says so in its ``recovery.json``.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prunefuse_bench.atomic import rename_durably, write_json
from prunefuse_bench.errors import BadInput, CellLocked
from prunefuse_bench.records.checksums import read_record, sealed
from prunefuse_bench.records.store import CellStore, OtherSchema, RunFolder

__all__ = ["recover", "recoveries"]

DAMAGED, SUPERSEDED = "damaged", "superseded"
LOG = "recovery.json"


def recover(run: Path) -> list[str]:
    """Set aside what is damaged in the folder of a run, so that running its suite again goes on from what is whole.

    A cell that another process is running is left alone.

    Returns:
        One line for every file that was set aside, and for every selector that will have to be trained anew.

    Raises:
        BadInput: records of another schema, which are not damaged.
        CannotWrite: the folder cannot be written.
    """
    folder = RunFolder(run)
    if not run.is_dir():
        return []
    said = []
    if list(_findings_of_run(folder)):
        with folder.lock():
            said += [_put_right(*finding) for finding in list(_findings_of_run(folder))]
    for cell in sorted(one for one in run.glob("cells/*") if one.is_dir()):
        said += [f"{cell.name}: {line}" for line in _recover_cell(cell)]
    return said


def recoveries(folder: Path) -> list[dict[str, Any]]:
    """What was set aside in the folder of a run or cell: ``file``, the name that it got (``aside``) and the reason.

    Raises:
        BadInput: the list is damaged.
    """
    file = folder / LOG
    if not file.exists():
        return []
    content = read_record(file, "remove it").content
    if "set_aside" not in content:
        raise BadInput(f"{file}: expected a list of what was set aside, got another record; remove it")
    return list(content["set_aside"])


def _recover_cell(folder: Path) -> list[str]:
    """Look first, and take the cell's lock only if there is something to do."""
    if not list(_findings(folder)):
        return []
    try:
        with CellStore(folder, {}).lock():
            return [_put_right(*finding) for finding in list(_findings(folder))]
    except CellLocked:
        return []


def _put_right(file: Path, ending: str, reason: str) -> str:
    if not file.exists():
        return f"{file.name} is missing: what it held is made anew from the labels of the rounds so far"
    aside = _set_aside(file, ending, reason)
    if ending == SUPERSEDED:
        return f"{file.name} came after a round that is run again, and is now {aside.name}"
    return f"{file.name} was damaged, and is now {aside.name}: {_consequence(file)} ({reason})"


def _findings_of_run(folder: RunFolder) -> Iterator[tuple[Path, str, str]]:
    """As :func:`_findings`, for the files of the run itself."""
    yield from _damaged_log(folder.folder)
    suite = folder.folder / "suite.json"
    if suite.exists() and (reason := _problem(folder.read_suite)):
        yield suite, DAMAGED, reason


def _damaged_log(folder: Path) -> Iterator[tuple[Path, str, str]]:
    """Comes first, so that what is set aside is noted in one that is whole."""
    if reason := _problem(functools.partial(recoveries, folder)):
        yield folder / LOG, DAMAGED, reason


def _findings(folder: Path) -> Iterator[tuple[Path, str, str]]:
    """(file, its new ending, why), in an order in which the run is whole after each; a file may be missing."""
    yield from _damaged_log(folder)
    begun, failure = folder / "cell.json", folder / "failure.json"
    store = CellStore(folder, {})
    if begun.exists():
        if reason := _problem(functools.partial(CellStore.open, folder)):
            yield begun, DAMAGED, reason
        else:
            store = CellStore.open(folder) or store
    if failure.exists() and (reason := _problem(store.read_failure)):
        yield failure, DAMAGED, reason
    damaged: tuple[int, str] | None = None
    for number in range(store.rounds_done):
        if reason := _problem(functools.partial(store.read_round, number)):
            damaged = number, reason
            break
    whole = damaged[0] if damaged else store.rounds_done
    # The last first: if this is stopped half-way, the rounds before are still without a gap.
    for number, file in sorted(_rounds(folder), reverse=True):
        if number > whole:
            yield file, SUPERSEDED, f"round {whole} is damaged or missing"
    if damaged:
        yield store.round_file(whole), DAMAGED, damaged[1]
    elif whole:
        yield from _lost(store, whole - 1)


def _rounds(folder: Path) -> Iterator[tuple[int, Path]]:
    for file in folder.glob("round-*.json"):
        number = file.stem.removeprefix("round-")
        if number.isdigit():
            yield int(number), file


def _lost(store: CellStore, last: int) -> Iterator[tuple[Path, str, str]]:
    """What there should be to go on after the last round, and is damaged; or missing, if there are rounds to come."""
    record, is_finished = store.read_round(last), bool(store.settings) and store.finished
    for file in store.needed_to_go_on(record):
        if file == store.selector_file(last):
            reason = _problem(functools.partial(store.read_selector, last, record))
        else:
            reason = _problem(functools.partial(store.read_losses, last))
        if reason and (file.exists() or not is_finished):
            yield file, DAMAGED, reason


def _problem(read: Callable[[], object]) -> str | None:
    """What is wrong with a file, in a few words; None if it can be read."""
    try:
        read()
    except OtherSchema:
        raise
    except BadInput as error:
        text = str(error).partition(": ")[2].rpartition("; ")[0] or str(error)  # without the file and the remedy
        return " ".join(text.split())[:200]
    return None


def _consequence(file: Path) -> str:
    kind = file.name.partition("-")[0].removesuffix(".json")
    return {
        "suite": "it is written anew, and cells that are not asked for now are listed again when they are",
        "cell": "it is written anew",
        "round": "the cell goes back to the round before, whose selector is trained anew",
        "selector": "if the cell goes on, it is trained anew from the same labels",
        "losses": "if the cell goes on, they are computed anew",
        "failure": "the cell is tried again",
        "recovery": "the list of what was set aside begins anew",
    }[kind]


def _set_aside(file: Path, ending: str, reason: str) -> Path:
    names = (file.with_name(f"{file.name}.{ending}{number or ''}") for number in itertools.count())
    aside = next(name for name in names if not name.exists())
    rename_durably(file, aside)
    entry = {"file": file.name, "aside": aside.name, "reason": reason}
    write_json(file.parent / LOG, sealed({"set_aside": [*recoveries(file.parent), entry]}))
    return aside
