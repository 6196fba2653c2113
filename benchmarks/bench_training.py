"""Training images per second: our loop against the loop that a user would otherwise write."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from jpeg_images import IMAGES, JpegImages
from pytest_benchmark.fixture import BenchmarkFixture
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from prunefuse_bench.data import Normalisation
from prunefuse_bench.models import build_model
from prunefuse_bench.randomness import generator
from prunefuse_bench.training import StepSchedule, TrainingRecipe, fit, resolve_precision

BATCH = 128
ROUNDS = 5


def resnet20() -> nn.Module:
    torch.manual_seed(0)
    return build_model("resnet20", num_classes=10, in_channels=3)


@pytest.fixture
def usual_loop(jpeg_images: JpegImages) -> Iterator[Callable[[], None]]:
    """torchvision data set, PIL transforms, DataLoader with 2 workers that stay, fp32: one epoch a call."""
    augment = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.491, 0.482, 0.447), (0.247, 0.243, 0.262)),
        ]
    )
    dataset = ImageFolder(str(jpeg_images.folder), augment)
    loader = DataLoader(dataset, BATCH, shuffle=True, num_workers=2, persistent_workers=True)
    model = resnet20()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)

    def epoch() -> None:
        for images, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()

    yield epoch
    loader._iterator = None  # ends the workers


@pytest.fixture
def our_loop(jpeg_images: JpegImages, request: pytest.FixtureRequest) -> Callable[[], None]:
    dataset = jpeg_images.dataset
    training = TrainingRecipe(
        schedule=StepSchedule(1, ((1, 0.1),)),
        batch_size=BATCH,
        momentum=0.9,
        weight_decay=5e-4,
        augmentation=dataset.augmentation,
        normalisation=Normalisation.of(dataset.train_images),
        precision=request.param,
    )
    model = resnet20()

    def epoch() -> None:
        fit(model, jpeg_images.images, jpeg_images.labels, training, generator(0, "epoch"))

    return epoch


def measure(benchmark: BenchmarkFixture, epoch: Callable[[], None], data: str, contender: str, peer: bool) -> None:
    benchmark.extra_info.update(contender=contender, peer=peer, images=IMAGES, data=data)
    benchmark.pedantic(epoch, rounds=ROUNDS, warmup_rounds=1)


@pytest.mark.benchmark(group="training ResNet-20 at 32x32, batch 128")
def bench_usual_loop(benchmark: BenchmarkFixture, usual_loop: Callable[[], None], jpeg_images: JpegImages) -> None:
    measure(benchmark, usual_loop, jpeg_images.title, "ImageFolder, PIL transforms, DataLoader (2 workers), fp32", True)


AUTO = resolve_precision("auto", torch.device("cpu"))


@pytest.mark.benchmark(group="training ResNet-20 at 32x32, batch 128")
@pytest.mark.parametrize("our_loop", sorted({"fp32", AUTO}), indirect=True)
def bench_our_loop(
    benchmark: BenchmarkFixture,
    our_loop: Callable[[], None],
    jpeg_images: JpegImages,
    request: pytest.FixtureRequest,
) -> None:
    precision = request.node.callspec.params["our_loop"]
    measure(benchmark, our_loop, jpeg_images.title, f"prunefuse-bench, {precision}", False)
