from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import pytest
import torch
from flat_images import png

from prunefuse_bench.data import DATASETS, DatasetRequest, load_dataset
from prunefuse_bench.errors import BadInput

MakeZip = Callable[[dict[str, bytes]], Path]


def unpack(files: Mapping[str, bytes], folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def tiny_files() -> dict[str, bytes]:
    """Two classes in the layout of Tiny-ImageNet-200; the annotations are in no order."""
    files = {f"train/n0{c}/images/n0{c}_{i}.JPEG": png(50 * c + i) for c in (1, 2) for i in range(3)}
    files |= {f"train/n0{c}/n0{c}_boxes.txt": b"n01_0.JPEG\t0\t0\t1\t1\n" for c in (1, 2)}
    files |= {f"val/images/val_{i}.JPEG": png(200 + i) for i in range(4)}
    files["val/val_annotations.txt"] = b"".join(
        f"val_{i}.JPEG\t{name}\t0\t0\t62\t62\n".encode() for i, name in ((2, "n01"), (0, "n02"), (1, "n01"), (3, "n02"))
    )
    files["test/images/test_0.JPEG"] = png(9)
    files["wnids.txt"] = b"n02\nn01\n"
    return {f"tiny-imagenet-200/{name}": content for name, content in files.items()}


def test_tiny_imagenet_from_its_zip_and_from_its_folder(
    tiny_files: dict[str, bytes], make_zip: MakeZip, tmp_path: Path
) -> None:
    zipped = load_dataset("tiny-imagenet-200", DatasetRequest(make_zip(tiny_files)))
    assert zipped.title == "Tiny-ImageNet-200"
    assert zipped.classes == ("n01", "n02")
    assert zipped.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert zipped.train_images[:, 0, 4, 4].tolist() == [50, 51, 52, 100, 101, 102]
    assert zipped.test_images[:, 0, 4, 4].tolist() == [202, 200, 201, 203]
    assert zipped.test_labels.tolist() == [0, 1, 0, 1]
    folder = unpack(tiny_files, tmp_path / "unpacked") / "tiny-imagenet-200"
    assert load_dataset("tiny-imagenet-200", DatasetRequest(folder)).sha256() == zipped.sha256()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("val/val_annotations.txt", b"val_0.JPEG n01 0 0\n", "line 1: expected a file name, a class and a box"),
        ("val/val_annotations.txt", b"val_9.JPEG\tn01\t0\n", "line 1: there is no .*val/images/val_9.JPEG"),
        ("val/val_annotations.txt", b"val_0.JPEG\tn03\t0\n", "line 1: class 'n03' has no folder in train/"),
        ("val/val_annotations.txt", b"val_0.JPEG\tn01\t0\n", "class 'n02' has no image in val/val_annotations.txt"),
        ("val/val_annotations.txt", None, "expected train/WNID/images and val/val_annotations.txt inside"),
        ("train/n01/images/n01_0.JPEG", b"no image", "n01_0.JPEG cannot be read as an image"),
    ],
)
def test_tiny_imagenet_that_is_damaged(
    tiny_files: dict[str, bytes], make_zip: MakeZip, name: str, content: bytes | None, message: str
) -> None:
    tiny_files.pop(f"tiny-imagenet-200/{name}")
    if content is not None:
        tiny_files[f"tiny-imagenet-200/{name}"] = content
    with pytest.raises(BadInput, match=message):
        load_dataset("tiny-imagenet-200", DatasetRequest(make_zip(tiny_files)))


def test_tiny_imagenet_needs_a_path_and_images() -> None:
    with pytest.raises(BadInput, match=r"--set task\.dataset\.path=PATH"):
        load_dataset("tiny-imagenet-200")


@pytest.fixture
def arrays() -> dict[str, Any]:
    draw = numpy.random.default_rng(0)
    return {
        "x_train": draw.integers(0, 256, (12, 6, 5, 3), dtype=numpy.uint8),
        "y_train": numpy.arange(12) % 3,
        "x_test": draw.integers(0, 256, (6, 6, 5, 3), dtype=numpy.uint8),
        "y_test": numpy.arange(6)[:, None] % 3,
    }


