"""What a method saves: labels against random, cost against active learning, at the same accuracy and paired by seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from prunefuse_bench.stats.curves import Curves, curves_of_runs
from prunefuse_bench.stats.estimates import estimate, t_point
from prunefuse_bench.stats.paired import on_grid

if TYPE_CHECKING:
    import pandas

__all__ = ["cost_savings", "label_savings"]

Floats = npt.NDArray[np.float64]

CONFIDENCE = 0.95
COLUMNS = ("run", "method", "labels", "value", "low", "high", "at_least", "reason", "count", "expected")


@dataclass(frozen=True)
class _Saving:
    """A ratio with its interval; low 0: not sure that the method reaches the accuracy within the budgets at all."""

    value: float
    low: float = np.nan
    high: float = np.nan
    at_least: bool = False
    reason: str = ""


def label_savings(results: pandas.DataFrame, reference: str = "random") -> pandas.DataFrame:
    """How many times fewer labels a method needs for the accuracy that random has.

    For the reference's mean accuracy at each budget: the fewest labels at which the reference's mean curve has it (that
    budget, unless accuracy fell with more labels), divided by the fewest at which the method's own mean curve has it.
    Curves are straight between budgets; means are over the seeds for which both have every budget.

    The interval holds all numbers of labels at which a paired t-test over these seeds does not tell the method's
    accuracy from the reference's (Fieller, Some problems in interval estimation, 1954): exact for normal accuracies,
    from two seeds on, without a bootstrap, which cannot be trusted with few seeds.

    Args:
        results: as `load_results` returns them.
        reference: label of the method to compare with.

    Returns:
        One row per run, method and budget, sorted: run, method, labels (budget of the reference whose accuracy is to be
        reached), value, low, high, at_least (the method has the accuracy at its first budget already, so it may save
        more), reason (why there is no value, else empty), count (seeds that both have), expected (seeds of the method).
        low = 0: it is not sure that the method reaches the accuracy at all within the run's budgets. low and high are
        NaN for a single seed.

    Raises:
        BadInput: the same run, method, seed and budget is there twice.
    """
    return _savings(results, "labels", reference, _save_labels)


def cost_savings(results: pandas.DataFrame, reference: str = "al", quantity: str = "total_seconds") -> pandas.DataFrame:
    """How many times cheaper a method comes to the accuracy that active learning has.

    For the reference's mean accuracy at each budget: the cost of the reference at the cheapest of its budgets with at
    least this mean accuracy, divided by the method's cost at the cheapest of its own. The ratio is taken seed by seed;
    the value is the geometric mean. Nothing is interpolated: what a budget between two measured ones costs is unknown.

    The interval reaches from the ratio at the cheapest budget that surely has the accuracy (the interval of the paired
    difference is not below zero) to that at the cheapest which may have it, each with its own interval by Student's t
    over seeds (of log ratios).

    Args:
        results: as `load_results` returns them.
        reference: label of the method to compare with.
        quantity: column of the results, ``total_seconds``, ``selector_flops`` and so on.

    Returns:
        As `label_savings`; at_least is False. Infinite where the method costs nothing.

    Raises:
        BadInput: no such quantity, or the same run, method, seed and budget is there twice.
    """
    return _savings(results, quantity, reference, _save_cost)


def _savings(
    results: pandas.DataFrame, quantity: str, reference: str, save: Callable[[_Pair, int], _Saving]
) -> pandas.DataFrame:
    import pandas

    rows = []
    for curves in curves_of_runs(results, quantity):
        for method in curves.accuracy:
            pair = _Pair.of(curves, method, reference)
            for position, labels in enumerate(curves.labels):
                if reference not in curves.accuracy:
                    saving = _Saving(np.nan, reason=f"no {reference} in this run")
                elif not pair.count:
                    saving = _Saving(np.nan, reason=f"no seed with every budget for both this and {reference}")
                elif method == reference:
                    saving = _Saving(1.0, 1.0, 1.0)
                else:
                    saving = save(pair, position)
                expected = len(curves.seeds[method])
                rows.append(
                    (curves.run, method, int(labels), saving.value, saving.low, saving.high, saving.at_least,
                     saving.reason, pair.count, expected)
                )  # fmt: skip
    frame = pandas.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype(dict.fromkeys(("value", "low", "high"), "float64") | {"at_least": "bool"})


@dataclass(frozen=True)
class _Pair:
    """A method and the reference on the seeds that both have whole.

    Attributes:
        labels: float64 [L].
        accuracy: of the method, float64 [S, L].
        reference: accuracy of the reference, float64 [S, L].
        cost: of the method, float64 [S, L].
        reference_cost: float64 [S, L].
    """

    labels: Floats
    accuracy: Floats
    reference: Floats
    cost: Floats
    reference_cost: Floats

    @classmethod
    def of(cls, curves: Curves, method: str, reference: str) -> _Pair:
        whole = [
            {
                seed: line
                for line, seed in enumerate(curves.seeds.get(name, []))
                if not np.isnan(curves.accuracy[name][line]).any()
            }
            for name in (method, reference)
        ]
        both = sorted(whole[0].keys() & whole[1].keys())
        lines = [[of_seed[seed] for seed in both] for of_seed in whole]
        nothing = np.empty((0, len(curves.labels)))
        tables = [
            table[name][line] if name in table else nothing
            for table in (curves.accuracy, curves.cost)
            for name, line in zip((method, reference), lines, strict=True)
        ]
        return cls(curves.labels, *tables)

    @property
    def count(self) -> int:
        return len(self.accuracy)

    def differences(self, position: int) -> Floats:
        """Accuracy of the method at every budget less the reference's at one, float64 [S, L]."""
        return on_grid(self.accuracy - self.reference[:, [position]], 1.0)


