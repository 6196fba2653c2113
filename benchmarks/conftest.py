"""What the benchmarks share: real images if they are at hand, and ratios between contenders at the end."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
import torch
from jpeg_images import JpegImages, make_jpeg_images

from prunefuse_bench.ops import instruction_set


@pytest.fixture(scope="session")
def jpeg_images(tmp_path_factory: pytest.TempPathFactory) -> JpegImages:
    return make_jpeg_images(tmp_path_factory.mktemp("images") / "train")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The tables of docs/performance.md."""
    session = getattr(config, "_benchmarksession", None)
    measured = [benchmark for benchmark in session.benchmarks if not benchmark.has_error] if session else []
    print_images_per_second(terminalreporter, measured)
    print_times(terminalreporter, measured)
    print_rates(terminalreporter, measured)


def print_times(terminalreporter: pytest.TerminalReporter, measured: list[Any]) -> None:
    """Median time of every contender for the whole task, and how many times faster than the peer that is."""
    groups = defaultdict(list)
    for benchmark in measured:
        if "part" in benchmark.extra_info:
            groups[benchmark.group].append(benchmark)
    for group, benchmarks in groups.items():
        terminalreporter.write_line(f"\n### {group}\n")
        terminalreporter.write_line("| contender | median | spread | times the first | read |")
        terminalreporter.write_line("|---|---|---|---|---|")
        seconds = {id(b): b.stats.median / b.extra_info["part"] for b in benchmarks}
        peer = next((seconds[id(b)] for b in benchmarks if b.extra_info["peer"]), None)
        for benchmark in benchmarks:
            info = benchmark.extra_info
            median = seconds[id(benchmark)]
            spread = (benchmark.stats.max - benchmark.stats.min) / benchmark.stats.median
            ratio = f"{peer / median:.2f}" if peer else ""
            rate = f"{info['gigabytes'] / median:.1f} GB/s" if info["gigabytes"] else ""
            name = f"**{info['contender']}**" if info["ours"] else info["contender"]
            note = f" (from {100 * info['part']:g}% of it)" if info["part"] != 1 else ""
            terminalreporter.write_line(
                f"| {name}{note} | {as_time(median)} | {100 * spread:.0f}% | {ratio} | {rate} |"
            )
        data = benchmarks[0].extra_info["data"]
        terminalreporter.write_line(f"\n{torch.get_num_threads()} threads, {instruction_set()}. {data}".rstrip())


def print_rates(terminalreporter: pytest.TerminalReporter, measured: list[Any]) -> None:
    """Megabytes or images per second of one thread's processor time, and how many times the peer's that is."""
    groups = defaultdict(list)
    for benchmark in measured:
        if "amount" in benchmark.extra_info:
            groups[benchmark.group].append(benchmark)
    for group, benchmarks in groups.items():
        terminalreporter.write_line(f"\n### {group}\n")
        terminalreporter.write_line("| contender | per second and core | spread | times the first |")
        terminalreporter.write_line("|---|---|---|---|")
        rates = {id(b): b.extra_info["amount"] / b.stats.median for b in benchmarks}
        peer = next((rates[id(b)] for b in benchmarks if b.extra_info["peer"]), None)
        for benchmark in benchmarks:
            info, rate = benchmark.extra_info, rates[id(benchmark)]
            spread = (benchmark.stats.max - benchmark.stats.min) / benchmark.stats.median
            name = f"**{info['contender']}**" if info["ours"] else info["contender"]
            number = f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
            ratio = f"{rate / peer:.1f}" if peer else ""
            terminalreporter.write_line(f"| {name} | {number} {info['unit']} | {100 * spread:.0f}% | {ratio} |")
        terminalreporter.write_line(f"\nProcessor time, medians of 5. {benchmarks[0].extra_info['data']}")


def as_time(seconds: float) -> str:
    """Three digits in a fitting unit."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def print_images_per_second(terminalreporter: pytest.TerminalReporter, measured: list[Any]) -> None:
    """Images per second of every contender, and how many times the peer's that is (medians, one process)."""
    groups = defaultdict(list)
    for benchmark in measured:
        if "images" in benchmark.extra_info:
            groups[benchmark.group].append(benchmark)
    for group, benchmarks in groups.items():
        terminalreporter.section(group)
        speeds = {b.extra_info["contender"]: b.extra_info["images"] / b.stats.median for b in benchmarks}
        peer = next((b.extra_info["contender"] for b in benchmarks if b.extra_info["peer"]), None)
        for contender, speed in sorted(speeds.items(), key=lambda item: item[1]):
            ratio = f"  {speed / speeds[peer]:5.2f} times the peer" if peer else ""
            terminalreporter.write_line(f"{contender:60} {speed:8.0f} images/s{ratio}")
        terminalreporter.write_line(
            f"{torch.get_num_threads()} threads; medians; data: {benchmarks[0].extra_info['data']}"
        )
