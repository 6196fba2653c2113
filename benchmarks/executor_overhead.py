"""What Ray costs: twelve small cells by the local executor and by one worker of Ray, in turns.

    python benchmarks/executor_overhead.py [ROUNDS]

Start-up is told apart: starting Ray, and the worker's imports and planning. What is left beyond the local executor's
time is the overhead. Wants the machine to itself.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Hashable
from pathlib import Path

from prunefuse_bench.group_runner import run_group
from prunefuse_bench.groups import load_group
from prunefuse_bench.runner import PlannedCell
from prunefuse_bench.scale.driver import GridState, run_jobs
from prunefuse_bench.scale.grid import Job, make_jobs
from prunefuse_bench.scale.order import Report, Resources
from prunefuse_bench.scale.ray_engine import RayEngine

SUITE = "quick"
OVERRIDES = ("seeds=0-3", "task.model.width=0.25", "task.budgets=[0.02, 0.05, 0.1]")
"""Three methods, four seeds."""


class Silent:
    """An observer of either kind, to whom nothing matters."""

    def cell_started(self, cell: PlannedCell, position: int, total: int) -> None: ...

    def stage(self, stage: str, done: int, total: int) -> None: ...

    def look(self, state: GridState) -> None: ...

    def cell_ended(self, cell: PlannedCell | Job, outcome: str) -> None: ...

    def recovered(self, what: str) -> None: ...

    def tell(self, job: Job, what: str) -> None:
        print(f"{job.name}: {what}", file=sys.stderr)


class TimedRay(RayEngine):
    """Ray with one processor; keeps the reports, and when it was ready."""

    def __enter__(self) -> RayEngine:
        self.reports: list[Report] = []
        engine = super().__enter__()
        self.ready = time.perf_counter()
        return engine

    def wait(self, seconds: float) -> list[tuple[Hashable, Report]]:
        ended = super().wait(seconds)
        self.reports += [report for _, report in ended]
        self.last = time.perf_counter()
        return ended


def measure_local() -> float:
    """Seconds to plan and run."""
    group = load_group(SUITE, OVERRIDES)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run_group(group, Path(folder), resume=False, observer=Silent())
        return time.perf_counter() - start


def measure_ray() -> dict[str, float]:
    """Seconds, by what they went into."""
    group = load_group(SUITE, OVERRIDES)
    import ray

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        ray.init(
            address="local", num_cpus=1, include_dashboard=False, object_store_memory=100 << 20, log_to_driver=False
        )
        engine = TimedRay(Resources())
        jobs = make_jobs(group, Path(folder), Resources(), resume=False)
        planned = time.perf_counter()
        run_jobs(jobs, engine, Silent(), resume=False, look_every=0.2)
        seconds = [report.seconds for report in engine.reports]
        ray.shutdown()
    assert len(seconds) == len(jobs) == 12
    cells, planning = sum(one["cell"] for one in seconds), sum(one["planning"] for one in seconds)
    return {
        "start Ray and plan": planned - start,
        "worker: imports and planning": planning,
        "cells": cells,
        "all else, between the cells": engine.last - engine.ready - cells - planning,
    }


def main() -> None:
    """Print the medians."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    local, by_ray = [], []
    for _ in range(rounds):
        local.append(measure_local())
        by_ray.append(measure_ray())
    middle = statistics.median(local)
    print(f"local: {middle:.1f} s (of {', '.join(f'{one:.1f}' for one in local)})")
    for part in by_ray[0]:
        values = [one[part] for one in by_ray]
        print(f"ray, {part}: {statistics.median(values):.1f} s (of {', '.join(f'{one:.1f}' for one in values)})")
    at_work = statistics.median(one["cells"] + one["all else, between the cells"] for one in by_ray)
    print(f"ray without start-up over local: {at_work / middle - 1:+.1%}")


if __name__ == "__main__":
    main()
