"""Data sets, the pool with its label oracle, and augmentation."""

from prunefuse_bench.data import archive, embedded, published, text  # they register their data sets
from prunefuse_bench.data.augmentation import Augmentation, Normalisation, SymbolInputs
from prunefuse_bench.data.dataset import DATASETS, DatasetEntry, DatasetRequest, ImageDataset, load_dataset, subset
from prunefuse_bench.data.pool import LabeledSet, Pool

__all__ = [
    "DATASETS",
    "Augmentation",
    "DatasetEntry",
    "DatasetRequest",
    "ImageDataset",
    "LabeledSet",
    "Normalisation",
    "Pool",
    "SymbolInputs",
    "archive",
    "embedded",
    "load_dataset",
    "published",
    "subset",
    "text",
]
