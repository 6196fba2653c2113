"""Data sets, the pool with its label oracle, and augmentation."""

from prunefuse_bench.data import (  # they register their data sets
    archive,
    arrays,
    embedded,
    imagenet,
    published,
    text,
    tiny_imagenet,
)
from prunefuse_bench.data.augmentation import Augmentation, Normalisation, SymbolInputs
from prunefuse_bench.data.dataset import DATASETS, DatasetEntry, DatasetRequest, ImageDataset, load_dataset, subset
from prunefuse_bench.data.pool import LabeledSet, Pool
from prunefuse_bench.data.stored import StoredImages

__all__ = [
    "DATASETS",
    "Augmentation",
    "DatasetEntry",
    "DatasetRequest",
    "ImageDataset",
    "LabeledSet",
    "Normalisation",
    "Pool",
    "StoredImages",
    "SymbolInputs",
    "archive",
    "arrays",
    "embedded",
    "imagenet",
    "load_dataset",
    "published",
    "subset",
    "text",
    "tiny_imagenet",
]
