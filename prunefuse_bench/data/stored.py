"""Images that do not fit in memory: mapped from a file of decoded pixels, or decoded whenever they are asked for."""

from __future__ import annotations

import functools
import multiprocessing
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from prunefuse_bench.data.decoding import Pixels, decode_image
from prunefuse_bench.data.sources import FileSource, open_source
from prunefuse_bench.errors import BadInput, DataChanged

__all__ = ["FileImages", "ImageSource", "Images", "MappedImages", "StoredImages", "build_pixel_file"]

CHUNK = 256
"""Images that one process decodes at a time, and that are done again if the work is stopped half-way."""

Rows = NDArray[numpy.int64]


class ImageSource(ABC):
    """Where images are read from.

    Attributes:
        shape: [N, C, H, W].
        sha256: tells one content from another.
    """

    shape: torch.Size
    sha256: str

    @abstractmethod
    def read(self, rows: Rows) -> Pixels:
        """uint8 [B, C, H, W] of these rows, int64 [B], in memory."""


class MappedImages(ImageSource):
    """Decoded images in a .npy file, uint8 [N, C, H, W], of which only what is asked for is read."""

    def __init__(self, file: Path, sha256: str) -> None:
        self.pixels = numpy.load(file, mmap_mode="r", allow_pickle=False)
        self.shape, self.sha256 = torch.Size(self.pixels.shape), sha256

    def read(self, rows: Rows) -> Pixels:
        """A copy in memory."""
        return self.pixels[rows]


class FileImages(ImageSource):
    """Image files that are decoded every time, by as many threads as there are processors."""

    def __init__(self, source: FileSource, names: Sequence[str], side: int, sha256: str) -> None:
        self.source, self.names, self.side = source, names, side
        self.shape, self.sha256 = torch.Size((len(names), 3, side, side)), sha256
        self.threads = ThreadPoolExecutor(os.cpu_count())
        self._stamps = numpy.array([source.stamp(name) for name in names], dtype=numpy.int64).reshape(-1, 2)

    def read(self, rows: Rows) -> Pixels:
        """Decoded; BadInput names a file that is no image, DataChanged one that is another than at the start."""
        images = numpy.empty((len(rows), *self.shape[1:]), dtype=numpy.uint8)

        def decode(position: int) -> None:
            row = int(rows[position])
            self._expect_unchanged(row)
            images[position] = _decode(self.source, self.names[row], self.side)
            self._expect_unchanged(row)  # what was changed meanwhile shows, too

        for _ in self.threads.map(decode, range(len(rows))):
            pass
        return images

    def _expect_unchanged(self, row: int) -> None:
        name = self.names[row]
        try:
            stamp = self.source.stamp(name)
        except OSError:
            stamp = None
        if stamp != tuple(self._stamps[row].tolist()):
            raise DataChanged(
                f"{self.source.path}: {name} was changed or removed while the run was going; restore it and go on with "
                "--resume, or run the changed data in another folder"
            )


class StoredImages:
    """Rows of a source, in the place of a tensor uint8 [N, C, H, W]: choosing rows reads nothing.

    Args:
        source: where they are.
        rows: int64 [N]; all if None.
        device: where :meth:`read` puts them.
    """

    dtype = torch.uint8
    ndim = 4

    def __init__(self, source: ImageSource, rows: Tensor | None = None, device: torch.device | None = None) -> None:
        self.source = source
        self.rows = torch.arange(source.shape[0]) if rows is None else rows
        self.device = device or torch.device("cpu")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice | Tensor) -> StoredImages:
        chosen = rows.cpu() if isinstance(rows, Tensor) else rows
        return StoredImages(self.source, self.rows[chosen], self.device)

    @property
    def shape(self) -> torch.Size:
        """[N, C, H, W]."""
        return torch.Size((len(self), *self.source.shape[1:]))

    @property
    def sha256(self) -> str:
        """Tells one content from another, up to the order and choice of rows."""
        return self.source.sha256

    def to(self, device: torch.device) -> StoredImages:
        """The same, to be read to another device."""
        return StoredImages(self.source, self.rows, device)

    def read(self, rows: Tensor | None = None) -> Tensor:
        """uint8 [B, C, H, W] on the device; ``rows`` are int64 [B], positions in this choice, or None for all."""
        chosen = self.rows if rows is None else self.rows[rows.cpu()]
        return torch.from_numpy(self.source.read(chosen.numpy())).to(self.device)


