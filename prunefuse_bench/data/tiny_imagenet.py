"""Tiny-ImageNet-200 as Stanford packed it: a folder layout of its own, and no labels for its test images."""

from __future__ import annotations

import dataclasses
from collections.abc import Set as AbstractSet
from pathlib import PurePosixPath

from prunefuse_bench.data.archive import ImageFile, load_image_files
from prunefuse_bench.data.dataset import DATASETS, DatasetEntry, DatasetRequest, ImageDataset
from prunefuse_bench.data.sources import FileSource, is_hidden, open_source
from prunefuse_bench.errors import BadInput
from prunefuse_bench.plain_text import shown_value

__all__ = ["load_tiny_imagenet"]

ANNOTATIONS = "val/val_annotations.txt"


def load_tiny_imagenet(request: DatasetRequest) -> ImageDataset:
    """Tiny-ImageNet-200 (Le and Yang 2015): 100,000 images to train and 10,000 to test, 64x64 RGB, 200 classes.

    ``path`` is the published tiny-imagenet-200.zip, or the folder that it holds: ``train/WNID/images/*.JPEG``, and
    ``val/images/*.JPEG`` with the class of each in ``val/val_annotations.txt``. The labels of the images in ``test``
    are not published, so the validation images are what networks are tested on, as everywhere.

    Raises:
        BadInput: no path, another layout, a class without images, or an annotation that fits no image or class.
    """
    if request.path is None:
        raise BadInput(
            "dataset 'tiny-imagenet-200' needs the path of tiny-imagenet-200.zip or of the folder that it holds: "
            "give it with --set task.dataset.path=PATH"
        )
    source = open_source(request.path)
    names = {name for name in source.names() if not is_hidden(name)}
    root = next((name.removesuffix(ANNOTATIONS) for name in sorted(names) if name.endswith(ANNOTATIONS)), None)
    if root is None:
        raise BadInput(f"{source.path}: expected train/WNID/images and {ANNOTATIONS} inside, got no {ANNOTATIONS}")
    train = _training_images(names, root)
    classes = sorted({file.class_name for file in train})
    if not classes:
        raise BadInput(f"{source.path}: expected images in train/WNID/images, got none")
    test = _validation_images(source, names, root, frozenset(classes))
    if missing := sorted(set(classes) - {file.class_name for file in test}):
        raise BadInput(f"{source.path}: class {missing[0]!r} has no image in {ANNOTATIONS}")
    dataset = load_image_files(source, train + test, classes, request, kind="tiny-imagenet-200")
    return dataclasses.replace(dataset, title=request.title or "Tiny-ImageNet-200")


def _training_images(names: set[str], root: str) -> list[ImageFile]:
    files = []
    for name in sorted(names):
        parts = PurePosixPath(name.removeprefix(root)).parts
        if name.startswith(root) and len(parts) == 4 and (parts[0], parts[2]) == ("train", "images"):
            files.append(ImageFile(name, "train", parts[1]))
    return files


def _validation_images(source: FileSource, names: set[str], root: str, classes: AbstractSet[str]) -> list[ImageFile]:
    """In the order of the annotations: file name, class and a box that nobody asks for, with tabs between."""
    files = []
    try:
        lines = source.read(f"{root}{ANNOTATIONS}").decode().splitlines()
    except Exception as error:  # a damaged file can make a reader raise anything
        raise BadInput(f"{source.path}: {ANNOTATIONS} cannot be read ({error}); unpack the archive anew") from None
    for number, line in enumerate(lines, 1):
        where = f"{source.path}: {ANNOTATIONS}, line {number}"
        fields = line.split("\t")
        if len(fields) < 2:
            raise BadInput(
                f"{where}: expected a file name, a class and a box with tabs between, got {shown_value(line)}"
            )
        name, class_name = f"{root}val/images/{fields[0]}", fields[1]
        if name not in names:
            raise BadInput(f"{where}: there is no {name}; unpack the archive anew")
        if class_name not in classes:
            raise BadInput(f"{where}: class {class_name!r} has no folder in train/; unpack the archive anew")
        files.append(ImageFile(name, "test", class_name))
    return files


DATASETS.add(
    "tiny-imagenet-200",
    DatasetEntry(
        load_tiny_imagenet,
        "Tiny-ImageNet-200, 110,000 images, 64x64 RGB, 200 classes; the published .zip or its folder",
        frozenset({"path", "resize"}),
    ),
)