def save(arrays: Mapping[str, Any], tmp_path: Path) -> DatasetRequest:
    file = tmp_path / "mine.npz"
    numpy.savez(file, **arrays)
    return DatasetRequest(file)


def test_arrays_with_the_channels_last_first_or_none(arrays: dict[str, Any], tmp_path: Path) -> None:
    last = load_dataset("npz", save(arrays, tmp_path))
    assert (last.title, last.classes) == ("mine", ("0", "1", "2"))
    assert last.train_images.shape == (12, 3, 6, 5)
    assert numpy.array_equal(last.train_images[1, 2].numpy(), arrays["x_train"][1, :, :, 2])
    assert last.test_labels.tolist() == [0, 1, 2, 0, 1, 2]
    first = {name: array.transpose(0, 3, 1, 2) if name[0] == "x" else array for name, array in arrays.items()}
    assert load_dataset("npz", save(first, tmp_path)).sha256() == last.sha256()
    grey = {name: array[..., 0] if name[0] == "x" else array for name, array in arrays.items()}
    assert load_dataset("npz", save(grey, tmp_path)).train_images.shape == (12, 1, 6, 5)
    named = load_dataset("npz", save({**arrays, "classes": numpy.array(["a", "b", "c"])}, tmp_path))
    assert named.classes == ("a", "b", "c")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, "expected the arrays x_train, .* got x_train, y_train, x_test; there is no y_test"),
        ({"x_train": numpy.zeros((12, 6, 5, 3))}, r"x_train: expected images uint8 .* got float64 \[12, 6, 5, 3\]"),
        (
            {"x_test": numpy.zeros((6, 6, 5, 2), numpy.uint8)},
            r"x_test: expected images uint8 .* got uint8 \[6, 6, 5, 2\]",
        ),
        ({"x_test": numpy.zeros((6, 3, 5, 3), numpy.uint8)}, "channels of .* may be the second or the last"),
        ({"x_test": numpy.zeros((6, 7, 5, 3), numpy.uint8)}, r"one size .* \(3, 6, 5\) and \(3, 7, 5\)"),
        ({"x_test": numpy.zeros((0, 6, 5, 3), numpy.uint8)}, "x_test: expected images uint8"),
        ({"y_train": numpy.zeros(12)}, r"y_train: expected labels as whole numbers \[N\], got float64"),
        ({"y_train": numpy.arange(12) - 2}, "y_train: expected labels from 0, got -2 at position 0"),
        ({"y_train": numpy.arange(11)}, "one label of y_train for each of 12 images in x_train, got 11"),
        ({"y_test": numpy.arange(6)}, "y_test has class 5, but y_train none above 2"),
        ({"classes": numpy.array(["a"])}, "expected in classes at least 3 strings"),
        ({"x_train": numpy.array([{"an": "object"}], dtype=object)}, "cannot be read: .*allow_pickle"),
    ],
)
def test_bad_arrays_are_named(arrays: dict[str, Any], tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    changed = {name: array for name, array in {**arrays, **changes}.items() if array is not None}
    with pytest.raises(BadInput, match=message):
        load_dataset("npz", save(changed, tmp_path))


def test_files_that_are_no_npz(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"--set task\.dataset\.path=PATH"):
        load_dataset("npz")
    with pytest.raises(BadInput, match=r"cannot be read: .*No such file"):
        load_dataset("npz", DatasetRequest(tmp_path / "nowhere.npz"))
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(BadInput, match=r"expected an \.npz file of plain arrays, but it cannot be read"):
        load_dataset("npz", DatasetRequest(tmp_path / "text.npz"))
    numpy.save(tmp_path / "one.npy", numpy.zeros(3))
    with pytest.raises(BadInput, match="got a single array"):
        load_dataset("npz", DatasetRequest(tmp_path / "one.npy"))


class FakeImage:
    """As datasets.Image."""

    def __init__(self, decode: bool = True) -> None:
        self.decode = decode


class FakeClassLabel:
    """As datasets.ClassLabel."""

    names = ("cat", "dog")


class FakeSplit:
    """As datasets.Dataset."""

    def __init__(self, images: list[Any], labels: list[int]) -> None:
        self.columns = {"id": list(range(len(images))), "img": images, "label": labels}
        self.features: dict[str, Any] = {"id": 0, "img": FakeImage(), "label": FakeClassLabel()}

    def cast_column(self, column: str, feature: FakeImage) -> FakeSplit:
        assert column == "img"
        assert not feature.decode
        return self

    def __getitem__(self, column: str) -> list[Any]:
        return self.columns[column]

    def __len__(self) -> int:
        return len(self.columns["id"])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, FakeSplit]:
    """A stand-in for the package datasets that knows one data set."""
    file = tmp_path / "on disk.png"
    file.write_bytes(png(40))
    splits = {
        "train": FakeSplit([{"bytes": png(10 * i), "path": None} for i in range(1, 4)], [0, 1, 0]),
        "validation": FakeSplit([{"bytes": None, "path": str(file)}, {"bytes": png(50), "path": "x"}], [1, 0]),
    }

    def load(name: str, configuration: str | None) -> dict[str, FakeSplit]:
        if (name, configuration) not in {("someone/pets", None), ("someone/pets", "plain")}:
            raise FileNotFoundError(f"{name} is not there")
        return splits

    module = ModuleType("datasets")
    module.load_dataset, module.Image, module.ClassLabel = load, FakeImage, FakeClassLabel  # type: ignore[attr-defined]
    module.__version__ = "2.20.0"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return splits


