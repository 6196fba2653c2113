"""Seconds and samples, stage by stage."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

__all__ = ["SELECTOR_STAGES", "Ledger", "StageCost"]

SELECTOR_STAGES = ("prune", "selector/train", "selector/infer", "selector/rank", "sync/start", "sync/train")
"""Stages that are spent on choosing data. Evaluation on the test set is reporting, not selection."""


@dataclass
class StageCost:
    """What one stage took.

    Attributes:
        seconds: wall-clock.
        cpu_seconds: of this process, all threads; far below seconds times threads if the machine was shared.
        samples: a sample counts once for each pass over it.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    samples: int = 0


class Ledger:
    """Sums what each stage of a round costs. The device is synchronised at both ends of a stage."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stages: dict[str, StageCost] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[StageCost]:
        """Time the block; add to ``samples`` inside it."""
        cost = self._stages.setdefault(name, StageCost())
        self._synchronise()
        start, cpu_start = time.perf_counter(), time.process_time()
        try:
            yield cost
        finally:
            self._synchronise()
            cost.seconds += time.perf_counter() - start
            cost.cpu_seconds += time.process_time() - cpu_start

    def charge(self, name: str, cost: StageCost) -> None:
        """Add what was measured elsewhere."""
        own = self._stages.setdefault(name, StageCost())
        own.seconds += cost.seconds
        own.cpu_seconds += cost.cpu_seconds
        own.samples += cost.samples

    def spent(self, name: str) -> StageCost:
        """What a stage of this round took so far."""
        return dataclasses.replace(self._stages.get(name, StageCost()))

    def close_round(self) -> dict[str, StageCost]:
        """The stages since the last call, in order of first use; the ledger starts anew."""
        stages, self._stages = self._stages, {}
        return stages

    def _synchronise(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
