"""What two sides of a comparison have in common, number by number."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import scipy.stats  # type: ignore[import-untyped]

from prunefuse_bench.report.sides import MethodPair, Side
from prunefuse_bench.stats import curve_areas, estimate, holm, smallest_difference
from prunefuse_bench.stats.paired import on_grid, t_tests

__all__ = ["AccuracyChange", "CostChange", "PicksChange", "accuracy_changes", "cost_changes", "picks_changes"]

LEVEL = 0.05
COSTS = ("selector_flops", "target_flops", "selector_seconds", "target_seconds")


@dataclass(frozen=True)
class AccuracyChange:
    """Accuracy of a method at a budget, or its area, before and after. All shares, 0 to 1.

    Attributes:
        method: as tables name it.
        labels: of the budget; None for the area under the curve.
        seeds: compared; both numbers are equal if compared seed by seed.
        before, after: means over these seeds.
        difference: after - before.
        low, high: 95% interval of the difference; None if there is none.
        p: of the t-test; None if there is none.
        p_adjusted: by Holm over the methods.
        detectable: difference that so many seeds show four times in five; None if nobody can say.
        verdict: in words.
    """

    method: str
    labels: int | None
    seeds: tuple[int, int]
    before: float
    after: float
    difference: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_adjusted: float | None = None
    detectable: float | None = None
    verdict: str = ""


@dataclass(frozen=True)
class PicksChange:
    """Which samples a method bought before and after, from equal budgets to equal budgets.

    Attributes:
        seeds: in both, with rounds to compare.
        equal_starts: seeds whose random start is the same samples.
        rounds: queries compared, the starts not among them.
        equal_rounds: queries that are the same samples in the same order.
        share: of the samples of a query that are in the other too, mean over queries; None without queries.
        first_difference: the smallest number of labels by which a seed had bought another sample; None if none.
    """

    method: str
    seeds: int
    equal_starts: int
    rounds: int
    equal_rounds: int
    share: float | None
    first_difference: int | None

    def same_until(self, labels: int | None) -> bool:
        """Whether both had bought the same samples by then, or to the end."""
        return self.first_difference is None or (labels is not None and labels < self.first_difference)


@dataclass(frozen=True)
class CostChange:
    """A cost of a method up to a budget, before and after, mean over the seeds of both.

    Attributes:
        quantity: column of :func:`prunefuse_bench.load_results`.
        ratio: after / before; None if there is nothing to divide by, or it is not comparable.
        low, high: smallest and largest ratio of a seed, of seconds alone; FLOPs are counted. No interval: what else the
            machine did differs between the runs and not between their seeds, so that two runs of the same code miss 1.
        reason: why it is not comparable; empty if it is.
    """

    method: str
    labels: int
    quantity: str
    seeds: int
    before: float
    after: float
    ratio: float | None
    low: float | None
    high: float | None
    reason: str


def accuracy_changes(
    before: Side, after: Side, methods: Sequence[MethodPair], picks: Sequence[PicksChange], *, is_paired: bool
) -> Iterator[AccuracyChange]:
    """Areas first, then the budgets that both report; within each, every method of both."""
    values = _Values.of(before), _Values.of(after)
    budgets = [labels for labels in before.reported if labels in after.reported]
    # An area over other budgets is another quantity.
    with_area = len(budgets) > 1 and before.reported == after.reported
    for labels in (*([None] if with_area else []), *budgets):
        family = [
            _accuracy_change(
                pair,
                labels,
                values[0].at(pair.before, labels),
                values[1].at(pair.after, labels),
                same_picks=any(change.method == pair.name and change.same_until(labels) for change in picks),
                is_paired=is_paired,
            )
            for pair in methods
        ]
        # Results that are the same to the bit are no test, and nothing to correct for.
        tested = [change.p for change in family if change.p is not None]
        adjusted = iter(holm(tested).tolist())
        for change in family:
            yield _judged(change, None if change.p is None else next(adjusted), len(tested))


def picks_changes(before: Side, after: Side, methods: Sequence[MethodPair]) -> Iterator[PicksChange]:
    """Of every method that has seeds and rounds in both; nothing if the samples are other samples."""
    for pair in methods:
        seeds = [seed for seed in _common_seeds(before, after, pair) if list(_common_rounds(before, after, pair, seed))]
        if not seeds:
            continue
        starts = equal = rounds = 0
        shares, differing = [], []
        for seed in seeds:
            start, *queries = _common_rounds(before, after, pair, seed)
            starts += start[0]["query"] == start[1]["query"]
            rounds += len(queries)
            equal += sum(one["query"] == other["query"] for one, other in queries)
            shares += [len({*one["query"]} & {*other["query"]}) / len(one["query"]) for one, other in queries]
            differing += [one["labels"] for one, other in (start, *queries) if {*one["query"]} != {*other["query"]}]
        share = sum(shares) / len(shares) if shares else None
        yield PicksChange(pair.name, len(seeds), starts, rounds, equal, share, min(differing, default=None))


def cost_changes(
    before: Side, after: Side, methods: Sequence[MethodPair], budgets: Sequence[int]
) -> Iterator[CostChange]:
    """Counted FLOPs and measured seconds up to each of these budgets, over the seeds of both."""
    for pair, labels, quantity in itertools.product(methods, budgets, COSTS):
        seeds = [
            seed
            for seed in _common_seeds(before, after, pair)
            if labels in before.cells[pair.before, seed].rows and labels in after.cells[pair.after, seed].rows
        ]
        if not seeds:
            continue
        olds = [float(before.cells[pair.before, seed].rows[labels][quantity]) for seed in seeds]
        news = [float(after.cells[pair.after, seed].rows[labels][quantity]) for seed in seeds]
        reason = _other_machine(before, after, pair, seeds) if quantity.endswith("seconds") else ""
        old, new = sum(olds) / len(olds), sum(news) / len(news)
        ratio, low, high = (new / old if old and not reason else None), None, None
        if quantity.endswith("seconds") and ratio and all((*olds, *news)):
            ratios = [new / old for old, new in zip(olds, news, strict=True)]
            ratio, low, high = math.exp(sum(map(math.log, ratios)) / len(ratios)), min(ratios), max(ratios)
        yield CostChange(pair.name, labels, quantity, len(seeds), old, new, ratio, low, high, reason)


def _accuracy_change(
    pair: MethodPair,
    labels: int | None,
    olds: Mapping[int, float],
    news: Mapping[int, float],
    *,
    same_picks: bool,
    is_paired: bool,
) -> AccuracyChange:
    if is_paired:
        common = [seed for seed in olds if seed in news]
        olds, news = ({seed: side[seed] for seed in common} for side in (olds, news))
    old, new = (estimate(side.values()) for side in (olds, news))
    bare = AccuracyChange(pair.name, labels, (old.count, new.count), old.mean, new.mean, new.mean - old.mean)
    if not old.count or not new.count:
        return dataclasses.replace(bare, verdict="cannot be said: no seed with a result in both")
    if is_paired and list(olds.values()) == list(news.values()):
        same = "identical: same picks, same accuracy" if same_picks else "same accuracy to the bit, other picks"
        return dataclasses.replace(bare, verdict=same)
    if min(old.count, new.count) < 2:
        return dataclasses.replace(bare, verdict="one seed: cannot be said")
    test = _paired if is_paired else _unpaired
    p, low, high, deviation = test(list(olds.values()), list(news.values()))
    if math.isnan(p):
        return dataclasses.replace(bare, verdict="cannot be said: no spread over seeds to judge it by")
    ends = (None, None) if math.isnan(low) or math.isnan(high) else (low, high)
    # The deviation stays here until the number of tests is known.
    return dataclasses.replace(bare, low=ends[0], high=ends[1], p=p, detectable=deviation)


def _judged(change: AccuracyChange, p_adjusted: float | None, tests: int) -> AccuracyChange:
    if p_adjusted is None:
        return change
    detectable = smallest_difference(change.detectable or 0.0, min(change.seeds), tests)
    if p_adjusted < LEVEL:
        verdict = f"changed: {'higher' if change.difference > 0 else 'lower'}"
    elif detectable is None:
        verdict = "no change shown; all seeds differ by the same, so nobody can say what would have been found"
    elif detectable >= 1:
        verdict = "no change shown; with so few seeds none of any size would have been"
    else:
        verdict = f"no change shown; a change of {100 * detectable:.2g} points would have been found"
    return dataclasses.replace(change, p_adjusted=p_adjusted, detectable=detectable, verdict=verdict)


@dataclass(frozen=True)
class _Values:
    """Accuracies by method, seed and labels, and areas (labels None); only what there is."""

    accuracy: Mapping[tuple[str, int, int | None], float]

    @classmethod
    def of(cls, side: Side) -> _Values:
        import pandas

        found: dict[tuple[str, int, int | None], float] = {
            (method, seed, labels): float(row["accuracy"])
            for (method, seed), cell in side.cells.items()
            for labels, row in cell.rows.items()
        }
        columns = ["run", "method", "seed", "labels", "budget", "accuracy"]
        rows = [("", *key, key[2], accuracy) for key, accuracy in found.items()]
        areas = curve_areas(pandas.DataFrame(rows, columns=columns)).dropna()
        for area in areas.to_dict(orient="records"):
            found[str(area["method"]), int(area["seed"]), None] = float(area["area"])
        return cls(found)

    def at(self, method: str, labels: int | None) -> dict[int, float]:
        """By seed, ascending."""
        own = sorted((key[1], key) for key in self.accuracy if key[0] == method and key[2] == labels)
        return {seed: self.accuracy[key] for seed, key in own}


def _paired(olds: Sequence[float], news: Sequence[float]) -> tuple[float, float, float, float]:
    """p, interval, and the deviation of the differences."""
    differences_1_B = on_grid(numpy.subtract(news, olds)[None], 1.0)
    p, low, high = (float(found[0]) for found in t_tests(differences_1_B))
    return p, low, high, float(differences_1_B.std(ddof=1)) if numpy.ptp(differences_1_B) else 0.0


def _unpaired(olds: Sequence[float], news: Sequence[float]) -> tuple[float, float, float, float]:
    """The same by Welch's test of two independent groups; the deviation is that of a difference of two seeds."""
    deviation = math.hypot(float(numpy.std(olds, ddof=1)), float(numpy.std(news, ddof=1)))
    if not deviation:
        return math.nan, math.nan, math.nan, 0.0
    tested = scipy.stats.ttest_ind(news, olds, equal_var=False)
    interval = tested.confidence_interval(0.95)
    return float(tested.pvalue), float(interval.low), float(interval.high), deviation


def _common_seeds(before: Side, after: Side, pair: MethodPair) -> list[int]:
    return [seed for seed in before.seeds_of(pair.before) if (pair.after, seed) in after.cells]


Record = Mapping[str, Any]


def _common_rounds(before: Side, after: Side, pair: MethodPair, seed: int) -> Iterator[tuple[Record, Record]]:
    """Rounds of both, for as long as their budgets are the same."""
    rounds = before.cells[pair.before, seed].rounds, after.cells[pair.after, seed].rounds
    return itertools.takewhile(lambda both: both[0]["labels"] == both[1]["labels"], zip(*rounds, strict=False))


def _other_machine(before: Side, after: Side, pair: MethodPair, seeds: Sequence[int]) -> str:
    machines = [side.machines_of(method, seeds) for side, method in ((before, pair.before), (after, pair.after))]
    if machines[0] == machines[1] and len(machines[0]) == 1:
        return ""
    old, new = (" and ".join(names) for names in machines)
    return f"not comparable: other machine ({old} -> {new})" if old != new else f"not comparable: on {old}"
