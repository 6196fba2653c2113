"""Runs and benchmarks before and after."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import made_runs
import numpy
import pytest
import scipy.stats
from made_runs import make_run, rising

from prunefuse_bench.errors import BadInput
from prunefuse_bench.records import RunFolder, grid_hash
from prunefuse_bench.report.benchmarks import (
    BenchmarkChange,
    _bootstrap_medians,
    compare_benchmark_files,
    compare_benchmarks,
)
from prunefuse_bench.report.comparing import PairOfRuns, RunComparison, compare_runs
from prunefuse_bench.report.machines import changes

FIVE = (0, 1, 2, 3, 4)


def raised(method: str, seed: int, labels: int) -> float:
    """As made runs are, and prunefuse three points better, give or take a little by seed."""
    more = 0.03 + 0.001 * numpy.random.default_rng([seed, labels]).standard_normal() if method == "prunefuse" else 0.0
    return rising(method, seed, labels) + more


def only_pair(comparison: RunComparison) -> PairOfRuns:
    (pair,) = comparison.pairs
    return pair


def verdicts(pair: PairOfRuns, labels: int | None = None) -> dict[str, str]:
    return {change.method: change.verdict for change in pair.accuracies if change.labels == labels}


def everything(comparison: RunComparison) -> str:
    return "\n".join(
        text
        for sheet in comparison.sheets
        for text in (sheet.title, *sheet.notes, *(" | ".join(r) for r in sheet.rows))
    )


def test_a_run_beside_itself_is_identical_and_nothing_else(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    pair = only_pair(compare_runs(run, run))
    assert {change.verdict for change in pair.accuracies} == {"identical: same picks, same accuracy"}
    assert {change.labels for change in pair.accuracies} == {None, 29, 144, 287}
    assert [(one.equal_rounds, one.rounds, one.share, one.first_difference) for one in pair.picks] == [
        (6, 6, 1.0, None)
    ] * 3
    assert all(cost.ratio == 1 for cost in pair.costs if cost.before)
    assert [fact.path for fact in pair.facts] == ["folder"]
    assert "Every cell of both has the same accuracy to the bit." in pair.notes


def test_a_change_is_found_where_it_is_and_not_elsewhere(tmp_path: Path) -> None:
    before = make_run(tmp_path / "before", seeds=FIVE)
    after = make_run(
        tmp_path / "after",
        seeds=FIVE,
        accuracy=lambda method, seed, labels: (
            raised(method, seed, labels) + (0.002 * (-1) ** seed if method == "al" else 0.0)
        ),
    )
    pair = only_pair(compare_runs(before, after))
    assert pair.is_paired
    found = verdicts(pair)
    assert found["prunefuse"] == "changed: higher"
    assert found["random"] == "identical: same picks, same accuracy"
    assert re.fullmatch(r"no change shown; a change of 0\.\d+ points would have been found", found["al"])
    area = next(change for change in pair.accuracies if change.method == "prunefuse" and change.labels is None)
    assert area.difference == pytest.approx(0.03, abs=0.002)
    assert area.low is not None
    assert area.high is not None
    assert area.low < 0.03 < area.high


def test_p_and_intervals_are_those_of_the_paired_t_test(tmp_path: Path) -> None:
    before = make_run(tmp_path / "before", seeds=FIVE)
    after = make_run(tmp_path / "after", seeds=FIVE, accuracy=lambda m, s, n: rising(f"{m}!", s, n))
    pair = only_pair(compare_runs(before, after))
    at_last = [change for change in pair.accuracies if change.labels == 287]
    for change in at_last:
        olds = [rising(change.method, seed, 287) for seed in FIVE]
        news = [rising(f"{change.method}!", seed, 287) for seed in FIVE]
        expected = scipy.stats.ttest_rel(news, olds)
        assert change.p == pytest.approx(expected.pvalue)
        assert (change.low, change.high) == pytest.approx(tuple(expected.confidence_interval()))
    smallest = min(at_last, key=lambda change: change.p or 1.0)
    assert smallest.p is not None
    assert smallest.p_adjusted == pytest.approx(min(1.0, 3 * smallest.p))


def test_one_seed_says_nothing(tmp_path: Path) -> None:
    before = make_run(tmp_path / "before", seeds=[0])
    after = make_run(tmp_path / "after", seeds=[0], accuracy=raised)
    found = verdicts(only_pair(compare_runs(before, after)))
    assert found["prunefuse"] == "one seed: cannot be said"
    assert found["al"] == "identical: same picks, same accuracy"


def test_equal_accuracy_by_other_picks_is_not_called_identical(tmp_path: Path) -> None:
    before = make_run(tmp_path / "before")
    turned = lambda method, seed, counts: [  # noqa: E731
        query[::-1] if number == 1 else [index + 1 for index in query]
        for number, query in enumerate(made_runs._drawn(method, seed, counts, 1400))
    ]
    after = make_run(tmp_path / "after", query=turned)
    assert set(verdicts(only_pair(compare_runs(before, after))).values()) == {"same accuracy to the bit, other picks"}


def test_picks_count_what_is_the_same(tmp_path: Path) -> None:
    def query(method: str, seed: int, counts: Sequence[int]) -> list[list[int]]:
        first = list(range(29))
        second = list(range(100, 215))
        third = list(range(300, 443)) if method == "random" else [*range(300, 400), *range(500, 543)]
        return [first, second, third]

    def moved(method: str, seed: int, counts: Sequence[int]) -> list[list[int]]:
        first, second, third = query(method, seed, counts)
        return [first, second, third if method == "random" else [*range(300, 400), *range(600, 643)]]

    before = make_run(tmp_path / "before", query=query, methods=["random", "al"])
    after = make_run(tmp_path / "after", query=moved, methods=["random", "al"])
    pair = only_pair(compare_runs(before, after))
    same, other = pair.picks
    assert (same.equal_rounds, same.share, same.first_difference) == (6, 1.0, None)
    assert (other.equal_rounds, other.rounds, other.first_difference) == (3, 6, 287)
    assert other.share == pytest.approx((1 + 100 / 143) / 2)
    assert verdicts(pair, 144)["al"] == "identical: same picks, same accuracy"
    assert verdicts(pair, 287)["al"] == "same accuracy to the bit, other picks"


def test_settings_that_differ_are_named_and_seeds_then_not_paired(tmp_path: Path) -> None:
    before = make_run(tmp_path / "before", seeds=FIVE)
    after = make_run(tmp_path / "after", seeds=FIVE, accuracy=raised, epochs=8)
    pair = only_pair(compare_runs(before, after))
    assert "task.training.schedule.epochs: 4 -> 8" in [str(fact) for fact in pair.facts]
    assert not pair.is_paired
    assert any("seeds are not paired" in note for note in pair.notes)
    change = next(one for one in pair.accuracies if one.method == "prunefuse" and one.labels == 287)
    values = [[of(change.method, seed, 287) for seed in FIVE] for of in (raised, rising)]
    expected = scipy.stats.ttest_ind(*values, equal_var=False)
    assert change.p == pytest.approx(expected.pvalue)
    assert (change.low, change.high) == pytest.approx(tuple(expected.confidence_interval()))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"sha256": "0" * 64}, "task.dataset.sha256"),
        ({"pool": 1400}, "task.dataset.train_size: 1437 -> 1400"),
        ({"protocol": "coreset"}, "active_learning -> coreset"),
        ({"methods": ["entropy", "margin"]}, "no method is in both"),
        ({"label_counts": [30, 60]}, "no budget is in both (29, 144, 287 -> 30, 60 labels)"),
        ({"missing": [(m, s) for m in ("random", "al", "prunefuse") for s in range(3)]}, "no cell was begun after"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_reason(tmp_path: Path, other: dict[str, Any], said: str) -> None:
    comparison = compare_runs(make_run(tmp_path / "before"), make_run(tmp_path / "after", **other))
    pair = only_pair(comparison)
    assert said in " ".join(pair.refused)
    assert not pair.accuracies
    assert not pair.picks
    assert not pair.costs
    assert said in everything(comparison)


def test_seconds_of_another_machine_are_not_divided_and_flops_are(tmp_path: Path) -> None:
    before = make_run(tmp_path / "before")
    after = make_run(tmp_path / "after", machine=lambda method, seed: {"cpu": "Another Processor"}, epochs=8)
    pair = only_pair(compare_runs(before, after))
    of = {(cost.method, cost.quantity): cost for cost in pair.costs}
    seconds, flops = of["al", "selector_seconds"], of["al", "target_flops"]
    assert seconds.ratio is None
    assert "A Processor" in seconds.reason
    assert "Another Processor" in seconds.reason
    assert flops.ratio == flops.after / flops.before
    assert of["prunefuse", "target_flops"].ratio == 2.0
    assert of["random", "selector_flops"].ratio is None, "nothing to divide by"
    assert "not comparable: other machine" in everything(compare_runs(before, after))
    assert "al: seconds not comparable" in everything(compare_runs(before, after))


def test_seconds_of_one_machine_have_a_ratio_and_its_range_over_seeds_and_no_verdict(tmp_path: Path) -> None:
    before = make_run(tmp_path / "before", seeds=FIVE)
    after = make_run(tmp_path / "after", seeds=FIVE, seconds=lambda m, s, n: 0.002 * n * (0.5 + 0.01 * s))
    comparison = compare_runs(before, after)
    found = {(cost.method, cost.quantity): cost for cost in only_pair(comparison).costs}
    cost = found["random", "target_seconds"]
    expected = [(0.574 * (0.5 + 0.01 * seed) + 0.01) / (0.574 + 0.01) for seed in FIVE]
    assert (cost.low, cost.high) == pytest.approx((expected[0], expected[-1]))
    assert cost.ratio == pytest.approx(scipy.stats.gmean(expected))
    assert "No interval and no verdict" in everything(comparison)
    assert found["al", "target_flops"].low is None


def test_cells_that_moved_between_machines_have_no_ratio(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", machine=lambda method, seed: {"threads": 1 + seed})
    pair = only_pair(compare_runs(run, run))
    assert {
        cost.reason.partition(" (")[0].partition(" on ")[0] for cost in pair.costs if "seconds" in cost.quantity
    } == {"not comparable:"}


def test_versions_and_commits_that_differ_are_named(tmp_path: Path) -> None:
    before = make_run(tmp_path / "before")
    newer = {"commit": "ffff", "packages": {**made_runs.MACHINE["packages"], "torch": "9.9"}}
    after = make_run(tmp_path / "after", machine=lambda method, seed: newer)
    facts = [str(fact) for fact in only_pair(compare_runs(before, after)).facts]
    assert "commit: 0123456789ab -> ffff" in facts
    assert "packages.torch: 2.14.1 -> 9.9" in facts
    assert not any(fact.startswith("machine") for fact in facts)


def test_what_is_in_one_only_is_listed(tmp_path: Path) -> None:
    before = make_run(tmp_path / "before", methods=["random", "al", "old"], seeds=[0, 1, 2])
    after = make_run(tmp_path / "after", methods=["random", "al", "new"], seeds=[1, 2, 3], missing=[("al", 3)])
    comparison = compare_runs(before, after)
    notes = only_pair(comparison).notes
    assert "Methods only before: old." in notes
    assert "Methods only after: new." in notes
    assert "Seeds only before: random: 0." in notes
    assert "Seeds only after: random: 3." in notes
    assert "Without a whole result after: al, seed 3: missing (not run)." in notes
    grids = [grid_hash(RunFolder(run).read_suite())[:16] for run in (before, after)]
    assert f"grid hash: {grids[0]} -> {grids[1]}" in [str(fact) for fact in only_pair(comparison).facts]
    assert {change.seeds for change in only_pair(comparison).accuracies} == {(2, 2)}


def test_a_renamed_method_is_found_by_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = make_run(tmp_path / "before", methods=["random", "prunefuse"])
    recipe = made_runs._recipe
    monkeypatch.setattr(made_runs, "_recipe", lambda name: recipe({"mine": "prunefuse"}.get(name, name)))
    after = make_run(tmp_path / "after", methods=["random", "mine"])
    pair = only_pair(compare_runs(before, after))
    assert {change.method for change in pair.accuracies} == {"random", "prunefuse -> mine"}


def test_settings_of_a_method_that_differ_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = make_run(tmp_path / "before")
    recipe = made_runs._recipe
    monkeypatch.setattr(made_runs, "_recipe", lambda name: {**recipe(name), "sync_every": 2})
    after = make_run(tmp_path / "after")
    pair = only_pair(compare_runs(before, after))
    assert "method prunefuse.sync_every: 0 -> 2" in [str(fact) for fact in pair.facts]
    assert pair.accuracies


def test_other_budgets_leave_the_common_ones_and_no_area(tmp_path: Path) -> None:
    before = make_run(tmp_path / "before", label_counts=[29, 144, 287])
    after = make_run(tmp_path / "after", label_counts=[29, 144, 400])
    pair = only_pair(compare_runs(before, after))
    assert {change.labels for change in pair.accuracies} == {29, 144}
    assert any("only those of both are compared, and no area" in note for note in pair.notes)


def test_folders_of_one_task_count_as_one_run_and_no_cell_counts_twice(tmp_path: Path) -> None:
    first = make_run(tmp_path / "first", seeds=[0, 1])
    second = make_run(tmp_path / "second", seeds=[2, 3])
    whole = make_run(tmp_path / "whole", seeds=[0, 1, 2, 3])
    pair = only_pair(compare_runs([first, second], whole))
    assert {change.seeds for change in pair.accuracies} == {(4, 4)}
    with pytest.raises(BadInput, match=r"both hold method \w+ and seed 0"):
        compare_runs([first, whole], second)


def test_several_tasks_are_set_beside_each_other_by_task_and_the_rest_is_listed(tmp_path: Path) -> None:
    digits, other, third = (
        make_run(tmp_path / title, title=title, sha256=str(number) * 64)
        for number, title in enumerate(("digits", "other", "third"))
    )
    comparison = compare_runs([other, digits], [digits, other])
    assert [pair.title.partition(",")[0] for pair in comparison.pairs] == ["other", "digits"]
    assert not any(pair.refused for pair in comparison.pairs)
    comparison = compare_runs([digits, other, third], [digits])
    assert len(comparison.pairs) == 1
    assert len(comparison.only_before) == 2
    assert str(third) in everything(comparison)
    with pytest.raises(BadInput, match="no run of"):
        compare_runs([digits, other], third)


def test_names_from_data_are_text_in_the_page_of_a_comparison(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script> | **x** $y$"
    run = make_run(tmp_path / "run", methods=["random", hostile], title="# `a`")
    page = compare_runs(run, run).markdown()
    assert not re.search(r"(?<!\\)<", page)
    assert "\\<script\\>alert(1)\\</script\\> \\| \\*\\*x\\*\\* \\$y\\$" in page


def test_a_comparison_as_plain_data_is_json(tmp_path: Path) -> None:
    before, after = make_run(tmp_path / "before"), make_run(tmp_path / "after", accuracy=raised)
    data = compare_runs(before, after).data()
    assert json.loads(json.dumps(data)) == json.loads(json.dumps(data, allow_nan=False))


def test_changes_of_nested_settings_are_paths() -> None:
    before = {"a": {"b": 1, "c": [1, 2]}, "d": None}
    after = {"a": {"b": 2, "c": [1, 2]}, "e": True}
    assert list(map(str, changes(before, after))) == ["a.b: 1 -> 2", "d: None -> –", "e: – -> True"]


# ---- benchmarks ----

MACHINE = {"node": "n", "machine": "x86_64", "system": "Linux", "processor": "", "python_version": "3.11.7",
           "cpu": {"brand_raw": "A Processor", "count": 2, "hz_actual_friendly": "2.1 GHz"}}  # fmt: skip
MakeFile = Callable[..., Path]


@pytest.fixture
def make_file(tmp_path: Path) -> MakeFile:
    def make(
        commit: str,
        times: dict[str, Sequence[float]],
        *,
        machine: dict[str, Any] | None = None,
        with_data: bool = True,
        extra: dict[str, Any] | None = None,
    ) -> Path:
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
        benchmarks = [
            {
                "fullname": name,
                "params": None,
                "extra_info": extra or {},
                "stats": {
                    "median": statistics.median(rounds),
                    "rounds": len(rounds),
                    **({"data": list(rounds)} if with_data else {}),
                },
            }
            for name, rounds in times.items()
        ]
        commit_info = {"id": commit, "dirty": False}
        file.write_text(
            json.dumps({"machine_info": machine or MACHINE, "commit_info": commit_info, "benchmarks": benchmarks})
        )
        return file

    return make


def rounds(seed: int, seconds: float, count: int = 11, spread: float = 0.02) -> list[float]:
    return (seconds * numpy.exp(spread * numpy.random.default_rng(seed).standard_normal(count))).tolist()


def test_a_benchmark_twice_as_fast_is_found_and_an_equal_one_is_not(make_file: MakeFile) -> None:
    before = make_file("aaaa", {"bench.py::one": rounds(0, 1.0), "bench.py::other": rounds(1, 0.01)})
    after = make_file("bbbb", {"bench.py::other": rounds(2, 0.01), "bench.py::one": rounds(3, 0.5)})
    comparison = compare_benchmarks(before, after)
    faster, equal = comparison.changes
    assert (faster.name, faster.verdict) == ("bench.py::one", "faster")
    assert faster.low is not None
    assert faster.high is not None
    assert 0.45 < faster.low < faster.ratio < faster.high < 0.55
    assert equal.verdict == "no change shown"
    assert compare_benchmarks(after, before).changes[1].verdict == "slower"
    assert comparison == compare_benchmarks(before, after), "the same files give the same intervals"


def test_of_equal_benchmarks_few_are_claimed_to_have_changed(make_file: MakeFile) -> None:
    names = [f"bench.py::{number}" for number in range(150)]
    before = make_file("aaaa", {name: rounds(2 * n, 1.0, 7) for n, name in enumerate(names)})
    after = make_file("bbbb", {name: rounds(2 * n + 1, 1.0, 7) for n, name in enumerate(names)})
    claimed = [change for change in compare_benchmarks(before, after).changes if change.verdict in ("faster", "slower")]
    assert len(claimed) <= 0.05 * len(names)


def test_a_shift_inside_the_noise_between_files_is_no_change(make_file: MakeFile) -> None:
    befores = [make_file("aaaa", {"b": rounds(seed, level)}) for seed, level in enumerate((1.0, 1.3))]
    afters = [make_file("bbbb", {"b": rounds(10 + seed, level)}) for seed, level in enumerate((1.2, 1.25))]
    (change,) = compare_benchmarks(befores, afters).changes
    assert change.noise is not None
    assert change.noise > 1.2
    assert change.verdict == "no change shown"
    assert compare_benchmarks(befores[0], afters[0]).changes[0].verdict == "slower", "one file each does not show it"
    assert compare_benchmark_files([*befores, *afters]).changes == (change,)


def test_drift_within_a_file_is_noise(make_file: MakeFile) -> None:
    steady, drifting = rounds(0, 1.0, 12, 0.001), [*rounds(1, 1.1, 6, 0.001), *rounds(2, 1.4, 6, 0.001)]
    (change,) = compare_benchmarks(make_file("a", {"b": steady}), make_file("b", {"b": drifting})).changes
    assert change.noise == pytest.approx(1.4 / 1.1, rel=0.01)


def test_bootstrap_medians_are_those_of_resamples_written_out() -> None:
    for count in (5, 8, 41):
        times = rounds(count, 1.0, count, 0.3)
        generator = numpy.random.default_rng(1)
        written_out = numpy.median(generator.choice(times, (20_000, count)), axis=1)
        found = _bootstrap_medians(times, generator)
        shares = numpy.linspace(0.05, 0.95, 19)
        quantiles = numpy.quantile(written_out, shares)
        # Medians take few values, so distributions are compared and not quantiles.
        between = [float((found <= q).mean() - (written_out <= q).mean()) for q in quantiles]
        assert max(map(abs, between)) < 0.02


def test_another_machine_is_named_and_nothing_is_claimed(make_file: MakeFile) -> None:
    other = {**MACHINE, "cpu": {"brand_raw": "Another Processor", "count": 2}, "python_version": "3.12.0"}
    before, after = make_file("aaaa", {"b": rounds(0, 1.0)}), make_file("bbbb", {"b": rounds(1, 0.1)}, machine=other)
    comparison = compare_benchmarks(before, after)
    assert [str(change) for change in comparison.machine] == ["cpu.brand_raw: A Processor -> Another Processor"]
    assert [str(change) for change in comparison.software] == ["python_version: 3.11.7 -> 3.12.0"]
    assert comparison.changes[0].verdict == "cannot be said: other machine"
    assert "Another Processor" in comparison.markdown()


def test_the_clock_of_the_moment_is_not_another_machine(make_file: MakeFile) -> None:
    turbo = {**MACHINE, "cpu": {**MACHINE["cpu"], "hz_actual_friendly": "3.9 GHz"}}  # type: ignore[dict-item]
    before, after = make_file("aaaa", {"b": rounds(0, 1.0)}), make_file("bbbb", {"b": rounds(1, 0.1)}, machine=turbo)
    assert compare_benchmarks(before, after).changes[0].verdict == "faster"


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ({"with_data": False}, "no times of single rounds"),
        ({"times": {"b": [0.1, 0.1, 0.1]}}, "fewer than 5 rounds"),
        ({"extra": {"part": 0.1}}, "other work (part: – -> 0.1)"),
    ],
)
def test_what_a_file_cannot_tell_is_not_claimed(make_file: MakeFile, after: dict[str, Any], said: str) -> None:
    other = {"times": {"b": rounds(1, 0.1)}, **after}
    change: BenchmarkChange
    (change,) = compare_benchmarks(make_file("a", {"b": rounds(0, 1.0)}), make_file("b", **other)).changes
    assert change.verdict == f"cannot be said: {said}"
    assert (change.low is not None) == ("extra" in after)


def test_benchmarks_in_one_file_only_are_listed(make_file: MakeFile) -> None:
    before = make_file("aaaa", {"gone": rounds(0, 1.0), "both": rounds(1, 1.0)})
    after = make_file("bbbb", {"both": rounds(1, 1.0), "new": rounds(2, 1.0)})
    comparison = compare_benchmarks(before, after)
    assert (comparison.only_before, comparison.only_after) == (("gone",), ("new",))
    assert "Only before: gone." in comparison.markdown()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "got no JSON"),
        ("[]", "without a list of benchmarks"),
        ('{"benchmarks": [{"fullname": "b"}]}', "no such numbers"),
        ('{"benchmarks": [{"fullname": "b", "stats": {"data": [0.0]}}]}', "no such numbers"),
        ('{"benchmarks": []}', "no benchmark is in both"),
        (None, "not readable"),
    ],
)
def test_files_that_are_not_of_pytest_benchmark_are_named(
    tmp_path: Path, make_file: MakeFile, content: str | None, said: str
) -> None:
    file = tmp_path / "wrong.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(BadInput, match=f"wrong.json.*{said}|{said}.*wrong.json"):
        compare_benchmarks(make_file("aaaa", {"b": [1.0, 1.0]}), file)


def test_files_of_three_commits_are_refused(make_file: MakeFile) -> None:
    files = [make_file(commit, {"b": [1.0, 1.0]}) for commit in ("aaaa", "bbbb", "cccc")]
    with pytest.raises(BadInput, match="files of two commits to compare, got 3"):
        compare_benchmark_files(files)
    with pytest.raises(BadInput, match="of one commit"):
        compare_benchmarks(files[:2], files[2])
    with pytest.raises(BadInput, match="two or more files"):
        compare_benchmark_files(files[:1])


def test_what_pytest_benchmark_writes_is_read(tmp_path: Path) -> None:
    bench = tmp_path / "bench_tiny.py"
    bench.write_text("def bench_sum(benchmark):\n    benchmark.pedantic(sum, ([1, 2],), rounds=9)\n")
    file = tmp_path / "tiny.json"
    options = ["-q", "-p", "no:cacheprovider", "-c", str(tmp_path / "pytest.ini"), f"--benchmark-json={file}"]
    (tmp_path / "pytest.ini").write_text("[pytest]\npython_files = bench_*.py\npython_functions = bench_*\n")
    subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(bench)], cwd=tmp_path, check=True, capture_output=True
    )
    (change,) = compare_benchmarks(file, file).changes
    assert change.name.endswith("bench_tiny.py::bench_sum")
    assert change.rounds_before == 9
    assert change.verdict == "no change shown"
    assert change.ratio == 1.0
