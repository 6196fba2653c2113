"""Images that are easy to recognise."""

from __future__ import annotations

import io

import numpy
from PIL import Image


def png(value: int, size: int = 8, mode: str = "RGB") -> bytes:
    """A flat image, but for one black corner."""
    shape = (size, size, 3) if mode == "RGB" else (size, size)
    pixels = numpy.full(shape, value, dtype=numpy.uint8)
    pixels[0, 0] = 0
    stream = io.BytesIO()
    Image.fromarray(pixels, mode).save(stream, "PNG")
    return stream.getvalue()
