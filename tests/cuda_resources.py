"""Compiles the CUDA kernels and reads from the result what each of them needs; no GPU takes part.

``python tests/cuda_resources.py`` prints a budget (csrc/cuda/budget.json) for the kernels as they are.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "csrc/cuda/ops.cu"
BUDGET = ROOT / "csrc/cuda/budget.json"
ARCHITECTURES = ["sm_80", "sm_90", "sm_100", "sm_120"]
FORWARD = "compute_120"  # PTX, for GPUs to come
LOADS_READ_FROM = "sm_90"
SYSTEM_SHARED_BYTES = 1024  # of every block's


class KernelBudget(TypedDict):
    """What a kernel may need at most, and has to have at least."""

    threads: int  # of a block, as it is launched
    dynamic_shared_bytes: int  # of a block, at most
    registers_at_most: int
    occupancy_at_least: float
    loads_of_16_bytes_at_least: int


@dataclass(frozen=True)
class Multiprocessor:
    """What the blocks on it share (CUDA C++ Programming Guide, technical specifications by compute capability)."""

    warps: int
    blocks: int
    shared_bytes: int
    registers: int = 65536


MULTIPROCESSORS = {
    "sm_80": Multiprocessor(64, 32, 164 * 1024),
    "sm_90": Multiprocessor(64, 32, 228 * 1024),
    "sm_100": Multiprocessor(64, 32, 228 * 1024),
    "sm_120": Multiprocessor(48, 24, 100 * 1024),
}


@dataclass
class Kernel:
    """What the compiler made of a kernel, by architecture."""

    registers: dict[str, int] = field(default_factory=dict)
    shared_bytes: dict[str, int] = field(default_factory=dict)
    stack_bytes: dict[str, int] = field(default_factory=dict)  # spilled registers lie there too
    local_bytes: dict[str, int] = field(default_factory=dict)
    loads_of_16_bytes: int = 0


class ToolMissing(RuntimeError):
    """Nothing is skipped for that."""


def toolkit() -> Path:
    """The folder of nvcc: CUDA_HOME, the usual place, or this interpreter's Python packages."""
    packages = [Path(folder) / "nvidia/cu13" for folder in sys.path]
    named = os.environ.get("CUDA_HOME")
    for folder in [*([Path(named)] if named else []), Path("/usr/local/cuda"), *packages]:
        if (folder / "bin/nvcc").exists() and (folder / "include/cuda_runtime.h").exists():
            return folder
    raise ToolMissing(
        "expected nvcc and its headers in CUDA_HOME, /usr/local/cuda or the Python packages of "
        f"{sys.executable}, found none: install the project's dev extra (pip install -e '.[dev]'), or set CUDA_HOME"
    )


def inspector() -> Path:
    """Cuobjdump, which torch's dependency triton brings along."""
    triton = importlib.util.find_spec("triton")
    program = Path(triton.origin if triton and triton.origin else "triton").parent / "backends/nvidia/bin/cuobjdump"
    if not program.exists():
        raise ToolMissing(f"expected {program}: install a torch that was built for CUDA, and with it triton")
    return program


