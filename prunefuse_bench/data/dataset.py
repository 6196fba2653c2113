"""Data sets by name."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from prunefuse_bench.data.augmentation import Augmentation, Normalisation, SymbolInputs
from prunefuse_bench.data.stored import Images, StoredImages
from prunefuse_bench.errors import BadInput
from prunefuse_bench.randomness import generator
from prunefuse_bench.registry import Registry

__all__ = ["DATASETS", "DatasetEntry", "DatasetRequest", "ImageDataset", "load_dataset", "subset"]


OPTIONS = ("path", "resize", "channels", "length", "keep_decoded")
"""Settings that mean something to some data sets only."""


@dataclass(frozen=True)
class DatasetRequest:
    """What is asked of a data set's loader.

    Attributes:
        path: file or folder, for data sets that are read from one; for downloads, the folder to download to.
        title: how tables name it; the data set's own name if None.
        resize: side in pixels that every image is resized to; None to leave sizes alone.
        channels: 3 for RGB, 1 for grey (image archives only).
        length: symbols of a text; None for as many as usual (text only).
        keep_decoded: keep decoded images on the disk, if they do not fit in memory.
        progress: told how much of how much (images, or bytes of text) is decoded.
        download: fetch what is not on this machine; if not, that it is missing is an error.
    """

    path: Path | None = None
    title: str | None = None
    resize: int | None = None
    channels: int = 3
    length: int | None = None
    keep_decoded: bool = True
    progress: Callable[[int, int], None] = field(default=lambda done, total: None, repr=False)
    download: bool = True


@dataclass(frozen=True)
class ImageDataset:
    """A labeled data set in memory: images, or texts as the numbers of their symbols.

    Attributes:
        title: how tables name it.
        train_images, test_images: uint8 [N, C, H, W], or :class:`prunefuse_bench.data.stored.StoredImages`, which are
            read batch by batch; of texts, uint8 [N, L].
        train_labels, test_labels: int64 [N], from 0 to the number of classes less 1.
        classes: class names.
        augmentation: what training uses unless the task says otherwise.
        symbols: of texts, how many symbols there are, all numbers being less; None for images.
    """

    title: str
    train_images: Images
    train_labels: Tensor
    test_images: Images
    test_labels: Tensor
    classes: tuple[str, ...]
    augmentation: Augmentation = field(default_factory=Augmentation)
    symbols: int | None = None

    @property
    def in_channels(self) -> int:
        """What the first layer of a network has to know: colours of an image, or symbols of a text."""
        return self.symbols or self.train_images.shape[1]

    @property
    def normalisation(self) -> Normalisation:
        """How samples become inputs: images by the statistics of the pool; symbols as they are."""
        return SymbolInputs() if self.symbols else Normalisation.of(self.train_images)

    def sha256(self) -> str:
        """Hash of the content: shapes, pixels, labels and class names."""
        digest = hashlib.sha256("\0".join(self.classes).encode())
        for tensor in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(str(tuple(tensor.shape)).encode())
            if isinstance(tensor, StoredImages):
                digest.update(tensor.sha256.encode())
            values = tensor.rows if isinstance(tensor, StoredImages) else tensor
            digest.update(values.contiguous().numpy().data)
        return digest.hexdigest()


def subset(dataset: ImageDataset, train_size: int) -> ImageDataset:
    """The data set with fewer training images: the same share of every class, in the old order, always the same ones.

    Raises:
        BadInput: more than there are.
    """
    count = len(dataset.train_labels)
    if train_size > count:
        raise BadInput(f"task.dataset.train_size: expected at most the {count} training images, got {train_size}")
    lot = torch.randperm(count, generator=generator(0, "subset of the training images"))
    labels = dataset.train_labels[lot]
    by_class = torch.argsort(labels, stable=True)
    sizes = torch.bincount(labels)
    place = torch.arange(count) - (sizes.cumsum(0) - sizes)[labels[by_class]]
    share = torch.empty(count, dtype=torch.float64)  # where in its class, 0 to 1: a cut takes equal shares
    share[by_class] = (place.double() + 0.5) / sizes[labels[by_class]]
    chosen = lot[torch.argsort(share, stable=True)[:train_size]].sort().values
    return dataclasses.replace(
        dataset,
        title=f"{dataset.title}, {train_size:,} of {count:,}",
        train_images=dataset.train_images[chosen],
        train_labels=dataset.train_labels[chosen],
    )


@dataclass(frozen=True)
class DatasetEntry:
    """A data set that can be asked for by name.

    Attributes:
        load: makes it.
        summary: one line.
        options: which of :data:`OPTIONS` mean something to it.
    """

    load: Callable[[DatasetRequest], ImageDataset]
    summary: str
    options: frozenset[str] = frozenset()


class DatasetRegistry(Registry[DatasetEntry]):
    """Data sets by name; after ``hf:`` whatever Hugging Face ``datasets`` loads, as in ``hf:uoft-cs/cifar10``."""

    def __getitem__(self, name: str) -> DatasetEntry:
        from prunefuse_bench.data.hub import PREFIX, hub_entry

        return hub_entry(name) if name.startswith(PREFIX) else super().__getitem__(name)


DATASETS = DatasetRegistry("dataset")
"""All data sets by name; an unknown name is a BadInput that suggests the nearest ones."""


def load_dataset(name: str, request: DatasetRequest | None = None) -> ImageDataset:
    """Load a data set of the registry and check it.

    Raises:
        BadInput: unknown name, or data that cannot be used.
    """
    entry, request = DATASETS[name], request or DatasetRequest()
    for option in OPTIONS:
        if option not in entry.options and getattr(request, option) != getattr(DatasetRequest(), option):
            raise BadInput(
                f"task.dataset.{option}: dataset {name!r} has no such setting "
                f"(it knows: {', '.join(sorted(entry.options)) or 'none'})"
            )
    dataset = entry.load(request)
    ndim, shape = (2, "texts uint8 [N, L]") if dataset.symbols else (4, "images uint8 [N, C, H, W]")
    for part, images, labels in (
        ("training", dataset.train_images, dataset.train_labels),
        ("test", dataset.test_images, dataset.test_labels),
    ):
        if images.dtype != torch.uint8 or images.ndim != ndim or len(images) != len(labels) or not len(images):
            raise BadInput(
                f"dataset {name!r}: expected {part} {shape} with one label each and N > 0, "
                f"got {images.dtype} {tuple(images.shape)} and {len(labels)} labels"
            )
        if int(labels.min()) < 0 or int(labels.max()) >= len(dataset.classes):
            raise BadInput(
                f"dataset {name!r}: expected {part} labels from 0 to {len(dataset.classes) - 1}, "
                f"got {int(labels.min())} to {int(labels.max())}"
            )
    return dataset
