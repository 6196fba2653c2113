"""Parts of a pool that are read one after another: Parquet files, parts of image folders, files of text."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy
import torch
from torch import Tensor

from prunefuse_bench.data.decoding import decode_image
from prunefuse_bench.data.limits import read_file
from prunefuse_bench.data.quantisation import LENGTH, TABLE
from prunefuse_bench.data.sources import Folder, is_hidden
from prunefuse_bench.errors import BadInput

__all__ = ["ImageFolderShard", "LinesShard", "ParquetShard", "Shard", "image_folder_shards"]

LONGEST_LINE = 16 << 20
"""Bytes of a line of text."""
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm")


class Shard(Protocol):
    """A part of a pool. It is sent to other processes, so it holds names and no data."""

    @property
    def name(self) -> str:
        """Tells it from the others, today and tomorrow."""

    @property
    def fingerprint(self) -> str:
        """Changes when the content does."""

    def __len__(self) -> int:
        """Samples, known without reading them."""

    def batches(self, size: int) -> Iterator[Tensor]:
        """All samples in their order, ``size`` at a time: uint8 [B, C, H, W], or of texts [B, L]."""


@dataclass(frozen=True)
class ParquetShard:
    """One Parquet file. Needs pyarrow, which the extra ``ray`` brings.

    Attributes:
        file: where it is.
        column: image files as bytes (alone, or as ``bytes`` of a struct), pixels as lists of numbers from 0 to 255, or
            texts.
        side: image files are resized to squares of so many pixels.
        shape: of pixels, [C, H, W].
        length: of texts, characters that are kept.
    """

    file: Path
    column: str
    side: int = 32
    shape: tuple[int, int, int] | None = None
    length: int = LENGTH

    @property
    def name(self) -> str:
        """The path."""
        return str(self.file)

    @property
    def fingerprint(self) -> str:
        """Size and time of change of the file, and how it is read."""
        return _fingerprint([self.file], (self.column, self.side, self.shape, self.length))

    def __len__(self) -> int:
        return int(self._open().metadata.num_rows)

    def batches(self, size: int) -> Iterator[Tensor]:
        """Read row group by row group."""
        for batch in self._open().iter_batches(batch_size=size, columns=[self.column]):
            yield self._samples(batch.column(0))

    def _open(self) -> Any:
        try:
            parquet: Any = importlib.import_module("pyarrow.parquet")
        except ImportError:
            raise BadInput(
                f"{self.file}: Parquet files need pyarrow, which is not installed: pip install 'prunefuse-bench[ray]'"
            ) from None
        try:
            opened = parquet.ParquetFile(self.file)
        except (OSError, ValueError) as error:
            raise BadInput(f"{self.file}: expected a Parquet file ({error})") from None
        if self.column not in opened.schema_arrow.names:
            raise BadInput(f"{self.file}: expected a column {self.column!r}, got {opened.schema_arrow.names}")
        return opened

    def _samples(self, column: Any) -> Tensor:
        types: Any = importlib.import_module("pyarrow").types
        if column.null_count:
            raise BadInput(f"{self.file}: column {self.column!r} has {column.null_count} empty values in one batch")
        if types.is_struct(column.type):
            column = column.field("bytes")
        if types.is_binary(column.type) or types.is_large_binary(column.type):
            files = column.to_pylist()
            return _stacked(_decoded(f"{self.file}: an image of {self.column!r}", one, self.side) for one in files)
        if types.is_string(column.type) or types.is_large_string(column.type):
            return _symbols([text.encode() for text in column.to_pylist()], self.length)
        if self.shape is None:
            raise BadInput(f"{self.file}: column {self.column!r} holds {column.type}: give the shape of its images")
        values = column.flatten().to_numpy(zero_copy_only=False)
        if values.size != len(column) * int(numpy.prod(self.shape)) or (values.size and values.max() > 255):
            raise BadInput(f"{self.file}: expected pixels {self.shape} from 0 to 255 in column {self.column!r}")
        return torch.from_numpy(values.astype(numpy.uint8).reshape(-1, *self.shape))


@dataclass(frozen=True)
class ImageFolderShard:
    """Some files of a folder of images.

    Attributes:
        folder: which.
        names: of the files, relative to it.
        side: they are resized to squares of so many pixels.
    """

    folder: Path
    names: tuple[str, ...] = field(repr=False)
    side: int = 32

    @property
    def name(self) -> str:
        """The folder and the first file."""
        return f"{self.folder}: {self.names[0]}"

    @property
    def fingerprint(self) -> str:
        """Names, sizes and times of change of the files, and how they are read."""
        return _fingerprint([self.folder / name for name in self.names], (self.side,))

    def __len__(self) -> int:
        return len(self.names)

    def batches(self, size: int) -> Iterator[Tensor]:
        """Decoded one by one."""
        for begin in range(0, len(self.names), size):
            files = [self.folder / name for name in self.names[begin : begin + size]]
            yield _stacked(_decoded(str(file), _content(file), self.side) for file in files)


def image_folder_shards(folder: Path, side: int, files_per_shard: int = 10_000) -> list[ImageFolderShard]:
    """A folder of images, subfolders included, in shards of so many files in the order of their names.

    Raises:
        BadInput: there are none, or links that lead out of the folder.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder}: expected a folder with images, found none")
    names = Folder(folder).names()
    found = sorted(name for name in names if name.lower().endswith(IMAGE_ENDINGS) and not is_hidden(name))
    if not found:
        raise BadInput(f"{folder}: expected a folder with images ({', '.join(IMAGE_ENDINGS)}), found none")
    return [
        ImageFolderShard(folder, tuple(found[begin : begin + files_per_shard]), side)
        for begin in range(0, len(found), files_per_shard)
    ]


