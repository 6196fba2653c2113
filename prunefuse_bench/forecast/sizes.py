"""How much data there is: of the data itself where it is at hand, otherwise as it was published."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from prunefuse_bench.config import DatasetSpec
from prunefuse_bench.data import DATASETS, ImageDataset
from prunefuse_bench.data.quantisation import LENGTH, SYMBOLS
from prunefuse_bench.data.text import PUBLISHED_TEXTS
from prunefuse_bench.errors import BadInput
from prunefuse_bench.runner import load_images

__all__ = ["PUBLISHED", "DataSizes", "sizes_of"]


@dataclass(frozen=True)
class DataSizes:
    """What costs depend on.

    Attributes:
        title: as tables name the data set.
        train, test: samples in the pool, and to test on.
        shape: [C, H, W] of an image, [L] of a text.
        classes: how many.
        in_channels: colours of an image, or symbols of a text.
        published: whether these are published figures; otherwise the data was looked at.
    """

    title: str
    train: int
    test: int
    shape: tuple[int, ...]
    classes: int
    in_channels: int
    published: bool = False

    @property
    def is_text(self) -> bool:
        """Whether samples are texts."""
        return len(self.shape) == 1


def _images(title: str, train: int, test: int, side: int, channels: int, classes: int) -> DataSizes:
    return DataSizes(title, train, test, (channels, side, side), classes, channels, published=True)


PUBLISHED = MappingProxyType(
    {
        "cifar10": _images("CIFAR-10", 50_000, 10_000, 32, 3, 10),
        "cifar100": _images("CIFAR-100", 50_000, 10_000, 32, 3, 100),
        "fashion-mnist": _images("Fashion-MNIST", 60_000, 10_000, 28, 1, 10),
        "tiny-imagenet-200": _images("Tiny-ImageNet-200", 100_000, 10_000, 64, 3, 200),
        "imagenet": _images("ImageNet-1K", 1_281_167, 50_000, 224, 3, 1000),
        **{
            name: DataSizes(texts.title, *texts.rows, (LENGTH,), len(texts.classes), SYMBOLS, published=True)
            for name, texts in PUBLISHED_TEXTS.items()
        },
    }
)
"""Sizes of the data sets that have one size only."""


def sizes_of(spec: DatasetSpec) -> DataSizes:
    """Sizes of the pool that a task asks for. Nothing is downloaded where the published sizes are known.

    Raises:
        BadInput: an unknown data set, data of one's own without a path, or data that cannot be used.
    """
    DATASETS[spec.name]
    if spec.name not in PUBLISHED:
        return _found(load_images(spec))
    if spec.path is not None:
        # Decoding a pool of millions is the run's business.
        return _found(load_images(spec.model_copy(update={"keep_decoded": False} if spec.name == "imagenet" else {})))
    return _as_published(spec)


def _found(dataset: ImageDataset) -> DataSizes:
    shape = tuple(dataset.train_images.shape[1:])
    train, test = len(dataset.train_labels), len(dataset.test_labels)
    return DataSizes(dataset.title, train, test, shape, len(dataset.classes), dataset.in_channels)


def _as_published(spec: DatasetSpec) -> DataSizes:
    known = PUBLISHED[spec.name]
    train = known.train if spec.train_size is None else spec.train_size
    if train > known.train:
        raise BadInput(f"task.dataset.train_size: expected at most the {known.train} training images, got {train}")
    shape = known.shape
    if spec.resize is not None:
        shape = (known.shape[0], spec.resize, spec.resize)
    if spec.length is not None:
        shape = (spec.length,)
    title = spec.title or known.title
    if train < known.train:
        title = f"{title}, {train:,} of {known.train:,}"
    return DataSizes(title, train, known.test, shape, known.classes, known.in_channels, published=True)
