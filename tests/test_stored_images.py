from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from flat_images import png
from PIL import Image

from prunefuse_bench.data import (
    Augmentation,
    DatasetRequest,
    ImageDataset,
    Normalisation,
    Pool,
    StoredImages,
    load_dataset,
    stored,
    subset,
)
from prunefuse_bench.data.stored import MappedImages
from prunefuse_bench.errors import BadInput
from prunefuse_bench.models import build_model
from prunefuse_bench.training import StepSchedule, TrainingRecipe, evaluate, fit, predict

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of photographs of many sizes: dark cats, bright dogs; 12 to train and 4 to test each."""
    draw = numpy.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        for name, level in (("cat", 60), ("dog", 180)):
            for i in range(count):
                file = tmp_path / "photographs" / split / name / f"{i:02d}.JPEG"
                file.parent.mkdir(parents=True, exist_ok=True)
                height, width = draw.integers(20, 40, 2)
                pixels = level + draw.integers(-40, 40, (height, width, 3))
                Image.fromarray(pixels.astype(numpy.uint8)).save(file, "JPEG")
    return tmp_path / "photographs"


@pytest.fixture
def request_16(folder: Path) -> DatasetRequest:
    return DatasetRequest(folder, resize=16)


def in_memory(dataset: ImageDataset) -> torch.Tensor:
    assert isinstance(dataset.train_images, StoredImages)
    return dataset.train_images.read()


def test_images_are_cut_to_squares_and_read_when_they_are_needed(request_16: DatasetRequest, folder: Path) -> None:
    dataset = load_dataset("imagenet", request_16)
    assert dataset.title == "ImageNet-1K"
    assert dataset.classes == ("cat", "dog")
    assert dataset.train_images.shape == (24, 3, 16, 16)
    assert dataset.test_images.shape == (8, 3, 16, 16)
    assert dataset.train_labels.tolist() == [0] * 12 + [1] * 12
    assert dataset.augmentation == Augmentation(crop_padding=2, flip=True)
    images = in_memory(dataset)
    assert images[:12].float().mean() < 90
    assert images[12:].float().mean() > 150
    expected = stored.decode_image((folder / "train/dog/03.JPEG").read_bytes(), resize=16, crop=True)
    assert numpy.array_equal(images[15].numpy(), expected)


def test_decoding_every_time_gives_the_same_pixels_and_the_same_content(folder: Path) -> None:
    kept = load_dataset("imagenet", DatasetRequest(folder, resize=16))
    streamed = load_dataset("imagenet", DatasetRequest(folder, resize=16, keep_decoded=False))
    assert torch.equal(in_memory(kept), in_memory(streamed))
    assert kept.sha256() == streamed.sha256()
    other = load_dataset("imagenet", DatasetRequest(folder, resize=8))
    assert other.sha256() != kept.sha256()


def test_choosing_rows_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = numpy.arange(60, dtype=numpy.uint8).reshape(5, 3, 2, 2)
    numpy.save(tmp_path / "pixels.npy", pixels)
    images = StoredImages(MappedImages(tmp_path / "pixels.npy", "some content"))
    everything = images.read()
    with monkeypatch.context() as patch:
        patch.setattr(MappedImages, "read", lambda *_: pytest.fail("read"))
        chosen = images[torch.tensor([4, 0, 2])][1:]
        assert (len(chosen), chosen.shape, chosen.dtype, chosen.ndim) == (2, (2, 3, 2, 2), torch.uint8, 4)
        moved = chosen.to(CPU)
    assert torch.equal(everything, torch.from_numpy(pixels))
    assert torch.equal(moved.read(), everything[[0, 2]])
    assert torch.equal(chosen.read(torch.tensor([1, 1, 0])), everything[[2, 2, 0]])


def test_what_was_decoded_is_not_decoded_again_after_a_stop(
    request_16: DatasetRequest, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "CHUNK", 5)
    bad = folder / "train/dog/11.JPEG"  # in the last chunk
    content = bad.read_bytes()
    bad.write_bytes(b"x" * len(content))
    with pytest.raises(BadInput, match=r"train/dog/11\.JPEG cannot be read as an image"):
        load_dataset("imagenet", request_16)
    cache = tmp_path / "cache/imagenet"
    assert not list(cache.glob("*.npy"))
    marks = numpy.fromfile(next(cache.glob("*.marks")), dtype=numpy.uint8)
    assert len(marks) == 5
    assert marks.tolist() == [1, 1, 1, 1, 0]
    bad.write_bytes(content)
    done: list[list[int]] = []

    class Watched(ProcessPoolExecutor):
        def map(self, function: Any, chunks: Iterable[Any], **settings: Any) -> Iterator[Any]:
            done.append(list(chunks))
            return super().map(function, chunks, **settings)

    monkeypatch.setattr(stored, "ProcessPoolExecutor", Watched)
    told: list[tuple[int, int]] = []
    dataset = load_dataset(
        "imagenet", DatasetRequest(folder, resize=16, progress=lambda now, total: told.append((now, total)))
    )
    assert done == [[4], [0, 1]]  # of the training images what was left, and the test images
    assert told[0] == (24, 24)
    assert sorted(file.suffix for file in cache.iterdir() if file.suffix != ".lock") == [".npy", ".npy"]
    fresh = load_dataset("imagenet", DatasetRequest(folder, resize=16, keep_decoded=False))
    assert torch.equal(in_memory(dataset), in_memory(fresh))


def test_layouts_that_are_wrong(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"--set task\.dataset\.path=PATH"):
        load_dataset("imagenet")
    (folder / "val/eel").mkdir()
    (folder / "val/eel/0.JPEG").write_bytes(png(1))
    with pytest.raises(BadInput, match=r"class 'eel' has no image in train/; .* one in train/ and one in val/"):
        load_dataset("imagenet", DatasetRequest(folder))
    (folder / "val").rename(folder / "testing")
    with pytest.raises(BadInput, match="expected train/CLASS/image and val or test/CLASS/image inside"):
        load_dataset("imagenet", DatasetRequest(folder))
    with pytest.raises(BadInput, match=r"task\.dataset\.keep_decoded: dataset 'digits' has no such setting"):
        load_dataset("digits", DatasetRequest(keep_decoded=False))


def test_too_little_room_is_found_out_before_decoding(
    request_16: DatasetRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stored.os, "posix_fallocate", full)
    with pytest.raises(BadInput, match=r"0\.0 GB of decoded images do not fit .*task\.dataset\.keep_decoded=false"):
        load_dataset("imagenet", request_16)
    assert not list((tmp_path / "cache/imagenet").glob("*.part"))


def test_training_and_prediction_are_those_of_images_in_memory(request_16: DatasetRequest) -> None:
    dataset = load_dataset("imagenet", request_16)
    pixels = in_memory(dataset)
    assert Normalisation.of(dataset.train_images) == Normalisation.of(pixels)
    training = TrainingRecipe(
        StepSchedule(2, ((1, 0.1),)), 8, 0.9, 0.0, Augmentation(2), dataset.normalisation, precision="fp32"
    )
    outcomes = []
    for images in (dataset.train_images, pixels):
        pool = Pool(images, dataset.train_labels, CPU)
        labeled = pool.label(torch.tensor([3, 20, 7, 15, 1, 22, 9, 18, 11, 13]))
        torch.manual_seed(0)
        network = build_model("resnet8", num_classes=2, in_channels=dataset.in_channels, width=0.25)
        fit(network, labeled.images, labeled.labels, training, torch.Generator().manual_seed(0))
        unlabeled = pool.images[pool.unlabeled]
        logits, features = predict(network, unlabeled, training, features=True)
        assert features is not None
        outcomes.append((logits, features, evaluate(network, pool.images, dataset.train_labels, training)))
    (logits, features, evaluation), expected = outcomes
    assert torch.equal(logits, expected[0])
    assert torch.equal(features, expected[1])
    assert evaluation == expected[2]


def test_a_smaller_pool_of_stored_images(request_16: DatasetRequest) -> None:
    dataset = load_dataset("imagenet", request_16)
    part = subset(dataset, 10)
    assert torch.bincount(part.train_labels).tolist() == [5, 5]
    assert isinstance(part.train_images, StoredImages)
    assert part.sha256() == subset(dataset, 10).sha256() != dataset.sha256()


def test_a_whole_run_on_stored_images(
    folder: Path, tmp_path: Path, run_cli: Callable[..., tuple[int, str, str]]
) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text(
        f"task: {{dataset: {{name: imagenet, path: {folder}, resize: 16}}, model: {{name: resnet8, width: 0.25}}, "
        "training: {epochs: 2, batch_size: 4}, budgets: [0.25, 0.5]}\n"
        "recipes: [prunefuse, bald, badge]\nseeds: [0]\nprecision: fp32\n"
    )
    code, _, error = run_cli("run", suite, "--out", tmp_path / "run")
    assert code == 0, error
    assert "24 images in the pool, 8 to test, 16x16x3" in (tmp_path / "run/leaderboard.md").read_text()


def test_images_in_a_zip_and_in_other_formats(make_zip: Callable[[dict[str, bytes]], Path]) -> None:
    grey = io.BytesIO()
    Image.new("L", (30, 20), 77).save(grey, "JPEG")
    files = {f"all/{split}/a/{i}.png": png(50 + i, size=20) for split in ("train", "test") for i in range(2)}
    files |= {f"all/{split}/b/0.JPEG": grey.getvalue() for split in ("train", "test")}
    dataset = load_dataset("imagenet", DatasetRequest(make_zip(files), resize=14))
    images = in_memory(dataset)
    assert images[:, 0, 7, 7].tolist() == [50, 51, 77]
    assert dataset.train_labels.tolist() == [0, 0, 1]
