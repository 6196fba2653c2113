"""Text data sets: reviews, news and the like as CSV files, read character by character by the network."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy
import torch
from torch import Tensor

from prunefuse_bench.atomic import write_atomically
from prunefuse_bench.data.augmentation import Augmentation
from prunefuse_bench.data.cache import cache_folder, sha256_of_file
from prunefuse_bench.data.dataset import DATASETS, DatasetEntry, DatasetRequest, ImageDataset
from prunefuse_bench.data.quantisation import LENGTH, SYMBOLS, read_texts
from prunefuse_bench.errors import BadInput

__all__ = ["PUBLISHED_TEXTS", "PublishedTexts", "load_text_csv"]

SPLITS = ("train", "test")
QUANTISER_VERSION = 1
"""Part of the cache's key: raise it when the same file would become other symbols."""


@dataclass(frozen=True)
class PublishedTexts:
    """A data set of Zhang et al. 2015: its name in tables, its classes, and the rows of train.csv and test.csv."""

    title: str
    classes: tuple[str, ...]
    rows: tuple[int, int]


PUBLISHED_TEXTS = {
    "amazon-polarity": PublishedTexts("Amazon Review Polarity", ("negative", "positive"), (3_600_000, 400_000)),
    "amazon-full": PublishedTexts(
        "Amazon Review Full", ("1 star", "2 stars", "3 stars", "4 stars", "5 stars"), (3_000_000, 650_000)
    ),
}
"""Each has as many rows of one class as of any other."""


def load_text_csv(request: DatasetRequest) -> ImageDataset:
    """Texts from a folder with train.csv and test.csv, in the layout of Zhang et al. 2015: class, title, text.

    There are as many classes as the largest class in train.csv says. The layout is that of
    :func:`prunefuse_bench.data.quantisation.read_texts`.

    Raises:
        BadInput: no path, a file that is missing, a class without a row, or a row that cannot be used (it is named).
    """
    folder = _folder(request, "text-csv")
    return _load(request, folder, request.title or folder.name, None)


def _load_published(name: str, request: DatasetRequest) -> ImageDataset:
    published = PUBLISHED_TEXTS[name]
    dataset = _load(request, _folder(request, name), request.title or published.title, published.classes)
    for split, labels, expected in zip(
        SPLITS, (dataset.train_labels, dataset.test_labels), published.rows, strict=True
    ):
        counts = torch.bincount(labels, minlength=len(published.classes))
        if len(labels) != expected or len(counts.unique()) != 1:
            raise BadInput(
                f"{request.path}/{split}.csv: {published.title} has {expected:,} rows, the same number of every class, "
                f"got {len(labels):,} ({', '.join(f'{count:,}' for count in counts.tolist())}); "
                "fetch the file again, or read your own with task.dataset.name=text-csv"
            )
    return dataset


def _folder(request: DatasetRequest, name: str) -> Path:
    if request.path is None:
        raise BadInput(
            f"dataset {name!r} needs the path of a folder with train.csv and test.csv: "
            "give it with --set task.dataset.path=PATH"
        )
    for split in SPLITS:
        if not (request.path / f"{split}.csv").is_file():
            raise BadInput(
                f"{request.path}: expected a folder with train.csv and test.csv, but there is no {split}.csv"
            )
    return request.path


def _load(request: DatasetRequest, folder: Path, title: str, class_names: tuple[str, ...] | None) -> ImageDataset:
    length = request.length or LENGTH
    texts: list[Tensor] = []
    labels: list[Tensor] = []
    for split in SPLITS:
        known = len(class_names) if class_names else None
        if split == "test" and known is None:
            known = int(labels[0].max()) + 1
        symbols, classes = _quantised(folder / f"{split}.csv", length, known, request.progress)
        if missing := sorted(set(range(known or int(classes.max()) + 1)) - set(classes.unique().tolist())):
            raise BadInput(f"{folder / split}.csv: no row has class {missing[0] + 1}; classes are counted from 1")
        texts.append(symbols)
        labels.append(classes)
    return ImageDataset(
        title=title,
        train_images=texts[0],
        train_labels=labels[0],
        test_images=texts[1],
        test_labels=labels[1],
        classes=class_names or tuple(str(number + 1) for number in range(int(labels[0].max()) + 1)),
        augmentation=Augmentation(crop_padding=0, flip=False),
        symbols=SYMBOLS,
    )


def _quantised(
    file: Path, length: int, classes: int | None, progress: Callable[[int, int], None]
) -> tuple[Tensor, Tensor]:
    """Symbols uint8 [N, length], mapped from the cache, and labels int64 [N]; made on first use."""
    folder = cache_folder() / "text" / f"{sha256_of_file(file)[:32]}-{length}-{classes or 'any'}-{QUANTISER_VERSION}"
    symbols_file, labels_file = folder / "symbols.npy", folder / "labels.npy"
    if not labels_file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        labels: list[numpy.ndarray] = []
        write_atomically(symbols_file, functools.partial(_write_symbols, file, length, classes, labels, progress))
        write_atomically(labels_file, lambda stream: numpy.save(stream, numpy.concatenate(labels)))
    # Copy-on-write, because torch knows no tensors that must not be written to; nobody writes.
    symbols = torch.from_numpy(numpy.load(symbols_file, mmap_mode="c", allow_pickle=False))
    return symbols, torch.from_numpy(numpy.load(labels_file, allow_pickle=False))


def _write_symbols(
    file: Path,
    length: int,
    classes: int | None,
    labels: list[numpy.ndarray],
    progress: Callable[[int, int], None],
    stream: BinaryIO,
) -> None:
    """A .npy file of all blocks; how many rows there are is known at the end, and its header has room for that."""
    total, done, rows = file.stat().st_size, 0, 0
    stream.write(_header(rows, length))
    for block in read_texts(file, length, classes):
        stream.write(block.symbols.data)
        labels.append(block.labels)
        rows, done = rows + len(block.labels), done + block.size
        progress(done, total)
    stream.seek(0)
    stream.write(_header(rows, length))


def _header(rows: int, length: int) -> bytes:
    stream = io.BytesIO()
    layout = {"descr": "|u1", "fortran_order": False, "shape": (rows, length)}
    numpy.lib.format.write_array_header_1_0(stream, layout)
    return stream.getvalue()


DATASETS.add(
    "text-csv",
    DatasetEntry(
        load_text_csv,
        "your own texts: a folder with train.csv and test.csv, rows of class (from 1), title, text",
        frozenset({"path", "length"}),
    ),
)
for _name, _published in PUBLISHED_TEXTS.items():
    DATASETS.add(
        _name,
        DatasetEntry(
            functools.partial(_load_published, _name),
            f"{_published.title} (Zhang et al. 2015), {sum(_published.rows):,} reviews, {len(_published.classes)} "
            "classes; a folder with the published train.csv and test.csv",
            frozenset({"path", "length"}),
        ),
    )