@dataclass(frozen=True)
class LinesShard:
    """A file of texts, one in each line, for networks that read characters.

    Attributes:
        file: where it is.
        length: characters that are kept.
    """

    file: Path
    length: int = LENGTH

    @property
    def name(self) -> str:
        """The path."""
        return str(self.file)

    @property
    def fingerprint(self) -> str:
        """Size and time of change of the file, and how it is read."""
        return _fingerprint([self.file], (self.length,))

    def __len__(self) -> int:
        with self.file.open("rb") as stream:
            return sum(1 for _ in self._lines(stream))

    def batches(self, size: int) -> Iterator[Tensor]:
        """Line after line."""
        lines: list[bytes] = []
        with self.file.open("rb") as stream:
            for line in self._lines(stream):
                lines.append(line.rstrip(b"\r\n"))
                if len(lines) == size:
                    yield _symbols(lines, self.length)
                    lines = []
        if lines:
            yield _symbols(lines, self.length)

    def _lines(self, stream: BinaryIO) -> Iterator[bytes]:
        while line := stream.readline(LONGEST_LINE + 1):
            if len(line) > LONGEST_LINE:
                raise BadInput(f"{self.file}: expected lines of at most {LONGEST_LINE:,} bytes, got a longer one")
            yield line


def _fingerprint(files: Sequence[Path], more: tuple[object, ...]) -> str:
    digest = hashlib.sha256(repr(more).encode())
    for file in files:
        try:
            status = file.stat()
        except OSError as error:
            raise BadInput(f"{file}: expected a file of the pool ({error})") from None
        digest.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:32]


def _content(file: Path) -> bytes:
    try:
        return read_file(file)
    except (OSError, ValueError) as error:
        raise BadInput(f"{file}: expected an image of the pool ({error})") from None


def _decoded(where: str, content: bytes, side: int) -> Tensor:
    try:
        return torch.from_numpy(numpy.ascontiguousarray(decode_image(content, resize=side, crop=True)))
    except Exception as error:  # a damaged file can make a decoder raise anything, and it is this file's fault
        raise BadInput(f"{where} cannot be read ({error}); remove or replace it") from None


def _stacked(images: Iterator[Tensor]) -> Tensor:
    return torch.stack(list(images))


def _symbols(texts: list[bytes], length: int) -> Tensor:
    """uint8 [B, length]; the table works on whole texts."""
    rows = b"".join(text[:length].translate(TABLE).ljust(length, b"\0") for text in texts)
    return torch.from_numpy(numpy.frombuffer(rows, dtype=numpy.uint8).reshape(-1, length).copy())
