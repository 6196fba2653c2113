"""ImageNet, and other folders of class folders that are too large for memory."""

from __future__ import annotations

import torch

from prunefuse_bench.data.archive import ImageFile, sort_into_classes
from prunefuse_bench.data.augmentation import Augmentation
from prunefuse_bench.data.cache import cache_folder
from prunefuse_bench.data.dataset import DATASETS, DatasetEntry, DatasetRequest, ImageDataset
from prunefuse_bench.data.limits import expect_classes
from prunefuse_bench.data.sources import FileSource, open_source
from prunefuse_bench.data.stored import FileImages, ImageSource, MappedImages, StoredImages, build_pixel_file
from prunefuse_bench.errors import BadInput

__all__ = ["load_imagenet"]

SIDE = 224
DECODER_VERSION = 1
"""Part of the cache's key and of the content's hash: raise it when the same files would become other pixels."""


def load_imagenet(request: DatasetRequest) -> ImageDataset:
    """RGB images from a folder or .zip with ``train/CLASS/`` and ``val/CLASS/`` (or ``test/``) inside, read in batches.

    The shorter side of every image is resized to 8/7 of ``resize`` (224 unless given), and the middle is cut out: the
    usual way to test on ImageNet. Training crops are windows of the image with an eighth of its side as zero padding,
    not the random resized crops that ImageNet is often trained with.

    Unless ``keep_decoded`` is false, the pixels are written to the cache on first use, 3·resize² bytes an image (200 GB
    for ImageNet at 224), and mapped from there. What identifies the content is the names and sizes of the files, as
    reading all of them at every start would take too long.

    Raises:
        BadInput: no path, another layout, an empty class, a file that is no image, or too little room on the disk.
    """
    if request.path is None:
        raise BadInput(
            "dataset 'imagenet' needs the path of a folder or .zip with train/CLASS/ and val/CLASS/ inside: "
            "give it with --set task.dataset.path=PATH"
        )
    source = open_source(request.path)
    files, classes = sort_into_classes(source, test_folders=("val", "test"))
    expect_classes(len(classes), source.path)
    side = request.resize or SIDE
    numbers = {name: number for number, name in enumerate(classes)}
    images, labels = {}, {}
    for split in ("train", "test"):
        members = [file for file in files if file.split == split]
        images[split] = StoredImages(_open(source, members, side, request))
        labels[split] = torch.tensor([numbers[file.class_name] for file in members])
    return ImageDataset(
        title=request.title or "ImageNet-1K",
        train_images=images["train"],
        train_labels=labels["train"],
        test_images=images["test"],
        test_labels=labels["test"],
        classes=tuple(classes),
        augmentation=Augmentation(crop_padding=side // 8, flip=True),
    )


def _open(source: FileSource, files: list[ImageFile], side: int, request: DatasetRequest) -> ImageSource:
    names = [file.name for file in files]
    key = f"{source.listing_hash(names)[:32]}-{side}-{DECODER_VERSION}"
    if not request.keep_decoded:
        return FileImages(source, names, side, key)
    file = cache_folder() / "imagenet" / f"{key}.npy"
    if not file.exists():
        build_pixel_file(file, source.path, names, side, request.progress)
    return MappedImages(file, key)


DATASETS.add(
    "imagenet",
    DatasetEntry(
        load_imagenet,
        "ImageNet-1K, or your own images that are too large for memory: a folder or .zip with train/CLASS/, val/CLASS/",
        frozenset({"path", "resize", "keep_decoded"}),
    ),
)
