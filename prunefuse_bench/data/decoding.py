"""From the bytes of an image file to pixels.

Pillow says what the pixels are. JPEG files, which most images are, are decoded by torchvision's operator, which takes a
third of the time for small ones; both are built on libjpeg-turbo, and whether they agree to the bit is tried first.
"""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from PIL import Image

from prunefuse_bench.data.limits import LARGEST_IMAGE

__all__ = ["Pixels", "decode_image", "decode_with_pillow"]

Pixels = NDArray[numpy.uint8]
Decoder = Callable[[bytes], Pixels]

FORMATS = (
    "AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "SGI", "TGA", "TIFF", "WEBP",
)  # fmt: skip
"""Of Pillow's, those that it decodes itself: for EPS it starts another program, which runs what the file says."""
FRAMES = (0xC0, 0xC1, 0xC2)
"""Markers of the frames that the fast decoder is tried on: baseline, extended and progressive."""
OTHER_SEGMENTS = (0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE)
"""Markers of what may stand before the frame and says how long it is: tables, restarts, applications', comments."""


def decode_image(content: bytes, channels: int = 3, resize: int | None = None, *, crop: bool = False) -> Pixels:
    """The pixels of an image file, uint8 [channels, H, W].

    Args:
        content: of the file, in one of :data:`FORMATS`.
        channels: 3 for RGB, 1 for grey.
        resize: side in pixels of a square that the image is resized to (bilinear); None to leave its size alone.
        crop: resize the shorter side to 8/7 of ``resize`` and cut out the middle, instead of changing the proportions.

    Raises:
        Exception: whatever Pillow raises for a file that is damaged, too large or no image.
    """
    pixels = _decode_quickly(content, channels)
    if pixels is not None and resize is None:
        return pixels
    image = _open(content, channels) if pixels is None else _as_image(pixels)
    if resize is not None:
        image = _cropped(image, resize) if crop else image.resize((resize, resize), Image.Resampling.BILINEAR)
    return _as_pixels(image)


def decode_with_pillow(content: bytes, channels: int = 3) -> Pixels:
    """As :func:`decode_image`, at the size that the file has, by Pillow alone."""
    return _as_pixels(_open(content, channels))


def _open(content: bytes, channels: int) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(content), formats=_formats()) as opened:
            _expect_size(opened.size)
            return opened.convert("RGB" if channels == 3 else "L")


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those that this Pillow has."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _expect_size(size: tuple[int, int]) -> None:
    if size[0] * size[1] > LARGEST_IMAGE:
        raise ValueError(f"{size[0]}x{size[1]} pixels are more than {LARGEST_IMAGE:,}")


def _cropped(image: Image.Image, side: int) -> Image.Image:
    width, height = image.size
    scale = round(side * 8 / 7) / min(width, height)
    width, height = max(side, round(width * scale)), max(side, round(height * scale))
    _expect_size((width, height))  # a line of pixels would become a surface
    left, top = (width - side) // 2, (height - side) // 2
    return image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + side, top + side))


def _as_pixels(image: Image.Image) -> Pixels:
    pixels = numpy.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _as_image(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels[0] if len(pixels) == 1 else numpy.ascontiguousarray(pixels.transpose(1, 2, 0)))


def _decode_quickly(content: bytes, channels: int) -> Pixels | None:
    """None for whatever is better left to Pillow: other formats, other colours, and everything damaged."""
    size = _jpeg_size(content)
    if size is None:
        return None
    stored, height, width = size
    if stored not in {1, channels} or height * width > LARGEST_IMAGE:
        return None
    decode = _agreeing_decoder()
    if decode is None:
        return None
    try:
        pixels = decode(content)
    except RuntimeError:  # Pillow's message is the one to show, and it may be more lenient
        return None
    if pixels.shape != (stored, height, width):
        return None
    return pixels if stored == channels else numpy.broadcast_to(pixels, (channels, height, width))


def _jpeg_size(content: bytes) -> tuple[int, int, int] | None:
    """Channels, height and width of a JPEG file, from the header of its frame.

    None for everything out of the ordinary: this must never find another frame than the decoder, which makes room for
    as many pixels as the frame that it finds has.
    """
    if content[:2] != b"\xff\xd8":
        return None
    place = 2
    while place + 10 <= len(content) and content[place] == 0xFF:
        if content[place + 1] in FRAMES:
            height, width = content[place + 5 : place + 7], content[place + 7 : place + 9]
            return content[place + 9], int.from_bytes(height, "big"), int.from_bytes(width, "big")
        length = int.from_bytes(content[place + 2 : place + 4], "big")
        if content[place + 1] not in OTHER_SEGMENTS or length < 2:
            return None
        place += 2 + length
    return None


@functools.cache
def _agreeing_decoder() -> Decoder | None:
    """Torchvision's decoder, if it is there and gives Pillow's pixels for all kinds of JPEG files."""
    try:
        import torchvision.io  # noqa: F401  its operators are registered by the import

        operator: Any = torch.ops.image.decode_jpeg
    except (ImportError, AttributeError, RuntimeError):
        return None

    def decode(content: bytes) -> Pixels:
        return operator(torch.frombuffer(bytearray(content), dtype=torch.uint8), 0, False).numpy()

    noise = numpy.random.default_rng(0).integers(0, 256, (37, 45, 3), dtype=numpy.uint8)
    try:
        agrees = all(numpy.array_equal(decode(one), decode_with_pillow(one, kind)) for one, kind in _samples(noise))
    except Exception:  # another version may take other arguments; without it there is Pillow
        return None
    return decode if agrees else None


def _samples(noise: Pixels) -> list[tuple[bytes, int]]:
    """JPEG files of all subsamplings, coarse and fine, in one piece or progressive, colour and grey; their channels."""
    smooth = numpy.asarray(Image.fromarray(noise).resize((90, 74), Image.Resampling.BICUBIC))
    samples = []
    for pixels in (noise, smooth, noise[..., 0]):
        for quality in (30, 75, 95):
            for subsampling in (0, 1, 2):
                for progressive in (False, True):
                    stream = io.BytesIO()
                    options: dict[str, Any] = {"subsampling": subsampling} if pixels.ndim == 3 else {}
                    Image.fromarray(pixels).save(stream, "JPEG", quality=quality, progressive=progressive, **options)
                    samples.append((stream.getvalue(), 3 if pixels.ndim == 3 else 1))
    return samples
