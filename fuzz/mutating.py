"""Mutations that need no fuzzer: the same every time, for a quick look."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

__all__ = ["mutations"]

TOKENS = b"\0", b"\xff" * 4, b"\x7f\xff\xff\xff", b"PK\1\2", b'"', b"[" * 50, b"\x1b[2J", b"../", b"&a *a", b"\n"


def mutations(seeds: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """So many inputs, each a seed with some changes: bytes flipped, put in, cut out, or taken from another seed."""
    draws = random.Random(seed)
    for _ in range(count):
        data = bytearray(draws.choice(seeds))
        for _ in range(draws.randint(1, 6)):
            # The first bytes choose what is built: changed as often as all others together.
            place = draws.randrange(min(len(data), 8) + 1) if draws.random() < 0.5 else draws.randrange(len(data) + 1)
            kind = draws.randrange(5)
            if kind == 0 and place < len(data):
                data[place] = draws.randrange(256)
            elif kind == 1:
                data[place:place] = draws.randbytes(draws.randint(1, 8))
            elif kind == 2:
                del data[place : place + draws.randint(1, 30)]
            elif kind == 3:
                data[place:place] = draws.choice(TOKENS)
            else:
                other = draws.choice(seeds)
                begin = draws.randrange(len(other) + 1)
                data[place : place + 20] = other[begin : begin + 20]
        yield bytes(data)
