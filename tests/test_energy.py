"""Energy counters against folders and modules that stand in for the machine's."""

from __future__ import annotations

import gc
import os
import sys
import threading
import types
from pathlib import Path

import pytest
import torch

from prunefuse_bench.cost import energy
from prunefuse_bench.cost.energy import energy_meter

CPU = torch.device("cpu")
RANGE = 1_000_000_000  # microjoules


def add_zone(root: Path, folder: str, name: str, microjoules: int = 0) -> Path:
    zone = root / folder
    zone.mkdir(parents=True)
    (zone / "name").write_text(f"{name}\n")
    (zone / "energy_uj").write_text(f"{microjoules}\n")
    (zone / "max_energy_range_uj").write_text(f"{RANGE}\n")
    return zone


def use(zone: Path, joules: float) -> None:
    """As the machine does it: the counter begins anew at its range, and is never seen half written."""
    file = zone / "energy_uj"
    new = zone / "new"
    new.write_text(f"{(int(file.read_text()) + int(1e6 * joules)) % RANGE}\n")
    new.replace(file)


def test_package_and_its_memory_are_added(tmp_path: Path) -> None:
    (tmp_path / "intel-rapl").mkdir()  # the control type, which has no counter
    package = add_zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    cores = add_zone(tmp_path, "intel-rapl:0:0", "core")
    memory = add_zone(tmp_path, "intel-rapl:0:1", "dram", 70_000)
    meter = energy_meter(CPU, tmp_path)
    assert meter.source == "RAPL package-0 + dram"
    assert meter.joules() == 0
    use(package, 3)
    use(cores, 2)  # part of the package
    use(memory, 0.5)
    assert meter.joules() == 3.5
    use(package, 1)
    assert meter.joules() == 4.5


def test_a_counter_that_begins_anew_loses_nothing(tmp_path: Path) -> None:
    package = add_zone(tmp_path, "intel-rapl:0", "package-0", RANGE - 2_000_000)
    meter = energy_meter(CPU, tmp_path)
    use(package, 5)
    assert int((package / "energy_uj").read_text()) == 3_000_000
    assert meter.joules() == 5
    use(package, 1)
    assert meter.joules() == 6


def test_all_sockets_are_added_each_with_its_memory(tmp_path: Path) -> None:
    zones = [
        add_zone(tmp_path, folder, name)
        for folder, name in (
            ("intel-rapl:0", "package-0"),
            ("intel-rapl:0:0", "dram"),
            ("intel-rapl:1", "package-1"),
            ("intel-rapl:1:0", "dram"),
        )
    ]
    meter = energy_meter(CPU, tmp_path)
    assert meter.source == "RAPL package-0 + package-1 + dram"
    for position, zone in enumerate(zones):
        use(zone, 10**position / 100)
    assert meter.joules() == pytest.approx(11.11)


def test_nothing_is_added_twice(tmp_path: Path) -> None:
    package = add_zone(tmp_path, "intel-rapl:0", "package-0")
    system = add_zone(tmp_path, "intel-rapl:1", "psys")
    inside = add_zone(tmp_path, "intel-rapl:1:0", "dram")
    again = add_zone(tmp_path, "intel-rapl-mmio:0", "package-0")
    meter = energy_meter(CPU, tmp_path)
    assert meter.source == "RAPL package-0"
    for zone in (system, inside, again):
        use(zone, 100)
    use(package, 1)
    assert meter.joules() == 1


def test_a_machine_without_counters_says_so(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "nothing"):
        meter = energy_meter(CPU, root)
        assert meter.joules() is None
        assert meter.source == f"absent: no RAPL counters in {root}"


def test_counters_for_root_only_are_absent_and_no_part_of_them_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_zone(tmp_path, "intel-rapl:0", "package-0")
    locked = add_zone(tmp_path, "intel-rapl:1", "package-1") / "energy_uj"
    locked.chmod(0)
    if os.geteuid() == 0:  # who may read everything
        read_text = Path.read_text

        def refuse(file: Path) -> str:
            if file == locked:
                raise PermissionError(13, "Permission denied", str(file))
            return read_text(file)

        monkeypatch.setattr(Path, "read_text", refuse)
    meter = energy_meter(CPU, tmp_path)
    assert meter.source == f"absent: {locked} is readable by root only"
    assert meter.joules() is None


