"""What the leaderboard page of a large grid takes: to write it, and to answer a filter in a browser."""

from __future__ import annotations

import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from prunefuse_bench.report.page import write_page

METHODS, SEEDS, LABELS = 40, 5, (29, 144, 287, 431, 718)
GROUP = "The leaderboard page of 200 cells and 5 budgets"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 methods, 5 seeds and 5 budgets, with accuracy by epoch."""
    made_runs = pytest.importorskip("tests.made_runs", reason="start it as python -m pytest, from the root")
    folder: Path = made_runs.make_run(
        tmp_path_factory.mktemp("report") / "run",
        methods=("random", "al", *(f"method {number:02d}" for number in range(METHODS - 2))),
        seeds=range(SEEDS),
        label_counts=LABELS,
        curve=lambda method, seed, labels: [0.1 + 0.01 * epoch for epoch in range(20)],
    )
    return folder


def bench_write_page(benchmark: BenchmarkFixture, run: Path, tmp_path: Path) -> None:
    benchmark.group = GROUP
    file = benchmark.pedantic(write_page, args=([run], tmp_path), rounds=3)
    benchmark.extra_info |= {"megabytes": file.stat().st_size / 1e6, "cells": METHODS * SEEDS}


@pytest.mark.parametrize("what", ["method", "budget"])
def bench_filter(benchmark: BenchmarkFixture, run: Path, tmp_path: Path, what: str) -> None:
    """From the change of a field to the frame with the table changed, and until the charts in view are redrawn."""
    browser = _browser(tmp_path)
    try:
        browser.set_window_size(1440, 1000)
        browser.get(write_page([run], tmp_path).as_uri())
        values = {"method": ["1", ""], "budget": ["10%", ""]}[what]
        taken = [browser.execute_async_script(FILTER, what, value) for value in values * 8][2:]
        table, charts = zip(*taken, strict=True)
        benchmark.group = GROUP
        benchmark.extra_info |= {
            "table_ms": statistics.median(table),
            "slowest_table_ms": max(table),
            "charts_ms": statistics.median(charts),
            "field": what,
        }
        # What counts is the browser's own clock; one call, charts and all, is what pytest-benchmark sees.
        benchmark.pedantic(browser.execute_async_script, args=(FILTER, what, values[0]), rounds=3)
    finally:
        browser.quit()


FILTER = """
const [what, value, done] = arguments;
const field = document.getElementById(what);
document.getElementById("board-1-curves").scrollIntoView({behavior: "instant"});
requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(() => {
  const began = performance.now();
  let table;
  // Asked for before the page asks for its own: what follows a frame runs in order, so this comes before its charts.
  requestAnimationFrame(() => setTimeout(() => { table = performance.now() - began; }));
  field.value = value;
  field.dispatchEvent(new Event(what === "method" ? "input" : "change"));
  const settled = () => (__drawing() ? setTimeout(settled, 5) : done([table, performance.now() - began]));
  requestAnimationFrame(() => setTimeout(() => setTimeout(settled)));
})));
"""


def _browser(folder: Path) -> Any:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no Chromium with its driver here")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
                     "--disable-dev-shm-usage", f"--user-data-dir={folder / 'chromium'}"):  # fmt: skip
        options.add_argument(argument)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
