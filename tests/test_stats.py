"""Statistics against SciPy, against brute force, and on boards whose truth is known."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from prunefuse_bench.errors import BadInput
from prunefuse_bench.stats import (
    FEWEST_FOR_BOOTSTRAP,
    compare,
    cost_savings,
    curve_areas,
    estimate,
    holm,
    label_savings,
    smallest_difference,
    summarise,
)
from prunefuse_bench.stats.paired import bootstrap_intervals, resampled_blocks, signed_rank_tests, t_tests
from prunefuse_bench.stats.ranking import mean_rank_intervals, ranks_in_blocks

Floats = npt.NDArray[np.float64]

BOARDS = 1000
LABELS = (100, 200, 300, 400)
STRAIGHT = np.asarray(LABELS) / 1000
"""An accuracy that grows by the same amount with every label."""


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    """A warning of NumPy or SciPy is a number that nobody should print."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def board(values_M_B: Any, names: Sequence[str] | None = None) -> pandas.DataFrame:
    """What compare() takes, with blocks as the pages make them; NaN where a cell is missing."""
    values = np.asarray(values_M_B, dtype=np.float64)
    names = names or [f"method {m:02d}" for m in range(len(values))]
    return pandas.DataFrame(
        [(("run", b), names[m], values[m, b]) for m in range(len(values)) for b in range(values.shape[1])],
        columns=["block", "method", "value"],
    )


def results(accuracy: dict[str, Any], labels: Sequence[int] = LABELS, run: str = "run") -> pandas.DataFrame:
    """A frame of load_results: accuracy [S, L] of each method; a row of NaN is a cell that failed."""
    rows: list[dict[str, Any]] = []
    for method, table in accuracy.items():
        for seed, line in enumerate(np.asarray(table, dtype=np.float64)):
            cell = {"run": run, "method": method, "seed": seed}
            reached = [(count, value) for count, value in zip(labels, line, strict=True) if not np.isnan(value)]
            rows += [
                {**cell, "labels": count, "budget": count / 1000, "accuracy": value, "total_seconds": 10.0 * count}
                for count, value in reached
            ] or [cell]
    columns = ["run", "method", "seed", "labels", "budget", "accuracy", "total_seconds"]
    return pandas.DataFrame(rows, columns=columns)


def covered(low: Any, high: Any, truth: float = 0.0) -> float:
    return float(np.mean((np.asarray(low) <= truth) & (truth <= np.asarray(high))))


def sign_flips(differences: Floats, statistic: Callable[[Floats], Floats]) -> float:
    """Two-sided p by counting: the share of all 2^n signs that give a statistic as far from zero."""
    signs = np.asarray(list(itertools.product([-1.0, 1.0], repeat=len(differences))))
    observed = abs(statistic(differences[None])[0])
    return float(np.mean(np.abs(statistic(signs * np.abs(differences))) >= observed - 1e-12))


def signed_rank_sum(differences_K_N: Floats) -> Floats:
    ranks = scipy.stats.rankdata(np.abs(differences_K_N), axis=1)
    total: Floats = (np.sign(differences_K_N) * ranks).sum(axis=1)
    return total


def drawn(seed: int, *shape: int) -> Floats:
    return np.random.default_rng(seed).normal(size=shape)


@st.composite
def boards(draw: st.DrawFn) -> Floats:
    """Values [M, B] in whole twentieths of one (accuracies of 20 images: many ties) or of any size; some missing."""
    methods, blocks = draw(st.integers(2, 6)), draw(st.integers(1, 9))
    generator = np.random.default_rng(draw(st.integers(0, 10_000)))
    values = generator.normal(0.5, 0.1, size=(methods, blocks))
    if draw(st.booleans()):
        values = np.round(values * 20) / 20
    values[generator.random(values.shape) < draw(st.sampled_from([0.0, 0.0, 0.2, 0.6]))] = np.nan
    return values


# Estimates


def test_the_interval_of_a_mean_is_scipys() -> None:
    values = drawn(0, 7)
    found = estimate(values)
    interval = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-12)
    assert (found.mean, found.deviation) == pytest.approx((values.mean(), values.std(ddof=1)))
    wide, narrow = estimate(values, 0.99), estimate(values, 0.5)
    assert float(wide.low or 0) < float(found.low or 0) < float(narrow.low or 0)


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_intervals_of_means_hold_the_truth_on_95_of_100_boards(seeds: int) -> None:
    found = [estimate(values) for values in 0.9 + 0.01 * drawn(seeds, BOARDS, seeds)]
    assert 0.93 <= covered([e.low for e in found], [e.high for e in found], 0.9) <= 0.97


def test_one_value_has_no_interval_and_none_has_no_mean() -> None:
    one = estimate([0.5, math.nan])
    assert (one.mean, one.deviation, one.low, one.high, one.count) == (0.5, None, None, None, 1)
    none = estimate([math.nan])
    assert math.isnan(none.mean)
    assert (none.deviation, none.low, none.high, none.count) == (None, None, None, 0)


def test_equal_values_have_no_spread_to_the_last_bit() -> None:
    found = estimate([0.1] * 3)
    assert (found.mean, found.deviation, found.low, found.high) == (0.1, 0.0, 0.1, 0.1)


