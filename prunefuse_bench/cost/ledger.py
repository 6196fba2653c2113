"""What a run costs, stage by stage: seconds, samples, FLOPs, memory and energy."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from prunefuse_bench.cost.energy import energy_meter
from prunefuse_bench.cost.memory import PeakMemory

__all__ = ["SELECTOR_STAGES", "Bill", "Ledger", "StageCost"]

SELECTOR_STAGES = ("prune", "selector/train", "selector/infer", "selector/rank", "sync/fuse", "sync/train")
"""Stages that are spent on choosing data. Evaluation on the test set is reporting, not selection."""


@dataclass
class StageCost:
    """What one stage took.

    Attributes:
        seconds: wall-clock, the device synchronised at both ends.
        cpu_seconds: of this process, all threads; far below seconds times threads if the machine was shared.
        samples: a sample counts once for each pass over it.
        flops_forward, flops_backward: counted on the real graph, two per multiply-add, see
            :mod:`prunefuse_bench.cost.flops`; none of the operators in ``uncounted`` is in them.
        paper_flops: by the paper's rule, for the same passes, see :mod:`prunefuse_bench.cost.paper_rule`.
        uncounted: operators and whole steps that nobody counted, by name.
        peak_memory_bytes: largest resident memory of the process while the stage ran, what it already held included;
            None if the machine cannot tell.
        peak_device_bytes: largest memory that tensors took on a CUDA device; None on a CPU.
        joules: energy of processor and memory, or of the device, whatever else they did meanwhile; None if the machine
            cannot tell.
        disagreements: where the two FLOP counters differ about a network.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    samples: int = 0
    flops_forward: int = 0
    flops_backward: int = 0
    paper_flops: float = 0.0
    uncounted: tuple[str, ...] = ()
    peak_memory_bytes: int | None = None
    peak_device_bytes: int | None = None
    joules: float | None = None
    disagreements: tuple[str, ...] = ()

    def add(self, other: StageCost) -> None:
        """Add what was spent on the same stage at another time."""
        for name in ("seconds", "cpu_seconds", "samples", "flops_forward", "flops_backward", "paper_flops"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.uncounted = tuple(sorted({*self.uncounted, *other.uncounted}))
        self.disagreements = tuple(sorted({*self.disagreements, *other.disagreements}))
        self.peak_memory_bytes = _largest(self.peak_memory_bytes, other.peak_memory_bytes)
        self.peak_device_bytes = _largest(self.peak_device_bytes, other.peak_device_bytes)
        if other.joules is not None:
            self.joules = (self.joules or 0.0) + other.joules


@dataclass(frozen=True)
class Bill:
    """What one round cost.

    Attributes:
        seconds: wall-clock from the end of the round before (or the beginning of the cell) to the end of this one.
        stages: in order of first use; their seconds add up to nearly all of it.
        borrowed: seconds of the stages that were spent elsewhere, on a selector that another cell has trained.
        peaks: of several processes that ran the cell together, the largest resident memory of each in this round, in
            bytes; empty for a single one. Stages then sum up the processor seconds of all of them, and
            hold the largest of their peaks; wall-clock is the first's.
    """

    seconds: float
    stages: dict[str, StageCost]
    borrowed: float = 0.0
    peaks: tuple[int | None, ...] = ()

    @property
    def unaccounted(self) -> float:
        """Seconds of this round that belong to no stage."""
        return self.seconds + self.borrowed - sum(cost.seconds for cost in self.stages.values())


class Ledger:
    """Sums what each stage of a round costs. The device is synchronised at both ends of a stage.

    A stage within a stage is taken out of the outer one: every second belongs to one stage.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stages: dict[str, StageCost] = {}
        self._memory = PeakMemory(device)
        self._energy = energy_meter(device)
        self._opened = time.perf_counter()
        self._borrowed = 0.0
        self._inner: list[StageCost] = []
        self._instead: str | None = None

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[StageCost]:
        """Measure the block; add samples and FLOPs to what it yields."""
        name = self._instead or name
        cost = StageCost()
        self._inner.append(StageCost())
        self._synchronise()
        self._memory.begin()
        joules, start, cpu_start = self._energy.joules(), time.perf_counter(), time.process_time()
        try:
            yield cost
        finally:
            self._synchronise()
            whole = StageCost(time.perf_counter() - start, time.process_time() - cpu_start)
            after, inner = self._energy.joules(), self._inner.pop()
            whole.joules = None if joules is None or after is None else after - joules
            cost.seconds = whole.seconds - inner.seconds
            cost.cpu_seconds = whole.cpu_seconds - inner.cpu_seconds
            cost.joules = None if whole.joules is None else whole.joules - (inner.joules or 0.0)
            if self._inner:
                self._inner[-1].add(whole)
            cost.peak_memory_bytes, cost.peak_device_bytes = self._memory.end()
            self._add(name, cost)

    @contextlib.contextmanager
    def everything_as(self, name: str) -> Iterator[None]:
        """Charge the block, and every stage within it, to the stage ``name``: steps of a run that only diagnose it."""
        before, self._instead = self._instead, name
        try:
            with self.stage(name):
                yield
        finally:
            self._instead = before

    def charge(self, name: str, cost: StageCost) -> None:
        """Add what was spent, and measured, elsewhere."""
        self._borrowed += cost.seconds
        self._add(name, cost)

    @contextlib.contextmanager
    def itemised(self) -> Iterator[dict[str, StageCost]]:
        """What the stages of the block take by themselves, whatever else the round spends on them; known at its end."""
        before, self._stages = self._stages, {}
        within = self._stages
        try:
            yield within
        finally:
            self._stages = before
            for name, cost in within.items():
                self._add(name, dataclasses.replace(cost))

    def close_round(self) -> Bill:
        """What was spent since the last call; the ledger starts anew."""
        now = time.perf_counter()
        bill = Bill(now - self._opened, self._stages, self._borrowed)
        self._stages, self._opened, self._borrowed = {}, now, 0.0
        return bill

    def _add(self, name: str, cost: StageCost) -> None:
        self._stages.setdefault(name, StageCost()).add(cost)

    def _synchronise(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _largest(one: int | None, other: int | None) -> int | None:
    return one if other is None else other if one is None else max(one, other)