@pytest.mark.parametrize("name", ["hf:someone/pets", "hf:someone/pets:plain"])
def test_data_sets_of_the_hub_by_name(hub: dict[str, FakeSplit], name: str) -> None:
    dataset = load_dataset(name)
    assert (dataset.title, dataset.classes) == ("pets", ("cat", "dog"))
    assert dataset.train_images[:, 0, 4, 4].tolist() == [10, 20, 30]
    assert dataset.test_images[:, 0, 4, 4].tolist() == [40, 50]
    assert dataset.test_labels.tolist() == [1, 0]
    assert load_dataset(name, DatasetRequest(resize=4, channels=1)).train_images.shape == (3, 1, 4, 4)
    assert name not in set(DATASETS)


def test_data_sets_of_the_hub_that_cannot_be_used(hub: dict[str, FakeSplit]) -> None:
    with pytest.raises(BadInput, match="'hf:nobody/x' cannot be loaded: FileNotFoundError: nobody/x is not there"):
        load_dataset("hf:nobody/x")
    with pytest.raises(BadInput, match=r"task\.dataset\.path: dataset 'hf:someone/pets' has no such setting"):
        load_dataset("hf:someone/pets", DatasetRequest(Path("x")))
    hub["train"].columns["label"][1] = -1
    with pytest.raises(BadInput, match="split train: row 1 has no label"):
        load_dataset("hf:someone/pets")
    hub["train"].columns["img"][2] = {"bytes": png(1, size=9), "path": None}
    with pytest.raises(BadInput, match="row 0 is 8x8, row 2 is 9x9"):
        load_dataset("hf:someone/pets")
    hub["train"].columns["img"][1] = {"bytes": b"x", "path": None}
    with pytest.raises(BadInput, match="split train: row 1 cannot be read as an image"):
        load_dataset("hf:someone/pets")
    hub["train"].features["more"] = FakeImage()
    with pytest.raises(BadInput, match=r"expected one column of images, got 2; its columns: id \(int\), img"):
        load_dataset("hf:someone/pets")
    hub.pop("validation")
    with pytest.raises(BadInput, match="expected a split train and one of test, validation, valid, val, got train"):
        load_dataset("hf:someone/pets")


def test_the_hub_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BadInput, match=r"needs the package datasets, .* pip install 'prunefuse-bench\[hf\]'"):
        load_dataset("hf:someone/pets")


def test_a_folder_that_the_real_package_reads(
    image_files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pytest.importorskip("datasets")
    folder = unpack(image_files, tmp_path / "images")
    dataset = load_dataset(f"hf:{folder}")
    assert dataset.classes == ("cat", "dog")
    assert sorted(dataset.train_images[:, 0, 4, 4].tolist()) == [*range(20, 40), *range(200, 220)]
    assert torch.equal(dataset.train_labels, (dataset.train_images[:, 0, 4, 4] > 100).long())
