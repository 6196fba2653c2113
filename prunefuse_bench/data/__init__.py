"""Data sets, the pool with its label oracle, and augmentation."""

from prunefuse_bench.data.augmentation import Augmentation, Normalisation
from prunefuse_bench.data.dataset import DatasetEntry, DatasetRequest, ImageDataset, datasets, load_dataset
from prunefuse_bench.data.pool import LabeledSet, Pool

__all__ = [
    "Augmentation",
    "DatasetEntry",
    "DatasetRequest",
    "ImageDataset",
    "LabeledSet",
    "Normalisation",
    "Pool",
    "datasets",
    "load_dataset",
]
