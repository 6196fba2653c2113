"""The paper's numbers, its cost rule, and runs beside them."""

from __future__ import annotations

import collections
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest

from prunefuse_bench.cost.paper_rule import (
    cumulative_selector_flops,
    paper_flops,
    synchronised_rounds,
    synchronised_training_flops,
)
from prunefuse_bench.errors import BadInput
from prunefuse_bench.paper import published_table, published_tables
from prunefuse_bench.paper.measured import MeasuredMethod, measured_lines, unmatched
from prunefuse_bench.paper.published import Experiment, Number, Part
from prunefuse_bench.paper.recompute import (
    DENSE_PARAMETERS,
    DENSE_TOLERANCE,
    LEFT_BY_PRUNING,
    PRUNED_TOLERANCE,
    Recomputed,
    best_fit,
    notes,
    recompute,
)
from prunefuse_bench.paper.report import markdown, write_report
from prunefuse_bench.paper.sheets import overview, table_sheets, unmatched_notes
from prunefuse_bench.recipe import resolve_recipe
from prunefuse_bench.training.schedule import PAPER_SEGMENTS

RunCli = Callable[..., tuple[int, str, str]]
LABELED = [1_000, 5_000, 10_000, 15_000, 20_000]
UNLABELED = [50_000 - count for count in LABELED]
CIFAR = 3 * 32 * 32
RESNET56 = 855_770


def part(number: str, title: str) -> Part:
    return next(part for part in published_table(number).parts if part.title.startswith(title))


def computed(number: str, title: str, row: str) -> list[Recomputed]:
    """The computations of one row, one for each count of parameters."""
    return [one for one in recompute(part(number, title)) if one.row.name == (row,)]


# The rule


def test_one_round_by_hand() -> None:
    # 6 * 10 * 3 * 2 * 4 to train, 2 * 10 * 3 * 8 to score
    assert paper_flops(10, 3, 2, 8, 4) == 1440 + 480


def test_rounds_add_up_by_hand() -> None:
    assert paper_flops(10, 3, [2, 5], [8, 5], 4) == (1440 + 480) + (3600 + 300)
    assert cumulative_selector_flops(10, 3, [2, 5], [8, 5], 4) == [1920, 5820]
    assert paper_flops(10, 3, [], [], 4) == 0


def test_passes_are_charged_for_scoring_alone() -> None:
    assert cumulative_selector_flops(10, 3, [2, 5], [8, 5], 4, passes=5) == [1440 + 2400, 1440 + 2400 + 3600 + 1500]


def test_a_synchronised_round_trains_the_fused_and_the_pruned_network_for_110_epochs() -> None:
    synced = 6 * 3 * 5 * 110 * (100 + 10)
    assert synchronised_training_flops(10, 100, 3, 5) == synced
    spent = cumulative_selector_flops(10, 3, [2, 5], [8, 5], 4, sync_every=1, dense_params=100)
    assert spent == [1920, 1920 + synced + 300]


