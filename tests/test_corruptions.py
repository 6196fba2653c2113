from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch
from torch import Tensor, nn

from prunefuse_bench.data import Augmentation, ImageDataset, Normalisation, corruptions
from prunefuse_bench.data.corruptions import CIFAR10_C, COMPUTED, Corruption, cifar10_c, computed_corruptions
from prunefuse_bench.errors import BadInput
from prunefuse_bench.training import StepSchedule, TrainingRecipe
from prunefuse_bench.training.robustness import evaluate_corruptions

TRAINING = TrainingRecipe(
    StepSchedule(1), 8, 0.9, 0.0, Augmentation(), Normalisation((0.0,) * 3, (1.0,) * 3), precision="fp32"
)
PER_SEVERITY = 6


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small CIFAR-10-C: every pixel of an image is its severity, and one more for every corruption."""
    monkeypatch.setattr(corruptions, "TEST_IMAGES", PER_SEVERITY)
    severities = numpy.repeat(numpy.arange(1, 6, dtype=numpy.uint8), PER_SEVERITY)
    for number, name in enumerate(CIFAR10_C):
        images = numpy.broadcast_to((severities + 10 * number)[:, None, None, None], (30, 32, 32, 3))
        numpy.save(tmp_path / f"{name}.npy", images)
    numpy.save(tmp_path / "labels.npy", numpy.tile(numpy.arange(PER_SEVERITY, dtype=numpy.uint8), 5))
    return tmp_path


@pytest.fixture
def dataset() -> ImageDataset:
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(10, 3, 6, 6, generator=draw) * 255
    images = torch.nn.functional.interpolate(coarse, 32, mode="bicubic").clamp(0, 255).byte()
    labels = torch.arange(10)
    return ImageDataset("made up", images, labels, images, labels, tuple("abcdefghij"))


class Sure(nn.Module):
    """Says class 2 for images that are dark in their first pixel, and class 0 for the others."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = level

    def forward(self, images: Tensor) -> Tensor:
        dark = images[:, 0, 0, 0] <= self.level
        return torch.nn.functional.one_hot(torch.where(dark, 2, 0), 10).float()


def test_published_corruptions_are_read_by_severity(published: Path) -> None:
    found = cifar10_c(published)
    assert [corruption.name for corruption in found] == list(CIFAR10_C)
    assert len(found) == 19
    images, labels = found[2].apply(4)
    assert images.shape == (PER_SEVERITY, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert images.unique().tolist() == [24]
    assert labels.tolist() == list(range(PER_SEVERITY))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("fog.npy", None, r"fog\.npy: expected a file of CIFAR-10-C, but it cannot be read"),
        ("labels.npy", None, r"labels\.npy: expected a file of CIFAR-10-C"),
        ("snow.npy", numpy.zeros((30, 3, 32, 32), numpy.uint8), r"expected uint8 \[30, 32, 32, 3\], got uint8 \[30, 3"),
        ("snow.npy", numpy.zeros((29, 32, 32, 3), numpy.uint8), r"snow\.npy: expected uint8"),
        ("labels.npy", numpy.full(30, 10, numpy.uint8), "expected labels from 0 to 9, got 10"),
        ("labels.npy", numpy.zeros(6, numpy.uint8), r"labels\.npy: expected uint8 \[30\], got uint8 \[6\]"),
    ],
)
def test_files_that_are_missing_or_hold_something_else(
    published: Path, name: str, content: numpy.ndarray | None, message: str
) -> None:
    (published / name).unlink()
    if content is not None:
        numpy.save(published / name, content)
    with pytest.raises(BadInput, match=message):
        cifar10_c(published)


def test_classes_in_another_order_are_refused(published: Path) -> None:
    with pytest.raises(BadInput, match=r"CIFAR-10-C: expected a network of the classes airplane, .* got cat, dog"):
        cifar10_c(published, ("cat", "dog"))


