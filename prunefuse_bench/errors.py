"""The errors a user meets, and how their messages are built.

Every message says what is wrong, what was expected, what was found, and what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "AnotherRankFailed",
    "AttemptsFailed",
    "BadInput",
    "CannotWrite",
    "CellFailed",
    "CellLocked",
    "DataChanged",
    "RankLost",
    "WorkerDiffers",
    "is_out_of_memory",
    "unknown_name",
]


class BadInput(Exception):
    """Something the user gave cannot be used. The program ends with exit code 2, before any training."""


class CellLocked(BadInput):
    """Another process is at work on this cell."""


class DataChanged(BadInput):
    """The data is not what it was when the run began."""


class WorkerDiffers(BadInput):
    """A worker on another machine would run another cell than the one that is asked for."""


class CannotWrite(Exception):
    """A record could not be written (disk full, no permission). What is on disk is whole. Exit code 1."""


class RankLost(Exception):
    """Of the processes that run a cell together, one is gone or goes another way than the others. Exit code 1."""


class AnotherRankFailed(Exception):
    """Another process has failed before, and says why; this one ends in silence. Exit code 1."""


class CellFailed(Exception):
    """One cell cannot go on (diverged training, a score that is not a number). Recorded; the other cells go on."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had, of the machine or of a device."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, for devices
        return True
    # torch's allocator of the processor's memory has no error of its own.
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


class AttemptsFailed(CellFailed):
    """A cell was tried several times on workers, and none of them could finish a round of it."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> BadInput:
    """The error for a name that is in no registry, with the nearest names that are."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(n) for n in near)}?" if near else f"known: {', '.join(known)}"
    return BadInput(f"unknown {kind} {name!r}: {hint}")