Images = Tensor | StoredImages
"""Images of a data set: in memory, or read batch by batch."""


def build_pixel_file(
    file: Path, path: Path, names: Sequence[str], side: int, progress: Callable[[int, int], None]
) -> None:
    """Decode files of a folder or .zip, resized and cropped to squares, into a .npy file uint8 [N, 3, side, side].

    The work is done by as many processes as there are processors, and goes on where it was stopped; ``file`` is there
    when it is whole.

    Raises:
        BadInput: a file that is no image, or not enough room on the disk.
    """
    part, marks_file = file.with_suffix(".part"), file.with_suffix(".marks")
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        if file.exists():
            return
        chunks = -(-len(names) // CHUNK)
        if not marks_file.exists():
            _make_room(part, (len(names), 3, side, side))
            marks_file.write_bytes(bytes(chunks))
        marks = numpy.memmap(marks_file, dtype=numpy.uint8, mode="r+")
        to_do = [int(chunk) for chunk in numpy.flatnonzero(marks == 0)]
        _decode(open_source(path), names[0], side)  # the processes to come are copies that have the decoder loaded
        work = functools.partial(_write_chunk, part, path, names, side)
        with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("fork")) as executor:
            try:
                for chunk in executor.map(work, to_do):
                    marks[chunk] = 1
                    marks.flush()
                    progress(min(int(marks.sum()) * CHUNK, len(names)), len(names))
            except BrokenProcessPool:
                raise BadInput(f"{path}: a process that decoded was ended, by a lack of memory perhaps") from None
            except BaseException:
                executor.shutdown(cancel_futures=True)
                raise
        part.replace(file)
        marks_file.unlink()


def _make_room(part: Path, shape: tuple[int, ...]) -> None:
    """An empty array on the disk, with all its room reserved: a mapped file on a full disk ends the process."""
    numpy.lib.format.open_memmap(part, mode="w+", dtype=numpy.uint8, shape=shape)
    try:
        with part.open("r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, part.stat().st_size)
    except AttributeError:  # not on every system
        return
    except OSError as error:
        size = part.stat().st_size
        part.unlink()
        raise BadInput(
            f"{part.parent}: {size / 1e9:,.1f} GB of decoded images do not fit on the disk ({error}); name another "
            "place with PRUNEFUSE_BENCH_CACHE, ask for smaller images with task.dataset.resize, or decode them every "
            "time with task.dataset.keep_decoded=false"
        ) from None


def _write_chunk(part: Path, path: Path, names: Sequence[str], side: int, chunk: int) -> int:
    pixels = numpy.lib.format.open_memmap(part, mode="r+")
    source = _source(path)
    for row in range(chunk * CHUNK, min((chunk + 1) * CHUNK, len(names))):
        pixels[row] = _decode(source, names[row], side)
    pixels.flush()
    return chunk


@functools.cache
def _source(path: Path) -> FileSource:
    """Each process opens the archive for itself: a shared file position would mix up their reads."""
    return open_source(path)


def _decode(source: FileSource, name: str, side: int) -> Pixels:
    try:
        return decode_image(source.read(name), resize=side, crop=True)
    except Exception as error:  # a damaged file can make a decoder raise anything, and it is this file's fault
        raise BadInput(f"{source.path}: {name} cannot be read as an image ({error}); remove or replace it") from None