def test_which_rounds_are_synchronised() -> None:
    assert synchronised_rounds(5, 0) == ()
    assert synchronised_rounds(5, 1) == (1, 2, 3, 4)
    assert synchronised_rounds(5, 2) == (1, 3)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((10, 3, [2, 5], [8], 4), {}, "got 2 and 1"),
        ((10, 3, [-2], [8], 4), {}, "at least 0"),
        ((10, 3, [2], [8], -4), {}, "at least 0"),
        ((10, 3, [2], [8], 4), {"sync_every": 1}, "dense_params"),
    ],
)
def test_counts_that_cannot_be_are_refused(arguments: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cumulative_selector_flops(*arguments, **options)


# The rule against the published cells


@pytest.mark.parametrize(
    ("params", "epochs", "published"),
    [
        (RESNET56, 181, "0.31 1.76 4.64 8.94 14.66"),
        (861_620, 181, "0.31 1.77 4.67 9.00 14.76"),
        (272_474, 181, "0.10 0.56 1.47 2.84 4.66"),
    ],
)
def test_dense_selectors_on_cifar_cost_what_is_published(params: int, epochs: int, published: str) -> None:
    """Figures of Tables 2 and 3 written out here, so that neither the data files nor the report can hide a fault."""
    for spent, text in zip(
        cumulative_selector_flops(params, CIFAR, LABELED, UNLABELED, epochs), published.split(), strict=True
    ):
        assert spent / 1e16 == pytest.approx(float(text), rel=0.01, abs=0.005)


@pytest.mark.parametrize(
    ("passes", "sync_every", "share", "published"),
    [
        (2, 0, 1.0, "0.34 1.81 4.71 9.03 14.77"),  # BALD
        (5, 0, 1.0, "0.41 1.96 4.92 9.29 15.08"),  # ALSE
        (1, 1, 0.25, "0.08 1.17 3.34 6.60 10.94"),  # T_sync = 1
        (1, 2, 0.25, "0.08 1.17 1.89 5.14 6.58"),  # T_sync = 2
        (2, 1, 0.25, "0.08 1.18 3.36 6.62 10.97"),  # T_sync = 1 and BALD
    ],
)
def test_committees_and_synchronisation_cost_what_is_published(
    passes: int, sync_every: int, share: float, published: str
) -> None:
    spent = cumulative_selector_flops(
        share * RESNET56, CIFAR, LABELED, UNLABELED, 181, passes=passes, sync_every=sync_every, dense_params=RESNET56
    )
    for value, text in zip(spent, published.split(), strict=True):
        assert value / 1e16 == pytest.approx(float(text), rel=0.002, abs=0.005)


def test_every_row_of_a_dense_selector_is_within_1_percent_or_rounding() -> None:
    rows = [one for n in "23" for p in published_table(n).parts for one in recompute(p)]
    dense = [one for one in rows if one.row.experiments[0].selector != "pruned"]
    assert len(dense) == 4 + 4  # the baselines of Table 2; baseline, SVP, BALD and ALSE of Table 3
    for one in dense:
        assert one.count.tolerance == DENSE_TOLERANCE == 0.01
        assert not one.misfits, one
        assert (
            max(abs(cell.difference) for cell in one.cells[1:]) < 0.01
        )  # all but the first cell even without rounding


@pytest.mark.parametrize(
    ("number", "title", "count"),
    [
        ("2", "CIFAR-10", "(1-p)²P"),
        ("2", "CIFAR-100", "(1-p)²P"),
        ("2", "Tiny-ImageNet-200", "P left by pruning"),
        ("2", "ImageNet-1K", "P left by pruning"),
        ("3", "CIFAR-10", "(1-p)²P"),
    ],
)
def test_every_row_of_a_pruned_selector_is_within_5_percent_by_one_count(number: str, title: str, count: str) -> None:
    chosen = [p for p in published_table(number).parts if p.title.partition(",")[0] == title]
    assert len(chosen) == 1
    pruned = [one for one in recompute(chosen[0]) if one.row.experiments[0].selector == "pruned"]
    by_count = [one for one in pruned if one.count.name == count]
    assert len(pruned) == 2 * len(by_count) > 0
    assert [one for one in best_fit(recompute(chosen[0])) if one in pruned] == by_count
    for one in by_count:
        assert one.count.tolerance == PRUNED_TOLERANCE == 0.05
        assert not one.misfits, one


def test_the_other_count_does_not_fit_everywhere() -> None:
    """Each count is needed: the square fails ResNet-50, what pruning leaves fails ResNet-56."""
    assert any(one.misfits for one in computed("2", "ImageNet-1K", "PruneFuse p=0.5") if one.count.name == "(1-p)²P")
    assert any(one.misfits for one in computed("2", "CIFAR-10", "PruneFuse p=0.8") if one.count.name != "(1-p)²P")


def test_synchronised_rows_fit_to_the_last_digit_or_its_neighbour_and_other_formulas_do_not() -> None:
    published = [1.17, 3.34, 6.60, 10.94]

    def misses(spent: list[float]) -> bool:
        return any(abs(value / 1e16 / text - 1) > 0.05 for value, text in zip(spent[1:], published, strict=True))

    pruned = RESNET56 / 4
    fitted = cumulative_selector_flops(pruned, CIFAR, LABELED, UNLABELED, 181, sync_every=1, dense_params=RESNET56)
    assert not misses(fitted)
    # Section 9.1 taken at its word: the fused network's training beside the selector's, 181 epochs each.
    scratch = cumulative_selector_flops(pruned, CIFAR, LABELED, UNLABELED, 181)
    extra = [0.0]
    for count in LABELED[1:]:
        extra.append(extra[-1] + synchronised_training_flops(pruned, RESNET56, CIFAR, count, 181))
    assert misses([a + b for a, b in zip(scratch, extra, strict=True)])
    never = cumulative_selector_flops(pruned, CIFAR, LABELED, UNLABELED, 181)
    assert misses(never)


def test_the_one_cell_of_table_3_that_does_not_fit_is_said() -> None:
    one = computed("3", "CIFAR-10", "PruneFuse (T_sync=0) + ALSE")[0]
    assert one.cells[-1].published.text == "3.70"
    assert one.cells[-1].value == pytest.approx(3.771, abs=0.001)
    assert one.beyond_rounding == [one.cells[-1]]
    (said,) = [note for note in notes(part("3", "CIFAR-10")) if "ALSE:" in note and "3.70" in note]
    assert "3.77 by the rule" in said
    assert "+1.9%" in said
    assert "all other cells of the row fit to rounding" in said


def test_every_cell_beyond_1_percent_is_said() -> None:
    for number in "23":
        for p in published_table(number).parts:
            beyond = [cell for one in best_fit(recompute(p)) for cell in one.beyond_rounding]
            said = [note for note in notes(p) if "more than rounding explains" in note]
            assert len(said) == len(beyond)
            assert all(any(f"{cell.published.text} published" in note for note in said) for cell in beyond)


@pytest.mark.parametrize("title", ["Tiny-ImageNet-200", "ImageNet-1K"])
def test_the_unit_that_is_printed_and_does_not_fit_is_said(title: str) -> None:
    chosen = next(p for p in published_table("2").parts if p.title == title)
    assert {chosen.columns[i].unit for i in chosen.quantity("flops")} == {"1e16 FLOPs"}
    (said,) = [note for note in notes(chosen) if note.startswith("Unit:")]
    assert "headed 1e16 FLOPs" in said
    assert "1e19" in said
    params, pool = DENSE_PARAMETERS["resnet50", title], {"Tiny-ImageNet-200": 100_000, "ImageNet-1K": 1_281_167}[title]
    first = paper_flops(params, 3 * 224 * 224, round(0.02 * pool), pool - round(0.02 * pool), 100)
    assert first / 1e19 == pytest.approx(chosen.rows[0].numbers[5].value, rel=0.01)


def test_two_printed_digits_are_met_to_half_a_unit_and_no_more() -> None:
    assert Number("0.08").half_unit == pytest.approx(0.005)
    assert Number("14.66").half_unit == pytest.approx(0.005)
    one = computed("2", "CIFAR-10", "PruneFuse p=0.5")[0]
    assert abs(one.cells[0].difference) > DENSE_TOLERANCE
    assert one.cells[0].only_rounding
    assert one.cells[0].agrees(0)
    assert not one.cells[3].only_rounding  # 2.235 against 2.24: half a unit is not enough by a hair
    assert one.cells[3].agrees(DENSE_TOLERANCE)


@pytest.mark.parametrize("dataset", ["CIFAR-10", "CIFAR-100"])
def test_counts_of_parameters_are_what_the_package_builds(dataset: str) -> None:
    import torch

    from prunefuse_bench.models import build_model, count_parameters
    from prunefuse_bench.pruning import prune

    classes = int(dataset.removeprefix("CIFAR-"))
    for (network, of), expected in DENSE_PARAMETERS.items():
        if of == dataset:
            dense = build_model(network, num_classes=classes, in_channels=3)
            assert count_parameters(dense) == expected
            for ratio, left in LEFT_BY_PRUNING.get((network, of), {}).items():
                assert count_parameters(prune(dense, torch.zeros(1, 3, 32, 32), ratio).model) == left


@pytest.mark.slow
@pytest.mark.parametrize(("dataset", "classes"), [("Tiny-ImageNet-200", 200), ("ImageNet-1K", 1000)])
def test_counts_of_resnet50_are_what_pruning_leaves(dataset: str, classes: int) -> None:
    import torch
    from torchvision.models import resnet50

    from prunefuse_bench.models import count_parameters
    from prunefuse_bench.pruning import prune

    dense = resnet50(num_classes=classes)
    assert count_parameters(dense) == DENSE_PARAMETERS["resnet50", dataset]
    for ratio, left in LEFT_BY_PRUNING["resnet50", dataset].items():
        assert count_parameters(prune(dense, torch.zeros(1, 3, 64, 64), ratio).model) == left


def test_the_count_that_fits_the_flops_is_near_the_published_parameters() -> None:
    for p in published_table("2").parts:
        for one in best_fit(recompute(p)):
            assert one.row.params is not None
            text, unit = one.row.params.split()
            assert unit == "M"
            # As printed: rounded or cut off, so within a unit of the last digit, or 1% (6.91 for 6.918).
            tolerance = max(2.1 * Number(text).half_unit, 0.01 * float(text))
            assert one.count.params / 1e6 == pytest.approx(float(text), abs=tolerance)


# The data

# Numbers and deviations of each table, how many and their sum, taken from the paper's text in reading order.
TOTALS = {
    "1": (0, 0), "2": (300, 7565.27), "3": (135, 4211.5), "4": (40, 1796.46), "5": (40, 2609.27), "6": (50, 3922.02),
    "7": (50, 4464.77), "8": (25, 1342.73), "9": (400, 14456.97), "10": (400, 14663.58), "11": (400, 15190.87),
    "12": (50, 1057.1), "13": (20, 1806.96), "14": (20, 1446.86), "15": (25, 2385.37), "16": (25, 1536.65),
    "17": (20, 1186.84), "18": (15, 1335.17), "19": (180, 14099.01), "20": (20, 1721.69), "21": (20, 1766.58),
    "22": (20, 1805.13), "23": (12, 1098.83), "24": (80, 3541.363), "25": (30, 2505.49), "26": (40, 2911.56),
    "27": (10, 869.83), "28": (50, 4464.77), "29": (18, 4672.05), "30": (30, 2686.48), "31": (80, 7079.14),
}  # fmt: skip


def test_all_31_tables_are_there() -> None:
    assert [table.number for table in published_tables()] == [str(number) for number in range(1, 32)]


@pytest.mark.parametrize("number", TOTALS)
def test_numbers_of_a_table_add_up_to_those_of_the_paper(number: str) -> None:
    numbers = [n for p in published_table(number).parts for row in p.rows for n in row.numbers]
    texts = [text for n in numbers for text in (n.text, n.deviation) if text is not None]
    count, total = TOTALS[number]
    assert len(texts) == count
    assert sum(map(float, texts)) == pytest.approx(total, abs=1e-6)


@pytest.mark.parametrize(
    ("number", "letters", "rows"),
    [("2", [None] * 4, 20), ("9", ["a", "b"], 40), ("19", ["a", "b", "c"], 36), ("22", ["a", "b"], 4),
     ("25", ["a", "b", "c"], 6), ("26", ["a", "b"], 8), ("31", [None], 16)],
)  # fmt: skip
def test_parts_of_a_table(number: str, letters: list[str | None], rows: int) -> None:
    parts = published_table(number).parts
    assert [p.letter for p in parts] == letters
    assert sum(len(p.rows) for p in parts) == rows


def test_tables_are_whole() -> None:
    for table in published_tables():
        assert table.caption
        assert table.section
        for p in table.parts:
            names = [row.name for row in p.rows]
            assert len(set(names)) == len(names), f"a row of table {table.number} is there twice"
            for row in p.rows:
                assert len(row.numbers) == len(row.experiments) == len(p.columns)
                for number, column in zip(row.numbers, p.columns, strict=True):
                    assert number.value > 0
                    assert column.quantity != "accuracy" or number.value < 100
                    assert number.deviation is None or 0 <= float(number.deviation) < 3


def test_budgets_ascend_within_every_group_of_columns() -> None:
    for table in published_tables():
        for p in table.parts:
            for group in {column.group for column in p.columns}:
                headings = [column.heading for column in p.columns if column.group == group]
                if all(heading.endswith("%") for heading in headings):
                    budgets = [float(heading[:-1]) for heading in headings]
                    assert budgets == sorted(set(budgets)), table.number


def test_flops_grow_with_the_budget_and_fall_with_the_pruning_ratio() -> None:
    for p in published_table("2").parts:
        columns = p.quantity("flops")
        for row in p.rows:
            values = [row.numbers[i].value for i in columns]
            assert values == sorted(set(values))
        for i in columns:
            assert [row.numbers[i].value for row in p.rows] == sorted(
                (r.numbers[i].value for r in p.rows), reverse=True
            )


def test_printed_digits_are_kept() -> None:
    rows = {row.name: row for row in part("9", "CIFAR-10").rows}
    assert [str(n) for n in rows["Baseline AL", "Greedy k"].numbers][3:] == ["91.9±0.08", "92.80±0.08"]


def test_the_same_experiment_has_the_same_figure_in_every_table_but_where_the_paper_contradicts_itself() -> None:
    """Settings and numbers of 31 files against each other: one wrong digit or setting shows here."""
    figures: dict[tuple[Any, ...], dict[str, set[float]]] = collections.defaultdict(dict)
    for table in published_tables():
        for p in table.parts:
            for row in p.rows:
                for column, number, experiment in zip(p.columns, row.numbers, row.experiments, strict=True):
                    if column.quantity == "accuracy" and experiment.measured_on != "difference":
                        if experiment.path == "unstated" and experiment.protocol == "active_learning":
                            continue
                        key = tuple(sorted((k, str(v)) for k, v in experiment.model_dump().items() if k != "path"))
                        figures[key].setdefault(table.number, set()).add(number.value)
    shared = {key: by for key, by in figures.items() if len(by) > 1}
    assert len(shared) == 325
    contradictions = collections.Counter(frozenset(by) for by in shared.values() if len(set.union(*by.values())) > 1)
    odd = {number for tables in contradictions for number in tables} - {"2", "3", "9", "18", "19", "22", "24", "26"}
    # 7, 28: 81.23 for T_sync = 1 at 10%, 81.02 in 3. 8: a hundredth or two from 3. 21: PruneFuse 82.68 to 93.69 for
    # 80.92 to 93.65, and its selector's accuracies differ from those of 8. 23: the baseline.
    assert odd == {"7", "8", "21", "23", "28"}
    assert sum(contradictions.values()) == 17


def test_every_acquisition_is_one_of_this_package() -> None:
    from prunefuse_bench.acquisition import ACQUISITIONS

    experiments = [e for t in published_tables() for p in t.parts for row in p.rows for e in row.experiments]
    assert {e.acquisition for e in experiments} <= set(ACQUISITIONS)
    assert {e.dataset for e in experiments} == {
        "CIFAR-10", "CIFAR-100", "CIFAR-10-C", "Tiny-ImageNet-200", "ImageNet-1K", "Amazon Review Polarity",
        "Amazon Review Full",
    }  # fmt: skip


def test_a_pruned_experiment_has_a_ratio() -> None:
    settings = {"dataset": "x", "network": "x", "epochs": 1, "acquisition": "x", "budget": 0.1}
    with pytest.raises(ValueError, match="ratio"):
        Experiment(**settings, selector="pruned")
    with pytest.raises(ValueError, match="extra"):
        Experiment(**settings, ratoi=0.5)


@pytest.mark.parametrize("number", ["0", "32", "9a", "two", ""])
def test_a_table_that_is_not_there(number: str) -> None:
    with pytest.raises(BadInput, match="expected a number from 1 to 31"):
        published_table(number)


# Runs beside it


def measured(
    method: str | dict[str, Any] = "al", *, seeds: int = 3, run: str = "run", **changes: Any
) -> MeasuredMethod:
    """A method measured as in the paper, but for the changes: dotted keys of its settings."""
    recipe = resolve_recipe(method, changes.get("protocol", "active_learning"))
    settings: dict[str, Any] = {
        "protocol": "active_learning",
        "task": {
            "dataset": {"name": "cifar10", "train_size": 50_000, "image": [3, 32, 32]},
            "model": {"name": "resnet56", "width": 1.0},
            "training": {
                "schedule": {"epochs": 181, "segments": PAPER_SEGMENTS, "min_steps": 0},
                "batch_size": 128, "momentum": 0.9, "weight_decay": 5e-4, "precision": "fp32",
                "augmentation": {"crop_padding": 4, "flip": True},
            },
            "label_counts": [1_000, 5_000, 10_000, 15_000, 20_000, 25_000],
        },
        "recipe": copy.deepcopy(recipe.settings()),
    }  # fmt: skip
    for path, value in changes.items():
        node, (*keys, last) = settings, path.split(".")
        for key in keys:
            node = node[key]
        node[last] = value
    task = settings["task"]
    rows = [
        {"budget": count / task["dataset"]["train_size"], "accuracy": 0.8 + seed / 100, "selector_accuracy": 0.7,
         "selector_paper_flops": 3e15}
        for seed in range(seeds)
        for count in task["label_counts"]
    ]  # fmt: skip
    model = task["model"]["name"]
    title = {"cifar10": "CIFAR-10"}.get(task["dataset"]["name"], "CIFAR-10 (JPEG), 10,000 of 50,000")
    return MeasuredMethod(Path(run), title, model, recipe.label, settings, seeds, pandas.DataFrame(rows))


def rows_beside(number: str, method: MeasuredMethod) -> list[tuple[str, ...]]:
    return [
        row.name
        for p in published_table(number).parts
        for row, lines in zip(p.rows, measured_lines(p, [method]), strict=True)
        if lines
    ]


def test_a_run_as_published_differs_in_nothing() -> None:
    lines = measured_lines(part("3", "CIFAR-10"), [measured()])
    assert [len(of_row) for of_row in lines] == [1] + 8 * [0]
    assert lines[0][0].differences == ()
    assert lines[0][0].cells == (*["81.00 ± 1.00"] * 5, *["0.3"] * 5)


@pytest.mark.parametrize(
    ("method", "number", "rows"),
    [
        ("svp", "3", ["SVP"]),
        ("bald", "3", ["BALD"]),
        ("alse", "3", ["ALSE"]),
        ("prunefuse", "3", ["PruneFuse (T_sync=0)"]),
        ({"method": "prunefuse", "sync_every": 2}, "3", ["PruneFuse (T_sync=2)"]),
        ({"method": "prunefuse", "sync_every": 1}, "3", ["PruneFuse (T_sync=1)"]),
        ("prunefuse+bald", "3", ["PruneFuse (T_sync=1) + BALD"]),
        ("prunefuse+alse", "3", ["PruneFuse (T_sync=0) + ALSE"]),
        ({"method": "prunefuse", "ratio": 0.7}, "2", ["PruneFuse p=0.7"]),
        ({"method": "prunefuse", "ratio": 0.7}, "3", []),
        ({"method": "prunefuse", "rest": "zero"}, "18", ["Zero initialization"]),
        ({"method": "prunefuse", "pruning": "dynamic"}, "18", []),
        ("random", "3", []),
        ("margin", "3", []),
    ],
)
def test_methods_are_beside_their_own_rows(method: Any, number: str, rows: list[str]) -> None:
    assert rows_beside(number, measured(method)) == [(row,) for row in rows]


@pytest.mark.parametrize("criterion", ["magnitude", "group_norm", "lamp"])
@pytest.mark.parametrize(("pruning", "sync_every"), [("static", 0), ("static", 1), ("dynamic", 0)])
def test_pruning_and_criterion_tell_rows_apart(pruning: str, criterion: str, sync_every: int) -> None:
    method = {"method": "prunefuse", "pruning": pruning, "criterion": criterion, "sync_every": sync_every}
    words = {"magnitude": "Magnitude Imp.", "group_norm": "GroupNorm Imp.", "lamp": "LAMP Imp."}[criterion]
    expected = [(f"PruneFuse (T_sync={sync_every})", f"{pruning.capitalize()} Pruning", words)]
    assert rows_beside("28", measured(method)) == expected


def test_a_run_that_stops_as_table_24_does_differs_in_nothing() -> None:
    stopping = {"after": 110, "patience": None, "holdout": 0.1, "selectors": False}
    method = measured("prunefuse", **{"task.training.stopping": stopping})
    whole, stopped = (of_row[0] for of_row in measured_lines(part("24", "CIFAR-10"), [method])[:2])
    said = "stopped after 110 epochs instead of not stopped early"
    assert set(whole.differences) - set(stopped.differences) == {said}
    assert all("epochs" not in difference for difference in stopped.differences)
    shrunk = measured("prunefuse", **{"task.training.schedule.epochs": 110})
    line = measured_lines(part("24", "CIFAR-10"), [shrunk])[1][0]
    assert {"110 epochs instead of 181", "not stopped early instead of stopped after 110 epochs"} <= {*line.differences}


def test_other_ways_of_pruning_are_said_beside_the_figure() -> None:
    method = {"method": "prunefuse", "pruning": "dynamic", "pruning_epochs": 6, "sparsity": "global", "round_to": 8}
    lines = [line for of_row in measured_lines(part("28", "CIFAR-10"), [measured(method)]) for line in of_row]
    said = "; ".join(lines[0].differences)
    assert "5 steps of pruning in 6 epochs instead of 5 in 20" in said
    assert "global sparsity" in said
    assert "multiples of 8" in said


def test_distillation_and_acquisition_tell_rows_apart() -> None:
    without = measured({"method": "prunefuse", "distil": False, "acquisition": "entropy"})
    assert ("PruneFuse p=0.5 (without KD)", "Entropy") in rows_beside("19", without)
    assert ("PruneFuse p=0.5 (with KD)", "Entropy") not in rows_beside("19", without)
    assert ("Baseline AL", "Random") in rows_beside("9", measured("random"))


def test_columns_of_metrics_are_filled_by_the_methods_of_one_run() -> None:
    changes = {"protocol": "coreset", "task.label_counts": [12_500, 25_000]}
    methods = [measured("entropy", **changes), measured("css", **changes)]
    lines = measured_lines(part("4", "CIFAR-10"), methods)
    assert [len(of_row) for of_row in lines] == [1, 0, 1, 0]
    assert lines[0][0].methods == ("entropy", "css")
    assert [cell is not None for cell in lines[0][0].cells] == [True, False, False, False, True]
    assert lines[0][0].differences == ()


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("task.model.name", "resnet14", "network resnet14 instead of resnet56"),
        ("task.training.schedule.epochs", 32, "32 epochs instead of 181"),
        ("task.training.schedule.min_steps", 200, "at least 200 optimisation steps"),
        ("task.training.schedule.segments", [[1, 0.5]], "other learning rates"),
        ("task.training.batch_size", 64, "batch size 64 instead of 128"),
        ("task.training.precision", "bf16", "precision bf16"),
        ("task.training.augmentation", {"crop_padding": 4, "flip": False}, "other augmentation"),
        ("task.dataset.image", [1, 28, 28], "images of 28x28x1 instead of 32x32x3"),
        ("task.dataset.name", "image-archive", "data CIFAR-10 (JPEG), 10,000 of 50,000 instead of CIFAR-10"),
        ("task.label_counts", [2_500, 5_000, 10_000], "so other steps from a start of 5%"),
        ("recipe.own_training", {"epochs": 200}, "the method's own training"),
        ("recipe.committee.augmented", True, "scores augmented images"),
    ],
)
def test_every_difference_is_said_beside_the_figure(path: str, value: object, said: str) -> None:
    (line,) = measured_lines(part("3", "CIFAR-10"), [measured(**{path: value})])[0]
    assert len(line.differences) == 1
    assert said in line.differences[0]


