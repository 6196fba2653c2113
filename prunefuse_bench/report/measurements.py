"""Measurements that only some tasks ask for, as tables: corrupted test images, and the decomposition of errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunefuse_bench import stats
from prunefuse_bench.data.corruptions import COMPUTED_PREFIX, SEVERITIES, describe_corruptions
from prunefuse_bench.records import load_corruptions, load_decomposition
from prunefuse_bench.report.rows import groups_of
from prunefuse_bench.report.sheets import NOTHING, Sheet

if TYPE_CHECKING:
    import pandas

__all__ = ["Measurement", "measurements"]


@dataclass(frozen=True)
class Measurement:
    """One subject.

    Attributes:
        key: names it within a page.
        title: in words.
        sheets: its tables, all to be shown.
        details: further ones, for those who ask.
    """

    key: str
    title: str
    sheets: tuple[Sheet, ...]
    details: tuple[Sheet, ...]


INTERVALS = "Means over seeds, ± half of the 95% interval by Student's t where there are two or more."
PUBLISHED = (
    "The corruptions are those of CIFAR-10-C (Hendrycks and Dietterich 2019), from its published files, as in the "
    "paper's Table 17."
)
COMPUTED = (
    "The corruptions are computed by this package from the test images, with strengths of its own, the same images for "
    "every method and seed. They are not CIFAR-10-C, and these accuracies do not compare with the paper's Table 17."
)
BOUND = (
    "The paper's bound: gap ≤ δ + 2Lρ (equation 4). Each row is about the target θ and the selector that a round ends "
    "with, and about the query that this selector chose next. Gap and δ: |mean loss of that query - mean loss of the "
    "pool| under θ and under the selector (equations 5 and 7), in nats, on clean images; “labeled”: of all that was "
    "labeled by then, on which both were trained.",
    "ρ: distance of the two networks' parameters, pruned coordinates being zero in the selector (equation 8); kept: "
    "over the coordinates that the selector has.",
    "θ is the fused network that the selector was pruned from in a synchronised round, the reported target in others. "
    "Δ sync and Δ fresh: accuracy of θ and that of the synchronised selector, or of one trained from scratch on the "
    "same labels, how far apart in points (section 9.2.1); on the test set. Without synchronisation the selector is "
    "itself the fresh one.",
    "A diagnosis: means over the pool take labels that no method was given, and nothing is chosen by them. The fresh "
    "selectors are charged to a stage of their own, to no method's selection.",
)
DECOMPOSED = {
    "gap": ("Gap", 4, 1),
    "delta": ("δ", 4, 1),
    "gap_labeled": ("Gap, labeled", 4, 1),
    "delta_labeled": ("δ, labeled", 4, 1),
    "rho": ("ρ", 3, 1),
    "rho_kept": ("ρ, kept", 3, 1),
    "sync_gap": ("Δ sync", 2, 100),
    "fresh_gap": ("Δ fresh", 2, 100),
}
"""Heading, digits after the point and factor of each column."""


def measurements(run: Path, task: Mapping[str, Any], results: pandas.DataFrame) -> Iterator[Measurement]:
    """What the run measured beside its leaderboard.

    Args:
        run: its folder.
        task: settings that its cells share.
        results: of :func:`prunefuse_bench.load_results`.
    """
    seeds = {str(method): int(count) for method, count in results.groupby("method")["seed"].nunique().items()}
    if "corruptions" in task:
        corrupted = results.dropna(subset=["corrupted_accuracy"])
        if len(corrupted):
            yield _corruptions(corrupted, load_corruptions(run), seeds)
    if task.get("decomposition"):
        found = load_decomposition(run)
        if len(found):
            yield _decomposition(found, seeds)


def _corruptions(results: pandas.DataFrame, each: pandas.DataFrame, seeds: Mapping[str, int]) -> Measurement:
    names = list(dict.fromkeys(each["corruption"]))
    what = COMPUTED if names[0].startswith(COMPUTED_PREFIX) else PUBLISHED
    rows = []
    for method, own in groups_of(results, "method"):
        for labels, at in groups_of(own.sort_values("labels"), "labels"):
            columns = (at["accuracy"], at["corrupted_accuracy"], at["accuracy"] - at["corrupted_accuracy"])
            texts = [_text(100 * column, seeds[method], 2) for column in columns]
            rows.append((str(method), f"{int(labels):,}", *texts))
    last = each[each["labels"] == each["labels"].max()]
    summary = Sheet(
        f"Corrupted test images ({describe_corruptions(names)})",
        ("Method", "Labels", "Clean", "Corrupted", "Lost"),
        tuple(rows),
        (
            "Test accuracy of the target in percent: on clean images, its mean over all corruptions and five "
            f"severities, and how much less that is, in points. {INTERVALS}",
            what,
        ),
    )
    details = Sheet(
        f"Each corruption at {int(each['labels'].max()):,} labels ({describe_corruptions(names)})",
        ("Method", "Network", "Corruption", *(f"Severity {number}" for number in range(1, SEVERITIES + 1)), "Mean"),
        tuple(_by_corruption(last)),
        ("Accuracy in percent, mean over seeds.", what),
    )
    return Measurement("corruptions", "Corrupted test images", (summary,), (details,))


def _by_corruption(each: pandas.DataFrame) -> Iterator[tuple[str, ...]]:
    for names, own in each.groupby(["method", "network", "corruption"], sort=False):
        means = [100 * at["accuracy"].mean() for _, at in own.groupby("severity")]
        yield *map(str, names), *(f"{mean:.2f}" for mean in means), f"{sum(means) / len(means):.2f}"


def _decomposition(found: pandas.DataFrame, seeds: Mapping[str, int]) -> Measurement:
    rows = []
    for method, own in groups_of(found, "method"):
        for labels, at in groups_of(own.sort_values("labels"), "labels"):
            texts = [
                _text(factor * at[column], seeds[method], digits) for column, (_, digits, factor) in DECOMPOSED.items()
            ]
            rows.append((str(method), f"{int(labels):,}", " and ".join(dict.fromkeys(at["target"])), *texts))
    sheet = Sheet(
        "Error decomposition (the paper's sections 5 and 9.2)",
        ("Method", "Labels", "θ", *(heading for heading, _, _ in DECOMPOSED.values())),
        tuple(rows),
        (INTERVALS, *BOUND),
    )
    return Measurement("decomposition", "Error decomposition", (), (sheet,))


def _text(values: pandas.Series, expected: int, digits: int) -> str:
    """Mean and half of its interval; how many seeds have a value, unless all or none have."""
    found = stats.estimate(values)
    if not found.count:
        return NOTHING
    half = f" ± {found.high - found.mean:.{digits}f}" if found.high is not None else ""
    return f"{found.mean:.{digits}f}{half}" + (f" ({found.count} of {expected})" if found.count < expected else "")
