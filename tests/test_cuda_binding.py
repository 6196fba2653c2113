"""The binding of the CUDA kernels to torch, with the kernels on the emulator and tensors in host memory.

No GPU takes part: streams and devices are stood in for (tests/emulator/cuda_api.h).
"""

from __future__ import annotations

import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from emulator.build import EMULATOR, compile_program
from quick_start import QuickStart

ROOT = Path(__file__).parent.parent

PRELUDE = """
import sys, torch
import prunefuse_bench._C
from prunefuse_bench.ops import reference
torch.ops.load_library(sys.argv[1])
CUDA = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)

def call(name, *arguments):
    return getattr(torch.ops.prunefuse_bench, name).default.redispatch(CUDA, *arguments)

def refused(name, *arguments):
    try:
        call(name, *arguments)
    except RuntimeError as error:
        return str(error)
    raise AssertionError("nothing was refused")

torch.manual_seed(0)
"""


@pytest.fixture(scope="session")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The binding as a library."""
    from torch.utils.cpp_extension import include_paths

    libraries = Path(torch.__file__).parent / "lib"
    return compile_program(
        [ROOT / "csrc/cuda/ops.cu"],
        tmp_path_factory.mktemp("binding") / "binding.so",
        defines=["USE_CUDA", "Py_LIMITED_API=0x030A0000", "TORCH_TARGET_VERSION=0x020a000000000000"],
        include_dirs=[Path(sysconfig.get_path("include")), *map(Path, include_paths())],
        options=[
            *("-O1", "-g0", "-w", "-fPIC", "-shared", "-include", str(EMULATOR / "cuda_api.h")),
            *(f"-L{libraries}", "-Wl,-Bsymbolic", "-ltorch", "-ltorch_cpu", "-ltorch_cuda", "-lc10"),
        ],
    )


@pytest.fixture
def run_script(module: Path, python: QuickStart) -> Callable[[str], None]:
    """In a process of its own: what is registered for CUDA stays."""

    def run(script: str) -> None:
        done = python.run("-c", PRELUDE + script, module)
        assert done.returncode == 0, done.stderr

    return run


def test_scores(run_script: Callable[[str], None]) -> None:
    run_script(
        """
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    logits = (3 * torch.randn(70, 40, 2)).to(dtype)[:, :, 0]  # not contiguous
    for number, kind in enumerate(("least_confidence", "entropy", "margin")):
        scores = call("score", logits, number)
        torch.testing.assert_close(scores, reference.score(logits, kind), rtol=1e-5, atol=1e-6)
    committee = torch.randn(6, 30, 5).to(dtype).transpose(0, 1)
    for number, kind in enumerate(("bald", "mean_entropy", "variation_ratio", "mean_least_confidence")):
        scores = call("score_committee", committee, number)
        torch.testing.assert_close(scores, reference.score_committee(committee, kind), rtol=0, atol=1e-5)
assert call("score", torch.empty(0, 5), 0).shape == (0,)
assert call("score_committee", torch.empty(3, 0, 5), 0).shape == (0,)
assert "expected 2 dimensions, got 1" in refused("score", torch.zeros(3), 0)
assert "expected at least one class" in refused("score", torch.zeros(3, 0), 0)
assert "expected float32, bfloat16 or float16, got Double" in refused("score", torch.zeros(3, 1).double(), 0)
assert "expected from 1 to 2048 members, got 2049" in refused("score_committee", torch.zeros(2049, 1, 1), 0)
""",
    )


def test_top_k(run_script: Callable[[str], None]) -> None:
    run_script(
        """
for dtype in (torch.float32, torch.float64):
    scores = (torch.randint(-40, 40, (5000,)) / 8).to(dtype)
    scores[scores == 0] *= torch.where(torch.rand(int((scores == 0).sum())) < 0.5, -1.0, 1.0).to(dtype)
    for k in (0, 1, 2000, 5000):
        assert torch.equal(call("top_k", scores, k), reference.top_k(scores, k)), (dtype, k)
    assert torch.equal(call("top_k", scores[::2], 9), reference.top_k(scores[::2], 9))
