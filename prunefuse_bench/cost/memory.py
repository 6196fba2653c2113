"""Peak memory of a stretch of work: resident in the process, and of tensors on a CUDA device.

Linux keeps the peak of resident memory ("VmHWM" in /proc/self/status), and writing "5" to /proc/self/clear_refs sets it
back to what is resident now. That also lowers what ``getrusage`` gives as ``ru_maxrss``, which is the same number, so
the largest one ever seen is kept here, see :func:`process_peak_bytes`. Where the peak cannot be set back (on other
systems and in some containers), the process's peak so far stands in: never too small, but perhaps of earlier work.

The kernel counts pages in batches for each processor, so a peak may be off by some hundred kilobytes.
"""

from __future__ import annotations

import resource
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import torch

__all__ = ["PeakMemory", "process_peak_bytes"]

PROCESS = Path("/proc/self")
SLACK = 2**22
"""Bytes that the peak may be above the resident memory just after it was set back: other threads allocate too."""


@dataclass(eq=False)
class _Stretch:
    """The highest peaks seen before the counters were last set back for somebody else; in bytes."""

    resident: int = 0
    device: int = 0


_lock = threading.Lock()
_open: list[tuple[_Stretch, torch.device]] = []
_process_peak = 0


class PeakMemory:
    """Measures stretches of work: ``begin()`` and ``end()`` around each.

    Stretches may nest, of one object or of several, and those of several objects may overlap: setting a counter back
    for one of them does not take anything from the others. Memory belongs to the process and not to a thread, so work
    that runs beside the stretch is in its peak.

    Args:
        device: whose tensors are measured beside the process.

    Attributes:
        resets: whether the peak of resident memory can be set back. If not, ``end`` gives the process's peak so far.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stretches: list[_Stretch] = []
        self.resets = _can_reset()

    def begin(self) -> None:
        """From here on. Takes some 60 microseconds."""
        stretch = _Stretch()
        with _lock:
            _note_peaks(self._device)
            if self.resets:
                _reset()
            if self._device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self._device)
            _open.append((stretch, self._device))
        self._stretches.append(stretch)

    def end(self) -> tuple[int | None, int | None]:
        """Peaks in bytes since the ``begin`` that is the last one without an end.

        Returns:
            resident memory of the process, and memory of tensors on the device (what the allocator keeps in store
            without need is not in it); None for what the system cannot tell, or on a device other than CUDA.
        """
        stretch = self._stretches.pop()
        with _lock:
            _note_peaks(self._device)
            _open.remove((stretch, self._device))
        if not self.resets:
            return process_peak_bytes() or None, stretch.device if self._device.type == "cuda" else None
        return stretch.resident or None, stretch.device if self._device.type == "cuda" else None


def process_peak_bytes() -> int:
    """Largest resident memory of this process since it began, however often the peak was set back here."""
    with _lock:
        return max(_process_peak, _resident_peak())


def _note_peaks(device: torch.device) -> None:
    """Tell every open stretch of the peaks as they are, before they are set back."""
    global _process_peak  # noqa: PLW0603  # it is the process's, as the counter is
    resident = _resident_peak()
    on_device = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    _process_peak = max(_process_peak, resident)
    for stretch, its_device in _open:
        stretch.resident = max(stretch.resident, resident)
        if its_device == device:
            stretch.device = max(stretch.device, on_device)


def _can_reset() -> bool:
    """Whether setting the peak back works, which is tried."""
    with _lock:
        _note_peaks(torch.device("cpu"))
        try:
            _reset()
            return _status("VmHWM") <= _status("VmRSS") + SLACK
        except (OSError, ValueError):
            return False


def _reset() -> None:
    with (PROCESS / "clear_refs").open("w") as file:
        file.write("5")


def _resident_peak() -> int:
    """Bytes."""
    try:
        return _status("VmHWM")
    except (OSError, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


def _status(field: str) -> int:
    """A number of the process's status in bytes."""
    with (PROCESS / "status").open("rb") as file:
        status = file.read()
    start = status.find(b"\n" + field.encode() + b":")
    if start < 0:
        raise ValueError(f"{PROCESS / 'status'}: expected a line {field!r}, found none")
    return 1024 * int(status[start:].split(maxsplit=2)[1])
