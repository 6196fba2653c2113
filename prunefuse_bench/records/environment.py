"""Where a result comes from: versions, processor, graphics card, threads, commit."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from prunefuse_bench.cost.energy import energy_meter
from prunefuse_bench.distributed import current
from prunefuse_bench.inference.onednn import has_fused_convolutions
from prunefuse_bench.ops.chain import has_chains

__all__ = ["describe_environment", "where_bits_come_from"]

PACKAGES = ("torch", "torchvision", "torch-pruning", "numpy", "scikit-learn", "pillow")


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Plain data that describes this process and machine; ``ranks`` if several processes run a cell together."""
    return {
        "prunefuse_bench": metadata.version("prunefuse-bench"),
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device.type,
        "gpu": _gpu(device),
        "energy": energy_meter(device).source,
        "fused_convolutions": device.type == "cpu" and has_fused_convolutions(),
        **({"ranks": current().size} if current().size > 1 else {}),
        "chains": device.type == "cpu" and has_chains(),
    }


WHERE_FROM = (
    "prunefuse_bench", "commit", "python", "packages", "os", "cpu", "cpu_capability", "threads", "device", "gpu",
    "ranks", "fused_convolutions", "chains",
)  # fmt: skip


def where_bits_come_from(environment: Mapping[str, Any]) -> dict[str, Any]:
    """What of an environment can change the bits of a result."""
    return {key: environment[key] for key in WHERE_FROM if key in environment}


@functools.cache
def _commit() -> str | None:
    """Commit of the source this runs from, with ``-dirty`` if files differ; None outside a checkout."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(command, cwd=here, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


@functools.cache
def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _gpu(device: torch.device) -> dict[str, Any] | None:
    if device.type != "cuda":
        return None
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
    }