@pytest.mark.parametrize("damage", ["gone", "no number"])
def test_a_counter_that_disappears_is_not_guessed(tmp_path: Path, damage: str) -> None:
    package = add_zone(tmp_path, "intel-rapl:0", "package-0")
    meter = energy_meter(CPU, tmp_path)
    use(package, 1)
    assert meter.joules() == 1
    text = (package / "energy_uj").read_text()
    if damage == "gone":
        (package / "energy_uj").unlink()
    else:
        (package / "energy_uj").write_text("\n")
    assert meter.joules() is None
    assert meter.source.startswith("absent: RAPL counters can no longer be read (")
    (package / "energy_uj").write_text(text)
    assert meter.joules() is None, "what was used meanwhile is not known"


def test_a_counter_without_a_number_is_absent_from_the_start(tmp_path: Path) -> None:
    package = add_zone(tmp_path, "intel-rapl:0", "package-0")
    (package / "max_energy_range_uj").unlink()
    assert energy_meter(CPU, tmp_path).source.startswith(f"absent: RAPL counters in {tmp_path} cannot be read (")


def test_counters_are_read_in_between_and_the_reader_ends_with_its_meter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy, "READING_INTERVAL", 0.005)
    package = add_zone(tmp_path, "intel-rapl:0", "package-0")
    before = set(threading.enumerate())
    meter = energy_meter(CPU, tmp_path)
    (reader,) = set(threading.enumerate()) - before
    assert reader.daemon
    for _ in range(3):  # 1.8 times the range, of which two readings alone would see 0.8
        use(package, 600)
        wait_until_read(meter, package)
    assert meter.joules() == 1800
    del meter
    gc.collect()
    reader.join(timeout=5)
    assert not reader.is_alive()


def wait_until_read(meter: object, zone: Path) -> None:
    now = int((zone / "energy_uj").read_text())
    pause = threading.Event()
    for _ in range(1000):
        if meter._counters[0]._last == now:  # type: ignore[attr-defined]
            return
        pause.wait(0.005)
    pytest.fail("nobody read the counter")


class FakeNvml(types.ModuleType):
    """The calls of nvidia-ml-py that are used."""

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.millijoules: int | None = 40_000
        self.asked: list[str] = []

    def nvmlInit(self) -> None:  # noqa: N802
        self.asked.append("init")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        assert self.asked == ["init"]
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:  # noqa: N802
        assert handle == "GPU-5a-3"
        if self.millijoules is None:
            raise self.NVMLError("Not Supported")
        return self.millijoules


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: types.SimpleNamespace(uuid=f"5a-{device.index}")
    )
    return fake


GPU = torch.device("cuda", 3)


def test_a_device_is_asked_for_its_own_counter(nvml: FakeNvml, tmp_path: Path) -> None:
    add_zone(tmp_path, "intel-rapl:0", "package-0")
    meter = energy_meter(GPU, tmp_path)
    assert meter.source == "NVML GPU-5a-3"
    assert meter.joules() == 0
    nvml.millijoules = 42_500
    assert meter.joules() == 2.5


def test_a_device_that_cannot_tell_is_absent(nvml: FakeNvml) -> None:
    nvml.millijoules = None
    meter = energy_meter(GPU)
    assert meter.source == "absent: NVML cannot tell for GPU-5a-3 (Not Supported)"
    assert meter.joules() is None


def test_a_device_that_can_no_longer_tell_is_not_guessed(nvml: FakeNvml) -> None:
    meter = energy_meter(GPU)
    nvml.millijoules = None
    assert meter.joules() is None
    assert meter.source == "absent: NVML can no longer tell (Not Supported)"
    nvml.millijoules = 50_000
    assert meter.joules() is None


def test_without_the_package_a_device_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    meter = energy_meter(GPU)
    assert meter.source == "absent: the package nvidia-ml-py is not installed"
    assert meter.joules() is None