def _save_labels(pair: _Pair, position: int) -> _Saving:
    wanted = float(pair.reference.mean(axis=0)[position])
    curve = pair.accuracy.mean(axis=0)
    needed = _first_reach(pair.labels, curve, wanted)
    if np.isnan(needed):
        return _Saving(np.nan, reason="never reaches it")
    enough = _first_reach(pair.labels, pair.reference.mean(axis=0), wanted)
    at_least = bool(needed == pair.labels[0] and curve[0] > wanted)
    if pair.count < 2:
        return _Saving(enough / needed, at_least=at_least)
    fewest, most = _labels_not_told_apart(pair.labels, pair.differences(position))
    fewest, most = min(fewest, needed), max(most, needed)
    # Where the reference's own curve falls, its labels are between `enough` and its budget.
    return _Saving(enough / needed, enough / most, float(pair.labels[position]) / fewest, at_least)


def _first_reach(labels: Floats, curve: Floats, wanted: float) -> float:
    """Fewest labels at which a curve, straight between its points, is at least as high as wanted; NaN if never."""
    reached = np.flatnonzero(curve >= wanted)
    if not len(reached):
        return float("nan")
    after = int(reached[0])
    if not after:
        return float(labels[0])
    share = (wanted - curve[after - 1]) / (curve[after] - curve[after - 1])
    return float(labels[after - 1] + share * (labels[after] - labels[after - 1]))


