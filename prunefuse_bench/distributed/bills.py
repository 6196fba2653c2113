"""What a round cost all processes that ran it together."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Iterable

import torch

from prunefuse_bench.cost import Bill, StageCost
from prunefuse_bench.distributed.world import World

__all__ = ["bill_of_all"]


def bill_of_all(own: Bill, world: World) -> Bill:
    """The first process's bill with the processor seconds, the peaks and the energy of all.

    FLOPs and samples are counted for whole batches and pools, so they are those of all processes already. A counter of
    a processor's energy counts for the whole machine, and is taken once for each machine; one of a device is its own.
    """
    if world.size == 1:
        return own
    machine = platform.node() if not torch.cuda.is_available() else f"{platform.node()}, device {world.rank}"
    told = world.gather_objects((machine, own))
    first = {name: rank for rank, (name, _) in reversed(list(enumerate(told)))}
    counted = [bill if first[name] == rank else None for rank, (name, bill) in enumerate(told)]
    stages = {}
    for stage, cost in own.stages.items():
        of_all = [bill.stages.get(stage, StageCost()) for _, bill in told]
        joules = [bill.stages[stage].joules for bill in counted if bill is not None and stage in bill.stages]
        stages[stage] = dataclasses.replace(
            cost,
            cpu_seconds=sum(one.cpu_seconds for one in of_all),
            peak_memory_bytes=_largest(one.peak_memory_bytes for one in of_all),
            peak_device_bytes=_largest(one.peak_device_bytes for one in of_all),
            joules=None if None in joules else sum(value for value in joules if value is not None),
        )
    peaks = tuple(_largest(cost.peak_memory_bytes for cost in bill.stages.values()) for _, bill in told)
    return dataclasses.replace(own, stages=stages, peaks=peaks)


def _largest(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)