assert call("top_k", torch.empty(0), 0).shape == (0,)
assert "expected from 0 to 5, got 6" in refused("top_k", torch.zeros(5), 6)
assert "expected float32 or float64, got Half" in refused("top_k", torch.zeros(5).half(), 1)
""",
    )


def test_kcenters(run_script: Callable[[str], None]) -> None:
    run_script(
        """
features = torch.randn(300, 7)
for points in (features, features.bfloat16(), features.repeat(1, 2)[:, :7]):
    for initial in (torch.tensor([4, 250]), torch.empty(0, dtype=torch.int64)):
        expected, radii = reference.greedy_kcenters(points, 60, initial)
        bounds, folded = torch.full((300,), torch.inf), torch.zeros(300, dtype=torch.int32)
        found = [call("advance_kcenters", points, initial, bounds, folded, 20)]
        centers = torch.cat([initial, found[0][0]])
        found.append(call("advance_kcenters", points, centers, bounds, folded, 40))
        assert torch.equal(torch.cat([indices for indices, _ in found]), expected)
        torch.testing.assert_close(torch.cat([some for _, some in found]), radii, rtol=1e-5, atol=0)
        # A state of the CPU's serves too, and the other way round.
        bounds, folded = torch.full((300,), torch.inf), torch.zeros(300, dtype=torch.int32)
        torch.ops.prunefuse_bench.advance_kcenters(points, initial, bounds, folded, 20)
        assert torch.equal(call("advance_kcenters", points, centers, bounds, folded, 20)[0], expected[20:40])
        centers = torch.cat([initial, expected[:40]])
        rest, _ = torch.ops.prunefuse_bench.advance_kcenters(points, centers, bounds, folded, 20)
        assert torch.equal(rest, expected[40:])
bounds, folded, none = torch.full((5,), torch.inf), torch.zeros(5, dtype=torch.int32), torch.empty(0).long()
assert [t.shape for t in call("advance_kcenters", torch.zeros(5, 2), none, bounds, folded, 0)] == [(0,), (0,)]
assert "expected from 0 to 5, got 6" in refused("advance_kcenters", torch.zeros(5, 2), none, bounds, folded, 6)
assert "bounds: expected Float [4], got Float" in refused(
    "advance_kcenters", torch.zeros(4, 2), none, bounds, folded, 1)
assert "expected float32 or bfloat16" in refused(
    "advance_kcenters", torch.zeros(5, 2).half(), none, bounds, folded, 1)
assert "expected contiguous" in refused(
    "advance_kcenters", torch.zeros(5, 2), none, torch.zeros(10)[::2], folded, 1)
assert "at least one column" in refused("advance_kcenters", torch.zeros(5, 0), none, bounds, folded, 1)
""",
    )


def test_fusion_gives_what_the_cpu_gives_to_the_bit(run_script: Callable[[str], None]) -> None:
    run_script(
        """
begins = torch.tensor([0, 100, 101, 700])
laws, parameters = torch.tensor([3, 1, 2, 0], dtype=torch.int32), torch.tensor([[0.5, 2], [7, 0], [-1, 3], [0, 0]])
origin = torch.randint(-50, 50, (999,)).clamp_min(-1)
for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
    for index in (torch.int64, torch.int32):
        arguments = (torch.randn(999).to(dtype), origin.to(index), torch.randn(50).to(dtype), begins, laws, parameters)
        for seed in (0, -3, 2**62):
            expected = torch.ops.prunefuse_bench.fuse_flat(*arguments, seed)
            assert torch.equal(call("fuse_flat", *arguments, seed), expected), (dtype, index, seed)
dense, origin, values = torch.zeros(3), torch.zeros(3).long(), torch.zeros(1)
assert "origin: expected int64 or int32" in refused("fuse_flat", dense, dense, values, begins, laws, parameters, 0)
assert "values: expected Float [1], got Double" in refused(
    "fuse_flat", dense, origin, values.double(), begins, laws, parameters, 0)
assert "parameters: expected float32 [4, 2]" in refused("fuse_flat", dense, origin, values, begins, laws, dense, 0)
""",
    )