def _labels_not_told_apart(labels: Floats, differences_S_L: Floats) -> tuple[float, float]:
    """Ends of the set of labels at which the mean difference is not significantly off zero.

    Between two budgets the difference is (1 - w) a + w b for each seed, so its mean is linear in w, its variance
    quadratic, and |mean| = t sqrt(variance / S) where a quadratic is zero.

    Returns:
        Fewest and most; most is infinite if the last budget belongs to the set, and fewest is the first budget if that
        is not significantly below. (inf, -inf) for an empty set.
    """
    seeds = len(differences_S_L)
    mean = differences_S_L.mean(axis=0)
    covariance = np.atleast_2d(np.cov(differences_S_L, rowvar=False))
    scale = t_point(CONFIDENCE, seeds) ** 2 / seeds
    variance, with_next = np.diag(covariance), np.diag(covariance, 1)
    excess = mean**2 - scale * variance
    found = [labels[excess <= 0]]
    if mean[0] >= 0:
        found.append(labels[:1])
    if excess[-1] <= 0:
        found.append(np.asarray([np.inf]))
    square = np.diff(mean) ** 2 - scale * (variance[1:] + variance[:-1] - 2 * with_next)
    shares = _real_roots(square, np.diff(excess) - square, excess[:-1])
    positions = labels[:-1] + shares * np.diff(labels)
    found.append(positions[(shares >= 0) & (shares <= 1)])
    everything = np.concatenate(found)
    return float(everything.min(initial=np.inf)), float(everything.max(initial=-np.inf))


def _real_roots(a: Floats, b: Floats, c: Floats) -> Floats:
    """Both real roots of each a w^2 + b w + c, float64 [2, K]; NaN or infinite where there are none."""
    with np.errstate(invalid="ignore", divide="ignore"):
        half = -(b + np.copysign(np.sqrt(b**2 - 4 * a * c), b)) / 2
        return np.stack([half / a, c / half])


def _save_cost(pair: _Pair, position: int) -> _Saving:
    wanted = pair.reference.mean(axis=0)[position]
    own = _cheapest(pair.cost, pair.accuracy.mean(axis=0) >= wanted)
    theirs = _cheapest(pair.reference_cost, pair.reference.mean(axis=0) >= wanted)
    if own is None:
        return _Saving(np.nan, reason="never reaches it")
    if theirs is None or np.isnan(pair.cost[:, own]).any() or np.isnan(pair.reference_cost[:, theirs]).any():
        return _Saving(np.nan, reason="its cost was not measured")
    value, *_ = _ratio(pair.reference_cost[:, theirs], pair.cost[:, own])
    if np.isnan(value):
        return _Saving(np.nan, reason="both cost nothing")
    if pair.count < 2:
        return _Saving(value)
    differences_S_L = pair.differences(position)
    mean = differences_S_L.mean(axis=0)
    margin = t_point(CONFIDENCE, pair.count) * differences_S_L.std(axis=0, ddof=1) / np.sqrt(pair.count)
    sure, possible = mean - margin >= 0, mean + margin >= 0
    possible[own] = True
    best = _cheapest(pair.cost, possible)
    worst = _cheapest(pair.cost, sure)
    reference_cost = pair.reference_cost[:, theirs]
    low = 0.0 if worst is None else min(_ratio(reference_cost, pair.cost[:, worst])[1], value)
    high = np.inf if best is None else max(_ratio(reference_cost, pair.cost[:, best])[2], value)
    return _Saving(value, low, high)


def _cheapest(cost_S_L: Floats, allowed_L: npt.NDArray[np.bool_]) -> int | None:
    """The allowed budget with the smallest mean cost; None if none is allowed."""
    if not allowed_L.any():
        return None
    mean = cost_S_L.mean(axis=0)
    return int(np.argmin(np.where(allowed_L & ~np.isnan(mean), mean, np.inf)))


def _ratio(above_S: Floats, below_S: Floats) -> tuple[float, float, float]:
    """Geometric mean of the ratios and its interval; NaN where both are zero."""
    nothing_above, nothing_below = not above_S.all(), not below_S.all()
    if nothing_above or nothing_below:
        value = np.nan if nothing_above and nothing_below else 0.0 if nothing_above else np.inf
        return value, value, value
    logs = estimate(np.log(above_S) - np.log(below_S), CONFIDENCE)
    low = np.nan if logs.low is None else np.exp(logs.low)
    high = np.nan if logs.high is None else np.exp(logs.high)
    return float(np.exp(logs.mean)), float(low), float(high)
