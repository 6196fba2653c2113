from __future__ import annotations

import mmap
import resource
import sys
from pathlib import Path

import pytest
import torch

from prunefuse_bench.cost import memory
from prunefuse_bench.cost.memory import PeakMemory, process_peak_bytes

CPU = torch.device("cpu")
MEGABYTE = 2**20
TOLERANCE = 8 * MEGABYTE
"""What the allocator, other threads and the kernel's batches may make of a peak."""

linux = pytest.mark.skipif(not PeakMemory(CPU).resets, reason="the peak cannot be set back here")


def resident_now() -> int:
    return memory._status("VmRSS")


def use(megabytes: int) -> None:
    """Take so much from the system, touch every page and give it back; an allocator might have some left over."""
    if megabytes:
        with mmap.mmap(-1, megabytes * MEGABYTE) as region:
            region[:: mmap.PAGESIZE] = b"1" * (megabytes * MEGABYTE // mmap.PAGESIZE)


def peak_of(megabytes: int) -> int:
    """Bytes above what was there before."""
    before, meter = resident_now(), PeakMemory(CPU)
    meter.begin()
    use(megabytes)
    resident, _ = meter.end()
    assert resident is not None
    return resident - before


@linux
def test_a_stretch_has_its_own_peak_whatever_came_before() -> None:
    use(120)
    assert abs(peak_of(50) - 50 * MEGABYTE) < TOLERANCE
    assert abs(peak_of(80) - 80 * MEGABYTE) < TOLERANCE
    assert peak_of(0) < TOLERANCE


@linux
def test_stretches_nest_and_the_outer_one_keeps_what_it_saw_before_the_inner_one_began() -> None:
    before, meter = resident_now(), PeakMemory(CPU)
    meter.begin()
    use(90)
    meter.begin()
    use(50)
    inner, _ = meter.end()
    use(40)
    outer, _ = meter.end()
    assert inner is not None
    assert outer is not None
    assert abs(inner - before - 50 * MEGABYTE) < TOLERANCE
    assert abs(outer - before - 90 * MEGABYTE) < TOLERANCE


@linux
def test_the_outer_stretch_has_the_peak_of_the_inner_one() -> None:
    before, meter = resident_now(), PeakMemory(CPU)
    meter.begin()
    meter.begin()
    use(50)
    meter.end()
    outer, _ = meter.end()
    assert outer is not None
    assert abs(outer - before - 50 * MEGABYTE) < TOLERANCE


@linux
def test_stretches_of_two_objects_may_overlap() -> None:
    before, one, other = resident_now(), PeakMemory(CPU), PeakMemory(CPU)
    one.begin()
    use(90)
    other.begin()
    first, _ = one.end()
    use(50)
    second, _ = other.end()
    assert first is not None
    assert second is not None
    assert abs(first - before - 90 * MEGABYTE) < TOLERANCE
    assert abs(second - before - 50 * MEGABYTE) < TOLERANCE


@linux
def test_the_peak_of_the_process_survives_what_lowers_getrusage() -> None:
    use(120)
    highest = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak_of(0)
    assert 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < highest - 80 * MEGABYTE, "no longer needed"
    assert process_peak_bytes() >= highest


@linux
def test_a_peak_inside_a_stretch_counts_for_the_process() -> None:
    before = resident_now()
    meter = PeakMemory(CPU)
    meter.begin()
    use(150)
    meter.begin()
    meter.end()
    meter.end()
    assert process_peak_bytes() >= before + 150 * MEGABYTE - TOLERANCE


def test_there_is_no_device_memory_on_a_cpu() -> None:
    meter = PeakMemory(CPU)
    meter.begin()
    assert meter.end()[1] is None


def test_where_the_peak_cannot_be_set_back_that_of_the_process_stands_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "PROCESS", tmp_path / "nothing")
    meter = PeakMemory(CPU)
    assert not meter.resets
    meter.begin()
    resident, _ = meter.end()
    assert resident == process_peak_bytes()
    assert resident > 10 * MEGABYTE


def test_a_system_that_takes_the_request_and_does_nothing_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clear_refs").touch()
    (tmp_path / "status").write_text("Name:\ttest\nVmHWM:\t  900000 kB\nVmRSS:\t  100000 kB\n")
    monkeypatch.setattr(memory, "PROCESS", tmp_path)
    meter = PeakMemory(CPU)
    assert (tmp_path / "clear_refs").read_text() == "5"
    assert not meter.resets
    meter.begin()
    assert meter.end()[0] >= 900_000 * 1024


def test_getrusage_is_understood_where_there_is_no_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PROCESS", tmp_path)
    monkeypatch.setattr(memory, "_process_peak", 0)
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    monkeypatch.setattr(resource, "getrusage", lambda who: type("Usage", (), {"ru_maxrss": usage}))
    monkeypatch.setattr(sys, "platform", "linux")
    assert process_peak_bytes() == 1024 * usage
    monkeypatch.setattr(sys, "platform", "darwin")
    assert process_peak_bytes() == usage


def test_device_memory_is_set_back_and_read_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    peak, asked = 0, set()

    def reset(device: torch.device) -> None:
        nonlocal peak
        peak = 7
        asked.add(device)

    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peak)
    meter = PeakMemory(torch.device("cuda", 1))
    meter.begin()
    peak = 100
    meter.begin()
    peak = 30
    assert meter.end()[1] == 30
    assert meter.end()[1] == 100
    assert asked == {torch.device("cuda", 1)}
