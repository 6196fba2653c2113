"""What a trained network sees in 50,000 images: the input of a ResNet-20's classifier on CIFAR-10."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from jpeg_images import CIFAR10_JPEG
from safetensors.torch import load_file, save_file
from torch import Tensor

from prunefuse_bench.data import DatasetRequest, Normalisation, load_dataset
from prunefuse_bench.data.cache import cache_folder
from prunefuse_bench.models import build_model
from prunefuse_bench.randomness import generator
from prunefuse_bench.training import StepSchedule, TrainingRecipe, fit, predict, resolve_precision

LABELED, EPOCHS = 10_000, 4


def relu_features(count: int, dimensions: int, manifold: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Synthetic: ReLU of a linear map of a normal ``manifold``-dimensional variable; made in parts to save memory."""
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(manifold, dimensions, generator=draw) / manifold**0.5
    bias = 0.3 * torch.randn(dimensions, generator=draw)
    features = torch.empty(count, dimensions, dtype=dtype)
    for part in features.split(65_536):
        part.copy_((torch.randn(len(part), manifold, generator=draw) @ weight + bias).relu())
    return features


def cifar10_features() -> tuple[str, Tensor]:
    """(title, float32 [50000, 64]), kept in the cache once computed; synthetic ones if the images are not at hand."""
    if not (given := os.environ.get(CIFAR10_JPEG)):
        return f"synthetic features (for real ones set {CIFAR10_JPEG})", relu_features(50_000, 64, 16)
    title = f"features of a ResNet-20 trained on {LABELED:,} images of CIFAR-10 (JPEG) for {EPOCHS} epochs"
    file = cache_folder() / f"cifar10-jpeg-resnet20-{LABELED}-images-{EPOCHS}-epochs.safetensors"
    if not file.exists():
        features = _train_and_look(Path(given))
        save_file({"features": features}, file.with_suffix(".part"))
        file.with_suffix(".part").replace(file)
    return title, load_file(file)["features"]


def _train_and_look(archive: Path) -> Tensor:
    dataset = load_dataset("image-archive", DatasetRequest(archive, "CIFAR-10 (JPEG)"))
    training = TrainingRecipe(
        schedule=StepSchedule(EPOCHS, ((3, 0.1), (1, 0.01))),
        batch_size=128,
        momentum=0.9,
        weight_decay=5e-4,
        augmentation=dataset.augmentation,
        normalisation=Normalisation.of(dataset.train_images),
        precision=resolve_precision("auto", torch.device("cpu")),
    )
    torch.manual_seed(0)
    model = build_model("resnet20", num_classes=10, in_channels=3)
    labeled = torch.randperm(len(dataset.train_images), generator=generator(0, "labeled"))[:LABELED]
    fit(model, dataset.train_images[labeled], dataset.train_labels[labeled], training, generator(0, "features"))
    logits, features = predict(model, dataset.train_images, training, features=True)
    assert features is not None
    accuracy = (logits.argmax(1) == dataset.train_labels).float().mean().item()
    print(f"ResNet-20 features: {100 * accuracy:.1f}% of the training images are classified rightly", file=sys.stderr)
    return features


if __name__ == "__main__":
    print(cifar10_features()[1].shape)
