"""Texts in tables: CSV files in the layout of Zhang et al. 2015, and lines of text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy

from fuzz.choices import Choices
from fuzz.guard import Finding, guarded, outcome
from prunefuse_bench.data import DatasetRequest, load_dataset
from prunefuse_bench.data.quantisation import TextBlock, read_texts
from prunefuse_bench.streaming.shards import LinesShard

__all__ = ["seeds", "test_one"]

RAW, BUILT, DATA_SET, LINES = range(4)
TOKENS = (
    b'"', b'""', b",", b"\n", b"\r\n", b"\r", b"1", b"2", b"9999", b"10000", b"0", b"-1", b"a", b" ", b"\\n", b"\\",
    b"\xef\xbb\xbf", "é".encode(), "🐟".encode(), b"\xff", b"\0", b"1,a,b\n", b'"1","x","y"\n', b'"2","","z"\n',
    b'"1","a ""b"" c","d\\ne"\n', b"x" * 40, b'1,"a\nb",c\n', b"\xc3", b"\t", b"\x1b[2J",
)  # fmt: skip
GOOD = b'"1","Great","I LOVE it!"\n"2","","so-so (50%)"\n"1","a ""b""","c\\nd"\n'


def seeds() -> Iterator[bytes]:
    """Tables as they should be and nearly so; then choices."""
    for number, content in enumerate(
        (GOOD, b"\xef\xbb\xbf" + GOOD, GOOD.replace(b"\n", b"\r\n"), GOOD[:-1], b"1,a,b\n2,c,d\n", "1,ü,ß\n".encode())
    ):
        yield bytes([RAW, number % 3, number % 5, number % 2]) + content
        yield bytes([DATA_SET, number]) + content
        yield bytes([LINES, number]) + content
    yield bytes([RAW, 0, 0, 0]) + b'1,"' + b"x" * 300 + b'",y\n' + b"2,,a\n" * 40
    for number in range(10):
        yield bytes([BUILT]) + bytes((11 * number + 17 * place) % 256 for place in range(50))


def test_one(data: bytes) -> None:
    """Read a table in blocks of two sizes: both give the same rows, or both refuse it."""
    choices = Choices(data)
    kind = choices.number(0, 3)
    with guarded() as folder:
        if kind == DATA_SET:
            length = choices.pick((8, 24, 1014))
            content = choices.rest()
            (folder / "train.csv").write_bytes(content)
            (folder / "test.csv").write_bytes(content)
            outcome(lambda: load_dataset("text-csv", DatasetRequest(folder, length=length)).sha256())
            return
        file = folder / "texts"
        if kind == LINES:
            size = choices.number(1, 8)
            file.write_bytes(choices.rest())
            outcome(lambda: _check_lines(LinesShard(file, length=16), size))
            return
        length = choices.pick((8, 24, 1014))
        block = choices.pick((1, 2, 7, 64, 1000))
        classes = choices.pick((None, 5))
        if kind == RAW:
            file.write_bytes(choices.rest())
        else:
            file.write_bytes(b"".join(choices.pick(TOKENS) for _ in range(choices.number(0, 200))))
        _compare(file, length, block, classes)


def _compare(file: Path, length: int, block: int, classes: int | None) -> None:
    found: list[list[TextBlock]] = []
    whole = outcome(lambda: found.append(list(read_texts(file, length, classes))))
    parts = outcome(lambda: found.append(list(read_texts(file, length, classes, block))))
    if whole != parts:
        raise Finding(f"in blocks of {block} bytes it is {'read' if parts else 'refused'}, in one it is not")
    if not whole:
        return
    one, other = (
        (numpy.concatenate([b.labels for b in blocks]), numpy.concatenate([b.symbols for b in blocks]))
        for blocks in found
    )
    if not all(map(numpy.array_equal, one, other)):
        raise Finding(f"in blocks of {block} bytes the rows are others")
    if one[0].min() < 0 or one[1].shape != (len(one[0]), length) or not one[1].any(axis=1).all():
        raise Finding("rows without a class or a character")


def _check_lines(shard: LinesShard, size: int) -> None:
    rows = sum(len(batch) for batch in shard.batches(size))
    if rows != len(shard):
        raise Finding(f"{rows} lines were read of {len(shard)}")
