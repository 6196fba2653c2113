"""Results as curves over the budget: one array per method, a row per seed and a column per budget."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from prunefuse_bench.errors import BadInput

if TYPE_CHECKING:
    import pandas

__all__ = ["Curves", "curve_areas", "curves_of_runs"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Curves:
    """What the cells of one run reached.

    Attributes:
        run: its name.
        labels: float64 [L], budgets that any cell reached, ascending.
        budgets: float64 [L], the same as shares of the pool.
        seeds: of each method, ascending: the rows of its arrays.
        accuracy: of each method, in order of name: float64 [S, L], NaN where there is no result.
        cost: of each method, the same for one more column of the results.
    """

    run: str
    labels: Floats
    budgets: Floats
    seeds: dict[str, list[int]]
    accuracy: dict[str, Floats]
    cost: dict[str, Floats]


def curves_of_runs(results: pandas.DataFrame, cost: str = "labels") -> Iterator[Curves]:
    """The curves of each run, in order of its name; the order of rows does not matter.

    Raises:
        BadInput: there is no such column, or the same run, method, seed and budget is there twice.
    """
    columns = ("run", "method", "seed", "labels", "budget", "accuracy", cost)
    if missing := set(columns) - set(results.columns):
        raise BadInput(f"results: no column {sorted(missing)}; expected a frame of load_results")
    runs: dict[str, _Points] = {}
    for run, method, seed, *point in zip(*(results[column].tolist() for column in columns), strict=True):
        labels, budget, accuracy, amount = (math.nan if value is None else float(value) for value in point)
        points = runs.setdefault(str(run), _Points({}, {}))
        of_seed = points.cells.setdefault(str(method), {}).setdefault(int(seed), {})
        if math.isnan(labels) or math.isnan(accuracy):
            continue  # the cell counts, and has no result here
        if labels in of_seed:
            raise BadInput(
                f"{run}: two results for {method}, seed {seed}, {labels:.0f} labels: was the run given twice?"
            )
        of_seed[labels] = accuracy, amount
        points.shares[labels] = budget
    for run, points in sorted(runs.items()):
        yield _curves(run, points)


class _Points(NamedTuple):
    """Of one run: (accuracy, cost) by method, seed and labels, and the budget as a share of the pool by labels."""

    cells: dict[str, dict[int, dict[float, tuple[float, float]]]]
    shares: dict[float, float]


def _curves(run: str, points: _Points) -> Curves:
    labels = sorted(points.shares)
    nothing = (math.nan, math.nan)
    seeds: dict[str, list[int]] = {}
    accuracy: dict[str, Floats] = {}
    costs: dict[str, Floats] = {}
    for method, cells in sorted(points.cells.items()):
        seeds[method] = sorted(cells)
        table = [[cells[seed].get(value, nothing) for value in labels] for seed in seeds[method]]
        found_S_L_2 = np.asarray(table, dtype=np.float64).reshape(len(table), len(labels), 2)
        accuracy[method], costs[method] = found_S_L_2[..., 0], found_S_L_2[..., 1]
    budgets = [points.shares[value] for value in labels]
    return Curves(run, np.asarray(labels, dtype=np.float64), np.asarray(budgets), seeds, accuracy, costs)


def curve_areas(results: pandas.DataFrame) -> pandas.DataFrame:
    """Area under accuracy over budget, divided by the width of the budgets: an average accuracy, 0 to 1.

    Between budgets the curve is taken as straight. With a single budget it is the accuracy there.

    Args:
        results: as `load_results` returns them.

    Returns:
        One row per run, method and seed, sorted: run, method, seed, area (NaN if a budget is missing).

    Raises:
        BadInput: the same run, method, seed and budget is there twice.
    """
    import pandas

    rows: list[tuple[str, str, int, float]] = []
    for curves in curves_of_runs(results):
        for method, accuracy_S_L in curves.accuracy.items():
            areas = _areas(curves.labels, accuracy_S_L)
            rows += [(curves.run, method, *row) for row in zip(curves.seeds[method], areas.tolist(), strict=True)]
    return pandas.DataFrame(rows, columns=["run", "method", "seed", "area"]).astype({"area": "float64"})


def _areas(labels: Floats, accuracy_S_L: Floats) -> Floats:
    if not len(labels):
        return np.full(len(accuracy_S_L), np.nan)
    if len(labels) == 1:
        return accuracy_S_L[:, 0]
    between = (accuracy_S_L[:, 1:] + accuracy_S_L[:, :-1]) / 2
    shares: Floats = np.diff(labels) / (labels[-1] - labels[0])
    return (between * shares).sum(axis=1)
