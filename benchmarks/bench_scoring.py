"""From a pool of uint8 images to the 1,000 that are chosen: the package against the way that published code does it.

The published way is that of SVP and of DeepCore: a data set in memory makes a PIL image of every sample, torchvision
turns it into a tensor and normalises it, a DataLoader collects batches, the network answers in float32, softmax, a copy
to the host per batch, entropy and argsort in numpy. Both choose with the same trained network and must choose the same.

PRUNEFUSE_BENCH_CIFAR10_JPEG names real images; PRUNEFUSE_BENCH_POOL the size of the pool, 50,000 unless it is given. A
time is always that of the pool that it was measured on, never scaled from a smaller one.
"""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy
import pytest
import torch
import torch.nn.functional as F
from jpeg_images import CIFAR10_JPEG
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from prunefuse_bench import ops
from prunefuse_bench.acquisition import ACQUISITIONS, Needs
from prunefuse_bench.data import Augmentation, DatasetRequest, Normalisation, load_dataset
from prunefuse_bench.inference import SCREENED_FROM, can_screen
from prunefuse_bench.models import build_model
from prunefuse_bench.pruning import Network
from prunefuse_bench.randomness import generator
from prunefuse_bench.recipe import OnePass, Question
from prunefuse_bench.recipe.trained import Trained
from prunefuse_bench.training import (
    Fit,
    Precision,
    StepSchedule,
    TrainingRecipe,
    fit,
    predict,
    resolve_precision,
)

