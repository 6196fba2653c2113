"""Cells as jobs of Slurm, by submitit."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prunefuse_bench.errors import BadInput
from prunefuse_bench.scale.order import Order, Report, Resources
from prunefuse_bench.scale.worker import carry_out_json

__all__ = ["SlurmEngine"]

LARGEST_ARRAY = 500
"""Jobs of one array; Slurm's own limit is 1001 where nobody changed it."""
MINUTES = 24 * 60


class CarryOut:
    """What a job runs. Preempted or out of time, it is queued again; the records are all that it goes on from."""

    def __call__(self, order: str) -> dict[str, Any]:
        """Carry out the order."""
        return carry_out_json(order)

    def checkpoint(self, order: str) -> Any:
        """What to queue instead of the job that is being stopped: the same."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, order)


class SlurmEngine:
    """Orders are jobs; those that are ready at the same time are submitted as one array.

    Args:
        resources: of each cell.
        folder: for submitit's files and the logs of the jobs; shared by all machines.
        parameters: of submitit's for Slurm beside those: ``partition``, ``account``, ``qos``, ``time`` in minutes (a
            day if not given), ``array_parallelism``, ...
        cluster: ``slurm``; submitit's ``local`` and ``debug`` are for tests.

    Raises:
        BadInput: submitit or Slurm is not there, or a parameter is none.
    """

    def __init__(
        self, resources: Resources, folder: Path, parameters: Mapping[str, Any] | None = None, cluster: str = "slurm"
    ) -> None:
        try:
            import submitit
        except ImportError:
            raise BadInput(
                "--executor slurm: expected the package submitit, which is missing; "
                'pip install "prunefuse-bench[slurm]"'
            ) from None
        if resources.gpus != int(resources.gpus):
            raise BadInput(f"--gpus-per-cell: expected a whole number with --executor slurm, got {resources.gpus:g}")
        try:
            self._executor: Any = submitit.AutoExecutor(folder=folder / "%j", cluster=cluster)
            self._executor.update_parameters(
                name="prunefuse-bench",
                cpus_per_task=resources.cpus,
                gpus_per_node=int(resources.gpus) or None,
                mem_gb=resources.memory_gigabytes,
                timeout_min=MINUTES,
                **{f"slurm_{name}": value for name, value in (parameters or {}).items()},
            )
        except RuntimeError as error:
            raise BadInput(f"--executor slurm: expected srun and sbatch on this machine, got: {error}") from None
        except (NameError, ValueError, AssertionError) as error:
            raise BadInput(f"--slurm: {error}") from None
        self._broken = submitit.core.utils.UncompletedJobError
        self._running: dict[int, Any] = {}
        self._submitted = 0

    def __enter__(self) -> SlurmEngine:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is at work any more."""

    def submit(self, orders: Sequence[Order]) -> list[Hashable]:
        """As arrays."""
        tickets: list[Hashable] = []
        for first in range(0, len(orders), LARGEST_ARRAY):
            with self._executor.batch():
                some = orders[first : first + LARGEST_ARRAY]
                jobs = [self._executor.submit(CarryOut(), order.to_json()) for order in some]
            for job in jobs:
                self._submitted += 1
                self._running[self._submitted] = job
                tickets.append(self._submitted)
        return tickets

    def wait(self, seconds: float) -> list[tuple[Hashable, Report]]:
        """The jobs that have ended."""
        ended = self._ended()
        if not ended:
            time.sleep(seconds)
            ended = self._ended()
        return [(ticket, self._report(self._running.pop(ticket))) for ticket in ended]

    def _ended(self) -> list[int]:
        return [ticket for ticket, job in self._running.items() if job.done()]

    def _report(self, job: Any) -> Report:
        try:
            return Report(**job.result())
        except self._broken as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            return Report("lost", f"job {job.job_id}: {' '.join([lines[0], *lines[-2:]])[:500]}" if lines else "")

    def cancel(self) -> None:
        """Cancel all jobs."""
        for job in self._running.values():
            job.cancel(check=False)
        self._running.clear()