@pytest.mark.parametrize(("values", "confidence"), [([math.inf], 0.95), ([1.0], 0.0), ([1.0], 95.0)])
def test_what_cannot_be_estimated_is_refused(values: list[float], confidence: float) -> None:
    with pytest.raises(BadInput, match="expected"):
        estimate(values, confidence)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8), st.randoms(use_true_random=False))
def test_the_order_of_values_does_not_matter(values: list[float], random: Any) -> None:
    shuffled = random.sample(values, len(values))
    assert estimate(shuffled) == estimate(values)


# Summaries and areas


def test_a_budget_that_a_method_did_not_reach_is_counted_against_it() -> None:
    table = [[0.5, 0.6], [0.7, math.nan], [math.nan, math.nan]]
    summary = summarise(results({"al": table, "never": [[math.nan, math.nan]]}, labels=[10, 20]))
    assert summary[["method", "labels", "count", "expected"]].to_numpy().tolist() == [
        ["al", 10, 2, 3],
        ["al", 20, 1, 3],
        ["never", 10, 0, 1],
        ["never", 20, 0, 1],
    ]
    assert summary["mean"].tolist() == pytest.approx([0.6, 0.6, math.nan, math.nan], nan_ok=True)
    assert summary["low"].isna().tolist() == [False, True, True, True]


def test_the_area_is_the_average_accuracy_over_the_budgets() -> None:
    areas = curve_areas(results({"al": [[0.5, 0.7, 0.7], [0.5, math.nan, 0.7]]}, labels=[100, 200, 400]))
    assert areas["area"].tolist() == pytest.approx([(0.6 * 100 + 0.7 * 200) / 300, math.nan], nan_ok=True)
    one_budget = curve_areas(results({"al": [[0.5]]}, labels=[100]))
    assert one_budget["area"].tolist() == [0.5]


def test_no_result_at_all_is_an_empty_frame_and_not_an_error() -> None:
    nothing = results({"al": [[math.nan] * 4]})
    assert len(summarise(nothing)) == len(label_savings(nothing)) == len(cost_savings(nothing)) == 0
    assert curve_areas(nothing)["area"].isna().tolist() == [True]
    empty = nothing.iloc[:0]
    assert [len(f(empty)) for f in (summarise, curve_areas, label_savings, cost_savings)] == [0, 0, 0, 0]


def test_a_run_given_twice_is_refused() -> None:
    once = results({"al": [[0.1, 0.2, 0.3, 0.4]]})
    twice = pandas.concat([once, once])
    for statistic in (summarise, curve_areas, label_savings, cost_savings):
        with pytest.raises(BadInput, match="given twice"):
            statistic(twice)


@given(st.integers(0, 1000), st.randoms(use_true_random=False))
@settings(max_examples=10, deadline=None)
def test_the_order_of_rows_changes_no_figure(seed: int, random: Any) -> None:
    tables = 0.7 + 0.05 * drawn(seed, 3, 4, 4)
    tables[0, 1, 2:] = np.nan
    tables[2, 3] = np.nan
    frame = results(dict(zip(["random", "al", "<b>"], tables, strict=True)))
    shuffled = frame.iloc[random.sample(range(len(frame)), len(frame))]
    for statistic in (summarise, curve_areas, label_savings, cost_savings):
        assert_frame_equal(statistic(shuffled), statistic(frame), check_exact=True)


# Tests of pairs


def test_p_and_interval_are_those_of_scipys_paired_t_test() -> None:
    one, other = drawn(1, 2, 6)
    (p,), (low,), (high,) = t_tests((one - other)[None])
    expected = scipy.stats.ttest_rel(one, other)
    interval = expected.confidence_interval(0.95)
    assert (p, low, high) == pytest.approx((expected.pvalue, interval.low, interval.high), rel=1e-12)


def test_p_of_the_t_test_is_near_that_of_all_sign_flips() -> None:
    differences = drawn(2, 200, 10) + np.linspace(0, 1.5, 200)[:, None]
    p, brute = t_tests(differences)[0], [sign_flips(row, lambda flipped: flipped.mean(axis=1)) for row in differences]
    assert np.median(np.abs(p - brute)) < 0.005
    assert np.mean((p <= 0.05) == (np.asarray(brute) <= 0.05)) >= 0.95


def test_equal_differences_are_judged_by_their_signs_alone() -> None:
    for blocks in range(2, 9):
        (p,), (low,), (high,) = t_tests(np.full((1, blocks), 1 / 360))
        assert p == sign_flips(np.full(blocks, 1 / 360), lambda flipped: flipped.sum(axis=1))
        assert np.isnan([low, high]).all()


def test_signed_ranks_without_ties_are_scipys() -> None:
    differences = drawn(3, 30, 9) + 0.3
    expected = [scipy.stats.wilcoxon(row, method="exact").pvalue for row in differences]
    assert signed_rank_tests(differences) == pytest.approx(expected, rel=1e-12)