POOL = int(os.environ.get("PRUNEFUSE_BENCH_POOL", "50000"))
CHOSEN = min(1_000, POOL // 2)
TRAINED_ON, EPOCHS = min(5_000, POOL), 3
LEAST_OVERLAP = 0.7
"""Of two choices by the same network; below it one of them does something else than it should."""
AUTO = resolve_precision("auto", torch.device("cpu"))


@dataclass(frozen=True)
class LabeledImages:
    """uint8 [N, 3, 32, 32] and int64 [N]."""

    title: str
    images: Tensor
    labels: Tensor


@pytest.fixture(scope="module")
def pool() -> LabeledImages:
    """CIFAR-10 (JPEG), or images made here: smooth noise over a pattern of the class."""
    if given := os.environ.get(CIFAR10_JPEG):
        dataset = load_dataset("image-archive", DatasetRequest(Path(given), "CIFAR-10 (JPEG)"))
        rows = torch.randperm(len(dataset.train_images), generator=generator(0, "pool"))[:POOL]
        return LabeledImages("CIFAR-10 (JPEG)", dataset.train_images[rows].contiguous(), dataset.train_labels[rows])
    draw = generator(0, "synthetic pool")
    labels = torch.randint(0, 10, (POOL,), generator=draw)
    patterns = torch.rand(10, 3, 8, 8, generator=draw)
    images = torch.empty(POOL, 3, 32, 32, dtype=torch.uint8)
    for part, classes in zip(images.split(5_000), labels.split(5_000), strict=True):
        coarse = 0.3 * patterns[classes] + 0.7 * torch.rand(len(classes), 3, 8, 8, generator=draw)
        part.copy_((F.interpolate(coarse, 32, mode="bicubic") * 255).clamp(0, 255))
    return LabeledImages(f"synthetic images (for real ones set {CIFAR10_JPEG})", images, labels)


def training_recipe(images: Tensor, precision: Precision, *, screening: bool = False) -> TrainingRecipe:
    return TrainingRecipe(
        schedule=StepSchedule(EPOCHS, ((0.3, 0.01), (2.0, 0.1), (0.7, 0.01))),
        batch_size=128,
        momentum=0.9,
        weight_decay=5e-4,
        augmentation=Augmentation(),
        normalisation=Normalisation.of(images),
        precision=precision,
        screening=screening,
    )


@pytest.fixture(scope="module", params=["resnet20", "resnet56"])
def selector(request: pytest.FixtureRequest, pool: LabeledImages) -> tuple[str, nn.Module]:
    """Trained briefly, so that it is sure of some images and not of others."""
    torch.manual_seed(0)
    network = build_model(request.param, num_classes=10, in_channels=3)
    images, labels = pool.images[:TRAINED_ON], pool.labels[:TRAINED_ON]
    fit(network, images, labels, training_recipe(pool.images, AUTO), generator(0, "selector"))
    return request.param, network


class ImagesInMemory(Dataset[tuple[Tensor, int]]):
    """As torchvision's CIFAR10: an array of pixels, and a PIL image made of each sample that is asked for."""

    def __init__(self, images: Tensor, labels: Tensor, transform: Callable[[Image.Image], Tensor]) -> None:
        self._pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
        self._labels = labels.tolist()
        self._transform = transform

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._transform(Image.fromarray(self._pixels[index])), self._labels[index]


def published_way(network: nn.Module, dataset: ImagesInMemory, workers: int, batch_size: int) -> Tensor:
    """Positions of the chosen, the highest entropy first, int64 [k]."""
    network.eval()
    answers = []
    with torch.no_grad():
        for images, _ in DataLoader(dataset, batch_size=batch_size, shuffle=False, num_workers=workers):
            answers.append(torch.softmax(network(images), dim=1).cpu().numpy())
    probabilities = numpy.concatenate(answers)
    entropy = -(probabilities * numpy.log(probabilities + 1e-12)).sum(axis=1)
    return torch.from_numpy(numpy.argsort(-entropy)[:CHOSEN].copy())


def our_way(network: nn.Module, images: Tensor, training: TrainingRecipe) -> Tensor:
    """Positions of the chosen, the highest entropy first, int64 [k]."""
    if not training.screening:
        logits, _ = predict(network, images, training, features=False)
        return ops.top_k(ops.score(logits, "entropy"), CHOSEN)
    selector = Trained(Network(network), Fit(1, 1, 1, 0.0))
    everyone, nobody = torch.arange(len(images)), images[:0]
    question = Question(everyone, images, nobody, Needs.LOGITS, training, generator(0, "pool"), 0, looked_again=True)
    return ACQUISITIONS["entropy"].choose(min(CHOSEN, len(images)), OnePass().ask(selector, question)).indices


def published_contender(network: nn.Module, pool: LabeledImages, workers: int) -> Callable[[int], Tensor]:
    """Chooses from the first so many images. The data set is made before: its authors read it once for all rounds."""
    normalisation = Normalisation.of(pool.images)
    transform = transforms.Compose(
        [
            transforms.ToTensor(),
            transforms.Normalize([m / 255 for m in normalisation.mean], [s / 255 for s in normalisation.std]),
        ]
    )
    dataset = ImagesInMemory(pool.images, pool.labels, transform)
    start = ImagesInMemory(pool.images[:1_000], pool.labels[:1_000], transform)
    plain = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    return lambda count: published_way(plain, dataset if count == POOL else start, workers, 128)


def our_contender(
    network: nn.Module, pool: LabeledImages, precision: Precision, *, screening: bool
) -> Callable[[int], Tensor]:
    """Chooses from the first so many images."""
    training = training_recipe(pool.images, precision, screening=screening)
    return lambda count: our_way(network, pool.images[:count], training)


choices: dict[str, Tensor] = {}
"""What the published way chose, by network; it is measured first."""

CONTENDERS = {
    "workers-2": "SVP's and DeepCore's way: PIL, transforms, DataLoader (2 workers), fp32, numpy",
    "workers-0": "the same without workers (SVP's default)",
    **{precision: f"predict, ops.score, ops.top_k, {precision}" for precision in sorted({"fp32", AUTO}, reverse=True)},
}
if can_screen(torch.device("cpu")) and POOL >= SCREENED_FROM:
    CONTENDERS["8-bits"] = "OnePass and the acquisition, as a run chooses: in 8 bits first"


@pytest.mark.parametrize("contender", CONTENDERS)
def bench_choosing(
    benchmark: BenchmarkFixture, selector: tuple[str, nn.Module], pool: LabeledImages, contender: str
) -> None:
    """One whole choice a round; a thousand images to warm up."""
    name, network = selector
    published = contender.startswith("workers")
    if published:
        choose = published_contender(network, pool, int(contender.removeprefix("workers-")))
    else:
        precision: Precision = "fp32" if contender == "fp32" else AUTO
        choose = our_contender(network, pool, precision, screening=contender == "8-bits")
    benchmark.group = f"choosing {CHOSEN:,} of {POOL:,} images by the entropy of a {name}"
    choose(min(1_000, POOL))
    chosen = benchmark.pedantic(functools.partial(choose, POOL), rounds=1 if published else 5)
    reference = choices.setdefault(name, chosen)
    overlap = torch.isin(reference, chosen).double().mean().item()
    title = CONTENDERS[contender]
    if published and reference is chosen:
        benchmark.extra_info.update(peer=True)
    else:
        benchmark.extra_info.update(peer=False)
        title += f"; chooses {100 * overlap:.1f}% of the same"
    benchmark.extra_info.update(
        contender=title, ours=not published, part=1, gigabytes=0, overlap=overlap, data=pool.title
    )
    assert overlap >= LEAST_OVERLAP
