"""Images for contenders that read JPEG files, and the same images as a data set."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from PIL import Image

from prunefuse_bench.data import DatasetRequest, ImageDataset, load_dataset

CIFAR10_JPEG = "PRUNEFUSE_BENCH_CIFAR10_JPEG"
"""Environment variable that names CIFAR-10 (JPEG): the folder or .zip with train/ and test/ inside."""
IMAGES = 2560


@dataclass(frozen=True)
class JpegImages:
    """Training images in memory, uint8 [N, 3, 32, 32], and the same as JPEG files in class folders."""

    title: str
    dataset: ImageDataset
    images: torch.Tensor
    labels: torch.Tensor
    folder: Path


def make_jpeg_images(folder: Path) -> JpegImages:
    """CIFAR-10 (JPEG) from the folder or .zip that the environment names, else images of its size made here."""
    if given := os.environ.get(CIFAR10_JPEG):
        title = "CIFAR-10 (JPEG)"
        dataset = load_dataset("image-archive", DatasetRequest(Path(given), title))
    else:
        title = f"synthetic images (for real ones set {CIFAR10_JPEG})"
        dataset = synthetic_images(title)
    rows = torch.randperm(len(dataset.train_images), generator=torch.Generator().manual_seed(0))[:IMAGES]
    images, labels = dataset.train_images[rows], dataset.train_labels[rows]
    for i in range(IMAGES):
        file = folder / dataset.classes[int(labels[i])] / f"{i}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(as_jpeg(images[i]))
    return JpegImages(title, dataset, images, labels, folder)


def synthetic_images(title: str) -> ImageDataset:
    """Smooth noise, 32x32 RGB: compresses about as photographs do."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(IMAGES, 3, 8, 8, generator=generator) * 255
    pixels = torch.nn.functional.interpolate(coarse, 32, mode="bicubic").clamp(0, 255).byte()
    labels = torch.arange(IMAGES) % 10
    return ImageDataset(title, pixels, labels, pixels[:10], labels[:10], tuple("abcdefghij"))


def as_jpeg(image: torch.Tensor) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(numpy.ascontiguousarray(image.permute(1, 2, 0).numpy())).save(stream, "JPEG", quality=95)
    return stream.getvalue()
