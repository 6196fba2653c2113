"""The CUDA kernels compile for every architecture, and keep within csrc/cuda/budget.json. No GPU takes part."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cuda_resources import (
    ARCHITECTURES,
    BUDGET,
    FORWARD,
    Kernel,
    KernelBudget,
    compile_object,
    inspector,
    kernels_in,
    lowest_occupancy,
    occupancy,
    run,
    toolkit,
)

BUDGETS: dict[str, KernelBudget] = json.loads(BUDGET.read_text())


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("cuda") / "ops.o"
    compile_object(target)
    return target


@pytest.fixture(scope="session")
def kernels(compiled: Path) -> dict[str, Kernel]:
    return kernels_in(compiled)


def test_code_for_every_architecture_and_those_to_come(compiled: Path) -> None:
    binaries, portable = run(inspector(), "-lelf", compiled), run(inspector(), "-lptx", compiled)
    assert [arch for arch in ARCHITECTURES if f".{arch}.cubin" not in binaries] == []
    assert FORWARD.replace("compute", "sm") in portable


def test_every_kernel_has_a_budget_and_every_budget_a_kernel(kernels: dict[str, Kernel]) -> None:
    assert sorted(kernels) == sorted(BUDGETS)


@pytest.mark.parametrize("name", BUDGETS)
def test_kernel_keeps_within_its_budget(name: str, kernels: dict[str, Kernel]) -> None:
    kernel, budget = kernels[name], BUDGETS[name]
    assert sorted(kernel.registers) == sorted(ARCHITECTURES)
    assert set(kernel.stack_bytes.values()) == {0}, "registers are spilled, or arrays lie in local memory"
    assert set(kernel.local_bytes.values()) == {0}
    assert max(kernel.registers.values()) <= budget["registers_at_most"]
    assert kernel.loads_of_16_bytes >= budget["loads_of_16_bytes_at_least"]
    reached = lowest_occupancy(kernel, budget["threads"], budget["dynamic_shared_bytes"])
    assert reached >= budget["occupancy_at_least"]


def test_occupancy_worked_out_by_hand() -> None:
    assert occupancy("sm_90", threads=256, registers=32, shared_bytes=0) == 1.0
    assert occupancy("sm_90", threads=256, registers=128, shared_bytes=25_000) == 0.25  # two blocks by registers
    assert occupancy("sm_80", threads=1024, registers=33, shared_bytes=0) == 0.5  # 40 registers allocated: one block
    assert occupancy("sm_120", threads=64, registers=32, shared_bytes=24_000) == 8 / 48  # four blocks by shared memory
    assert occupancy("sm_90", threads=32, registers=16, shared_bytes=0) == 0.5  # 32 blocks


def test_operators_load_without_a_gpu_and_register_for_cuda(compiled: Path, tmp_path: Path) -> None:
    libraries = Path(torch.__file__).parent / "lib"
    folders = [toolkit() / "lib64", toolkit() / "lib"]
    runtime = next(file for folder in folders for file in sorted(folder.glob("libcudart.so*")))
    module = tmp_path / "_C_cuda.abi3.so"
    names = ["torch", "torch_cpu", "torch_cuda", "c10", "c10_cuda"]
    run("g++", "-shared", compiled, "-o", module, f"-L{libraries}", *(f"-l{name}" for name in names), runtime)
    wanted = run("nm", "-D", "-C", "--undefined-only", module)
    assert [line for line in wanted.splitlines() if " at::" in line or " c10::" in line] == []  # the stable ABI only
    script = """
import torch, prunefuse_bench._C, _C_cuda
for name in ("score", "score_committee", "top_k", "advance_kcenters", "fuse_flat"):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"prunefuse_bench::{name}", "CUDA"), name
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
