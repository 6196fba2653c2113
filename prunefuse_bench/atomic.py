"""Files that are there whole or not at all, whatever stops the process."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from prunefuse_bench.errors import BadInput, CannotWrite

__all__ = ["make_folder", "remove_litter", "rename_durably", "write_atomically", "write_json"]

NO_ROOM = errno.ENOSPC, errno.EDQUOT


def make_folder(folder: Path) -> None:
    """Make a folder that a user named, or one within it, unless it is there; its name is on the disk then.

    Raises:
        BadInput: it cannot be made, or is a file.
        CannotWrite: the disk is full.
    """
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for one in reversed(missing):
            _flush_folder(one.parent)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise _cannot_write(folder, error) from error
        raise BadInput(f"--out {folder}: expected a folder, or a name for a new one: {error}") from None


def write_atomically(file: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write to a temporary file beside ``file``, flush it to the disk, and rename it.

    Raises:
        CannotWrite: the disk is full or the folder cannot be written; ``file`` is then as it was.
    """
    try:
        _write(file, write)
    except OSError as error:
        raise _cannot_write(file, error) from error


def _write(file: Path, write: Callable[[BinaryIO], object]) -> None:
    # By chance and not by process: processes on two machines may have one number.
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
    try:
        with _open_held(temporary) as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
            temporary.replace(file)  # still held: nobody takes it for litter before it has its name
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _flush_folder(file.parent)


def write_json(file: Path, data: Any) -> None:
    """Write plain data as readable JSON; numbers that are not finite are refused (ValueError)."""
    text = json.dumps(data, indent=1, sort_keys=False, allow_nan=False) + "\n"
    write_atomically(file, lambda stream: stream.write(text.encode()))


def rename_durably(file: Path, new: Path) -> None:
    """Give a file another name in its folder; the name is on the disk then.

    Raises:
        CannotWrite: the folder cannot be written.
    """
    try:
        file.replace(new)
        _flush_folder(file.parent)
    except OSError as error:
        raise _cannot_write(new, error) from error


def remove_litter(folder: Path) -> list[Path]:
    """Remove the temporary files, in this folder and below, of writers that were killed; returns them.

    A writer holds a lock on its temporary file for as long as it lives, on whatever machine, so that those of the
    living stay. Where the file system knows no locks, all stay.
    """
    removed = []
    for file in sorted(folder.rglob(".*.part")):
        with contextlib.suppress(OSError), file.open("r+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.unlink()
            removed.append(file)
    return removed


@contextlib.contextmanager
def _open_held(file: Path) -> Iterator[BinaryIO]:
    """A new file under a lock that goes with this process."""
    while True:
        stream = file.open("wb")
        with contextlib.suppress(OSError):  # not every file system has locks
            fcntl.flock(stream, fcntl.LOCK_EX)
        if os.fstat(stream.fileno()).st_nlink:
            break
        stream.close()  # between the two lines above it was taken for litter
    with stream:
        yield stream


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cannot_write(file: Path, error: OSError) -> CannotWrite:
    return CannotWrite(
        f"{file} cannot be written ({error}); what is on disk is whole: make room, or allow writing there, and go on "
        "with --resume"
    )
