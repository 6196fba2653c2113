"""One's own images as numpy arrays in an .npz file."""

from __future__ import annotations

import zipfile
from collections.abc import Collection
from pathlib import Path

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from prunefuse_bench.data.dataset import DATASETS, DatasetEntry, DatasetRequest, ImageDataset
from prunefuse_bench.data.limits import expect_classes, expect_file, expect_names, expect_room
from prunefuse_bench.errors import BadInput

__all__ = ["images_from_array", "labels_from_array", "load_npz"]

ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def load_npz(request: DatasetRequest) -> ImageDataset:
    """Images from the arrays x_train, y_train, x_test and y_test of an .npz file.

    Images are uint8: [N, H, W, C] or [N, C, H, W] with C of 1 or 3, or grey [N, H, W]. Labels are whole numbers from 0,
    [N] or [N, 1]. An array ``classes`` of strings may name the classes.

    Raises:
        BadInput: no path, no such file, an array that is missing or that is none of these (it is named).
    """
    if request.path is None:
        raise BadInput(
            f"dataset 'npz' needs the path of an .npz file with {', '.join(ARRAYS)}: "
            "give it with --set task.dataset.path=PATH"
        )
    arrays = _read(request.path)
    where = str(request.path)
    images = {name: images_from_array(arrays[name], f"{where}: {name}") for name in ("x_train", "x_test")}
    if images["x_train"].shape[1:] != images["x_test"].shape[1:]:
        shapes = " and ".join(str(tuple(one.shape[1:])) for one in images.values())
        raise BadInput(f"{where}: expected images of one size in x_train and x_test, got {shapes} (channels first)")
    labels = {}
    for name, of in (("y_train", "x_train"), ("y_test", "x_test")):
        labels[name] = labels_from_array(arrays[name], f"{where}: {name}")
        if len(labels[name]) != len(images[of]):
            raise BadInput(f"{where}: expected one label of {name} for each of {len(images[of])} images in {of}, "
                           f"got {len(labels[name])}")  # fmt: skip
    count = int(labels["y_train"].max()) + 1
    expect_classes(count, where)
    if int(labels["y_test"].max()) >= count:
        raise BadInput(f"{where}: y_test has class {int(labels['y_test'].max())}, but y_train none above {count - 1}")
    return ImageDataset(
        title=request.title or request.path.stem,
        train_images=images["x_train"],
        train_labels=labels["y_train"],
        test_images=images["x_test"],
        test_labels=labels["y_test"],
        classes=_class_names(arrays, count, where),
    )


def images_from_array(array: NDArray[numpy.generic], where: str) -> Tensor:
    """uint8 [N, H, W, C], [N, C, H, W] or [N, H, W] as [N, C, H, W]; BadInput, beginning with ``where``, for others."""
    shape = array.shape
    last, first = len(shape) == 4 and shape[3] in {1, 3}, len(shape) == 4 and shape[1] in {1, 3}
    if (
        array.dtype != numpy.uint8
        or 0 in shape
        or len(shape) not in {3, 4}
        or (len(shape) == 4 and not (first or last))
    ):
        raise BadInput(
            f"{where}: expected images uint8 [N, H, W, C] or [N, C, H, W] with 1 or 3 channels, or [N, H, W], "
            f"got {array.dtype} {list(shape)}"
        )
    if first and last:
        raise BadInput(
            f"{where}: the channels of {list(shape)} may be the second or the last dimension; make images larger"
        )
    images = torch.from_numpy(numpy.ascontiguousarray(array))
    if len(shape) == 3:
        return images[:, None]
    return images if first else images.permute(0, 3, 1, 2).contiguous()


def labels_from_array(array: NDArray[numpy.generic], where: str) -> Tensor:
    """Whole numbers from 0, [N] or [N, 1], as int64 [N]; BadInput, beginning with ``where``, for others."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "iu" or not len(array):
        raise BadInput(f"{where}: expected labels as whole numbers [N], got {array.dtype} {list(array.shape)}")
    labels = torch.from_numpy(array.astype(numpy.int64))
    if (negative := (labels < 0).nonzero()).numel():
        row = int(negative[0])
        raise BadInput(f"{where}: expected labels from 0, got {int(labels[row])} at position {row}")
    return labels


def _read(path: Path) -> dict[str, NDArray[numpy.generic]]:
    try:
        expect_file(path)
        file = numpy.load(path, allow_pickle=False)
        if not isinstance(file, numpy.lib.npyio.NpzFile):
            raise BadInput(f"{path}: expected an .npz file with {', '.join(ARRAYS)}, got a single array")
        with file:
            if missing := [name for name in ARRAYS if name not in file]:
                raise BadInput(f"{path}: expected the arrays {', '.join(ARRAYS)}, got {', '.join(file) or 'none'}; "
                               f"there is no {missing[0]}")  # fmt: skip
            wanted = [name for name in (*ARRAYS, "classes") if name in file]
            expect_room(_unpacked_size(path, wanted), path)
            arrays = {name: file[name] for name in wanted}
            for name, array in arrays.items():
                if not isinstance(array, numpy.ndarray):  # what is no .npy file comes as bytes
                    raise BadInput(f"{path}: expected an array {name}, got other data")
            return arrays
    except BadInput:
        raise
    except Exception as error:  # a damaged file can make a reader raise anything; a header may claim any size
        raise BadInput(
            f"{path}: expected an .npz file of plain arrays, but it cannot be read: {error or type(error).__name__}"
        ) from None


def _unpacked_size(path: Path, wanted: Collection[str]) -> int:
    """Bytes of these arrays."""
    with zipfile.ZipFile(path) as archive:
        return sum(entry.file_size for entry in archive.infolist() if entry.filename.removesuffix(".npy") in wanted)


def _class_names(arrays: dict[str, NDArray[numpy.generic]], count: int, where: str) -> tuple[str, ...]:
    if "classes" not in arrays:
        return tuple(str(number) for number in range(count))
    names = arrays["classes"]
    if names.dtype.kind != "U" or names.ndim != 1 or len(names) < count:
        raise BadInput(f"{where}: expected in classes at least {count} strings, got {names.dtype} {list(names.shape)}")
    expect_classes(len(names), where)
    try:
        texts = tuple(str(name) for name in names)
    except (ValueError, SystemError) as error:  # numbers that stand for no character
        raise BadInput(f"{where}: expected strings in classes ({error})") from None
    expect_names(texts, where)
    return texts


DATASETS.add(
    "npz",
    DatasetEntry(
        load_npz,
        f"your own images as arrays: an .npz file with {', '.join(ARRAYS)}",
        frozenset({"path"}),
    ),
)
