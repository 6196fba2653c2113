"""What a worker at work shows in the folder of its cell, and how the cell of a dead worker is taken over.

A cell's lock goes with the process that holds it: at once on one machine and, across machines, as soon as the file
system notices that the holder is gone, which some never do. So a worker also writes a small file every few seconds. A
lock whose holder has written nothing new for two minutes is set aside. Nobody's clock is compared with another's: what
counts is how long the one who waits has seen no change, by a clock of its own that no one can set.

Should the holder be alive after all (a machine that was suspended, a network that came back), it sees that the file has
become another's and stops. Until it does, two processes may write the same cell: each record is written whole, both
write the same results, and the file on disk is one of the two.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from prunefuse_bench.errors import CellLocked
from prunefuse_bench.records import CellStore

__all__ = ["CellTaken", "Sign", "SignOfLife", "read_sign", "wait_for_dead"]

NAME = ".sign.json"
SECONDS_BETWEEN_BEATS = 5.0
SECONDS_OF_SILENCE = 120.0
"""Folders on a network are cached for up to a minute; a worker that is silent for twice as long is dead."""


class CellTaken(BaseException):
    """Another worker has taken the cell, which held this one to be dead.

    No Exception, as KeyboardInterrupt is none: a method's own ``except Exception`` must not keep it.
    """


@dataclass(frozen=True)
class Sign:
    """A worker is at work on a cell.

    Attributes:
        token: tells workers apart.
        beat: counts up.
        host: of the worker.
        process: its number there.
        stage: what it does, ``done`` of ``total`` of it.
    """

    token: str
    beat: int
    host: str
    process: int
    stage: str
    done: int
    total: int


def read_sign(folder: Path) -> Sign | None:
    """The sign in the folder of a cell, or None if there is none that can be read."""
    try:
        return Sign(**json.loads((folder / NAME).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


class SignOfLife:
    """Shows, within the block, that this process is at work on the cell.

    Args:
        folder: of the cell.
        seconds: between two beats.
    """

    def __init__(self, folder: Path, seconds: float = SECONDS_BETWEEN_BEATS) -> None:
        self._file, self._seconds = folder / NAME, seconds
        self._token = secrets.token_hex(8)
        self._said = ("", 0, 0)
        self._beat = 0
        self._stop, self._taken = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> SignOfLife:
        self._write()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if not self._taken.is_set():
            with contextlib.suppress(OSError):
                self._file.unlink(missing_ok=True)

    def say(self, stage: str, done: int, total: int) -> None:
        """What is being done.

        Raises:
            CellTaken: another worker has taken the cell.
        """
        if self._taken.is_set():
            raise CellTaken(f"the cell in {self._file.parent} was taken by another worker while this one was silent")
        self._said = stage, done, total

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            sign = read_sign(self._file.parent)
            if sign is not None and sign.token != self._token:
                self._taken.set()
                return
            self._write()

    def _write(self) -> None:
        self._beat += 1
        stage, done, total = self._said
        sign = Sign(self._token, self._beat, socket.gethostname(), os.getpid(), stage, done, total)
        temporary = self._file.with_name(f"{NAME}.{self._token}")
        with contextlib.suppress(OSError):  # it is no record: a full disk is for those to tell
            temporary.write_text(json.dumps(asdict(sign)))
            temporary.replace(self._file)


def wait_for_dead(store: CellStore, silence: float = SECONDS_OF_SILENCE, look_every: float = 1.0) -> None:
    """Return when the cell can be locked; the lock of a worker that has been silent for so long is set aside.

    Raises:
        CellLocked: another process is at work on the cell: a worker that shows signs of life, or one that never did.
    """
    if _is_free(store):
        return
    seen, since = read_sign(store.folder), time.monotonic()
    if seen is None:
        raise CellLocked(f"cell {store.folder.name} is being run by another process, which shows no signs of life")
    while time.monotonic() - since < silence:
        time.sleep(look_every)
        if _is_free(store):
            return
        if read_sign(store.folder) != seen:
            raise CellLocked(f"cell {store.folder.name} is being run by process {seen.process} on {seen.host}")
    store.drop_lock()


def _is_free(store: CellStore) -> bool:
    try:
        with store.lock():
            return True
    except CellLocked:
        return False
