"""The worker's side: plan the suite anew, find the cell that is asked for, and run it as the local executor would."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from prunefuse_bench import __version__
from prunefuse_bench.errors import BadInput, CellLocked, WorkerDiffers
from prunefuse_bench.scale.order import Order, Outcome, Report, as_sent

if TYPE_CHECKING:
    from prunefuse_bench.runner import PlannedCell
    from prunefuse_bench.scale.sign_of_life import SignOfLife

__all__ = ["carry_out", "carry_out_json", "differences"]

LONGEST_REASON = 2_000


def carry_out_json(order: str) -> dict[str, Any]:
    """:func:`carry_out` for engines: plain data in, plain data out."""
    return carry_out(Order.of_json(order)).as_data()


def carry_out(order: Order) -> Report:
    """Run the cell; whatever goes wrong is told, not raised.

    A process that carries out several orders of one suite plans it once.
    """
    if "torch" not in sys.modules:  # whatever else it loads then has as many
        os.environ["OMP_NUM_THREADS"] = str(order.threads)
    host, seconds = socket.gethostname(), dict[str, float]()
    try:
        with _timed(seconds, "planning"), _threads(order.threads):
            cell = _find(order)
    except BadInput as error:
        return Report("refused", f"worker on {host}: {error}", host, seconds)
    except Exception as error:
        return Report("lost", _reason(error), host, seconds)
    try:
        with _timed(seconds, "cell"), _threads(order.threads):
            return Report(_run(cell, Path(order.folder)), "", host, seconds)
    except CellLocked as error:
        return Report("busy", str(error), host, seconds)
    except Exception as error:
        return Report("lost", _reason(error), host, seconds)


def _run(cell: PlannedCell, folder: Path) -> Outcome:
    from prunefuse_bench.records import RunFolder
    from prunefuse_bench.runner import run_cell
    from prunefuse_bench.scale.sign_of_life import CellTaken, SignOfLife, wait_for_dead

    store = RunFolder(folder).create_cell(cell.settings)
    if store.finished:
        return "found finished"
    wait_for_dead(store)
    try:
        with SignOfLife(store.folder) as sign:
            return cast(Outcome, run_cell(cell, folder, _Showing(sign)))
    except CellTaken as error:
        raise CellLocked(str(error)) from None


class _Showing:
    """The observer of a worker: what it is told goes into the sign of life."""

    def __init__(self, sign: SignOfLife) -> None:
        self._sign = sign

    def cell_started(self, cell: PlannedCell, position: int, total: int) -> None:
        """The sign is there already."""

    def stage(self, stage: str, done: int, total: int) -> None:
        """To be seen at the next beat."""
        self._sign.say(stage, done, total)

    def cell_ended(self, cell: PlannedCell, outcome: str) -> None:
        """The report says it."""

    def recovered(self, what: str) -> None:
        """Whoever began the run has looked for what is damaged, and said so."""


def _find(order: Order) -> PlannedCell:
    """The cell that is asked for, as this process plans it.

    Raises:
        WorkerDiffers: it plans another.
        BadInput: it cannot plan the suite.
    """
    if order.version != __version__:
        raise WorkerDiffers(
            f"expected prunefuse-bench {order.version}, as where the run was started, got {__version__}: "
            "install the same version everywhere"
        )
    for file, digest in order.methods_from:
        found = hashlib.sha256(Path(file).read_bytes()).hexdigest() if Path(file).is_file() else None
        if found != digest:
            raise WorkerDiffers(
                f"--methods-from {file}: expected the file with SHA-256 {digest}, got {found or 'none'}: "
                "put it where all machines read it"
            )
    cells = _plan(json.dumps(order.suite, sort_keys=True), order.methods_from)
    for cell in cells:
        if cell.identity == order.identity:
            return cell
    planned = [as_sent(cell.settings) for cell in cells]
    twins = [one for one in planned if all(one[key] == order.settings[key] for key in ("recipe", "seed"))]
    differ = differences(order.settings, (twins or planned)[0])
    raise WorkerDiffers(
        f"expected the cell {order.identity}, but here it would be another: {'; '.join(differ[:5])}: "
        "other data, another version or another kind of machine"
    )


@functools.lru_cache(maxsize=1)
def _plan(suite: str, methods_from: tuple[tuple[str, str], ...]) -> list[PlannedCell]:
    from prunefuse_bench.config import validate_suite
    from prunefuse_bench.recipe import load_file
    from prunefuse_bench.runner import plan

    for file, _ in methods_from:
        load_file(Path(file))
    return plan(validate_suite(json.loads(suite)))


def differences(expected: Any, found: Any, where: str = "") -> list[str]:
    """Where plain data differ, as ``key.below: expected x, got y``."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        return [
            one
            for key in dict.fromkeys([*expected, *found])
            for one in differences(expected.get(key), found.get(key), f"{where}.{key}" if where else str(key))
        ]
    if expected == found:
        return []
    return [f"{where}: expected {str(expected)[:80]}, got {str(found)[:80]}"]


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:LONGEST_REASON]


@contextlib.contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] = time.perf_counter() - start


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Torch computes with so many threads within the block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