def run(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def compile_object(target: Path) -> None:
    """As setup.py does, for all architectures; a spilled register is an error."""
    os.environ.setdefault("CUDA_HOME", str(toolkit()))  # torch looks for it when it is imported
    from torch.utils.cpp_extension import include_paths

    codes = [f"-gencode=arch={arch.replace('sm', 'compute')},code={arch}" for arch in ARCHITECTURES]
    run(
        toolkit() / "bin/nvcc",
        *("-std=c++20", "-O3", "--threads", "2", "-Xcompiler", "-fPIC,-fvisibility=hidden"),
        *("-Xptxas", "-warn-spills,-warn-lmem-usage,-Werror"),
        *("-DUSE_CUDA", "-DPy_LIMITED_API=0x030A0000", "-DTORCH_TARGET_VERSION=0x020a000000000000"),
        *(f"-I{folder}" for folder in [sysconfig.get_path("include"), *include_paths()]),
        *codes,
        f"-gencode=arch={FORWARD},code={FORWARD}",
        *("-c", SOURCE, "-o", target),
    )


def kernels_in(compiled: Path) -> dict[str, Kernel]:
    """The kernels of an object, by their names as written in C++ without the arguments."""
    mangled: dict[str, Kernel] = defaultdict(Kernel)
    arch = ""
    for line in run(inspector(), "-res-usage", compiled).splitlines():
        if found := re.match(r"arch = (\w+)", line):
            arch = found[1]
        elif found := re.match(r"\s*Function (\S+):", line):
            kernel = mangled[found[1]]
        elif found := re.match(r"\s*REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line):
            by_arch = (kernel.registers, kernel.stack_bytes, kernel.shared_bytes, kernel.local_bytes)
            for values, value in zip(by_arch, found.groups(), strict=True):
                values[arch] = int(value)
            if arch != "sm_80":  # from sm_90 on what the system takes of a block's shared memory is counted in
                kernel.shared_bytes[arch] -= SYSTEM_SHARED_BYTES
    for line in run(inspector(), "-sass", "-arch", LOADS_READ_FROM, compiled).splitlines():
        if found := re.match(r"\s*Function : (\S+)", line):
            kernel = mangled[found[1]]
        elif re.search(r"\bLDG\.E\.\S*128", line):
            kernel.loads_of_16_bytes += 1
    names = run("c++filt", *mangled).splitlines()
    return {
        re.sub(r"^void |prunefuse::cuda::|\(.*", "", name): kernel
        for name, kernel in zip(names, mangled.values(), strict=True)
    }


def occupancy(arch: str, threads: int, registers: int, shared_bytes: int) -> float:
    """The share of a multiprocessor's warps that can be there at once."""
    limits = MULTIPROCESSORS[arch]
    warps = -(-threads // 32)
    registers_of_warp = -(-registers * 32 // 256) * 256
    shared = -(-(shared_bytes + SYSTEM_SHARED_BYTES) // 128) * 128
    by_registers = limits.registers // 4 // registers_of_warp * 4 // warps  # each quarter has warps of its own
    blocks = min(limits.blocks, limits.warps // warps, by_registers, limits.shared_bytes // shared)
    return blocks * warps / limits.warps


def lowest_occupancy(kernel: Kernel, threads: int, dynamic_shared_bytes: int) -> float:
    return min(
        occupancy(arch, threads, kernel.registers[arch], kernel.shared_bytes[arch] + dynamic_shared_bytes)
        for arch in kernel.registers
    )


# Threads of a block and dynamic shared memory at most, as the launchers have them.
LAUNCHES = {
    "score_staged_rows": (128, 4 * 128 * 33),
    "committee_of_few_classes": (64, 64 * (4 * 33 + 8 * 32)),
    "committee_of_many_classes": (256, 16 * 2048),
    "pick_candidates": (1024, 0),
    "clear_largest": (32, 0),
    "accept_first": (32, 0),
}


def budget_for(name: str, kernel: Kernel) -> KernelBudget:
    threads, shared = LAUNCHES.get(name.partition("<")[0], (256, 0))
    return {
        "threads": threads,
        "dynamic_shared_bytes": shared,
        "registers_at_most": -(-max(kernel.registers.values()) // 8) * 8,  # what is allocated
        "occupancy_at_least": int(lowest_occupancy(kernel, threads, shared) * 1000) / 1000,
        "loads_of_16_bytes_at_least": kernel.loads_of_16_bytes,
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        compile_object(Path(folder) / "ops.o")
        found = kernels_in(Path(folder) / "ops.o")
    budget = {name: budget_for(name, found[name]) for name in sorted(found)}
    print("{\n" + ",\n".join(f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in budget.items()) + "\n}")
