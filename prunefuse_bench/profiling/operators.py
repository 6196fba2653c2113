"""Where the time goes, operator by operator."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from prunefuse_bench.profiling.alternation import synchronise

__all__ = ["OperatorTime", "profile_operators"]


@dataclass(frozen=True)
class OperatorTime:
    """One operator of torch.

    Attributes:
        name: torch's name for it.
        calls: how often.
        seconds: in itself, without the operators that it calls; on the device if there is one.
        share: of the seconds of all operators.
    """

    name: str
    calls: int
    seconds: float
    share: float


def profile_operators(
    call: Callable[[], object], device: torch.device, trace: Path | None = None
) -> list[OperatorTime]:
    """Run ``call`` once to warm up and once under torch's profiler; the operator that takes longest comes first.

    Args:
        trace: file to write a trace to, for chrome://tracing or https://ui.perfetto.dev.
    """
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it reports on stderr that there is no GPU
    call()
    with profile(activities=activities) as profiler:
        call()
        synchronise(device)
    if trace is not None:
        profiler.export_chrome_trace(str(trace))
    events = profiler.key_averages()
    attribute = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    microseconds = {event.key: float(getattr(event, attribute)) for event in events}
    total = sum(microseconds.values())
    found = [
        OperatorTime(event.key, event.count, microseconds[event.key] / 1e6, microseconds[event.key] / total)
        for event in events
        if microseconds[event.key] > 0
    ]
    return sorted(found, key=lambda operator: operator.seconds, reverse=True)
