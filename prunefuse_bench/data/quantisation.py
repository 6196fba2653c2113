"""Characters as small numbers, for networks that read text letter by letter (Conneau et al. 2017, section 3 and 4.2).

A whole block of rows is turned into numbers at once, with a table over bytes; nothing is done character by character.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy
from numpy.typing import NDArray

from prunefuse_bench.errors import BadInput

__all__ = ["ALPHABET", "LENGTH", "PADDING", "SPACE", "SYMBOLS", "UNKNOWN", "TextBlock", "read_texts"]

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789-,;.!?:'\"/|_#$%^&*~`+=<>()[]{}"
"""The 66 characters that VDCNN tells apart; symbol 1 is the first of them. It has neither ``@`` nor a backslash."""
PADDING = 0
SPACE = len(ALPHABET) + 1
UNKNOWN = len(ALPHABET) + 2
SYMBOLS = len(ALPHABET) + 3
"""69: padding, the alphabet, space (and any other white space), and one for every character that is none of these."""
LENGTH = 1014
"""Characters of a text, as in Zhang et al. 2015 and VDCNN: longer ones are cut, shorter ones padded at the end."""

COLUMNS = 3
BLOCK = 1 << 20
"""Bytes that are taken at a time."""
LONGEST_ROW = 16 << 20
"""A row without an end in so many bytes has a quote that is never closed."""
MOST_ROWS = 20_000_000
"""Of a file; the largest of Zhang et al. 2015 has 3.6 million."""
MOST_SYMBOLS = 256 << 20
"""Of the rows that are turned into numbers at a time: rows may be short, and each becomes ``length`` symbols."""
EMPTY = "neither title nor text has a character; remove the row"
MOST_DIGITS = 4
"""Of a class number."""

Bytes = NDArray[numpy.uint8]
Places = NDArray[numpy.intp]
Mask = NDArray[numpy.bool_]


def _table() -> bytes:
    """The symbol of every byte: lower and upper case are the same, and so are all bytes that are no ASCII."""
    table = numpy.full(256, UNKNOWN, dtype=numpy.uint8)
    for place, character in enumerate(ALPHABET):
        table[ord(character)] = table[ord(character.upper())] = place + 1
    table[list(b" \t\n\r\v\f")] = SPACE
    return table.tobytes()


TABLE = _table()


@dataclass(frozen=True)
class TextBlock:
    """Rows of a file, in their order.

    Attributes:
        labels: int64 [N], the class less 1.
        symbols: uint8 [N, length].
        size: bytes of the file that they take.
    """

    labels: NDArray[numpy.int64]
    symbols: Bytes
    size: int


def read_texts(file: Path, length: int = LENGTH, classes: int | None = None, block: int = BLOCK) -> Iterator[TextBlock]:
    r"""All rows of a CSV file in the layout of Zhang et al. 2015, block by block.

    A row is class, title and text; fields are quoted (those without a comma, a quote or a line break need not be), a
    quote inside is doubled, and there is no header. Classes count from 1. What the network reads is the title, a space
    and the text, or the text alone if there is no title. A line break inside, real or escaped as ``\n``, is a space.

    Args:
        file: the CSV file, UTF-8, with or without a byte order mark.
        length: symbols of a text.
        classes: how many classes there are; None if any number from 1 will do.
        block: bytes to take at a time.

    Raises:
        BadInput: it cannot be read, is not UTF-8 or has no rows; or a row has another number of columns, a quote that
            is out of place, a class that is missing or out of range, or neither title nor text. The row is named,
            counted from 1. Or there are more than :data:`MOST_ROWS`.
    """
    try:
        with file.open("rb") as stream:
            yield from _read(stream, file, length, classes, block)
    except OSError as error:
        raise BadInput(
            f"{file}: expected a CSV file with class, title and text, but it cannot be read: {error}"
        ) from None


def _read(stream: BinaryIO, file: Path, length: int, classes: int | None, block: int) -> Iterator[TextBlock]:
    rows, size = 0, block
    waiting, is_read = stream.read(3).removeprefix(b"\xef\xbb\xbf"), False
    while True:
        if not is_read and len(waiting) < size:
            more = stream.read(size - len(waiting))
            waiting, is_read = waiting + more, len(waiting) + len(more) < size
        content, at_end = waiting[:size], is_read and len(waiting) <= size
        if at_end and not (content if rows else content.strip()):
            break
        most = max(1, MOST_SYMBOLS // length)
        table = _Rows(content, file, rows, most)
        if at_end and not len(table.ends):
            if not content.strip():
                break
            table = _Rows(content + b"\n", file, rows, most)
        if len(table.ends):
            table.check_layout()
            rows += len(table.ends)
            if rows > MOST_ROWS:
                raise BadInput(f"{file}: expected at most {MOST_ROWS:,} rows, got more")
            yield TextBlock(table.labels(classes), table.symbols(length), len(table.content))
            waiting, size = waiting[len(table.content) :], block
        elif at_end or len(content) > LONGEST_ROW:
            raise BadInput(
                f"{file}: row {rows + 1}: a quote is opened and never closed; a quote inside a field is doubled"
            )
        else:
            size *= 2
    if not rows:
        raise BadInput(f"{file}: expected rows of class, title and text, got an empty file")


class _Rows:
    """The whole rows at the beginning of some bytes, at most so many.

    Attributes:
        starts, ends: int64 [N], where each row begins, and its line break.
    """

    def __init__(self, content: bytes, file: Path, rows_before: int, most: int) -> None:
        self.file, self.rows_before = file, rows_before
        data = numpy.frombuffer(content, dtype=numpy.uint8)
        quotes = data == ord('"')
        inside = numpy.logical_xor.accumulate(quotes)  # after an odd number of quotes
        self.ends: Places = numpy.flatnonzero((data == ord("\n")) & ~inside)[:most]
        size = int(self.ends[-1]) + 1 if len(self.ends) else 0
        self.content, self.data, self.quotes, self.inside = content[:size], data[:size], quotes[:size], inside[:size]
        self.starts: Places = numpy.concatenate([numpy.zeros(min(1, len(self.ends)), numpy.intp), self.ends[:-1] + 1])

    def check_layout(self) -> None:
        """UTF-8, three columns, and quotes only around fields or doubled inside of them."""
        try:
            self.content.decode()
        except UnicodeDecodeError as error:
            row = int(numpy.searchsorted(self.ends, error.start))
            wrong = f"not UTF-8 (byte 0x{self.content[error.start]:02x}); convert the file to UTF-8"
            raise self._bad(row, wrong) from None
        commas = numpy.flatnonzero((self.data == ord(",")) & ~self.inside)
        columns = numpy.diff(numpy.searchsorted(commas, self.ends), prepend=0) + 1
        if len(wrong_rows := numpy.flatnonzero(columns != COLUMNS)):
            row = int(wrong_rows[0])
            raise self._bad(row, f"expected {COLUMNS} columns (class, title, text), got {columns[row]}")
        line_ends = self.ends - ((self.data[self.ends - 1] == ord("\r")) & (self.ends > self.starts))
        self.title_comma: Places = commas[0::2]
        self.text_comma: Places = commas[1::2]
        self.outside_places = numpy.flatnonzero(~self.inside & ~self.quotes)
        self.fields = [
            self._field(start, end)
            for start, end in (
                (self.starts, self.title_comma),
                (self.title_comma + 1, self.text_comma),
                (self.text_comma + 1, line_ends),
            )
        ]

    def _field(self, starts: Places, ends: Places) -> tuple[Places, Places]:
        """Where a field's content begins and ends, for all rows: without the quotes around it."""
        quoted = (ends > starts) & self.quotes[starts]
        last_is_quote = self.quotes[numpy.maximum(ends - 1, 0)] & (ends - starts >= 2)
        # Between a quote that closes and one that opens again nothing may stand.
        strays = _any_between(self.outside_places, starts, ends)
        wrong = quoted & (~last_is_quote | strays)
        if not quoted.all():
            wrong |= ~quoted & _any_between(numpy.flatnonzero(self.quotes), starts, ends)
        if len(wrong_rows := numpy.flatnonzero(wrong)):
            raise self._bad(int(wrong_rows[0]), "expected quotes around a whole field, and doubled inside of it")
        return starts + quoted, ends - quoted

    def labels(self, classes: int | None) -> NDArray[numpy.int64]:
        """int64 [N]: the class less 1."""
        starts, ends = self.fields[0]
        width = ends - starts
        value = numpy.zeros(len(starts), dtype=numpy.int64)
        fine = (width > 0) & (width <= MOST_DIGITS)
        for place in range(min(MOST_DIGITS, int(width.max(initial=0)))):
            digit = self.data[numpy.minimum(starts + place, len(self.data) - 1)].astype(numpy.int64) - ord("0")
            here = place < width
            fine &= ~here | ((digit >= 0) & (digit <= 9))
            value = numpy.where(here, 10 * value + digit, value)
        fine &= value >= 1
        if classes is not None:
            fine &= value <= classes
        if len(wrong_rows := numpy.flatnonzero(~fine)):
            row = int(wrong_rows[0])
            found = self.content[starts[row] : ends[row]].decode()
            up_to = f"from 1 to {classes}" if classes is not None else "counted from 1"
            raise self._bad(row, f"expected a class {up_to}, got {found!r}" if found else "the class is missing")
        return value - 1

    def symbols(self, length: int) -> Bytes:
        """uint8 [N, length]."""
        symbols = numpy.frombuffer(bytearray(self.content.translate(TABLE)), dtype=numpy.uint8)
        keep = (self.data & 0xC0) != 0x80  # of a character of several bytes only the first one counts
        keep &= ~self.quotes | self.inside  # of two quotes inside a field only the second one counts
        _, (title_starts, title_ends), (text_starts, text_ends) = self.fields
        _clear(keep, self.starts, title_starts)
        _clear(keep, title_ends, text_starts)
        _clear(keep, text_ends, self.ends + 1)
        both = (title_ends > title_starts) & (text_ends > text_starts)
        between = self.text_comma[both]
        symbols[between], keep[between] = SPACE, True
        line_breaks = self._escaped_line_breaks()
        symbols[line_breaks] = SPACE
        keep[line_breaks + 1] = False
        dropped = numpy.searchsorted(numpy.flatnonzero(~keep), self.ends + 1)  # few, so this is faster than adding up
        counts = numpy.diff(self.ends + 1 - dropped, prepend=0)
        kept = symbols[keep]
        firsts = numpy.cumsum(counts) - counts
        self._check_not_empty(kept, firsts, firsts + counts)
        texts = numpy.zeros((len(self.starts), length), dtype=numpy.uint8)
        if counts.max() > length:
            kept = numpy.delete(kept, _beyond(length, firsts, counts))
        filled = numpy.minimum(counts, length).astype(numpy.uint16)
        texts[numpy.arange(length, dtype=numpy.uint16) < filled[:, None]] = kept
        return texts

    def _escaped_line_breaks(self) -> Places:
        backslashes = numpy.flatnonzero(self.data == ord("\\"))
        return backslashes[self.data[backslashes + 1] == ord("n")]

    def _check_not_empty(self, kept: Bytes, firsts: Places, ends: Places) -> None:
        if not len(kept):
            raise self._bad(0, EMPTY)
        begins = kept[numpy.minimum(firsts, len(kept) - 1)]
        suspects = numpy.flatnonzero((firsts == ends) | (begins == SPACE))
        if not len(suspects):
            return
        seen = _any_between(numpy.flatnonzero(kept != SPACE), firsts[suspects], ends[suspects])
        if not seen.all():
            row = int(suspects[numpy.argmin(seen)])
            raise self._bad(row, EMPTY)

    def _bad(self, row: int, what: str) -> BadInput:
        return BadInput(f"{self.file}: row {self.rows_before + row + 1}: {what}")


def _any_between(places: Places, starts: Places, ends: Places) -> Mask:
    """bool [N]: whether one of the places, ascending, lies from a start to before its end."""
    return numpy.searchsorted(places, ends) > numpy.searchsorted(places, starts)


def _beyond(length: int, firsts: Places, counts: Places) -> Places:
    """Places of all symbols beyond the ``length`` first ones of their text."""
    long = numpy.flatnonzero(counts > length)
    excess = counts[long] - length
    before = numpy.cumsum(excess) - excess
    return numpy.arange(excess.sum()) + numpy.repeat(firsts[long] + length - before, excess)


def _clear(mask: Mask, starts: Places, ends: Places) -> None:
    """False from each start to before its end; the stretches are a few bytes long."""
    for place in range(int((ends - starts).max(initial=0))):
        mask[numpy.minimum(starts + place, ends - 1)[ends > starts]] = False
