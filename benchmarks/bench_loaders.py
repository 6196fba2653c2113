"""From files to samples: the package against what users would otherwise write. Processor time of one thread.

PRUNEFUSE_BENCH_TEXTS names folders with train.csv and test.csv, apart by colons, of which the first is read;
PRUNEFUSE_BENCH_CIFAR10_JPEG real images. Without them both are made here.
"""

from __future__ import annotations

import csv
import os
import random
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy
import pytest
import torch
from jpeg_images import JpegImages
from pytest_benchmark.fixture import BenchmarkFixture
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import PILToTensor

from prunefuse_bench.data.archive import decode_files
from prunefuse_bench.data.quantisation import ALPHABET, LENGTH, SPACE, UNKNOWN, read_texts

TEXTS = "PRUNEFUSE_BENCH_TEXTS"
ROWS = 4000
WHITE = " \t\n\r\v\f"

quantising = pytest.mark.benchmark(group="quantising texts to 1,014 characters", timer=time.process_time)
decoding = pytest.mark.benchmark(group="decoding 32x32 JPEG files", timer=time.process_time)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def measure(
    benchmark: BenchmarkFixture,
    contender: str,
    call: Callable[[], numpy.ndarray],
    amount: float,
    unit: str,
    data: str,
    *,
    peer: bool = False,
) -> numpy.ndarray:
    """Time a contender that does so much of a unit, and return what it made; the others are compared with the peer."""
    benchmark.extra_info.update(contender=contender, amount=amount, unit=unit, data=data, peer=peer, ours=not peer)
    return benchmark.pedantic(call, rounds=5, warmup_rounds=1)


# ---- texts ----


@dataclass(frozen=True)
class Texts:
    title: str
    file: Path

    @property
    def megabytes(self) -> float:
        return self.file.stat().st_size / 1e6


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Texts:
    if given := os.environ.get(TEXTS):
        folder = Path(given.split(":")[0])
        return Texts(folder.name, folder / "train.csv")
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(1, 9))) for _ in range(2000)]
    file = tmp_path_factory.mktemp("texts") / "train.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream, quoting=csv.QUOTE_ALL)
        for _ in range(ROWS):
            text = " ".join(draw.choices(words, k=draw.randint(10, 130)))
            writer.writerow([draw.randint(1, 2), " ".join(draw.choices(words, k=4)).title(), text])
    return Texts(f"made-up reviews (for real ones set {TEXTS})", file)


def one_by_one(file: Path) -> numpy.ndarray:
    """Python's CSV reader, and a dictionary for every character."""
    numbers = {letter: place + 1 for place, letter in enumerate(ALPHABET)} | dict.fromkeys(WHITE, SPACE)
    with file.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    symbols = numpy.zeros((len(rows), LENGTH), dtype=numpy.uint8)
    for row, (_, title, text) in enumerate(rows):
        joined = " ".join(part for part in (title, text) if part).replace("\\n", "\n").lower()
        for place, letter in enumerate(joined[:LENGTH]):
            symbols[row, place] = numbers.get(letter, UNKNOWN)
    return symbols


def quantised(file: Path) -> numpy.ndarray:
    return numpy.concatenate([block.symbols for block in read_texts(file)])


@quantising
def bench_texts_character_by_character(benchmark: BenchmarkFixture, texts: Texts) -> None:
    measure(
        benchmark,
        "csv.reader and a loop over characters",
        lambda: one_by_one(texts.file),
        texts.megabytes,
        "MB",
        texts.title,
        peer=True,
    )


@quantising
def bench_texts(benchmark: BenchmarkFixture, texts: Texts) -> None:
    made = measure(benchmark, "read_texts", lambda: quantised(texts.file), texts.megabytes, "MB", texts.title)
    assert numpy.array_equal(made, one_by_one(texts.file))


# ---- images ----


@pytest.fixture(scope="module")
def names(jpeg_images: JpegImages) -> list[str]:
    return sorted(file.relative_to(jpeg_images.folder).as_posix() for file in jpeg_images.folder.glob("*/*.jpg"))


def loaded(folder: Path) -> numpy.ndarray:
    loader = DataLoader(ImageFolder(str(folder), transform=PILToTensor()), batch_size=256)
    return torch.cat([images for images, _ in loader]).numpy()


@decoding
def bench_images_with_a_data_loader(benchmark: BenchmarkFixture, jpeg_images: JpegImages, names: list[str]) -> None:
    measure(
        benchmark,
        "ImageFolder, Pillow, DataLoader",
        lambda: loaded(jpeg_images.folder),
        len(names),
        "images",
        jpeg_images.title,
        peer=True,
    )


@decoding
def bench_images_of_a_folder(benchmark: BenchmarkFixture, jpeg_images: JpegImages, names: list[str]) -> None:
    def call() -> numpy.ndarray:
        return decode_files(jpeg_images.folder, (3, 32, 32), names[0], None, 3, names)

    made = measure(benchmark, "decode_files, a folder", call, len(names), "images", jpeg_images.title)
    assert numpy.array_equal(made, loaded(jpeg_images.folder))


@decoding
def bench_images_of_a_zip(
    benchmark: BenchmarkFixture, jpeg_images: JpegImages, names: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.write(jpeg_images.folder / name, name)

    def call() -> numpy.ndarray:
        return decode_files(path, (3, 32, 32), names[0], None, 3, names)

    made = measure(benchmark, "decode_files, a zip", call, len(names), "images", jpeg_images.title)
    assert numpy.array_equal(made, loaded(jpeg_images.folder))
