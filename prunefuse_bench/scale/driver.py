"""Who runs when, what is tried again, and what is given up; the engine does the rest."""

from __future__ import annotations

import collections
import time
from collections.abc import Hashable, Iterator, Sequence
from typing import Protocol

from prunefuse_bench.errors import AttemptsFailed, WorkerDiffers
from prunefuse_bench.records import CellStore
from prunefuse_bench.scale.grid import Job
from prunefuse_bench.scale.order import Order, Report
from prunefuse_bench.scale.sign_of_life import Sign, read_sign

__all__ = ["ATTEMPTS", "Engine", "GridObserver", "GridState", "run_jobs"]

ATTEMPTS = 3
"""So many attempts in a row without a whole round, and a cell is given up."""
SECONDS_TO_LOOK_AGAIN = 30.0
"""After a cell was found to be in another's hands."""
SIGNS_AT_ONCE = 64
"""Of this many cells the signs of life are read in one look: a folder on a network has its limits."""


class Engine(Protocol):
    """Starts workers somewhere. Entered before the first order; its end stops whatever is still at work."""

    def __enter__(self) -> Engine: ...

    def __exit__(self, *_: object) -> None: ...

    def submit(self, orders: Sequence[Order]) -> list[Hashable]:
        """Have :func:`prunefuse_bench.scale.worker.carry_out_json` called with each of the orders; returns tickets."""

    def wait(self, seconds: float) -> list[tuple[Hashable, Report]]:
        """What has ended; waits so long for something to end. A worker that died is a report, too."""

    def cancel(self) -> None:
        """Stop all that was submitted, and return when nothing of it is at work any more."""


class GridState(Protocol):
    """The whole grid as it is now."""

    @property
    def total(self) -> int:
        """Cells."""

    @property
    def ended(self) -> int:
        """Cells that are finished or failed."""

    @property
    def submitted(self) -> int:
        """Cells that the engine has, at work or in its queue."""

    def at_work(self) -> Iterator[tuple[Job, int, Sign]]:
        """Of each cell that shows a sign of life its whole rounds and the sign."""


class GridObserver(Protocol):
    """Told what becomes of a grid, for a person to see."""

    def look(self, state: GridState) -> None:
        """Called about once a second."""

    def cell_ended(self, job: Job, outcome: str) -> None:
        """The cell is ``finished``, ``failed``, or was ``found finished``."""

    def tell(self, job: Job, what: str) -> None:
        """Something happened that a person may want to know of."""


def run_jobs(
    jobs: Sequence[Job],
    engine: Engine,
    observer: GridObserver,
    *,
    resume: bool,
    look_every: float = 1.0,
) -> list[CellStore]:
    """Run every cell that is not finished, each by one worker at a time.

    A worker that is lost costs its cell the round that it was in: the next goes on from the last whole one. A cell
    whose attempts end three times in a row without a whole round is recorded as failed, with the reason of each; a
    method's own failure is recorded by the worker, at once, as it would come again.

    Args:
        resume: also cells that failed before.

    Raises:
        WorkerDiffers: a worker would run other cells. All others are stopped; all records are whole.
        KeyboardInterrupt: as it came; all workers are stopped and all records are whole.
    """
    grid = _Grid(jobs, engine, observer)
    grid.begin(resume=resume)
    if not grid.open:
        return [job.store for job in jobs]
    with engine:
        try:
            while grid.open:
                grid.submit()
                for ticket, report in engine.wait(look_every):
                    grid.settle(ticket, report)
                observer.look(grid)
        except BaseException:
            engine.cancel()
            raise
    return [job.store for job in jobs]