def test_signed_ranks_with_ties_and_zeros_are_those_of_all_sign_flips() -> None:
    differences = np.round(2 * drawn(4, 60, 9) + 0.5)
    found = signed_rank_tests(differences)
    for row, p in zip(differences, found, strict=True):
        non_zero = row[row != 0]
        if len(non_zero) < 6:
            assert math.isnan(p)
        else:
            assert p == pytest.approx(sign_flips(non_zero, signed_rank_sum), rel=1e-12)
    assert np.isfinite(found).sum() > 30


def test_five_blocks_cannot_reach_5_percent_by_ranks_and_six_can() -> None:
    assert math.isnan(signed_rank_tests(np.arange(1.0, 6.0)[None])[0])
    assert signed_rank_tests(np.arange(1.0, 7.0)[None])[0] == 2 / 2**6


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_closed_testing_with_bonferroni(p: list[float]) -> None:
    families = [family for size in range(1, len(p) + 1) for family in itertools.combinations(range(len(p)), size)]
    closed = [max(min(1.0, len(f) * min(p[m] for m in f)) for f in families if member in f) for member in range(len(p))]
    assert holm(p) == pytest.approx(closed)


@given(st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), max_size=30))
def test_holm_never_lowers_p_and_keeps_its_order(p: list[float]) -> None:
    adjusted, given_ = holm(p), np.asarray(p, dtype=np.float64)
    known = ~np.isnan(given_)
    assert (np.isnan(adjusted) == ~known).all()
    assert (adjusted[known] >= given_[known]).all()
    assert (adjusted[known] <= 1).all()
    assert (np.diff(adjusted[known][np.argsort(given_[known])]) >= 0).all()


# Intervals and errors on boards of known truth


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_intervals_of_differences_hold_the_truth_on_95_of_100_boards(seeds: int) -> None:
    _, low, high = t_tests(0.02 + 0.01 * drawn(10 + seeds, BOARDS, seeds))
    assert 0.93 <= covered(low, high, 0.02) <= 0.97


@pytest.mark.parametrize("seeds", [FEWEST_FOR_BOOTSTRAP, 10, 20])
def test_bootstrap_intervals_hold_the_truth_on_95_of_100_boards(seeds: int) -> None:
    low, high = bootstrap_intervals(0.02 + 0.01 * drawn(20 + seeds, BOARDS, seeds))
    assert 0.93 <= covered(low, high, 0.02) <= 0.97


def test_bootstrap_intervals_hold_where_differences_are_skewed_and_the_t_test_does_not() -> None:
    skewed = np.random.default_rng(0).exponential(size=(BOARDS, 10)) - 1
    assert covered(*bootstrap_intervals(skewed)) >= 0.93
    assert covered(*t_tests(skewed)[1:]) < 0.92


def test_below_its_fewest_blocks_the_bootstrap_says_nothing() -> None:
    low, high = bootstrap_intervals(drawn(5, 3, FEWEST_FOR_BOOTSTRAP - 1))
    assert np.isnan([low, high]).all()


def test_bootstrap_intervals_are_those_of_one_resample_at_a_time() -> None:
    differences = drawn(6, 9)
    counts = resampled_blocks(9)
    assert (counts.sum(axis=1) == 9).all()
    t = []
    for count in counts:
        resample = np.repeat(differences, count.astype(int))
        t.append((resample.mean() - differences.mean()) / (resample.std(ddof=1) / 3))
    low, high = np.quantile(t, [0.025, 0.975], method="inverted_cdf")
    error = differences.std(ddof=1) / 3
    found = [end[0] for end in bootstrap_intervals(differences[None])]
    assert found == pytest.approx([differences.mean() - high * error, differences.mean() - low * error], rel=1e-9)


def test_two_identical_methods_are_called_different_on_at_most_5_of_100_boards() -> None:
    claims = [compare(board(values)).pairs["different"].any() for values in drawn(30, BOARDS, 2, 5)]
    # 5% and twice the standard error of a share of 1,000 boards.
    assert 0.03 <= np.mean(claims) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / BOARDS)


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_of_eight_identical_methods_two_pass_holm_on_at_most_5_of_100_boards(seeds: int) -> None:
    values = drawn(32 + seeds, 4 * BOARDS, 8, seeds)
    one, other = np.triu_indices(8, 1)
    p, _, _ = t_tests((values[:, one] - values[:, other]).reshape(-1, seeds))
    claims = [(holm(of_board) <= 0.05).any() for of_board in p.reshape(-1, 28)]
    # 10,000 boards: 4.7, 4.7 and 4.5%.
    assert 0.03 <= np.mean(claims) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / len(claims))


@pytest.mark.slow
def test_of_eight_identical_methods_any_two_are_called_different_on_at_most_5_of_100_boards() -> None:
    found = [compare(board(values)) for values in drawn(31, BOARDS, 8, 5)]
    claims = [comparisons.pairs["different"].any() for comparisons in found]
    assert 0.01 <= np.mean(claims) <= 0.05
    # Without the correction it would be half of them.
    assert np.mean([(comparisons.pairs["p_t"] <= 0.05).any() for comparisons in found]) > 0.3


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
@pytest.mark.parametrize("images", [0.5, 1.5, 5.0])
def test_accuracies_on_few_images_claim_no_more(seeds: int, images: float) -> None:
    """Counts of right images that scatter by so many: differences are often equal, and their spread then zero."""
    counts = np.rint(300 + images * drawn(seeds, 20 * BOARDS, 2, seeds))
    differences = counts[:, 0] - counts[:, 1]
    assert np.mean(t_tests(differences)[0] <= 0.05) <= 0.055
    if (seeds, images) == (2, 1.5):
        alike = (np.ptp(differences, axis=1) == 0) & (differences[:, 0] != 0)
        assert np.mean(alike) > 0.08  # what a t-test that takes no spread for certainty would claim


