"""Real runs that take a second or two: little networks, two or three steps of training, on digits."""

from __future__ import annotations

from pathlib import Path

from prunefuse_bench.config import load_suite
from prunefuse_bench.runner import PlannedCell, plan, run_cells

__all__ = ["TINY", "tiny_run"]

TINY = (
    "task.model.width=0.25",
    "task.training.epochs=1",
    "task.training.min_steps=2",
    "task.budgets=[0.02, 0.04, 0.06]",
    "task.accuracy_by_epoch=true",
    "seeds=[0, 1]",
)
"""Overrides of the preset quick."""


class _Silent:
    def cell_started(self, cell: PlannedCell, position: int, total: int) -> None: ...

    def stage(self, stage: str, done: int, total: int) -> None: ...

    def cell_ended(self, cell: PlannedCell, outcome: str) -> None: ...

    def recovered(self, what: str) -> None: ...


def tiny_run(folder: Path, *overrides: str) -> Path:
    """Run the methods of the preset quick for two seeds, with ``key=value`` overrides; returns the folder."""
    suite = load_suite("quick", [*TINY, *overrides])
    run_cells(suite, plan(suite), folder, resume=False, observer=_Silent())
    return folder
