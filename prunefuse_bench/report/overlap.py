"""Which samples the methods of a run bought, and how far they bought the same ones."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pandas
from numpy.typing import NDArray
from scipy.special import gammaln  # type: ignore[import-untyped]

from prunefuse_bench.errors import BadInput
from prunefuse_bench.records import RunFolder

__all__ = ["Purchases", "chance_overlap", "load_purchases", "overlaps"]

COLUMNS = ("labels", "one", "other", "overlap", "deviation", "expected", "shared", "bought", "seeds")

Indices = NDArray[numpy.int64]


@dataclass(frozen=True)
class Purchases:
    """What one cell bought.

    Attributes:
        method, seed: of the cell.
        queries: int64 [k] of each whole round, first choice first; of a random start that all methods of a seed share,
            nothing.
        cumulative: whether later rounds add to the earlier ones (active learning) or choose anew (coreset).
        settings: of the cell.
    """

    method: str
    seed: int
    queries: tuple[Indices, ...]
    cumulative: bool
    settings: Mapping[str, Any]

    def by(self, number: int) -> Indices:
        """int64 [k], all that is in use at this round, beyond the common start."""
        return numpy.concatenate(self.queries[: number + 1]) if self.cumulative else self.queries[number]

    @property
    def label_counts(self) -> list[int]:
        """Labels after each round, the common start included."""
        return list(self.settings["task"]["label_counts"])

    @property
    def choosable(self) -> int:
        """How many samples of the pool there were to choose from, beyond the common start."""
        pool = int(self.settings["task"]["dataset"]["train_size"])
        return pool - self.label_counts[0] if self.cumulative else pool


def load_purchases(run: Path) -> list[Purchases]:
    """Of every cell of a run that has a whole round, in the order of the grid; of two cells with one name, the first.

    Raises:
        BadInput: not the folder of a run, a record that is damaged, or an index outside the pool.
    """
    found: dict[tuple[str, int], Purchases] = {}
    for cell, store in RunFolder(run).begun_cells():
        name = cell["method"], cell["seed"]
        if name in found or not (rounds := store.read_rounds()):
            continue
        cumulative = store.settings["protocol"] != "coreset"
        pool = store.settings["task"]["dataset"]["train_size"]
        queries = [numpy.array(record["query"], dtype=numpy.int64) for record in rounds]
        for number, query in enumerate(queries):
            if len(query) and not 0 <= query.min() <= query.max() < pool:
                raise BadInput(
                    f"{store.folder}: round {number}: expected indices of a pool of {pool} samples, "
                    f"got {query.min()} to {query.max()}; remove the folder to run the cell again"
                )
        if cumulative:
            queries[0] = queries[0][:0]
        found[name] = Purchases(*name, tuple(queries), cumulative, store.settings)
    return list(found.values())


def overlaps(run: Path) -> pandas.DataFrame:
    """How far every two methods of a run bought the same samples, at each budget.

    The overlap of two sets is what they share over what they have together, |A and B| / |A or B| (Jaccard): 0 for
    nothing in common, 1 for the same samples. In active learning A and B are all labels bought by then beyond the
    random start, which the methods of a seed have in common; in the coreset protocol they are the coresets.

    Two methods that chose without regard to the samples would overlap too, the more, the larger the budget: read the
    overlap beside ``expected``. (Where methods draw by lot, those of one seed draw alike, and so can overlap more.)

    Time: for each seed and budget one product of the methods' membership tables, methods² times the samples that any of
    them bought.

    Returns:
        One row per budget and unordered pair of methods, none if no two methods bought anything: labels (at that
        budget, the start included), one, other (in order of the grid), overlap (mean over seeds), deviation (over
        seeds; NaN for one), expected (by chance, see :func:`chance_overlap`), shared (samples in common, mean), bought
        (by one method, mean), seeds (that both have).

    Raises:
        BadInput: as :func:`load_purchases`.
    """
    purchases = load_purchases(run)
    methods = list(dict.fromkeys(p.method for p in purchases))
    place = {method: position for position, method in enumerate(methods)}
    rows = [row for seed in dict.fromkeys(p.seed for p in purchases) for row in _seed_rows(purchases, seed)]
    if not rows:
        return pandas.DataFrame(columns=list(COLUMNS))
    table = pandas.DataFrame(rows)
    groups = table.groupby(["labels", "one", "other"], sort=False)
    summary = groups.agg(
        overlap=("overlap", "mean"),
        deviation=("overlap", "std"),
        expected=("expected", "mean"),
        shared=("shared", "mean"),
        bought=("bought", "mean"),
        seeds=("overlap", "size"),
    ).reset_index()
    order = summary.assign(one=summary["one"].map(place), other=summary["other"].map(place))
    order = order.sort_values(["labels", "one", "other"])
    return summary.loc[order.index, list(COLUMNS)].reset_index(drop=True)


@functools.lru_cache(maxsize=4096)
def chance_overlap(choosable: int, one: int, other: int) -> float:
    """Expected overlap of two sets of these sizes that are drawn uniformly and independently; NaN if both are empty.

    What they share is then hypergeometric, and the overlap x / (one + other - x) is averaged over it. The chances are
    made from logarithms of factorials, and so right to about ten digits in pools of millions; time: linear in the sets.
    """
    if one + other == 0:
        return float("nan")
    shared = numpy.arange(max(0, one + other - choosable), min(one, other) + 1)
    log_ways = _log_choose(one, shared) + _log_choose(choosable - one, other - shared)
    chances = numpy.exp(log_ways - log_ways.max())
    return float((chances * shared / (one + other - shared)).sum() / chances.sum())


def _log_choose(n: int, k: Indices) -> NDArray[numpy.float64]:
    """Logarithm of the number of sets of k out of n."""
    ways: NDArray[numpy.float64] = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    return ways


def _seed_rows(purchases: Sequence[Purchases], seed: int) -> Iterator[dict[str, Any]]:
    mine = [p for p in purchases if p.seed == seed]
    for number, labels in enumerate(mine[0].label_counts):
        there = [p for p in mine if len(p.queries) > number and len(p.by(number))]
        if len(there) < 2:
            continue
        bought = numpy.unique(numpy.concatenate([p.by(number) for p in there]))  # a pool may be stated to be any size
        has = numpy.zeros((len(there), len(bought)), dtype=numpy.float32)  # counts are exact up to 2**24 samples
        for row, p in zip(has, there, strict=True):
            row[numpy.searchsorted(bought, p.by(number))] = 1
        shared = (has @ has.T).astype(numpy.int64)
        for i, j in itertools.combinations(range(len(there)), 2):
            sizes = int(shared[i, i]), int(shared[j, j])
            yield {
                "labels": labels,
                "one": there[i].method,
                "other": there[j].method,
                "overlap": shared[i, j] / (sum(sizes) - shared[i, j]),
                "expected": chance_overlap(there[0].choosable, *sizes),
                "shared": int(shared[i, j]),
                "bought": sum(sizes) / 2,
            }