def test_a_smaller_pool_and_fewer_seeds_are_said() -> None:
    small = measured(seeds=1, **{"task.dataset.train_size": 10_000, "task.label_counts": [200, 1_000]})
    (line,) = measured_lines(part("3", "CIFAR-10"), [small])[0]
    assert line.differences == ("a pool of 10,000 images instead of 50,000", "1 seed instead of 3")
    assert line.cells[:2] == ("80.00", None)


@pytest.mark.parametrize(
    ("path", "value"),
    [("task.model.name", "vit"), ("task.dataset.name", "digits"), ("recipe.sync_every", 3), ("protocol", "coreset"),
     ("recipe.acquisition", "margin")],
)  # fmt: skip
def test_another_experiment_is_beside_no_cell_and_is_listed(path: str, value: object) -> None:
    method = measured()
    settings = copy.deepcopy(dict(method.settings))
    node, (*keys, last) = settings, path.split(".")
    for key in keys:
        node = node[key]
    node[last] = value
    other = MeasuredMethod(Path("mine"), "Digits", "m", "al", settings, 3, method.results)
    if path != "task.dataset.name":
        other = MeasuredMethod(Path("mine"), "CIFAR-10", "m", "al", settings, 3, method.results)
    tables = [published_table("3")]
    assert unmatched(tables, [method, other]) == [other]
    said = unmatched_notes(tables, [method, other])
    assert said[0].startswith("mine: al")
    assert len(said) == 2


