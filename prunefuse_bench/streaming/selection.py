"""The k best of a stream of scores, whatever the order in which the samples come and on however many machines.

A sample is named by its shard and its row there. Of equal scores those come first that a lot puts first, and the lot of
a sample depends on its name and the seed alone: never on its place in the stream, nor on who scored it.
"""

from __future__ import annotations

from torch import Tensor

from prunefuse_bench import ops
from prunefuse_bench.randomness import derive_seed

__all__ = ["Shortlist", "lot_of", "names_of", "parts_of"]

ROWS = 2**32
"""That a shard may have at most; of shards there may be 2**31."""
MASK = 2**63 - 1
FACTORS = (0x1E3779B97F4A7C15, 0x3F58476D1CE4E5B9)
"""Odd, so that multiplying by them modulo 2**63 can be undone."""


def names_of(shard: int, rows: Tensor) -> Tensor:
    """int64 numbers that name these rows, int64 [n], of a shard."""
    return rows + shard * ROWS


def parts_of(names: Tensor) -> tuple[Tensor, Tensor]:
    """Shards and rows, int64, of :func:`names_of`."""
    return names // ROWS, names % ROWS


def lot_of(names: Tensor, seed: int) -> Tensor:
    """A number from 0 to 2**63 - 1 for each name, a different one for each; int64."""
    lots = (names + derive_seed(seed, "stream")) & MASK
    for factor in FACTORS:
        lots = ((lots ^ (lots >> 32)) * factor) & MASK
    return lots ^ (lots >> 32)


def _names_of_lots(lots: Tensor, seed: int) -> Tensor:
    """The way back from :func:`lot_of`."""
    names = lots ^ (lots >> 32)
    for factor in reversed(FACTORS):
        names = (names * pow(factor, -1, 2**63)) & MASK
        names = names ^ (names >> 32)
    return (names - derive_seed(seed, "stream")) & MASK


class Shortlist:
    """The k highest scores so far, and whose they are. Memory is O(k), or the largest batch.

    What is left at the end is the same for any order of the samples and any way to part them into shortlists that are
    merged.

    Args:
        k: how many are wanted.
        seed: determines the lot of equal scores.
    """

    def __init__(self, k: int, seed: int) -> None:
        self.k, self.seed = k, seed
        self._best = ops.TopK(k)

    def add(self, scores: Tensor, names: Tensor) -> None:
        """Look at one batch: float32 [B] and int64 [B], no sample twice.

        Raises:
            NotRankable: a score is NaN; ``row`` is its position in the batch.
        """
        self._best.add(scores.float().cpu(), indices=lot_of(names, self.seed))

    def best(self) -> tuple[Tensor, Tensor]:
        """Names int64 [k], best first, and their scores float32 [k]; fewer if fewer samples came."""
        lots = self._best.indices()
        return _names_of_lots(lots, self.seed), self._best.scores()
