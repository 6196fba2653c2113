"""One's own images: a folder or a .zip with ``train/CLASS/image`` and ``test/CLASS/image`` inside.

Everything is decoded once, in parallel, and kept on disk under the hash of the content; nothing is ever unpacked there.
"""

from __future__ import annotations

import functools
import math
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy
import torch

from prunefuse_bench.atomic import write_atomically
from prunefuse_bench.data.cache import cache_folder
from prunefuse_bench.data.dataset import DATASETS, DatasetEntry, DatasetRequest, ImageDataset
from prunefuse_bench.data.decoding import Pixels, decode_image
from prunefuse_bench.data.limits import expect_classes, expect_room
from prunefuse_bench.data.sources import FileSource, is_hidden, open_source
from prunefuse_bench.errors import BadInput, DataChanged
from prunefuse_bench.plain_text import shown_error

__all__ = ["ImageFile", "decode_files", "load_image_archive", "load_image_files", "sort_into_classes"]

SPLITS = ("train", "test")
DECODER_VERSION = 1
"""Part of the cache's key: raise it when the same files would be decoded to other pixels."""
CHUNK = 512
"""Images that one process decodes at a time."""


@dataclass(frozen=True)
class ImageFile:
    """One image file: its name in the source, its split (train or test) and its class."""

    name: str
    split: str
    class_name: str


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
    source = open_source(request.path)
    entries, classes = sort_into_classes(source)
    return load_image_files(source, entries, classes, request)


def load_image_files(
    source: FileSource, files: list[ImageFile], classes: list[str], request: DatasetRequest, kind: str = "image-archive"
) -> ImageDataset:
    """The data set of these files in this order, decoded on first use.

    Args:
        kind: the part of the cache that the decoded images go to.

    Raises:
        BadInput: a file that is no image, images of different sizes without ``resize``, too many classes, or more
            images than fit into memory.
    """
    expect_classes(len(classes), source.path)
    content = source.content_hash(file.name for file in files)
    key = f"{content[:32]}-{request.resize or 'as-is'}-{request.channels}-{DECODER_VERSION}"
    folder = cache_folder() / kind / key
    images: dict[str, torch.Tensor] = {}
    for split in SPLITS:
        members = [file for file in files if file.split == split]
        file = folder / f"{split}.npy"
        if not file.exists():
            pixels = _decode(source, members, request)
            if source.content_hash(file.name for file in files) != content:
                raise DataChanged(f"{source.path} was changed while it was read: start again when it is whole")
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, functools.partial(_write_pixels, pixels))
        images[split] = torch.from_numpy(numpy.load(file, allow_pickle=False))
    numbers = {name: number for number, name in enumerate(classes)}
    labels = {
        split: torch.tensor([numbers[file.class_name] for file in files if file.split == split]) for split in SPLITS
    }
    return ImageDataset(
        title=request.title or source.path.stem,
        train_images=images["train"],
        train_labels=labels["train"],
        test_images=images["test"],
        test_labels=labels["test"],
        classes=tuple(classes),
    )


def sort_into_classes(source: FileSource, test_folders: Sequence[str] = ("test",)) -> tuple[list[ImageFile], list[str]]:
    """All image files, sorted by name, and the class names, sorted.

    Args:
        test_folders: names that the folder of the test images may have; the first that is there is taken.

    Raises:
        BadInput: another layout, or a class that is empty in one of the two folders.
    """
    names = [name for name in source.names() if not is_hidden(name)]
    roots = {test: _root(names, ("train", test)) for test in test_folders}
    test = next((test for test, root in roots.items() if root is not None), test_folders[0])
    root = roots[test]
    if root is None:
        raise BadInput(
            f"{source.path}: expected train/CLASS/image and {' or '.join(test_folders)}/CLASS/image inside, "
            f"got {', '.join(sorted({name.split('/')[0] for name in names})[:5]) or 'nothing'}"
        )
    entries = []
    found: dict[str, set[str]] = {split: set() for split in SPLITS}
    splits = {"train": "train", test: "test"}
    for name in names:
        folder, _, rest = name.removeprefix(root).partition("/")
        if folder not in splits or not rest:
            continue
        split = splits[folder]
        class_name, _, file = rest.partition("/")
        if "/" not in rest:
            raise BadInput(f"{source.path}: {name}: expected only class folders in {folder}/, got a file")
        found[split].add(class_name)
        if file and not file.endswith("/"):
            entries.append(ImageFile(name, split, class_name))
    for folder, split in splits.items():
        filled = {entry.class_name for entry in entries if entry.split == split}
        for class_name in sorted(found["train"] | found["test"]):
            if class_name not in filled:
                raise BadInput(
                    f"{source.path}: class {class_name!r} has no image in {folder}/; "
                    f"every class needs at least one in train/ and one in {test}/"
                )
    return sorted(entries, key=lambda entry: entry.name), sorted(found["train"])


def _root(names: list[str], folders: tuple[str, str]) -> str | None:
    """The prefix below which both folders lie: nothing, or the one folder that holds everything."""
    tops = {name.split("/")[0] for name in names}
    for root in ["", *(f"{top}/" for top in tops if len(tops) == 1)]:
        if all(any(name.startswith(f"{root}{split}/") for name in names) for split in folders):
            return root
    return None


def _decode(source: FileSource, files: list[ImageFile], request: DatasetRequest) -> Pixels:
    """uint8 [N, C, H, W] of all files, decoded by as many processes as there are processors."""
    names = [file.name for file in files]
    # In this process first, so that the others, which are copies of it, have the decoder loaded.
    first = _decode_one(source, names[0], request.resize, request.channels)
    expect_room(len(files) * math.prod(first.shape), source.path)
    images = numpy.empty((len(files), *first.shape), dtype=numpy.uint8)
    chunks = [names[start : start + CHUNK] for start in range(0, len(names), CHUNK)]
    decode = functools.partial(decode_files, source.path, first.shape, names[0], request.resize, request.channels)
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("fork")) as executor:
        try:
            done = 0
            for chunk in executor.map(decode, chunks):
                images[done : done + len(chunk)] = chunk
                done += len(chunk)
                request.progress(done, len(files))
        except BrokenProcessPool:
            raise BadInput(f"{source.path}: a process that decoded was ended, by a lack of memory perhaps") from None
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise
    return images


@functools.cache
def _source(path: Path) -> FileSource:
    """Each process opens the archive for itself: a shared file position would mix up their reads."""
    return open_source(path)


def decode_files(
    path: Path, shape: tuple[int, ...], first_name: str, resize: int | None, channels: int, names: list[str]
) -> Pixels:
    """uint8 [N, C, H, W] of these files of a folder or .zip, one after another.

    Args:
        shape: [C, H, W] that all must have, as the file of ``first_name`` has.

    Raises:
        BadInput: a file that is no image, or one of another shape.
    """
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


def _decode_one(source: FileSource, name: str, resize: int | None, channels: int) -> Pixels:
    try:
        return decode_image(source.read(name), channels, resize)
    except Exception as error:  # a damaged file can make a decoder raise anything, and it is this file's fault
        why = shown_error(error)
        raise BadInput(f"{source.path}: {name} cannot be read as an image ({why}); remove or replace it") from None


def _write_pixels(pixels: Pixels, stream: BinaryIO) -> None:
    numpy.save(stream, pixels, allow_pickle=False)


DATASETS.add(
    "image-archive",
    DatasetEntry(
        load_image_archive,
        "your own images: a folder or .zip with train/CLASS/ and test/CLASS/ inside",
        frozenset({"path", "resize", "channels"}),
    ),
)
