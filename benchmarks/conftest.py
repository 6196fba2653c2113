"""What the benchmarks share: real images if they are at hand, and ratios between contenders at the end."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from jpeg_images import JpegImages, make_jpeg_images


@pytest.fixture(scope="session")
def jpeg_images(tmp_path_factory: pytest.TempPathFactory) -> JpegImages:
    return make_jpeg_images(tmp_path_factory.mktemp("images") / "train")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Images per second of every contender, and how many times the peer's that is (medians, one process)."""
    session = getattr(config, "_benchmarksession", None)
    groups = defaultdict(list)
    for benchmark in session.benchmarks if session else ():
        if not benchmark.has_error and "images" in benchmark.extra_info:
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