@pytest.mark.parametrize(("methods", "seeds"), [(2, 3), (2, 5), (8, 5), (8, 10), (40, 3)])
def test_the_smallest_difference_is_found_on_80_of_100_boards(methods: int, seeds: int) -> None:
    comparisons = methods * (methods - 1) // 2
    difference = smallest_difference(0.01, seeds, comparisons)
    assert difference is not None
    p, _, _ = t_tests(difference + 0.01 * drawn(40 + methods + seeds, 4 * BOARDS, seeds))
    assert np.mean(p <= 0.05 / comparisons) == pytest.approx(0.8, abs=0.02)


def test_a_difference_of_the_smallest_size_is_called_different_on_80_of_100_boards() -> None:
    difference = smallest_difference(math.sqrt(2), 5)
    assert difference is not None
    values = drawn(50, 100, 2, 5) + np.asarray([difference, 0.0])[:, None]
    found = [compare(board(v)) for v in values]
    assert np.mean([f.pairs["different"].all() for f in found]) == pytest.approx(0.8, abs=0.08)
    reported = np.asarray([f.smallest_difference for f in found], dtype=np.float64)
    # From the spread of the same few blocks: right on average (of squares), not on each board.
    assert math.sqrt(np.mean(reported**2)) == pytest.approx(difference, rel=0.1)


@pytest.mark.parametrize("blocks", [3, 5, 20, 100])
@pytest.mark.parametrize("comparisons", [1, 28])
def test_the_smallest_difference_has_the_power_that_scipys_noncentral_t_gives_it(blocks: int, comparisons: int) -> None:
    difference = smallest_difference(1.0, blocks, comparisons)
    assert difference is not None
    critical = scipy.stats.t.isf(0.025 / comparisons, blocks - 1)
    with np.errstate(all="ignore"):
        power = scipy.stats.nct.sf(critical, blocks - 1, difference * math.sqrt(blocks))
    assert power == pytest.approx(0.8, abs=1e-5)


def test_the_smallest_difference_shrinks_with_seeds_and_grows_with_methods() -> None:
    by_seeds = [smallest_difference(0.01, seeds) for seeds in (2, 3, 5, 10, 100)]
    by_methods = [smallest_difference(0.01, 5, comparisons) for comparisons in (1, 3, 28, 780, 4950)]
    assert by_seeds == sorted(by_seeds, key=float, reverse=True)
    assert by_methods == sorted(by_methods, key=float)
    # With many seeds, that of the normal distribution.
    expected = (scipy.stats.norm.ppf(0.975) + scipy.stats.norm.ppf(0.8)) * 0.01 / math.sqrt(1000)
    assert smallest_difference(0.01, 1000) == pytest.approx(expected, rel=0.003)


@pytest.mark.parametrize(
    ("deviation", "blocks", "comparisons"), [(0.0, 5, 1), (0.1, 1, 1), (0.1, 5, 0), (math.nan, 5, 1)]
)
def test_there_may_be_no_smallest_difference(deviation: float, blocks: int, comparisons: int) -> None:
    assert smallest_difference(deviation, blocks, comparisons) is None


def test_true_places_are_in_the_places_given_on_at_least_95_of_100_boards() -> None:
    means = np.asarray([0.0, 0.3, 0.6, 3.0, 6.0])
    right = []
    for values in means[:, None] + drawn(60, 100, 5, 5):
        ranks = compare(board(values)).ranks.sort_values("method")
        truth = np.arange(5, 0, -1)
        right.append(((ranks["place_low"] <= truth) & (truth <= ranks["place_high"])).all())
    assert np.mean(right) >= 0.95


# The page that explains it


PAGE = Path(__file__).parents[1] / "docs" / "statistics.md"