class _Grid:
    """The state of all cells, by their position."""

    def __init__(self, jobs: Sequence[Job], engine: Engine, observer: GridObserver) -> None:
        self._jobs, self._engine, self._observer = jobs, engine, observer
        self.open: dict[int, None] = dict.fromkeys(range(len(jobs)))  # neither finished nor failed, in order
        self._running: dict[Hashable, int] = {}
        self._reasons: dict[int, list[str]] = collections.defaultdict(list)
        self._rounds: dict[int, int] = {}
        self._not_before: dict[int, float] = {}
        self._next_sign = 0
        self._sharing: dict[str, list[int]] = collections.defaultdict(list)
        for position, job in enumerate(jobs):
            if job.shelf is not None:
                self._sharing[str(job.shelf.folder)].append(position)

    @property
    def total(self) -> int:
        return len(self._jobs)

    @property
    def ended(self) -> int:
        return len(self._jobs) - len(self.open)

    @property
    def submitted(self) -> int:
        return len(self._running)

    def at_work(self) -> Iterator[tuple[Job, int, Sign]]:
        """Of some of those that the engine has, others each time if they are many."""
        positions = sorted(self._running.values())
        start = self._next_sign % max(1, len(positions))
        self._next_sign = start + SIGNS_AT_ONCE
        for position in (positions[start:] + positions[:start])[:SIGNS_AT_ONCE]:
            job = self._jobs[position]
            if (sign := read_sign(job.store.folder)) is not None:
                yield job, job.store.rounds_done, sign

    def begin(self, *, resume: bool) -> None:
        """Set aside what there is nothing to do for."""
        for position, job in enumerate(self._jobs):
            self._rounds[position] = job.store.rounds_done
            if job.store.finished:
                self._end(position, "found finished")
            elif job.store.failure and not resume:
                self._end(position, "failed")

    def submit(self) -> None:
        """Give the engine what is ready."""
        running, now = set(self._running.values()), time.monotonic()
        rounds: dict[int, int] = {}
        ready = [
            position
            for position in self.open
            if position not in running
            and now >= self._not_before.get(position, 0.0)
            and not self._is_held_back(position, running, rounds)
        ]
        if ready:
            tickets = self._engine.submit([self._jobs[position].order for position in ready])
            self._running.update(zip(tickets, ready, strict=True))

    def _is_held_back(self, position: int, running: set[int], rounds: dict[int, int]) -> bool:
        """Whether a cell before it is going to train a selector that this one can take; each is looked at once."""
        for leader, number in self._jobs[position].waits_for.items():
            if leader in self.open:
                if leader not in rounds:
                    done = self._jobs[leader].store.rounds_done if leader in running else self._rounds[leader]
                    rounds[leader] = done
                if rounds[leader] <= number:
                    return True
        return False

    def settle(self, ticket: Hashable, report: Report) -> None:
        """Take a report in.

        Raises:
            WorkerDiffers: of the report.
        """
        position = self._running.pop(ticket)
        job = self._jobs[position]
        if report.outcome == "refused":
            raise WorkerDiffers(report.reason)
        before, self._rounds[position] = self._rounds[position], job.store.rounds_done
        if report.outcome == "busy":
            self._observer.tell(job, report.reason)
            self._not_before[position] = time.monotonic() + SECONDS_TO_LOOK_AGAIN
        elif report.outcome != "lost":
            self._end(position, report.outcome)
        elif job.store.finished:  # it died after the last round
            self._end(position, "finished")
        else:
            if self._rounds[position] > before:
                self._reasons[position].clear()
            where = f" on {report.host}" if report.host else ""
            self._reasons[position].append(f"attempt{where}, round {self._rounds[position]}: {report.reason}")
            self._try_again(position)

    def _try_again(self, position: int) -> None:
        job, reasons = self._jobs[position], self._reasons[position]
        if len(reasons) < ATTEMPTS:
            self._observer.tell(job, f"{reasons[-1]}; it is tried again from round {self._rounds[position]}")
            return
        every = " | ".join(f"{number}. {reason}" for number, reason in enumerate(reasons, 1))
        job.store.write_failure(AttemptsFailed(f"given up after {ATTEMPTS} attempts without a whole round: {every}"))
        self._end(position, "failed")

    def _end(self, position: int, outcome: str) -> None:
        job = self._jobs[position]
        del self.open[position]
        self._observer.cell_ended(job, outcome)
        if job.shelf is not None and outcome != "failed":
            sharing = [self._jobs[other] for other in self._sharing[str(job.shelf.folder)]]
            if all(other.store.finished for other in sharing):
                job.shelf.clear()
