"""Image data sets that Hugging Face ``datasets`` loads, by name; an optional extra of the package."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy
import torch

from prunefuse_bench.data.dataset import DatasetEntry, DatasetRequest, ImageDataset
from prunefuse_bench.data.decoding import Pixels, decode_image
from prunefuse_bench.errors import BadInput

__all__ = ["PREFIX", "hub_entry", "load_from_hub"]

PREFIX = "hf:"
TEST_SPLITS = ("test", "validation", "valid", "val")
"""The first that a data set has is what networks are tested on."""


def hub_entry(name: str) -> DatasetEntry:
    """The entry of ``hf:NAME`` or ``hf:NAME:CONFIGURATION``; NAME may also be a folder that ``datasets`` reads."""
    return DatasetEntry(
        functools.partial(load_from_hub, name),
        "images that Hugging Face datasets loads by name; needs the extra prunefuse-bench[hf]",
        frozenset({"resize", "channels"}),
    )


def load_from_hub(name: str, request: DatasetRequest) -> ImageDataset:
    """A data set with a split ``train``, a test or validation split, one column of images and one of class labels.

    Raises:
        BadInput: ``datasets`` is not installed or cannot load it, it lacks a split or column, or an image is damaged or
            of another size than the first (the row is named, counted from 0 as ``datasets`` does).
    """
    try:
        import datasets
    except ImportError:
        raise BadInput(
            f"dataset {name!r} needs the package datasets, which is not installed: pip install 'prunefuse-bench[hf]'"
        ) from None
    hub_name, _, configuration = name.removeprefix(PREFIX).partition(":")
    try:
        splits = datasets.load_dataset(hub_name, configuration or None)
    except Exception as error:  # no network, no such name, a server that fails: any of a dozen types
        raise BadInput(f"dataset {name!r} cannot be loaded: {type(error).__name__}: {error}") from None
    test = next((split for split in TEST_SPLITS if split in splits), None)
    if "train" not in splits or test is None:
        raise BadInput(
            f"dataset {name!r}: expected a split train and one of {', '.join(TEST_SPLITS)}, got {', '.join(splits)}"
        )
    features = splits["train"].features
    image = _column(name, features, datasets.Image, "images")
    label = _column(name, features, datasets.ClassLabel, "class labels")
    images, labels = {}, {}
    for split in ("train", test):
        rows = splits[split].cast_column(image, datasets.Image(decode=False))
        where = f"dataset {name!r}: split {split}"
        images[split] = _decode(rows, image, request, where)
        labels[split] = torch.tensor(list(rows[label]), dtype=torch.int64)
        if (labels[split] < 0).any():
            row = int((labels[split] < 0).nonzero()[0])
            raise BadInput(f"{where}: row {row} has no label; hidden labels cannot be tested on")
    return ImageDataset(
        title=request.title or hub_name.rsplit("/", 1)[-1],
        train_images=images["train"],
        train_labels=labels["train"],
        test_images=images[test],
        test_labels=labels[test],
        classes=tuple(features[label].names),
    )


def _column(name: str, features: Any, kind: type, what: str) -> str:
    found = [column for column, feature in features.items() if isinstance(feature, kind)]
    if len(found) != 1:
        columns = ", ".join(f"{column} ({type(feature).__name__})" for column, feature in features.items())
        raise BadInput(f"dataset {name!r}: expected one column of {what}, got {len(found)}; its columns: {columns}")
    return found[0]


def _decode(rows: Any, column: str, request: DatasetRequest, where: str) -> torch.Tensor:
    images: Pixels | None = None
    for row, stored in enumerate(rows[column]):
        try:
            content = stored["bytes"]
            if content is None:
                content = Path(stored["path"]).read_bytes()
            pixels = decode_image(content, request.channels, request.resize)
        except Exception as error:  # whatever a decoder raises is this row's fault
            raise BadInput(f"{where}: row {row} cannot be read as an image ({error})") from None
        if images is None:
            images = numpy.empty((len(rows), *pixels.shape), dtype=numpy.uint8)
        if pixels.shape != images.shape[1:]:
            raise BadInput(
                f"{where}: images of different sizes: row 0 is {images.shape[3]}x{images.shape[2]}, row {row} is "
                f"{pixels.shape[2]}x{pixels.shape[1]}; give one size with --set task.dataset.resize=PIXELS"
            )
        images[row] = pixels
        request.progress(row + 1, len(rows))
    if images is None:
        raise BadInput(f"{where}: expected images, got no rows")
    return torch.from_numpy(images)
