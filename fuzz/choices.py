"""Bytes as choices: what a fuzzer changes in them changes what is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

__all__ = ["Choices"]

T = TypeVar("T")


class Choices:
    """Takes choices from the front of some bytes; when they are used up, the first of everything is chosen."""

    def __init__(self, data: bytes) -> None:
        self._data, self._place = data, 0

    def __bool__(self) -> bool:
        """Whether anything is left."""
        return self._place < len(self._data)

    def number(self, low: int, high: int) -> int:
        """From low to high, both included."""
        size = ((high - low).bit_length() + 7) // 8
        return low + int.from_bytes(self.take(size), "big") % (high - low + 1)

    def pick(self, options: Sequence[T]) -> T:
        """One of these."""
        return options[self.number(0, len(options) - 1)]

    def chance(self, of: int) -> bool:
        """Yes, once in so many times; no when the bytes are used up."""
        return self.number(0, of - 1) == of - 1

    def take(self, size: int) -> bytes:
        """So many bytes, or what is left."""
        taken = self._data[self._place : self._place + size]
        self._place += size
        return taken

    def content(self, longest: int) -> bytes:
        """Some bytes."""
        return self.take(self.number(0, longest))

    def text(self, longest: int) -> str:
        """Some characters, halves of surrogate pairs among them."""
        return self.content(longest).decode("utf-8", "surrogateescape")

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._data))

    def edited(self, content: bytes, most: int = 8) -> bytes:
        """The content with a few bytes changed, put in or cut out."""
        data = bytearray(content)
        for _ in range(self.number(0, most)):
            place = self.number(0, len(data))
            kind = self.number(0, 3)
            if kind == 0:
                data[place : place + 1] = self.take(1)
            elif kind == 1:
                data[place:place] = self.content(8)
            elif kind == 2:
                del data[place : place + self.number(1, 64)]
            else:
                value = self.pick((0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF))
                size = self.pick((1, 2, 4, 8))
                order = self.pick(("big", "little"))
                data[place : place + size] = (value % (1 << (8 * size))).to_bytes(size, order)  # type: ignore[arg-type]
        return bytes(data)
