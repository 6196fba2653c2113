"""Published data sets: downloaded by torchvision and checked against its checksums, or read where a system has them."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from prunefuse_bench.data.augmentation import Augmentation
from prunefuse_bench.data.cache import cache_folder
from prunefuse_bench.data.dataset import DATASETS, DatasetEntry, DatasetRequest, ImageDataset
from prunefuse_bench.errors import BadInput

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the IDX files."""

FASHION_MNIST_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
"""Of the unpacked files, as Debian's package has them: packers differ between sources, the content does not."""
LARGEST_IDX = 1 << 30
"""Bytes of such a file, unpacked."""
MOST_DIMENSIONS = 8


def read_idx(path: Path, sha256: str | None = None) -> Tensor:
    """One gzip-compressed IDX file of unsigned bytes, as uint8 of the shape it states.

    Raises:
        BadInput: not such a file, or its unpacked content has another hash than expected.
    """
    try:
        with gzip.open(path) as stream:
            content = stream.read(LARGEST_IDX + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{path}: expected a gzip-compressed IDX file, but it cannot be unpacked: {error}") from None
    if sha256 is not None and (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise BadInput(f"{path}: unpacked, expected SHA-256 {sha256}, got {found}; fetch the file again")
    if len(content) > LARGEST_IDX:
        raise BadInput(f"{path}: expected at most {LARGEST_IDX:,} bytes unpacked, got more")
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise BadInput(f"{path}: expected an IDX file of unsigned bytes (magic 00 00 08), got {content[:4].hex(' ')}")
    ndim = content[3]
    shape = tuple(int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(ndim))
    values = numpy.frombuffer(content[4 + 4 * ndim :], dtype=numpy.uint8)
    if ndim > MOST_DIMENSIONS:
        raise BadInput(f"{path}: expected at most {MOST_DIMENSIONS} dimensions, got {ndim}")
    if values.size != math.prod(shape):
        raise BadInput(f"{path}: expected {shape} = {math.prod(shape)} values, got {values.size}")
    if not values.size:  # numpy makes no array of sizes such as (2³¹, 2³¹, 0)
        raise BadInput(f"{path}: expected values, got none: {shape}")
    return torch.from_numpy(values.copy().reshape(shape))


def load_fashion_mnist(request: DatasetRequest) -> ImageDataset:
    """60,000 and 10,000 grey images of clothes, 28x28, 10 classes.

    ``path`` is a folder with the four IDX files, gzip-compressed; without it, the one of Debian's package if it is
    installed, else a download.
    """
    from torchvision.datasets import FashionMNIST

    folder = request.path or (DEBIAN_FASHION_MNIST if DEBIAN_FASHION_MNIST.is_dir() else None)
    if folder is not None:
        parts = {name: read_idx(folder / f"{name}.gz", sha256) for name, sha256 in FASHION_MNIST_SHA256.items()}
    else:
        splits = [_fetch(FashionMNIST, "fashion-mnist", train, request) for train in (True, False)]
        tensors = [tensor for split in splits for tensor in (split.data, split.targets)]
        parts = dict(zip(FASHION_MNIST_SHA256, tensors, strict=True))
    train_images, train_labels, test_images, test_labels = parts.values()
    return ImageDataset(
        title=request.title or "Fashion-MNIST",
        train_images=train_images[:, None],
        train_labels=train_labels.long(),
        test_images=test_images[:, None],
        test_labels=test_labels.long(),
        classes=tuple(FashionMNIST.classes),
        augmentation=Augmentation(crop_padding=2, flip=True),
    )


def _cifar(class_name: str, title: str) -> Callable[[DatasetRequest], ImageDataset]:
    def load(request: DatasetRequest) -> ImageDataset:
        import torchvision.datasets

        source = getattr(torchvision.datasets, class_name)
        train, test = (_fetch(source, class_name.lower(), train, request) for train in (True, False))
        return ImageDataset(
            title=request.title or title,
            train_images=torch.from_numpy(train.data).permute(0, 3, 1, 2).contiguous(),
            train_labels=torch.tensor(train.targets),
            test_images=torch.from_numpy(test.data).permute(0, 3, 1, 2).contiguous(),
            test_labels=torch.tensor(test.targets),
            classes=tuple(train.classes),
        )

    return load


def _fetch(source: Callable[..., Any], name: str, train: bool, request: DatasetRequest) -> Any:
    """A torchvision data set, downloaded unless it is there; torchvision checks the archive's MD5 before opening it."""
    root = request.path or cache_folder() / name
    try:
        return source(root=str(root), train=train, download=request.download)
    except (OSError, RuntimeError) as error:
        failed = f"cannot be downloaded ({error})" if request.download else "is not downloaded here"
        raise BadInput(
            f"dataset {name!r} is not in {root} and {failed}; "
            "download it where there is a network, and name the folder with --set task.dataset.path=FOLDER"
        ) from None


for _name, _load, _summary in (
    ("fashion-mnist", load_fashion_mnist, "70,000 images of clothes, 28x28 grey, 10 classes; download"),
    ("cifar10", _cifar("CIFAR10", "CIFAR-10"), "60,000 images, 32x32 RGB, 10 classes; download"),
    ("cifar100", _cifar("CIFAR100", "CIFAR-100"), "60,000 images, 32x32 RGB, 100 classes; download"),
):
    DATASETS.add(_name, DatasetEntry(_load, _summary, frozenset({"path"})))
