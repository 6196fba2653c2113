"""Benchmarks of two commits: what pytest-benchmark measured before and after, and what of it is noise.

A ratio of medians is claimed as a change only if its 95% bootstrap interval lies outside the noise of A/A comparisons:
the rounds of one commit against other rounds of the same commit.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from prunefuse_bench.errors import BadInput
from prunefuse_bench.report.machines import Change, changes
from prunefuse_bench.report.sheets import NOTHING, Sheet, sheets_as_markdown

__all__ = ["BenchmarkChange", "BenchmarkComparison", "compare_benchmark_files", "compare_benchmarks"]

MACHINE_KEYS = ("node", "machine", "processor", "system")
CPU_KEYS = ("arch", "brand_raw", "count", "hz_advertised", "l2_cache_size", "l3_cache_size")
"""What names a machine in ``machine_info``, beside its node; not the clock of the moment."""
FEWEST_ROUNDS = 5
"""Rounds on each side below which no change is claimed: a median of fewer has no 95% interval worth its name."""
RESAMPLES = 10_000
WORK_KEYS = ("part", "images", "data")
"""Of a benchmark's ``extra_info``, what says how much work a round is, on what."""
NOT_COMMITS = ("unknown", "unversioned", "")


@dataclass(frozen=True)
class BenchmarkChange:
    """One benchmark before and after.

    Attributes:
        name: pytest's full name.
        before, after: median seconds of a round.
        rounds_before, rounds_after: how many.
        ratio: after / before; below 1 is faster.
        low, high: 95% bootstrap interval of the ratio over rounds; None without the rounds' own times or with too few.
        noise: the largest A/A ratio (at least 1), or None if there was nothing to measure it on.
        verdict: ``faster``, ``slower``, ``no change shown``, or ``cannot be said: `` and why.
    """

    name: str
    before: float
    after: float
    rounds_before: int
    rounds_after: int
    ratio: float
    low: float | None
    high: float | None
    noise: float | None
    verdict: str


