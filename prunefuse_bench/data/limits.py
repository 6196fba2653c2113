"""How much a file from a stranger may make this program read, and from where."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from prunefuse_bench.errors import BadInput
from prunefuse_bench.plain_text import expect_plain, shown_value

__all__ = [
    "LARGEST_FILE",
    "LARGEST_IMAGE",
    "MOST_CLASSES",
    "MOST_FILES",
    "expect_classes",
    "expect_file",
    "expect_names",
    "expect_room",
    "read_file",
]

LARGEST_FILE = 256 << 20
"""Bytes of one file of a data set that is read at once, such as an image; of a .zip's entry, unpacked."""
MOST_FILES = 5_000_000
"""Of a folder or .zip."""
LARGEST_IMAGE = 89_478_485
"""Pixels of an image, as it is stored and as it is resized; what Pillow warns of, a quarter of a gigabyte decoded."""
MOST_CLASSES = 100_000


def read_file(path: Path) -> bytes:
    """The content of a file of the data.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no file but a device, say, which has no end, or larger than :data:`LARGEST_FILE`.
    """
    expect_file(path)
    with path.open("rb") as stream:
        content = stream.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise ValueError(f"it has more than {LARGEST_FILE:,} bytes")
    return content


def expect_file(path: Path) -> None:
    """ValueError for what is no plain file, OSError if there is none: to open a pipe can wait for ever."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is no plain file")


def expect_names(names: Iterable[str], where: object) -> None:
    """BadInput, beginning with ``where``, for a name that is no UTF-8 or has control characters."""
    for name in names:
        try:
            expect_plain(name)
        except ValueError as error:
            raise BadInput(f"{where}: the name {shown_value(name, 60)} has a {error}; rename the file") from None


def expect_classes(count: int, where: object) -> None:
    """BadInput, beginning with ``where``, for more than :data:`MOST_CLASSES`."""
    if count > MOST_CLASSES:
        raise BadInput(f"{where}: expected at most {MOST_CLASSES:,} classes, got {count:,}")


def expect_room(size: int, where: object) -> None:
    """BadInput, beginning with ``where``, for more bytes than this machine has memory."""
    memory = _memory()
    if size > memory:
        raise BadInput(
            f"{where}: {size / 1e9:,.1f} GB decoded do not fit into the {memory / 1e9:,.1f} GB of memory; ask for "
            "smaller images with task.dataset.resize, or take the data set 'imagenet', which reads them in batches"
        )


def _memory() -> int:
    """Bytes of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
