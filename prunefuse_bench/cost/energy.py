"""Energy, where the machine can tell: of processors and their memory (RAPL), or of a CUDA device (NVML).

Both count everything that runs on the processor or the device, whoever started it. What is not there is said to be
absent; nothing is estimated.
"""

from __future__ import annotations

import importlib
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

__all__ = ["EnergyMeter", "energy_meter"]

POWERCAP = Path("/sys/class/powercap")
READING_INTERVAL = 30.0
"""Seconds. A RAPL counter begins anew after some 260 kJ, which a large processor uses in ten minutes."""


class EnergyMeter(ABC):
    """A cumulative count of energy."""

    @property
    @abstractmethod
    def source(self) -> str:
        """What is measured, such as "RAPL package-0 + dram", or "absent: " and the reason."""

    @abstractmethod
    def joules(self) -> float | None:
        """Energy since the meter was made; None if it cannot be told. Once None, it stays None."""


def energy_meter(device: torch.device, powercap: Path = POWERCAP) -> EnergyMeter:
    """The meter for work on a device: NVML for a CUDA device, whose processor is not included; RAPL for the processor.

    Args:
        powercap: where the kernel shows its energy counters.
    """
    try:
        return _Device(device) if device.type == "cuda" else _Processors(powercap)
    except _AbsentError as reason:
        return _Absent(str(reason))


class _AbsentError(Exception):
    """There is nothing to measure with; the message says why."""


class _Absent(EnergyMeter):
    def __init__(self, reason: str) -> None:
        self._reason = reason

    @property
    def source(self) -> str:
        return f"absent: {self._reason}"

    def joules(self) -> None:
        return None


class _Counter:
    """One RAPL counter in microjoules, which begins anew at its range.

    Args:
        zone: its folder.
    """

    def __init__(self, zone: Path) -> None:
        self._file = zone / "energy_uj"
        self._range = _read_number(zone / "max_energy_range_uj")
        self._last = _read_number(self._file)
        self.total = 0

    def read(self) -> None:
        """Add what was used since the last time, during which it may have begun anew once."""
        now = _read_number(self._file)
        self.total += now - self._last if now >= self._last else now - self._last + self._range
        self._last = now


class _Processors(EnergyMeter):
    """RAPL through the kernel's powercap folder.

    Every package is taken once, though some machines show it twice (by registers and by memory), and the memory zones
    inside packages. Cores and graphics are parts of their package; "psys" is the whole system, packages included, and
    left out.
    """

    def __init__(self, root: Path) -> None:
        zones = _zones(root)
        packages = {name: folder for folder, name in zones.items() if name.startswith("package-")}
        if not packages:
            raise _AbsentError(f"no RAPL counters in {root}")
        inside = {package.name + ":": package for package in packages.values()}
        memory = [
            folder
            for folder, name in zones.items()
            if name == "dram" and any(folder.name.startswith(start) for start in inside)
        ]
        try:
            self._counters = [_Counter(folder) for folder in (*packages.values(), *memory)]
        except PermissionError as error:
            raise _AbsentError(f"{error.filename} is readable by root only") from None
        except (OSError, ValueError) as error:
            raise _AbsentError(f"RAPL counters in {root} cannot be read ({error})") from None
        self._source = "RAPL " + " + ".join(sorted(packages) + ["dram"] * bool(memory))
        self._gone = ""
        self._lock = threading.Lock()
        done = threading.Event()
        weakref.finalize(self, done.set)
        threading.Thread(target=_keep_reading, args=(weakref.ref(self), done), daemon=True).start()

    @property
    def source(self) -> str:
        return f"absent: {self._gone}" if self._gone else self._source

    def joules(self) -> float | None:
        with self._lock:
            if not self._gone:
                try:
                    for counter in self._counters:
                        counter.read()
                except (OSError, ValueError) as error:
                    self._gone = f"RAPL counters can no longer be read ({error})"
            return None if self._gone else sum(counter.total for counter in self._counters) / 1e6


def _keep_reading(meter: weakref.ref[_Processors], done: threading.Event) -> None:
    """Read often enough that no counter begins anew twice between two readings."""
    while not done.wait(READING_INTERVAL):
        if (alive := meter()) is not None:
            alive.joules()
            del alive


def _zones(root: Path) -> Mapping[Path, str]:
    """Folders and names of all zones; of two with one name and level, that by registers comes last."""
    try:
        folders = sorted(root.iterdir(), key=lambda folder: ("mmio" not in folder.name, folder.name))
    except OSError:
        return {}
    zones = {}
    for folder in folders:
        try:
            zones[folder] = (folder / "name").read_text().strip()
        except OSError:
            continue  # a control type and no zone
    return zones


def _read_number(file: Path) -> int:
    return int(file.read_text())


class _Device(EnergyMeter):
    """NVML: the energy of one device since its driver was loaded, in millijoules."""

    def __init__(self, device: torch.device) -> None:
        try:
            self._nvml: Any = importlib.import_module("pynvml")
        except ImportError:
            raise _AbsentError("the package nvidia-ml-py is not installed") from None
        # By its identifier: CUDA may number devices in another way, and see only some of them.
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        try:
            self._nvml.nvmlInit()
            self._handle = self._nvml.nvmlDeviceGetHandleByUUID(uuid)
            self._first = self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        except self._nvml.NVMLError as error:
            raise _AbsentError(f"NVML cannot tell for {uuid} ({error})") from None
        self._source = f"NVML {uuid}"
        self._gone = ""

    @property
    def source(self) -> str:
        return f"absent: {self._gone}" if self._gone else self._source

    def joules(self) -> float | None:
        if not self._gone:
            try:
                return (self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) - self._first) / 1e3
            except self._nvml.NVMLError as error:
                self._gone = f"NVML can no longer tell ({error})"
        return None
