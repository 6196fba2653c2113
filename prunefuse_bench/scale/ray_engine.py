"""Cells as tasks of Ray, on a cluster or on this machine."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Hashable, Sequence
from typing import Any

from prunefuse_bench.errors import BadInput
from prunefuse_bench.scale.order import Order, Report, Resources
from prunefuse_bench.scale.worker import carry_out_json

__all__ = ["RayEngine"]

OBJECT_STORE_BYTES = 100 << 20
"""Of a Ray that is started here: nothing is kept in it but a line of text for each cell."""
SECONDS_TO_STOP = 20.0


class RayEngine:
    """Orders are tasks, each with its share of a machine; Ray finds the machine.

    A task is not retried by Ray: the driver counts the attempts and keeps the reason of each.

    Args:
        resources: of each cell.
        address: of a cluster, as ``ray start`` prints it, or ``ray://HOST:PORT``. If there is none: the one of
            RAY_ADDRESS, or the one that this machine is a part of; else, and for ``local``, Ray is started on this
            machine, and ends with the run.

    Raises:
        BadInput: Ray is not installed.
    """

    def __init__(self, resources: Resources, address: str | None = None) -> None:
        try:
            import ray
        except ImportError:
            raise BadInput(
                '--executor ray: expected the package ray, which is missing; pip install "prunefuse-bench[ray]"'
            ) from None
        self._ray: Any = ray
        self._resources, self._address = resources, address
        self._running: dict[Any, None] = {}
        self._is_ours = False
        self._task: Any = None

    def __enter__(self) -> RayEngine:
        """Connect.

        Raises:
            BadInput: there is no cluster at the address, or the Ray started here has no room for a cell.
        """
        if not self._ray.is_initialized():
            self._connect()
            self._is_ours = True
        asked = self._resources
        self._task = self._ray.remote(carry_out_json).options(
            num_cpus=asked.cpus,
            num_gpus=asked.gpus,
            memory=None if asked.memory_gigabytes is None else int(asked.memory_gigabytes * 1e9),
            max_retries=0,
            scheduling_strategy="SPREAD",
            name="prunefuse-bench cell",
        )
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_ours:
            self._ray.shutdown()

    def _connect(self) -> None:
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        address = self._address or os.environ.get("RAY_ADDRESS")
        if address == "local":
            self._start(quiet)
            return
        if address is not None:
            try:
                self._ray.init(address=address, **quiet)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise BadInput(f"--ray-address {address}: expected a cluster there, got {error}") from None
            return
        with contextlib.suppress(ConnectionError):
            self._ray.init(address="auto", **quiet)
            return
        self._start(quiet)

    def _start(self, quiet: dict[str, Any]) -> None:
        self._ray.init(address="local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **quiet)
        self._check_room()

    def _check_room(self) -> None:
        there, asked = self._ray.cluster_resources(), self._resources
        needs = {"CPU": asked.cpus, "GPU": asked.gpus, "memory": (asked.memory_gigabytes or 0) * 1e9}
        for name, amount in needs.items():
            if there.get(name, 0) < amount:
                self._ray.shutdown()
                raise BadInput(
                    f"--executor ray: expected {name} {amount:g} for a cell, but this machine has "
                    f"{there.get(name, 0):g}; ask for less, or name a cluster with --ray-address"
                )

    def submit(self, orders: Sequence[Order]) -> list[Hashable]:
        """One task for each order."""
        references = [self._task.remote(order.to_json()) for order in orders]
        self._running.update(dict.fromkeys(references))
        return references

    def wait(self, seconds: float) -> list[tuple[Hashable, Report]]:
        """The tasks that have ended."""
        if not self._running:
            time.sleep(seconds)
            return []
        references = list(self._running)
        first, _ = self._ray.wait(references, num_returns=1, timeout=seconds)
        if not first:
            return []
        ended, _ = self._ray.wait(references, num_returns=len(references), timeout=0)
        for reference in ended:
            del self._running[reference]
        return [(reference, self._report(reference)) for reference in ended]

    def _report(self, reference: Any) -> Report:
        try:
            return Report(**self._ray.get(reference))
        except self._ray.exceptions.RayError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            return Report("lost", f"{type(error).__name__}: {' '.join(lines)[:500]}")

    def cancel(self) -> None:
        """End the processes of all tasks."""
        references = list(self._running)
        for reference in references:
            self._ray.cancel(reference, force=True)
        if references:
            self._ray.wait(references, num_returns=len(references), timeout=SECONDS_TO_STOP)
        self._running.clear()
