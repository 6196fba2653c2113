"""Files that are there whole or not at all, whatever stops the process."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from prunefuse_bench.errors import BadInput, CannotWrite

__all__ = ["make_folder", "write_atomically", "write_json"]


def make_folder(folder: Path) -> None:
    """Make a folder that a user named, unless it is there.

    Raises:
        BadInput: it cannot be made, or is a file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--out {folder}: expected a folder, or a name for a new one: {error}") from None


def write_atomically(file: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write to a temporary file beside ``file``, flush it to the disk, and rename it.

    Raises:
        CannotWrite: the disk is full or the folder cannot be written; ``file`` is then as it was.
    """
    try:
        _write(file, write)
    except OSError as error:
        raise CannotWrite(
            f"{file} cannot be written ({error}); what is on disk is whole: make room, and go on with --resume"
        ) from error


def _write(file: Path, write: Callable[[BinaryIO], object]) -> None:
    # By chance and not by process: processes on two machines may have one number.
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    with _open_folder(file.parent) as folder:
        os.fsync(folder)


def write_json(file: Path, data: Any) -> None:
    """Write plain data as readable JSON; numbers that are not finite are refused (ValueError)."""
    text = json.dumps(data, indent=1, sort_keys=False, allow_nan=False) + "\n"
    write_atomically(file, lambda stream: stream.write(text.encode()))


@contextlib.contextmanager
def _open_folder(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