def test_cifar_100_is_not_cifar_10() -> None:
    method = measured()
    settings = copy.deepcopy(dict(method.settings))
    settings["task"]["dataset"]["name"] = "image-archive"
    other = MeasuredMethod(Path("x"), "CIFAR-100 (JPEG)", "resnet56", "al", settings, 3, method.results)
    assert rows_beside("3", other) == []
    assert rows_beside("2", other) == [("Baseline (AL)",)]


def test_selectors_are_compared_with_selectors() -> None:
    lines = measured_lines(part("21", "CIFAR-10"), [measured("prunefuse")])
    assert lines[2][0].cells[0] == "70.00 ± 0.00"
    assert lines[3][0].cells[0] == "81.00 ± 1.00"


def test_figures_that_cannot_be_compared_have_no_run_beside_them_and_say_why() -> None:
    assert rows_beside("17", measured()) == []
    (sheet,) = table_sheets(published_table("17"), [measured()])
    assert any("No run is set beside these figures: in-distribution accuracies" in note for note in sheet.notes)


def test_a_seed_that_is_missing_is_said() -> None:
    method = measured()
    whole = method.results
    short = MeasuredMethod(method.run, method.title, method.model, "al", method.settings, 3, whole.iloc[:12])
    (line,) = measured_lines(part("3", "CIFAR-10"), [short])[0]
    assert line.cells[0] == "80.50 ± 0.71 (2 of 3 seeds)"


