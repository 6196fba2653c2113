"""One's own images: a folder or a .zip with ``train/CLASS/image`` and ``test/CLASS/image`` inside.

Everything is decoded once, in parallel, and kept on disk under the hash of the content; nothing is ever unpacked there.
"""

from __future__ import annotations

import functools
import hashlib
import io
import multiprocessing
import os
import warnings
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy
import torch
from PIL import Image

from prunefuse_bench.atomic import write_atomically
from prunefuse_bench.data.cache import cache_folder
from prunefuse_bench.data.dataset import DATASETS, DatasetEntry, DatasetRequest, ImageDataset
from prunefuse_bench.errors import BadInput

__all__ = ["load_image_archive"]

SPLITS = ("train", "test")
DECODER_VERSION = 1
"""Part of the cache's key: raise it when the same files would be decoded to other pixels."""
CHUNK = 512
"""Images that one process decodes at a time."""


@dataclass(frozen=True)
class _Entry:
    """One image file: its name in the source, its split and its class."""

    name: str
    split: str
    class_name: str


class _Source(ABC):
    """Files by name, in a folder or in a zip."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def names(self) -> list[str]:
        """Names of all files and, ending in '/', of all folders, with '/' between the parts."""

    @abstractmethod
    def read(self, name: str) -> bytes: ...

    @abstractmethod
    def content_hash(self, entries: Sequence[_Entry]) -> str: ...


class _Folder(_Source):
    def names(self) -> list[str]:
        found = []
        for folder, folders, files in os.walk(self.path):
            relative = Path(folder).relative_to(self.path)
            found += [(relative / name).as_posix() for name in files] + [
                f"{(relative / f).as_posix()}/" for f in folders
            ]
        return found

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def content_hash(self, entries: Sequence[_Entry]) -> str:
        digest = hashlib.sha256()
        for entry in entries:
            digest.update(f"{entry.name}\0".encode())
            try:
                content = self.read(entry.name)
            except OSError as error:
                raise BadInput(f"{self.path}: {entry.name} cannot be read ({error}); remove or replace it") from None
            digest.update(hashlib.sha256(content).digest())
        return digest.hexdigest()


class _Zip(_Source):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            self.archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise BadInput(f"{path}: expected a folder or a .zip file, but it cannot be opened: {error}") from None

    def names(self) -> list[str]:
        names = self.archive.namelist()
        for name in names:
            parts = PurePosixPath(name.replace("\\", "/"))
            if parts.is_absolute() or ".." in parts.parts or ":" in (parts.parts or ("",))[0]:
                raise BadInput(f"{self.path}: entry {name!r} points outside the archive; refused, pack the images anew")
        return names

    def read(self, name: str) -> bytes:
        return self.archive.read(name)

    def content_hash(self, entries: Sequence[_Entry]) -> str:
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()


def load_image_archive(request: DatasetRequest) -> ImageDataset:
    """Images from a folder or a .zip of class folders, with train/ and test/ inside (or one folder that holds them).

    Raises:
        BadInput: no path, a layout other than expected, an empty class, a class in only one split, a file that is no
            image, or images of different sizes without ``resize``.
    """
    if request.path is None:
        raise BadInput(
            "dataset 'image-archive' needs the path of a folder or .zip with train/CLASS/ and test/CLASS/ inside: "
            "give it with --set task.dataset.path=PATH"
        )
    path = request.path
    if not path.exists():
        raise BadInput(f"dataset path {path}: there is no such file or folder")
    source: _Source = _Folder(path) if path.is_dir() else _Zip(path)
    entries, classes = _sort_into_classes(source)
    key = f"{source.content_hash(entries)[:32]}-{request.resize or 'as-is'}-{request.channels}-{DECODER_VERSION}"
    folder = cache_folder() / "image-archive" / key
    images: dict[str, torch.Tensor] = {}
    for split in SPLITS:
        members = [entry for entry in entries if entry.split == split]
        file = folder / f"{split}.npy"
        if not file.exists():
            pixels = _decode(source, members, request)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, functools.partial(_write_pixels, pixels))
        images[split] = torch.from_numpy(numpy.load(file, allow_pickle=False))
    labels = {
        split: torch.tensor([classes.index(entry.class_name) for entry in entries if entry.split == split])
        for split in SPLITS
    }
    return ImageDataset(
        title=request.title or path.stem,
        train_images=images["train"],
        train_labels=labels["train"],
        test_images=images["test"],
        test_labels=labels["test"],
        classes=tuple(classes),
    )


def _sort_into_classes(source: _Source) -> tuple[list[_Entry], list[str]]:
    """All image files, sorted by name, and the class names, sorted."""
    names = [name for name in source.names() if not _is_hidden(name)]
    root = _root(names)
    if root is None:
        raise BadInput(
            f"{source.path}: expected train/CLASS/image and test/CLASS/image inside, "
            f"got {', '.join(sorted({name.split('/')[0] for name in names})[:5]) or 'nothing'}"
        )
    entries = []
    found: dict[str, set[str]] = {split: set() for split in SPLITS}
    for name in names:
        split, _, rest = name.removeprefix(root).partition("/")
        if split not in SPLITS or not rest:
            continue
        class_name, _, file = rest.partition("/")
        if "/" not in rest:
            raise BadInput(f"{source.path}: {name}: expected only class folders in {split}/, got a file")
        found[split].add(class_name)
        if file and not file.endswith("/"):
            entries.append(_Entry(name, split, class_name))
    for split in SPLITS:
        filled = {entry.class_name for entry in entries if entry.split == split}
        for class_name in sorted(found["train"] | found["test"]):
            if class_name not in filled:
                raise BadInput(
                    f"{source.path}: class {class_name!r} has no image in {split}/; "
                    "every class needs at least one in train/ and one in test/"
                )
    return sorted(entries, key=lambda entry: entry.name), sorted(found["train"])


def _is_hidden(name: str) -> bool:
    """Files that operating systems add: dot files, __MACOSX, Thumbs.db."""
    parts = PurePosixPath(name).parts
    return any(part.startswith(".") or part in ("__MACOSX", "Thumbs.db") for part in parts)


def _root(names: list[str]) -> str | None:
    """The prefix below which train/ and test/ lie: nothing, or the one folder that holds everything."""
    tops = {name.split("/")[0] for name in names}
    for root in ["", *(f"{top}/" for top in tops if len(tops) == 1)]:
        if all(any(name.startswith(f"{root}{split}/") for name in names) for split in SPLITS):
            return root
    return None


def _decode(source: _Source, entries: list[_Entry], request: DatasetRequest) -> numpy.ndarray:
    """uint8 [N, C, H, W] of all entries, decoded by as many processes as there are processors."""
    first = _decode_one(source, entries[0].name, request.resize, request.channels)
    images = numpy.empty((len(entries), *first.shape), dtype=numpy.uint8)
    names = [entry.name for entry in entries]
    chunks = [names[start : start + CHUNK] for start in range(0, len(names), CHUNK)]
    decode = functools.partial(_decode_chunk, source.path, first.shape, names[0], request.resize, request.channels)
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("fork")) as executor:
        try:
            done = 0
            for chunk in executor.map(decode, chunks):
                images[done : done + len(chunk)] = chunk
                done += len(chunk)
                request.progress(done, len(entries))
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise
    return images


@functools.cache
def _source(path: Path) -> _Source:
    """Each process opens the archive for itself: a shared file position would mix up their reads."""
    return _Folder(path) if path.is_dir() else _Zip(path)


def _decode_chunk(
    path: Path, shape: tuple[int, int, int], first_name: str, resize: int | None, channels: int, names: list[str]
) -> numpy.ndarray:
    images = numpy.empty((len(names), *shape), dtype=numpy.uint8)
    for row, name in enumerate(names):
        image = _decode_one(_source(path), name, resize, channels)
        if image.shape != shape:
            raise BadInput(
                f"{path}: images of different sizes: {first_name} is {shape[2]}x{shape[1]}, "
                f"{name} is {image.shape[2]}x{image.shape[1]}; give one size with --set task.dataset.resize=PIXELS"
            )
        images[row] = image
    return images


def _decode_one(source: _Source, name: str, resize: int | None, channels: int) -> numpy.ndarray:
    """uint8 [C, H, W] of one file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(source.read(name))) as opened:
                image = opened.convert("RGB" if channels == 3 else "L")
        if resize:
            image = image.resize((resize, resize), Image.Resampling.BILINEAR)
    except Exception as error:  # a damaged file can make a decoder raise anything, and it is this file's fault
        raise BadInput(f"{source.path}: {name} cannot be read as an image ({error}); remove or replace it") from None
    pixels = numpy.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _write_pixels(pixels: numpy.ndarray, stream: BinaryIO) -> None:
    numpy.save(stream, pixels, allow_pickle=False)


DATASETS.add(
    "image-archive",
    DatasetEntry(
        load_image_archive,
        "your own images: a folder or .zip with train/CLASS/ and test/CLASS/ inside",
        frozenset({"path", "resize", "channels"}),
    ),
)
