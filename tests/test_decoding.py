from __future__ import annotations

import io
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image

from prunefuse_bench.data import DatasetRequest, decoding, load_dataset
from prunefuse_bench.data.archive import decode_files
from prunefuse_bench.data.decoding import decode_image, decode_with_pillow
from prunefuse_bench.data.sources import open_source

CIFAR10_JPEG = "PRUNEFUSE_BENCH_CIFAR10_JPEG"
"""Environment variable that names CIFAR-10 (JPEG): the folder or .zip with train/ and test/ inside."""


@pytest.fixture(autouse=True)
def decoder() -> Iterator[None]:
    """Tests may take the fast decoder away; whether it agrees is found out anew."""
    yield
    decoding._agreeing_decoder.cache_clear()


def picture(size: tuple[int, int] = (23, 17), seed: int = 0) -> Image.Image:
    """Smooth colours with some noise."""
    draw = numpy.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(0, 256, (4, 5, 3), dtype=numpy.uint8)).resize(size, Image.Resampling.BICUBIC)
    return Image.fromarray((numpy.asarray(coarse) // 2 + draw.integers(0, 120, (*size[::-1], 3))).astype(numpy.uint8))


def encoded(image: Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


@pytest.mark.parametrize("options", [{}, {"quality": 95, "subsampling": 0}, {"progressive": True}, {"optimize": True}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "YCbCr"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_those_of_pillow(mode: str, options: dict[str, Any], channels: int) -> None:
    content = encoded(picture().convert(mode), **options)
    pixels = decode_image(content, channels)
    assert pixels.shape == (channels, 17, 23)
    assert pixels.dtype == numpy.uint8
    assert numpy.array_equal(pixels, decode_with_pillow(content, channels))


def test_the_fast_decoder_is_really_used(monkeypatch: pytest.MonkeyPatch) -> None:
    contents = encoded(picture()), encoded(picture().convert("L"))
    monkeypatch.setattr(decoding, "_open", lambda *_: pytest.fail("Pillow was asked"))
    decoding._agreeing_decoder.cache_clear()
    monkeypatch.setattr(decoding, "decode_with_pillow", _pillow)
    for content in contents:
        assert decode_image(content).shape == (3, 17, 23)


def _pillow(content: bytes, channels: int) -> numpy.ndarray:
    image = Image.open(io.BytesIO(content)).convert("RGB" if channels == 3 else "L")
    return numpy.asarray(image)[None] if channels == 1 else numpy.asarray(image).transpose(2, 0, 1)


def test_a_fast_decoder_that_gives_other_pixels_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(picture())
    expected = decode_with_pillow(content)
    assert decoding._agreeing_decoder() is not None
    decoding._agreeing_decoder.cache_clear()
    monkeypatch.setattr(decoding, "decode_with_pillow", lambda *arguments: decode_with_pillow(*arguments) ^ 1)
    assert decoding._agreeing_decoder() is None
    assert numpy.array_equal(decode_image(content), expected)


@pytest.mark.parametrize("form", ["PNG", "BMP", "GIF", "WEBP"])
def test_other_formats(form: str) -> None:
    content = encoded(picture(), form)
    assert numpy.array_equal(decode_image(content), decode_with_pillow(content))


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_resizing_is_pillows(form: str) -> None:
    content = encoded(picture(), form)
    squeezed = Image.open(io.BytesIO(content)).convert("RGB").resize((8, 8), Image.Resampling.BILINEAR)
    assert numpy.array_equal(decode_image(content, resize=8), numpy.asarray(squeezed).transpose(2, 0, 1))


@pytest.mark.parametrize("size", [(60, 30), (30, 60), (16, 16), (400, 15)])
def test_cropping_keeps_the_proportions_and_the_middle(size: tuple[int, int]) -> None:
    wide = numpy.zeros((size[1], size[0], 3), dtype=numpy.uint8)
    wide[size[1] // 2 - 2 : size[1] // 2 + 2, size[0] // 2 - 2 : size[0] // 2 + 2] = 255
    pixels = decode_image(encoded(Image.fromarray(wide), "PNG"), resize=14, crop=True)
    assert pixels.shape == (3, 14, 14)
    bright = numpy.argwhere(pixels[0] > 100)
    assert abs(bright.mean(0) - 6.5).max() <= 1
    extent = numpy.ptp(bright, axis=0) + 1
    assert abs(extent[0] - extent[1]) <= 1


def test_damaged_files_end_as_they_do_with_pillow() -> None:
    draw, content = random.Random(0), encoded(picture())
    for _ in range(300):
        damaged = bytearray(content)
        if draw.random() < 0.3:
            del damaged[draw.randrange(len(damaged)) :]
        for _ in range(draw.randrange(1, 4)):
            if damaged:
                damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        outcomes = []
        for decode in (decode_image, decode_with_pillow):
            try:
                outcomes.append(decode(bytes(damaged)).tobytes())
            except Exception as error:
                outcomes.append(type(error).__name__.encode())
        assert outcomes[0] == outcomes[1]


def test_huge_jpeg_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(picture())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    with pytest.raises(Image.DecompressionBombWarning):
        decode_image(content)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert decode_image(content).shape == (3, 17, 23)


def test_real_images() -> None:
    given = os.environ.get(CIFAR10_JPEG)
    if not given:
        pytest.skip(f"{CIFAR10_JPEG} names no folder or zip")
    path = Path(given)
    source = open_source(path)
    names = [name for name in source.names() if name.endswith(".jpg")]
    names = random.Random(0).sample(names, min(len(names), int(os.environ.get("PRUNEFUSE_BENCH_IMAGES", "2000"))))
    decoded = decode_files(path, (3, 32, 32), names[0], None, 3, names)
    for name, pixels in zip(names, decoded, strict=True):
        assert numpy.array_equal(pixels, decode_with_pillow(source.read(name))), name


def test_archives_hold_the_same_pixels_as_before(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for i in range(3):
            file = tmp_path / "images" / split / "a" / f"{i}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encoded(picture(seed=i)))
    dataset = load_dataset("image-archive", DatasetRequest(tmp_path / "images"))
    for i in range(3):
        expected = decode_with_pillow(encoded(picture(seed=i)))
        assert numpy.array_equal(dataset.train_images[i].numpy(), expected)
