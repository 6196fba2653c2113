"""FLOPs of choosing itself: those of its matrix products, two per multiply-add.

An acquisition says what it spends with the ``flops`` keyword of its decorator: by a formula, or, where that depends on
the data, by telling of every product as it makes it. One that says nothing is not counted, which is not the same as
nothing: what it spends is unknown. A committee's predictions are the committee's, even where they are made on demand.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass

__all__ = [
    "Counts",
    "MatrixProducts",
    "Tally",
    "multiplied",
    "no_products",
    "products_as_told",
    "products_by_formula",
    "tally",
]


@dataclass(frozen=True)
class Counts:
    """Sizes that the work of a choice depends on; 0 for what is not there.

    Attributes:
        candidates: N.
        labeled: M, samples whose features are known because they are labeled already.
        k: how many are chosen.
        classes: C.
        features: D, numbers per sample.
        members: K, of the committee.
    """

    candidates: int
    labeled: int = 0
    k: int = 0
    classes: int = 0
    features: int = 0
    members: int = 0


@dataclass(frozen=True)
class MatrixProducts:
    """What an acquisition spends on matrix products.

    Attributes:
        formula: (counts, **options) -> FLOPs, the options being the acquisition's own; or None if the acquisition tells
            of each product as it makes it, see :func:`multiplied`.
        besides: the work that is no matrix product and not counted, in words.
        at_most: whether the formula is what the rule asks for and the program skips some of it.
    """

    formula: Callable[..., int] | None
    besides: str
    at_most: bool = False


def no_products(besides: str) -> MatrixProducts:
    """An acquisition without any matrix product."""
    return MatrixProducts(lambda _, **__: 0, besides)


def products_by_formula(formula: Callable[..., int], besides: str, *, at_most: bool = False) -> MatrixProducts:
    """An acquisition whose matrix products are known beforehand."""
    return MatrixProducts(formula, besides, at_most)


def products_as_told(besides: str) -> MatrixProducts:
    """An acquisition whose matrix products depend on the data; it calls :func:`multiplied` for each."""
    return MatrixProducts(None, besides)


@dataclass
class Tally:
    """FLOPs told so far."""

    flops: int = 0


_tally: ContextVar[Tally | None] = ContextVar("tally", default=None)


@contextlib.contextmanager
def tally() -> Iterator[Tally]:
    """Within the block, what :func:`multiplied` is told of is added up; of two blocks in one another, in the inner."""
    token = _tally.set(Tally())
    try:
        current = _tally.get()
        assert current is not None
        yield current
    finally:
        _tally.reset(token)


def multiplied(rows: int, inner: int, columns: int) -> None:
    """Tell of a product of matrices [rows, inner] and [inner, columns]; a vector has one row or column."""
    current = _tally.get()
    if current is not None:
        current.flops += 2 * rows * inner * columns