@dataclass(frozen=True)
class BenchmarkComparison:
    """All benchmarks of two commits.

    Attributes:
        before, after: commits, with the files.
        machine: in what the machines differ; if in anything, no change is claimed.
        software: versions that differ.
        changes: of the benchmarks in both, in the order of the files before.
        only_before, only_after: names of the others.
        notes: what a reader must know to judge the table.
    """

    before: str
    after: str
    machine: tuple[Change, ...]
    software: tuple[Change, ...]
    changes: tuple[BenchmarkChange, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def sheets(self) -> tuple[Sheet, ...]:
        """For the terminal."""
        columns = ("benchmark", "before", "after", "ratio", "95% interval", "A/A noise", "verdict")
        rows = tuple(
            (
                change.name,
                as_time(change.before),
                as_time(change.after),
                f"{change.ratio:.3f}",
                NOTHING if change.low is None or change.high is None else f"{change.low:.3f} to {change.high:.3f}",
                NOTHING if change.noise is None else f"×{change.noise:.3f}",
                change.verdict,
            )
            for change in self.changes
        )
        notes = (
            *self.notes,
            *(f"Other machine: {change}." for change in self.machine),
            *(f"Other software: {change}." for change in self.software),
            *(f"Only before: {name}." for name in self.only_before),
            *(f"Only after: {name}." for name in self.only_after),
        )
        return (Sheet(f"Benchmarks: {self.before} -> {self.after}", columns, rows, notes),)

    def markdown(self) -> str:
        """The same as a page."""
        return sheets_as_markdown("Benchmarks of two commits", self.sheets)

    def data(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "before": self.before,
            "after": self.after,
            "machine": [vars(change) for change in self.machine],
            "software": [vars(change) for change in self.software],
            "changes": [vars(change) for change in self.changes],
            "only_before": list(self.only_before),
            "only_after": list(self.only_after),
            "notes": list(self.notes),
        }


def compare_benchmark_files(files: Sequence[Path]) -> BenchmarkComparison:
    """Compare files of two commits, the commit of the first file being the one before.

    Two files are one before and one after, whatever their commits. Of more than two, all files of a commit belong
    together, and what differs between them is noise.

    Raises:
        BadInput: fewer than two files, not of two commits, or not readable as pytest-benchmark's.
    """
    if len(files) < 2:
        raise BadInput(f"expected two or more files of pytest-benchmark to compare, got {len(files)}")
    if len(files) == 2:
        return compare_benchmarks(files[0], files[1])
    of_commit: dict[str, list[Path]] = {}
    for file in files:
        of_commit.setdefault(_read(file).commit, []).append(file)
    if len(of_commit) != 2:
        found = "; ".join(f"{commit}: {', '.join(map(str, group))}" for commit, group in of_commit.items())
        raise BadInput(f"expected files of two commits to compare, got {len(of_commit)} ({found})")
    before, after = of_commit.values()
    return compare_benchmarks(before, after)


def compare_benchmarks(before: Path | Sequence[Path], after: Path | Sequence[Path]) -> BenchmarkComparison:
    """Compare what ``pytest --benchmark-json`` wrote before and after a change.

    Args:
        before, after: one file each, or several of the same commit, which then show what differs from one process to
            the next.

    Raises:
        BadInput: a file is not JSON or not pytest-benchmark's, or no benchmark is in both.
    """
    befores, afters = ([_read(file) for file in _listed(side)] for side in (before, after))
    for side in (befores, afters):
        if not side:
            raise BadInput("expected at least one file of pytest-benchmark on each side")
        if len({one.commit for one in side}) > 1:
            found = ", ".join(f"{one.file} ({one.commit})" for one in side)
            raise BadInput(f"expected the files of one side to be of one commit, got {found}")
    names_before, names_after = (
        dict.fromkeys(name for one in side for name in one.benchmarks) for side in (befores, afters)
    )
    common = [name for name in names_before if name in names_after]
    if not common:
        raise BadInput(
            f"no benchmark is in both {_files(befores)} ({_some(names_before)}) and {_files(afters)} "
            f"({_some(names_after)}): benchmarks are matched by their full name"
        )
    machine, software = (
        tuple(dict.fromkeys(change for one in (*befores, *afters) for change in changes(pick(befores[0]), pick(one))))
        for pick in (_machine, _software)
    )
    return BenchmarkComparison(
        f"{befores[0].commit} ({_files(befores)})",
        f"{afters[0].commit} ({_files(afters)})",
        machine,
        software,
        tuple(_change(name, befores, afters, _why_not(befores, afters, machine)) for name in common),
        tuple(name for name in names_before if name not in names_after),
        tuple(name for name in names_after if name not in names_before),
        tuple(_notes(befores, afters, len(common))),
    )


def as_time(seconds: float) -> str:
    """Three digits in a fitting unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


@dataclass(frozen=True)
class _Measured:
    """One benchmark of one file: median, times of its rounds (empty if the file has none), and what it did."""

    median: float
    rounds: int
    times: tuple[float, ...]
    work: Mapping[str, Any]


@dataclass(frozen=True)
class _File:
    """One file: benchmarks by full name."""

    file: Path
    commit: str
    machine_info: Mapping[str, Any]
    benchmarks: Mapping[str, _Measured]


def _read(file: Path) -> _File:
    wanted = "expected what pytest --benchmark-json=FILE writes"
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{file}: not readable: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{file}: {wanted}, got no JSON: {error}") from None
    if not isinstance(data, dict) or not isinstance(data.get("benchmarks"), list):
        raise BadInput(f"{file}: {wanted}, got JSON without a list of benchmarks")
    try:
        benchmarks = {one["fullname"]: _measured(one) for one in data["benchmarks"]}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BadInput(f"{file}: {wanted}, but a benchmark in it has no such numbers: {error!r}") from None
    machine = data.get("machine_info")
    return _File(file, _commit(data.get("commit_info")), machine if isinstance(machine, dict) else {}, benchmarks)


def _measured(benchmark: Mapping[str, Any]) -> _Measured:
    stats = benchmark["stats"]
    times = tuple(float(time) for time in stats.get("data") or ())
    median = statistics.median(times) if times else float(stats["median"])
    if not all(math.isfinite(time) and time > 0 for time in (median, *times)):
        raise ValueError(f"{benchmark['fullname']}: expected times above 0")
    extra = benchmark.get("extra_info") or {}
    work = {"params": benchmark.get("params"), **{key: extra[key] for key in WORK_KEYS if key in extra}}
    return _Measured(median, len(times) or int(stats["rounds"]), times, work)


def _commit(info: Any) -> str:
    info = info if isinstance(info, dict) else {}
    name = str(info.get("id") or "")
    if name in NOT_COMMITS:
        return "no commit"
    return f"{name[:12]}{'-dirty' if info.get('dirty') else ''}"


def _machine(file: _File) -> dict[str, Any]:
    cpu = file.machine_info.get("cpu")
    cpu = cpu if isinstance(cpu, dict) else {}
    return {
        **{key: file.machine_info.get(key) for key in MACHINE_KEYS},
        "cpu": {key: cpu.get(key) for key in CPU_KEYS},
    }


def _software(file: _File) -> dict[str, Any]:
    return {key: value for key, value in file.machine_info.items() if key not in (*MACHINE_KEYS, "cpu")}


def _why_not(befores: Sequence[_File], afters: Sequence[_File], machine: Sequence[Change]) -> str:
    """Why no ratio of these files is claimed; empty if they may be."""
    if machine:
        return "other machine"
    return (
        "" if all(one.machine_info for one in (*befores, *afters)) else "a file does not say which machine it is from"
    )


def _change(name: str, befores: Sequence[_File], afters: Sequence[_File], why_not: str) -> BenchmarkChange:
    sides = [[file.benchmarks[name] for file in side if name in file.benchmarks] for side in (befores, afters)]
    before, after = (_Pooled.of(side) for side in sides)
    ratio, low, high = after.median / before.median, None, None
    few = min(before.rounds, after.rounds) < FEWEST_ROUNDS
    if before.times and after.times and not few:
        # One seed for all: the same files give the same intervals.
        generator = numpy.random.default_rng(0)
        ratios = _bootstrap_medians(after.times, generator) / _bootstrap_medians(before.times, generator)
        low, high = (float(end) for end in numpy.quantile(ratios, (0.025, 0.975)))
    noise = _noise(sides)
    other_work = list(changes(sides[0][0].work, sides[1][0].work))
    if why_not:
        verdict = f"cannot be said: {why_not}"
    elif other_work:
        verdict = f"cannot be said: other work ({'; '.join(map(str, other_work))})"
    elif few:
        verdict = f"cannot be said: fewer than {FEWEST_ROUNDS} rounds"
    elif low is None or high is None or noise is None:
        verdict = "cannot be said: no times of single rounds"
    else:
        verdict = "faster" if high < 1 / noise else "slower" if low > noise else "no change shown"
    return BenchmarkChange(
        name, before.median, after.median, before.rounds, after.rounds, ratio, low, high, noise, verdict
    )


@dataclass(frozen=True)
class _Pooled:
    """The rounds of all files of a side."""

    median: float
    rounds: int
    times: tuple[float, ...]

    @classmethod
    def of(cls, side: Sequence[_Measured]) -> _Pooled:
        times = tuple(time for one in side for time in one.times) if all(one.times for one in side) else ()
        median = statistics.median(times) if times else statistics.median(one.median for one in side)
        return cls(median, sum(one.rounds for one in side), times)


def _noise(sides: Sequence[Sequence[_Measured]]) -> float | None:
    """The largest ratio, 1 or more, between medians of the same commit: within a file and between files."""
    ratios = [
        split(one.times) for side in sides for one in side if len(one.times) > 1 for split in (_interleaved, _blocks)
    ]
    ratios += [one.median / other.median for side in sides for one, other in itertools.combinations(side, 2)]
    return math.exp(max(abs(math.log(ratio)) for ratio in ratios)) if ratios else None


def _interleaved(times: Sequence[float]) -> float:
    """Ratio of the medians of every other round: what varies from round to round."""
    return statistics.median(times[::2]) / statistics.median(times[1::2])


def _blocks(times: Sequence[float]) -> float:
    """Ratio of the medians of the first half and the second: what drifts meanwhile."""
    half = len(times) // 2
    return statistics.median(times[:half]) / statistics.median(times[half:])


def _bootstrap_medians(times: Sequence[float], generator: numpy.random.Generator) -> Any:
    """Medians of resamples of these times, float64 [RESAMPLES].

    The k-th smallest of n draws with replacement is the value at the k-th smallest of n uniform positions, which has a
    beta distribution; so no resample is ever written out, and a million rounds cost no more than five.
    """
    ordered, count = numpy.sort(numpy.asarray(times, dtype=numpy.float64)), len(times)
    lower = (count + 1) // 2
    position = generator.beta(lower, count - lower + 1, RESAMPLES)
    values = ordered[numpy.minimum((position * count).astype(numpy.int64), count - 1)]
    if count % 2:
        return values
    # The next position, given this one: the smallest of those count - lower that are left above it.
    left = generator.random(RESAMPLES) ** (1 / (count - lower))
    position = 1 - (1 - position) * left
    return (values + ordered[numpy.minimum((position * count).astype(numpy.int64), count - 1)]) / 2


def _notes(befores: Sequence[_File], afters: Sequence[_File], count: int) -> Iterator[str]:
    yield "Ratio: median after / median before; below 1 is faster. 95% interval: bootstrap over rounds."
    yield (
        "A/A noise: largest ratio of medians between halves of a file's own rounds (every other round; first and "
        "second half) and between files of the same commit. A change is claimed if the whole interval is outside it."
    )
    if len(befores) == 1 or len(afters) == 1:
        yield (
            "One file of a commit cannot show what differs from one process to the next (load of the machine, layout "
            "of memory): give several files of each commit to have that measured too."
        )
    if count > 1:
        yield f"{count} benchmarks at 95% each: where nothing changed, some intervals miss 1 all the same."
    if befores[0].commit == afters[0].commit:
        yield "Both sides are of the same commit, or of none: what differs is noise, or is not in the commit."


def _listed(side: Path | Sequence[Path]) -> list[Path]:
    return [side] if isinstance(side, Path) else list(side)


def _files(side: Sequence[_File]) -> str:
    return ", ".join(one.file.name for one in side)


def _some(names: Mapping[str, None], most: int = 3) -> str:
    shown = ", ".join(itertools.islice(names, most)) or "none"
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
