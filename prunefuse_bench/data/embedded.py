"""Data that comes with an installed package: no download, no files."""

from __future__ import annotations

import torch

from prunefuse_bench.data.augmentation import Augmentation
from prunefuse_bench.data.dataset import DATASETS, DatasetEntry, DatasetRequest, ImageDataset

TEST_SIZE = 360


def load_digits(request: DatasetRequest) -> ImageDataset:
    """1,797 grey images of handwritten digits, 8x8, 17 grey levels (scikit-learn); 1,437 to train and 360 to test.

    The split is stratified and always the same.
    """
    import numpy
    from sklearn.datasets import load_digits as load
    from sklearn.model_selection import train_test_split

    images, labels = load(return_X_y=True)
    pixels = numpy.rint(images * (255 / 16)).astype(numpy.uint8).reshape(-1, 1, 8, 8)
    train_images, test_images, train_labels, test_labels = train_test_split(
        pixels, labels, test_size=TEST_SIZE, random_state=0, stratify=labels
    )
    return ImageDataset(
        title=request.title or "digits",
        train_images=torch.from_numpy(train_images),
        train_labels=torch.from_numpy(train_labels).long(),
        test_images=torch.from_numpy(test_images),
        test_labels=torch.from_numpy(test_labels).long(),
        classes=tuple(str(digit) for digit in range(10)),
        augmentation=Augmentation(crop_padding=1, flip=False),
    )


DATASETS.add(
    "digits",
    DatasetEntry(load_digits, "1,797 handwritten digits, 8x8 grey, 10 classes; embedded (scikit-learn)"),
)
