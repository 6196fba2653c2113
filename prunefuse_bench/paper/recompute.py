"""The compute columns of Tables 2 and 3, computed again by the fitted rule.

The paper prints the parameters of a selector with two or three digits, and no rule: the one in
:mod:`prunefuse_bench.cost.paper_rule` was fitted. So each row is computed from every count of parameters that there is,
all are shown, and which of them fits is said, not chosen in silence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from prunefuse_bench.cost.paper_rule import SYNC_EPOCHS, cumulative_selector_flops, synchronised_rounds
from prunefuse_bench.paper.published import Experiment, Number, Part, Row

__all__ = [
    "DENSE_PARAMETERS",
    "DENSE_TOLERANCE",
    "LEFT_BY_PRUNING",
    "PRUNED_TOLERANCE",
    "Count",
    "Recomputed",
    "RecomputedCell",
    "best_fit",
    "notes",
    "recompute",
]

DENSE_TOLERANCE = 0.01
"""How near a row of a network must come whose number of parameters is known."""
PRUNED_TOLERANCE = 0.05
"""How near a row of a pruned network must come, whose number of parameters is published with two or three digits."""


@dataclass(frozen=True)
class _Pool:
    """What a data set brings to the rule.

    Attributes:
        size: n, samples.
        input_size: D, values of one input.
        unit: FLOPs that one unit of the compute column must be for the rule to fit.
    """

    size: int
    input_size: int
    unit: float = 1e16


_POOLS = {
    "CIFAR-10": _Pool(50_000, 3 * 32 * 32),
    "CIFAR-100": _Pool(50_000, 3 * 32 * 32),
    "Tiny-ImageNet-200": _Pool(100_000, 3 * 224 * 224, 1e19),
    "ImageNet-1K": _Pool(1_281_167, 3 * 224 * 224, 1e19),
}
_START = 0.02
"""Share of the pool that is labeled by lot (section 6.1)."""

DENSE_PARAMETERS = {
    ("resnet20", "CIFAR-10"): 272_474,
    ("resnet56", "CIFAR-10"): 855_770,
    ("resnet56", "CIFAR-100"): 861_620,
    ("resnet50", "Tiny-ImageNet-200"): 23_917_832,
    ("resnet50", "ImageNet-1K"): 25_557_032,
}
"""Parameters of the networks: this package's CIFAR ResNets (1x1-convolution shortcuts), torchvision's ResNet-50."""

LEFT_BY_PRUNING = {
    ("resnet56", "CIFAR-10"): {0.5: 215_282, 0.6: 129_265, 0.7: 73_812, 0.8: 30_907},
    ("resnet56", "CIFAR-100"): {0.5: 218_252, 0.6: 131_605, 0.7: 75_612, 0.8: 32_077},
    ("resnet50", "Tiny-ImageNet-200"): {0.5: 6_097_640, 0.6: 3_916_522, 0.7: 2_232_022, 0.8: 1_023_517},
    ("resnet50", "ImageNet-1K"): {0.5: 6_917_640, 0.6: 4_572_522, 0.7: 2_724_022, 0.8: 1_351_517},
}
"""Parameters that :func:`prunefuse_bench.prune` (Torch-Pruning 1.6.1) leaves, by the share p of channels removed."""


@dataclass(frozen=True)
class Count:
    """A number of parameters that the selector may have had, and what it is."""

    name: str
    params: float
    tolerance: float


@dataclass(frozen=True)
class RecomputedCell:
    """A published cell beside what the rule makes of it; both in the unit of the column, as far as that fits."""

    published: Number
    value: float

    @property
    def difference(self) -> float:
        """Recomputed minus published, as a share of published."""
        return self.value / self.published.value - 1

    @property
    def only_rounding(self) -> bool:
        """Whether rounding to the printed digits can explain all of the difference."""
        return abs(self.value - self.published.value) <= self.published.half_unit * (1 + 1e-9)

    def agrees(self, tolerance: float) -> bool:
        """Within the tolerance, or within half a unit of the last printed digit."""
        return self.only_rounding or abs(self.difference) <= tolerance


@dataclass(frozen=True)
class Recomputed:
    """One row of a table, computed again from one number of parameters."""

    row: Row
    count: Count
    cells: tuple[RecomputedCell, ...]

    @property
    def largest_difference(self) -> float:
        """Of the cells that rounding alone does not explain, the largest difference; 0 if it explains all."""
        return max((abs(cell.difference) for cell in self.cells if not cell.only_rounding), default=0.0)

    @property
    def beyond_rounding(self) -> list[RecomputedCell]:
        """Cells that differ by more than 1% and more than rounding."""
        return [cell for cell in self.cells if not cell.agrees(DENSE_TOLERANCE)]

    @property
    def misfits(self) -> list[RecomputedCell]:
        """Cells beyond the tolerance."""
        return [cell for cell in self.cells if not cell.agrees(self.count.tolerance)]


def recompute(part: Part) -> list[Recomputed]:
    """Every row of a part from every count of parameters that is known, rows in order; empty without FLOPs columns."""
    positions = part.quantity("flops")
    if not positions:
        return []
    return [_recompute(row, positions, count) for row in part.rows for count in _counts(row.experiments[positions[0]])]


def best_fit(rows: list[Recomputed]) -> list[Recomputed]:
    """Of the computations of each row the one that fits best: fewest misfits, then the smallest largest difference."""
    best: dict[tuple[str, ...], Recomputed] = {}
    for computed in rows:
        name = computed.row.name
        if name not in best or _misfit(computed) < _misfit(best[name]):
            best[name] = computed
    return list(best.values())


def notes(part: Part) -> list[str]:
    """What a reader of the recomputed columns has to know, the cells that do not fit included."""
    rows = recompute(part)
    if not rows:
        return []
    experiments = [row.experiments[part.quantity("flops")[0]] for row in part.rows]
    return [
        "By the rule: Σ over rounds of 6·P·D·|L|·T + 2·P·D·|U| (P parameters, D input values, L labeled, U unlabeled, "
        "T epochs). It was fitted from these cells, for the paper states none, and does not count operations. A cell "
        "at budget b holds all that was spent to reach b.",
        f"A cell fits within {DENSE_TOLERANCE:.0%} ({PRUNED_TOLERANCE:.0%} for pruned networks, whose parameters are "
        "published with two or three digits), or within half a unit of the last printed digit, marked r: 0.08 cannot "
        "be met more closely than to 6%.",
        *_unit_notes(experiments[0]),
        *_committee_notes(experiments),
        *_sync_notes(experiments),
        *_count_notes(rows),
        *_misfit_notes(rows),
    ]


def _counts(experiment: Experiment) -> Iterator[Count]:
    dense = DENSE_PARAMETERS[experiment.network, experiment.dataset]
    if experiment.selector == "target":
        yield Count("P", dense, DENSE_TOLERANCE)
    elif experiment.selector_network is not None:
        small = DENSE_PARAMETERS[experiment.selector_network, experiment.dataset]
        yield Count(f"P of {experiment.selector_network}", small, DENSE_TOLERANCE)
    elif experiment.ratio is not None:
        yield Count("(1-p)²P", (1 - experiment.ratio) ** 2 * dense, PRUNED_TOLERANCE)
        left = LEFT_BY_PRUNING[experiment.network, experiment.dataset][experiment.ratio]
        yield Count("P left by pruning", left, PRUNED_TOLERANCE)


def _recompute(row: Row, positions: list[int], count: Count) -> Recomputed:
    experiments = [row.experiments[i] for i in positions]
    experiment, pool = experiments[0], _POOLS[experiments[0].dataset]
    # The cell of a budget is reached by training on the budget before it.
    labeled = [round(share * pool.size) for share in (_START, *(e.budget for e in experiments[:-1]))]
    flops = cumulative_selector_flops(
        count.params,
        pool.input_size,
        labeled,
        [pool.size - count for count in labeled],
        experiment.epochs,
        passes=_PASSES[experiment.committee],
        sync_every=experiment.sync_every,
        dense_params=DENSE_PARAMETERS[experiment.network, experiment.dataset],
    )
    cells = (RecomputedCell(row.numbers[i], value / pool.unit) for i, value in zip(positions, flops, strict=True))
    return Recomputed(row, count, tuple(cells))


_PASSES = {"one_pass": 1, "mc_dropout": 2, "snapshots": 5}
"""Passes over the unlabeled samples that the published cells fit."""


def _misfit(computed: Recomputed) -> tuple[int, float]:
    return len(computed.misfits), computed.largest_difference


def _unit_notes(experiment: Experiment) -> Iterator[str]:
    pool = _POOLS[experiment.dataset]
    if pool.unit != 1e16:
        yield (
            f"Unit: the column is headed 1e16 FLOPs, but with {experiment.epochs} epochs of {pool.size:,} images of "
            f"224x224 the rule fits only if a unit is {pool.unit:g}; recomputed cells are in that unit.".replace(
                "+", ""
            )
        )


def _committee_notes(experiments: list[Experiment]) -> Iterator[str]:
    if any(e.committee == "mc_dropout" for e in experiments):
        yield "BALD: its cells fit with one more scoring pass in each round, whatever the number of dropout samples."
    if any(e.committee == "snapshots" for e in experiments):
        yield "ALSE: its cells fit with four more scoring passes in each round: five snapshots score instead of one."


def _sync_notes(experiments: list[Experiment]) -> Iterator[str]:
    budgets = ("10%", "20%", "30%", "40%", "50%")
    intervals = sorted({e.sync_every for e in experiments if e.sync_every})
    for sync_every in intervals:
        cells = ", ".join(budgets[i] for i in synchronised_rounds(len(budgets), sync_every))
        yield f"T_sync = {sync_every}: the cells fit if the rounds that lead to {cells} are synchronised, and no other."
    if intervals:
        yield (
            f"A synchronised round costs 6·D·|L|·{SYNC_EPOCHS}·(P_dense + P_pruned) + 2·P_pruned·D·|U|: the fused "
            f"network and the network pruned from it are fine-tuned for {SYNC_EPOCHS} epochs each, in the place of "
            f"training from scratch for {experiments[0].epochs}. That is fitted; section 9.1 writes these terms beside "
            "that training."
        )


def _count_notes(rows: list[Recomputed]) -> Iterator[str]:
    nearer: dict[str, list[str]] = {}
    for computed in best_fit(rows):
        if computed.count.tolerance == PRUNED_TOLERANCE:
            nearer.setdefault(computed.count.name, []).append(", ".join(computed.row.name))
    for count, names in nearer.items():
        yield f"Of the two counts of a pruned network, {count} comes nearer for {'; '.join(names)}."


def _misfit_notes(rows: list[Recomputed]) -> Iterator[str]:
    for computed in best_fit(rows):
        for cell in computed.beyond_rounding:
            fits = "within" if cell.agrees(computed.count.tolerance) else "beyond"
            others = [other for other in computed.cells if other is not cell]
            alone = (
                ", though all other cells of the row fit to rounding" if all(o.only_rounding for o in others) else ""
            )
            yield (
                f"{', '.join(computed.row.name)}: {cell.value:.3g} by the rule with {computed.count.name}, "
                f"{cell.published.text} published ({cell.difference:+.1%}): more than rounding explains, {fits} "
                f"{computed.count.tolerance:.0%}{alone}."
            )