def test_the_pages_table_of_smallest_differences_is_right() -> None:
    lines = [line.strip("| \n").split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    heading = next(position for position, line in enumerate(lines) if line[0] == "methods (pairs)")
    seeds = [int(cell.split()[0]) for cell in lines[heading][1:]]
    assert seeds == [2, 3, 5, 10, 20]
    for methods, *cells in lines[heading + 1 : heading + 6]:
        pairs = int(methods.split("(")[1].rstrip(")"))
        expected = [smallest_difference(1.0, count, pairs) for count in seeds]
        assert [float(cell.replace(",", "")) for cell in cells] == pytest.approx(expected, rel=0.05)


def test_the_pages_example_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = results({"al": STRAIGHT + 0.01 * drawn(61, 3, 4), "random": STRAIGHT + 0.01 * drawn(62, 3, 4)})
    monkeypatch.setattr("prunefuse_bench.load_results", lambda _: frame)
    names: dict[str, Any] = {}
    exec(PAGE.read_text().split("```python")[1].split("```")[0], names)
    assert len(names["board"].pairs) == 1


# Boards


def test_a_board_of_three_worked_by_hand() -> None:
    values = [[0.9, 0.8, 0.85, 0.7], [0.8, 0.69, 0.76, 0.6], [0.9, 0.79, 0.85, 0.71]]
    found = compare(board(values, ["pf", "random", "al"]))
    pairs = found.pairs.set_index(["one", "other"])
    assert list(pairs.index) == [("al", "pf"), ("al", "random"), ("pf", "random")]
    assert pairs.loc[("al", "pf"), ["wins", "ties", "losses"]].tolist() == [1, 2, 1]
    assert pairs["difference"].tolist() == pytest.approx([0.0, 0.1, 0.1])
    assert pairs["different"].tolist() == [False, True, True]
    assert pairs["pairs"].tolist() == [4, 4, 4]
    assert found.ranks["rank"].tolist() == [1.5, 1.5, 3.0]
    assert found.ranks["method"].tolist() == ["al", "pf", "random"]
    assert found.ranks[["place_low", "place_high"]].to_numpy().tolist() == [[1, 2], [1, 2], [3, 3]]
    assert (found.best, found.inseparable, found.incomplete) == ("al", ("al", "pf"), ())
    variances = [np.var(np.subtract(one, other), ddof=1) for one, other in itertools.combinations(values, 2)]
    assert found.smallest_difference == pytest.approx(smallest_difference(math.sqrt(np.mean(variances)), 4, 3))


def test_figures_of_a_pair_are_those_of_the_tests_on_its_blocks() -> None:
    values = drawn(70, 4, 10)
    values[1, 2] = values[3, :3] = np.nan
    for row in compare(board(values)).pairs.to_dict(orient="records"):
        one, other = (values[int(row[side][-2:])] for side in ("one", "other"))
        common = one - other
        common = common[~np.isnan(common)]
        expected = scipy.stats.ttest_1samp(common, 0)
        assert row["pairs"] == len(common)
        assert row["difference"] == pytest.approx(common.mean())
        assert row["p_t"] == pytest.approx(expected.pvalue)
        assert row["low"] == pytest.approx(expected.confidence_interval().low)
        assert row["p_wilcoxon"] == pytest.approx(scipy.stats.wilcoxon(common, method="exact").pvalue)
        assert math.isnan(row["bootstrap_low"]) == (len(common) < FEWEST_FOR_BOOTSTRAP)
        if len(common) >= FEWEST_FOR_BOOTSTRAP:
            assert row["bootstrap_high"] == pytest.approx(bootstrap_intervals(common[None])[1][0], rel=1e-6)


def test_identical_bits_are_not_different() -> None:
    for blocks in (1, 2, 3, 10):
        found = compare(board(np.tile(drawn(71, blocks), (3, 1))))
        assert (found.pairs[["p_t", "p_adjusted", "p_wilcoxon"]] == 1).all(axis=None)
        assert not found.pairs["different"].any()
        assert (found.pairs["ties"] == blocks).all()
        assert found.smallest_difference is None
        assert len(found.inseparable) == 3
        if blocks > 1:
            assert (found.pairs[["difference", "low", "high"]] == 0).all(axis=None)


def test_differences_that_only_rounding_tells_apart_are_ties() -> None:
    # 0.7 - 0.6 and 0.4 - 0.3 differ in the last bit, and so would 3 of them have a spread.
    found = compare(board([[0.7, 0.4, 0.9], [0.6, 0.3, 0.8]]))
    assert found.pairs["p_t"].tolist() == [0.25]
    assert not found.pairs["different"].any()


def test_one_seed_shows_nothing() -> None:
    found = compare(board([[0.9], [0.1], [0.5]], ["al", "random", "pf"]))
    unknown = ["low", "high", "bootstrap_low", "bootstrap_high", "p_t", "p_wilcoxon", "p_adjusted"]
    assert found.pairs[unknown].isna().all(axis=None)
    assert not found.pairs["different"].any()
    assert found.smallest_difference is None
    assert (found.best, found.inseparable) == ("al", ("al", "pf", "random"))
    assert found.ranks[["place_low", "place_high"]].to_numpy().tolist() == [[1, 3]] * 3


def test_missing_cells_are_counted_against() -> None:
    # The method that failed on two seeds is the best on those that it has.
    values = [[0.99, 0.98, math.nan, math.nan, 0.99], [0.8, 0.81, 0.83, 0.82, 0.8], [0.7, 0.72, 0.71, 0.7, 0.7]]
    found = compare(board(values, ["failing", "sound", "random"]))
    assert found.incomplete == ("failing",)
    assert found.ranks.set_index("method").loc["failing", ["rank", "blocks"]].tolist() == [(3 + 2 * 3) / 5, 3]
    assert (found.best, found.inseparable) == ("sound", ("sound",))
    pair = found.pairs.set_index(["one", "other"]).loc[("failing", "random")]
    assert (pair["pairs"], pair["different"]) == (3, True)


def test_a_method_without_any_value_is_last_and_not_the_equal_of_the_best() -> None:
    found = compare(board([[0.5, 0.6, 0.7], [math.nan] * 3, [0.5, 0.6, 0.6]], ["al", "never", "random"]))
    assert found.ranks["method"].tolist() == ["al", "random", "never"]
    assert found.ranks["rank"].tolist()[2] == 3.0
    assert (found.incomplete, found.inseparable) == (("never",), ("al", "random"))


def test_a_block_that_nobody_has_is_missing_for_all_and_changes_nothing_else() -> None:
    values = drawn(72, 3, 5)
    without, with_it = compare(board(values)), compare(board(np.column_stack([values, [math.nan] * 3])))
    assert len(with_it.incomplete) == 3
    assert_frame_equal(with_it.pairs, without.pairs)
    assert_frame_equal(with_it.ranks, without.ranks)
    assert with_it.inseparable == without.inseparable


def test_a_row_that_is_absent_is_a_missing_value() -> None:
    values = drawn(73, 3, 5)
    values[0, 1] = np.nan
    frame = board(values)
    assert_frame_equal(compare(frame.dropna()).pairs, compare(frame).pairs)
    assert compare(frame.dropna()).incomplete == ("method 00",)


@pytest.mark.parametrize("methods", [0, 1])
def test_boards_with_nothing_to_compare(methods: int) -> None:
    found = compare(board(drawn(74, methods, 3)))
    assert len(found.pairs) == 0
    assert len(found.ranks) == methods
    assert found.best == (None, "method 00")[methods]
    assert found.smallest_difference is None


def test_a_board_without_any_value_has_no_best() -> None:
    found = compare(board([[math.nan], [math.nan]]))
    assert (found.best, found.inseparable, len(found.incomplete)) == (None, (), 2)


def test_values_that_cannot_be_compared_are_refused_by_name() -> None:
    good = board([[0.1, 0.2], [0.3, 0.4]], ["al", "random"])
    with pytest.raises(BadInput, match="no column"):
        compare(good.drop(columns="block"))
    with pytest.raises(BadInput, match="random is infinite"):
        compare(board([[0.1, 0.2], [0.3, math.inf]], ["al", "random"]))
    with pytest.raises(BadInput, match=r"two values for random in block \('run', 1\)"):
        compare(pandas.concat([good, good.tail(1)]))


def test_names_are_only_names() -> None:
    names = ["<script>alert(1)</script>", "'; DROP TABLE", "🦊" * 300]
    found = compare(board(drawn(75, 3, 5), names))
    assert sorted(found.ranks["method"]) == sorted(names)


@given(boards(), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_the_order_of_cells_changes_no_figure(values: Floats, random: Any) -> None:
    frame = board(values)
    found = compare(frame)
    resampled_blocks.cache_clear()
    again = compare(frame.iloc[random.sample(range(len(frame)), len(frame))])
    assert_frame_equal(again.pairs, found.pairs, check_exact=True)
    assert_frame_equal(again.ranks, found.ranks, check_exact=True)
    assert (again.best, again.inseparable, again.smallest_difference, again.incomplete) == (
        found.best, found.inseparable, found.smallest_difference, found.incomplete,
    )  # fmt: skip


@given(boards(), st.integers(-3, 7))
@settings(max_examples=30, deadline=None)
def test_percent_or_share_is_the_same_to_every_test(values: Floats, power: int) -> None:
    scale = 2.0**power
    found, scaled = compare(board(values)), compare(board(scale * values))
    in_units = ["difference", "low", "high", "bootstrap_low", "bootstrap_high"]
    assert_frame_equal(scaled.pairs.drop(columns=in_units), found.pairs.drop(columns=in_units))
    assert_frame_equal(scaled.pairs[in_units], scale * found.pairs[in_units])
    assert_frame_equal(scaled.ranks, found.ranks)


@given(boards())
@settings(max_examples=30, deadline=None)
def test_figures_of_a_board_hang_together(values: Floats) -> None:
    found = compare(board(values))
    pairs, ranks = found.pairs, found.ranks
    methods = len(values)
    assert len(pairs) == methods * (methods - 1) // 2
    assert (pairs["wins"] + pairs["ties"] + pairs["losses"] == pairs["pairs"]).all()
    assert not (pairs["p_adjusted"] < pairs["p_t"]).any()
    assert (pairs["different"] == (pairs["p_adjusted"] <= 0.05)).all()
    known = pairs.dropna(subset=["low"])
    assert ((known["low"] <= known["difference"]) & (known["difference"] <= known["high"])).all()
    judged = known[known["pairs"] >= 2]
    # An interval that holds zero is a test that does not reject, and the other way round.
    assert (((judged["low"] > 0) | (judged["high"] < 0)) == (judged["p_t"] < 0.05)).all()
    if found.best is not None:
        assert ranks["rank"].sum() == pytest.approx(methods * (methods + 1) / 2)
        assert found.inseparable[0] == found.best
    assert set(found.incomplete) == {f"method {m:02d}" for m in np.flatnonzero(np.isnan(values).any(axis=1))}
    assert ((ranks["place_low"] >= 1) & (ranks["place_high"] <= methods)).all()


def test_the_other_way_round_is_the_opposite() -> None:
    values = drawn(76, 2, 10)
    there = compare(board(values, ["a", "b"])).pairs.iloc[0]
    back = compare(board(values, ["b", "a"])).pairs.iloc[0]
    assert (there["difference"], there["low"], there["wins"]) == (-back["difference"], -back["high"], back["losses"])
    assert there["p_t"] == pytest.approx(back["p_t"])
    assert there["p_wilcoxon"] == pytest.approx(back["p_wilcoxon"])


def test_what_is_missing_ranks_last_below_any_value() -> None:
    ranks = ranks_in_blocks(np.asarray([[math.nan, -0.5], [-2.0, math.nan], [-1.0, math.nan], [-2.0, 0.0]]))
    assert ranks.T.tolist() == [[4.0, 2.5, 1.0, 2.5], [2.0, 3.5, 3.5, 1.0]]


def test_intervals_of_mean_ranks_of_equal_methods_hold_the_truth_on_95_of_100_boards() -> None:
    found = [mean_rank_intervals(ranks_in_blocks(values)) for values in drawn(77, 200, 6, 10)]
    low, high = np.swapaxes(found, 0, 1)
    assert 0.93 <= covered(low, high, 3.5) <= 0.97


def test_of_equal_ranks_the_higher_values_come_first_and_then_the_name() -> None:
    assert compare(board([[0.51, 0.5], [0.5, 0.9]], ["a", "b"])).best == "b"
    assert compare(board([[0.5, 0.9], [0.9, 0.5]], ["b", "a"])).best == "a"


def test_a_better_method_that_ranks_lower_stays_in_the_group() -> None:
    """One wins most blocks by a hair, the other's mean is significantly higher: nobody is shown as worse."""
    found = compare(board([[0.5] * 21, [0.501] * 11 + [0.4, 0.41] * 5], ["rarely", "often"]))
    assert found.pairs[["different", "difference"]].iloc[0].tolist() == [True, pytest.approx(-0.0445, abs=0.002)]
    assert found.best == "often"
    assert found.inseparable == ("often", "rarely")


# Savings


def many_runs(methods: Sequence[str], accuracy_R_M_S_L: Floats) -> pandas.DataFrame:
    """As results(), of many runs at once."""
    runs, _, seeds, _ = accuracy_R_M_S_L.shape
    index = pandas.MultiIndex.from_product(
        [[f"run {r:04d}" for r in range(runs)], methods, range(seeds), LABELS],
        names=["run", "method", "seed", "labels"],
    )
    frame = index.to_frame(index=False)
    labels = frame["labels"]
    return frame.assign(budget=labels / 1000, accuracy=accuracy_R_M_S_L.ravel(), total_seconds=10.0 * labels)


def test_a_curve_against_itself_saves_nothing_and_so_does_its_copy() -> None:
    # Also where noise lets it fall with more labels.
    falling = [[0.5, 0.7, 0.6, 0.8], [0.5, 0.6, 0.6, 0.5], [0.4, 0.6, 0.5, 0.6]]
    for savings in (
        label_savings(results({"random": falling, "copy": falling})),
        cost_savings(results({"random": falling, "copy": falling}), reference="random"),
    ):
        assert savings["value"].tolist() == [1.0] * 8
        assert (savings["low"] <= 1).all()
        assert (savings["high"] >= 1).all()
        assert (savings[savings["method"] == "random"][["low", "high"]] == 1).all(axis=None)


def test_half_the_labels_for_the_same_accuracy_is_a_saving_of_two() -> None:
    frame = results({"random": [STRAIGHT], "al": [2 * STRAIGHT]})
    al = label_savings(frame).query("method == 'al'")
    # At the first budgets it has the accuracy before the first number of labels that was measured.
    assert al["value"].tolist() == [1.0, 2.0, 2.0, 2.0]
    assert al["at_least"].tolist() == [True, False, False, False]
    assert al["low"].isna().all()
    assert (al["reason"] == "").all()
    random = label_savings(frame, reference="al").query("method == 'random'")
    assert random["value"].tolist() == pytest.approx([0.5, 0.5, math.nan, math.nan], nan_ok=True)
    assert random["reason"].tolist() == ["", "", "never reaches it", "never reaches it"]


@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_of_label_savings_hold_the_truth_on_95_of_100_boards(seeds: int) -> None:
    noise = 0.005 * drawn(80 + seeds, BOARDS, 3, seeds, 4)
    tables = np.stack([STRAIGHT + noise[:, 0] + noise[:, 2], 1.25 * STRAIGHT + noise[:, 1] + noise[:, 2]], axis=1)
    found = label_savings(many_runs(["random", "al"], tables)).query("method == 'al' and labels == 300")
    assert (found["count"] == seeds).all()
    assert len(found) == BOARDS
    assert 0.93 <= covered(found["low"], found["high"], 1.25) <= 0.97
    assert (found["value"] >= found["low"]).all()
    assert (found["value"] <= found["high"]).all()


def test_a_saving_that_the_seeds_cannot_show_reaches_down_to_zero() -> None:
    noise = 0.02 * drawn(81, 2, 3, 4)
    savings = label_savings(results({"random": STRAIGHT + noise[0], "al": STRAIGHT + 0.01 + noise[1]}))
    last = savings.query("method == 'al' and labels == 400").iloc[0]
    assert last["low"] == 0
    assert last["high"] > 1


def test_labels_that_are_not_told_apart_are_those_at_which_scipys_test_says_so() -> None:
    random, al = STRAIGHT + 0.01 * drawn(82, 4, 4), 1.3 * STRAIGHT + 0.01 * drawn(83, 4, 4)
    saving = label_savings(results({"random": random, "al": al})).query("method == 'al' and labels == 300").iloc[0]
    places = np.linspace(100, 400, 3001)
    curves = np.stack([np.interp(places, LABELS, line) for line in al])
    p = scipy.stats.ttest_1samp(curves - random[:, [2]], 0).pvalue
    alike = places[p >= 0.05]
    assert saving["high"] == pytest.approx(300 / alike[0], rel=1e-3)
    assert saving["low"] == pytest.approx(300 / alike[-1], rel=1e-3)
    assert 0 < saving["low"] < saving["value"] < saving["high"]


def test_seeds_that_failed_are_left_out_of_both_and_counted() -> None:
    random, al = STRAIGHT + 0.01 * drawn(84, 4, 4), STRAIGHT + 0.1 + 0.01 * drawn(85, 4, 4)
    whole = label_savings(results({"random": random[1:], "al": al[1:]})).query("method == 'al'")
    al[0, 2:] = np.nan
    found = label_savings(results({"random": random, "al": al})).query("method == 'al'")
    assert found["count"].tolist() == [3] * 4
    assert found["expected"].tolist() == [4] * 4
    assert_frame_equal(found[["value", "low", "high"]], whole[["value", "low", "high"]])
    al[:, 0] = np.nan
    reasons = label_savings(results({"random": random, "al": al})).query("method == 'al'")["reason"]
    assert reasons.str.contains("no seed").all()


def test_without_the_reference_there_is_a_reason_for_every_method() -> None:
    frame = pandas.concat(
        [results({"al": [STRAIGHT]}, run="a"), results({"al": [STRAIGHT], "random": [STRAIGHT]}, run="b")]
    )
    savings = label_savings(frame)
    assert savings.query("run == 'a'")["reason"].tolist() == ["no random in this run"] * 4
    assert savings.query("run == 'b'")["value"].tolist() == [1.0] * 8


def test_cost_is_compared_at_the_cheapest_budgets_that_have_the_accuracy() -> None:
    frame = results({"al": [[0.5, 0.6, 0.7, 0.8]] * 2, "pf": [[0.5, 0.5, 0.75, 0.75]] * 2, "random": [[0.4] * 4] * 2})
    frame.loc[frame["method"] == "pf", "total_seconds"] /= 4
    savings = cost_savings(frame).set_index("method")
    assert savings.loc["al", "value"].tolist() == [1.0] * 4
    assert savings.loc["pf", "value"].tolist() == pytest.approx([4, 4 * 2 / 3, 4, math.nan], nan_ok=True)
    assert savings.loc["pf", "low"].tolist() == pytest.approx([4, 4 * 2 / 3, 4, math.nan], nan_ok=True)
    assert (savings.loc["random", "reason"] == "never reaches it").all()
    with pytest.raises(BadInput, match="no column"):
        cost_savings(frame, quantity="dollars")


def test_intervals_of_cost_savings_hold_the_truth_on_95_of_100_boards() -> None:
    seeds = 3
    frame = many_runs(["al", "pf"], np.broadcast_to(STRAIGHT, (BOARDS, 2, seeds, 4)))
    scatter = np.exp(0.05 * drawn(90 + seeds, BOARDS, 2, seeds, 1)) * np.asarray([1.0, 0.25])[:, None, None]
    frame["total_seconds"] *= np.broadcast_to(scatter, (BOARDS, 2, seeds, 4)).ravel()
    found = cost_savings(frame).query("method == 'pf' and labels == 300")
    assert len(found) == BOARDS
    assert 0.93 <= covered(found["low"], found["high"], 4.0) <= 0.97


def test_costs_of_nothing_and_costs_not_measured_are_said() -> None:
    frame = results({"al": [STRAIGHT] * 2, "free": [STRAIGHT] * 2, "unknown": [STRAIGHT] * 2})
    frame.loc[frame["method"] == "free", "total_seconds"] = 0.0
    frame.loc[frame["method"] == "unknown", "total_seconds"] = math.nan
    savings = cost_savings(frame).set_index("method")
    assert savings.loc["free", "value"].tolist() == [math.inf] * 4
    assert (savings.loc["unknown", "reason"] == "its cost was not measured").all()
    backwards = cost_savings(frame, reference="free").set_index("method")
    assert backwards.loc["al", "value"].tolist() == [0.0] * 4
    frame["total_seconds"] = 0.0
    assert (cost_savings(frame).set_index("method").loc["free", "reason"] == "both cost nothing").all()


def test_a_method_that_may_not_reach_the_accuracy_may_save_nothing() -> None:
    al, pf = np.tile(STRAIGHT, (3, 1)), STRAIGHT + np.asarray([[0.05], [-0.03], [0.01]])
    saving = cost_savings(results({"al": al, "pf": pf})).query("method == 'pf' and labels == 400")
    assert saving[["value", "low"]].to_numpy().tolist() == [[1.0, 0.0]]