def test_accuracy_by_corruption_and_severity_and_their_mean(published: Path) -> None:
    told: list[tuple[int, int]] = []
    network = Sure(level=3)
    found = evaluate_corruptions(
        network, cifar10_c(published), TRAINING, torch.device("cpu"), lambda done, total: told.append((done, total))
    )
    share = 1 / PER_SEVERITY  # one image is of class 2, and one of class 0
    assert found.accuracies["brightness"] == pytest.approx((share,) * 5)
    assert found.mean == pytest.approx(share)
    assert told[-1] == (95, 95)
    always_two = evaluate_corruptions(Sure(level=1e9), cifar10_c(published), TRAINING, torch.device("cpu"))
    assert always_two.mean == pytest.approx(share)


def test_severities_are_told_apart(dataset: ImageDataset) -> None:
    levels = [torch.full((4, 3, 32, 32), 10 * severity, dtype=torch.uint8) for severity in range(1, 6)]
    labels = torch.tensor([2, 2, 2, 0])
    made_up = Corruption("made_up", lambda severity: (levels[severity - 1], labels))
    found = evaluate_corruptions(Sure(level=30), [made_up], TRAINING, torch.device("cpu"))
    assert found.accuracies == {"made_up": (0.75, 0.75, 0.75, 0.25, 0.25)}
    assert found.of("made_up") == found.mean == pytest.approx(0.55)


def test_computed_corruptions_are_named_apart_and_the_same_for_a_seed(dataset: ImageDataset) -> None:
    before = dataset.test_images.clone()
    first, again, other = (computed_corruptions(dataset, seed) for seed in (0, 0, 1))
    assert [corruption.name for corruption in first] == [f"computed:{name}" for name in COMPUTED]
    for one, two in zip(first, again, strict=True):
        for severity in (5, 1):
            images, labels = one.apply(severity)
            assert images.dtype == torch.uint8
            assert images.shape == dataset.test_images.shape
            assert torch.equal(images, two.apply(severity)[0])
            assert torch.equal(labels, dataset.test_labels)
    assert not torch.equal(first[0].apply(1)[0], other[0].apply(1)[0])
    assert torch.equal(dataset.test_images, before)


@pytest.mark.parametrize("name", COMPUTED)
def test_the_last_severity_is_further_from_the_image_than_the_first(dataset: ImageDataset, name: str) -> None:
    corruption = next(one for one in computed_corruptions(dataset) if one.name == f"computed:{name}")
    first, last = (
        float((corruption.apply(severity)[0].float() - dataset.test_images.float()).abs().mean()) for severity in (1, 5)
    )
    assert 0 < first < last


def test_a_computed_corruption_does_not_depend_on_what_was_drawn_before(dataset: ImageDataset) -> None:
    noise = computed_corruptions(dataset)[0]
    first = noise.apply(3)[0]
    torch.rand(7)
    state = torch.get_rng_state()
    assert torch.equal(noise.apply(3)[0], first)
    assert torch.equal(torch.get_rng_state(), state)


def test_colours_of_grey_images_are_left_alone_and_texts_refused(dataset: ImageDataset) -> None:
    grey = ImageDataset("grey", dataset.train_images[:, :1], dataset.train_labels, dataset.test_images[:, :1],
                        dataset.test_labels, dataset.classes)  # fmt: skip
    names = [corruption.name for corruption in computed_corruptions(grey)]
    assert len(names) == len(COMPUTED) - 2
    for corruption in computed_corruptions(grey):
        assert corruption.apply(3)[0].shape == (10, 1, 32, 32)
    texts = torch.ones(10, 7, dtype=torch.uint8)
    text = ImageDataset("texts", texts, dataset.train_labels, texts, dataset.test_labels, dataset.classes, symbols=69)
    with pytest.raises(BadInput, match="texts: corruptions are of images"):
        computed_corruptions(text)


def test_published_and_computed_corruptions_are_never_mixed(published: Path, dataset: ImageDataset) -> None:
    mixed = [*cifar10_c(published)[:1], *computed_corruptions(dataset)[:1]]
    with pytest.raises(ValueError, match="all published or all computed, got brightness, computed:gaussian_noise"):
        evaluate_corruptions(Sure(1), mixed, TRAINING, torch.device("cpu"))
    with pytest.raises(ValueError, match="got none"):
        evaluate_corruptions(Sure(1), [], TRAINING, torch.device("cpu"))