# What is printed and written


def test_sheets_are_rectangles() -> None:
    methods = [measured(), measured("prunefuse")]
    for sheet in [
        overview(published_tables(), methods),
        *(s for t in published_tables() for s in table_sheets(t, methods)),
    ]:
        assert all(len(line.cells) == len(sheet.columns) for line in sheet.lines), sheet.title


def test_names_mean_nothing_to_markdown_or_html(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script> | *x* & [y](z)"
    method = measured({"method": "al", "label": evil}, run=f"runs/{evil}")
    stray = measured({"method": "margin", "label": evil}, run="runs/stray")
    write_report([published_table("3")], [method, stray], tmp_path)
    page = (tmp_path / "paper.html").read_text()
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 3  # the line, its note, and what is beside no cell
    text = (tmp_path / "paper.md").read_text()
    assert "<script" not in text.replace("\\<script", "")
    assert "| measured: \\<script\\>alert(1)\\</script\\> \\| \\*x\\* &amp; \\[y\\](z)" in text


def test_markdown_keeps_the_published_and_the_recomputed_apart(tmp_path: Path) -> None:
    text = markdown(table_sheets(published_table("3"), [measured()]), [], [])
    assert "| **Baseline (AL)** | 0.85 M | 80.53±0.20 |" in text
    assert "| measured: al \\[1\\] |  | 81.00 ± 1.00 |" in text
    assert "| rule, P | 855,770 | 0.311 (+0.4% r) |" in text
    assert "three quantities" in text


def test_figures_are_written_and_the_same_each_time(tmp_path: Path) -> None:
    tables = [published_table("2"), published_table("3")]
    first = write_report(tables, [], tmp_path / "a")
    write_report(tables, [], tmp_path / "b")
    assert {file.name for file in first} == {"paper.md", "paper.html", "rule.svg", "accuracy.svg"}
    for name in ("rule.svg", "accuracy.svg"):
        assert (tmp_path / "a" / "figures" / name).read_bytes() == (tmp_path / "b" / "figures" / name).read_bytes()
        assert f"figures/{name}" in (tmp_path / "a" / "paper.html").read_text()


def test_the_command_lists_all_tables(run_cli: RunCli) -> None:
    code, printed, errors = run_cli("paper")
    assert code == 0, errors
    for words in ("31", "Which components", "94 of 100 cells", "44 of 45 cells", "minutes of other"):
        assert words in printed


def test_the_command_prints_a_table(run_cli: RunCli) -> None:
    code, printed, errors = run_cli("paper", "--table", "3", "--table", "1")
    assert code == 0, errors
    for words in ("Baseline (AL)", "80.53±0.20", "14.665 (+0.0%)", "T_sync = 2", "110", "3.77", "Holds no numbers"):
        assert words in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--table", "32"), "expected a number from 1 to 31"),
        (("--table", "9a"), "without a letter"),
        (("--runs", "nowhere"), "expected the folder of a run"),
        (("--merge", "nowhere.zip"), "none of the 1 files can be used"),
    ],
)
def test_bad_input_of_the_command(
    arguments: tuple[str, ...], message: str, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, printed, errors = run_cli("paper", *arguments, "--out", "report")
    assert code == 2
    assert message in errors
    assert "Traceback" not in errors + printed
    assert not list(tmp_path.iterdir()), "something was written before the error"


def test_an_out_that_is_a_file(run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    code, _, errors = run_cli("paper", "--table", "3", "--out", tmp_path / "file")
    assert code == 2
    assert "expected a folder" in errors


def test_a_real_run_beside_the_paper(
    image_files: dict[str, bytes],
    make_zip: Callable[[dict[str, bytes]], Path],
    tiny: Path,
    tmp_path: Path,
    run_cli: RunCli,
) -> None:
    changes = [
        "task.dataset.name=image-archive", f"task.dataset.path={make_zip(image_files)}",
        "task.dataset.title=CIFAR-10 (toy)", "task.budgets=[2, 4, 8]", "recipes=[al, random]",
    ]  # fmt: skip
    options = [word for change in changes for word in ("--set", change)]
    code, _, errors = run_cli("run", tiny, "--out", tmp_path / "run", *options)
    assert code == 0, errors
    code, _, errors = run_cli("paper", "--table", "3", "--runs", tmp_path / "run", "--out", tmp_path / "report")
    assert code == 0, errors
    text = (tmp_path / "report" / "paper.md").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("| measured: al")]
    results = pandas.read_csv(tmp_path / "run" / "leaderboard.csv")
    at_10 = results[(results["method"] == "al") & (results["labels"] == 4)]
    assert f"| {100 * at_10['accuracy'].iloc[0]:.2f} |" in line
    for words in ("data CIFAR-10 (toy) instead of CIFAR-10", "a pool of 40 images", "network resnet8", "1 epochs"):
        assert words in text
    assert ": random (CIFAR-10 (toy)" in text

    run_cli("submit", tmp_path / "run", "--out", tmp_path / "sent.zip")
    (tmp_path / "broken.zip").write_bytes(b"not a zip")
    files = ("--merge", tmp_path / "sent.zip", "--merge", tmp_path / "broken.zip")
    code, printed, _ = run_cli("paper", "--table", "3", *files, "--out", tmp_path / "theirs")
    assert code == 1, "a file was refused"
    assert "refused:" in printed
    assert "/run: " in text
    assert (tmp_path / "theirs" / "paper.md").read_text() == text.replace("/run: ", "/sent.zip: ")
