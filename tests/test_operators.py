"""What torch asks of an operator, and that every instruction set gives the same answers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from quick_start import QuickStart
from torch import Tensor
from torch.library import opcheck

from prunefuse_bench import ops
from prunefuse_bench.ops import reference

INSTRUCTION_SETS = {
    "baseline": "baseline",
    "avx2": "AVX2",
    "avx512": "AVX-512",
    "avx512_bf16": "AVX-512 with bfloat16",
    "": "AVX-512 and AMX",
}


def sample(operator: str) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    state = (torch.full((30,), torch.inf), torch.zeros(30, dtype=torch.int32))
    return {
        "score": (normal(7, 5), 1),
        "score_committee": (normal(3, 7, 5), 0),
        "score_head": (normal(7, 4), normal(5, 4), normal(5), 2),
        "top_k": (normal(9), 4),
        "advance_kcenters": (normal(30, 3), torch.tensor([4, 2]), *state, 5),
        "fuse_flat": (
            normal(20),
            torch.tensor([-1, 2, 0, 1] * 5),
            normal(3),
            torch.tensor([0, 8]),
            torch.tensor([2, 3], dtype=torch.int32),
            torch.tensor([[0.0, 1.0], [0.0, 1.0]]),
            7,
        ),
        "gather_images": (
            torch.arange(96, dtype=torch.uint8).reshape(2, 3, 4, 4),
            torch.tensor([1, 0, 1]),
            normal(3, 256),
            torch.tensor([0, 1, 2]),
            torch.tensor([2, 0, 1]),
            torch.tensor([True, False, True]),
            1,
        ),
        "batch_norm": (normal(20, 8), normal(8), normal(8), normal(8), torch.ones(8), 0.1, 1e-5),
        "batch_norm_relu": (normal(20, 8), normal(20, 8), normal(8), normal(8), normal(8), torch.ones(8), 0.1, 1e-5),
        "batch_norm_relu_backward": (
            normal(20, 8),
            normal(20, 8),
            normal(20, 8),
            normal(8),
            normal(8),
            normal(8),
            torch.ones(8),
        ),
        "batch_norm_backward": (normal(20, 8), normal(20, 8), normal(8), normal(8), torch.ones(8)),
    }[operator]


OPERATORS = [
    "score", "score_committee", "score_head", "top_k", "advance_kcenters", "fuse_flat", "gather_images", "batch_norm",
    "batch_norm_backward", "batch_norm_relu", "batch_norm_relu_backward",
]  # fmt: skip
ELSEWHERE = {
    "instruction_set", "has_chains", "pack_weight", "run_chain", "convolution", "convolution_input_gradient",
    "convolution_weight_gradient", "has_quantised_chains", "run_quantised_chain",
}  # fmt: skip
"""Those that take no tensor, and those that not every processor has: test_chain.py, test_convolution.py and
test_quantised.py."""


def test_no_operator_is_left_out() -> None:
    registered = {
        name.partition("::")[2]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("prunefuse_bench::")
    }
    assert registered == {*OPERATORS, *ELSEWHERE}


@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck(name: str) -> None:
    results = opcheck(getattr(torch.ops.prunefuse_bench, name), sample(name))
    assert set(results.values()) == {"SUCCESS"}, results
    assert len(results) >= 4


@pytest.mark.parametrize("name", OPERATORS)
def test_each_operator_compiles_into_one_graph(name: str) -> None:
    torch.compiler.reset()
    operator = getattr(torch.ops.prunefuse_bench, name)
    expected = operator(*sample(name))
    torch.testing.assert_close(torch.compile(operator, fullgraph=True)(*sample(name)), expected)


PUBLIC: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
    (lambda z: ops.top_k(ops.score(z, "entropy"), 3), (torch.randn(9, 4),)),
    (lambda z: ops.score_committee(z, "bald"), (torch.randn(2, 9, 4),)),
    (lambda x, w: ops.score_head(x, w, None, "margin"), (torch.randn(9, 4), torch.randn(3, 4))),
    (lambda x: ops.greedy_kcenters(x, 3), (torch.randn(9, 4),)),
    (lambda x, i: ops.greedy_kcenters(x, 3, i)[0], (torch.randn(9, 4), torch.tensor([2]))),
    (ops.fuse_flat, sample("fuse_flat")),
]


@pytest.mark.parametrize(("function", "inputs"), PUBLIC)
def test_the_public_functions_compile_too(function: Callable[..., Any], inputs: tuple[Any, ...]) -> None:
    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True)
    torch.testing.assert_close(compiled(*inputs), function(*inputs))


def test_nothing_unrankable_passes_through_a_compiled_graph() -> None:
    torch.compiler.reset()
    compiled = torch.compile(lambda z: ops.score(z, "entropy"), fullgraph=True)
    with pytest.raises(RuntimeError, match="logits: some rows cannot be ranked"):
        compiled(torch.tensor([[0.0, 1.0], [torch.nan, 0.0]]))


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_every_instruction_set_of_this_machine(isa: str, python: QuickStart) -> None:
    """The tests of the kernels once more, in a process that uses the narrower instructions."""
    names = list(INSTRUCTION_SETS.values())
    environment = {name: value for name, value in os.environ.items() if name != "PRUNEFUSE_BENCH_ISA"}
    if isa:
        environment["PRUNEFUSE_BENCH_ISA"] = isa
    script = "from prunefuse_bench import ops; print(ops.instruction_set())"
    printed = python.run("-c", script, environment=environment).stdout.strip()
    best = python.run("-c", script, environment={**environment, "PRUNEFUSE_BENCH_ISA": ""}).stdout.strip()
    assert printed == names[min(names.index(INSTRUCTION_SETS[isa]), names.index(best))]
    here = Path(__file__).parent
    files = ["test_ops.py", "test_scores.py", "test_kcenters.py"]
    if isa == "avx512_bf16":
        files += ["test_chain.py", "test_convolution.py"]
    tests = [str(here / name) for name in files]
    if isa and INSTRUCTION_SETS[isa] != best:  # else the tests run in other processes already
        command = "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests
        run = python.run(*command, environment=environment, cwd=here.parent)
        assert run.returncode == 0, run.stdout[-3000:]
        assert " passed" in run.stdout


def test_an_unknown_instruction_set_is_refused(python: QuickStart) -> None:
    environment = {**os.environ, "PRUNEFUSE_BENCH_ISA": "avx9000"}
    run = python.run("-c", "from prunefuse_bench import ops; ops.instruction_set()", environment=environment)
    assert run.returncode != 0
    assert "PRUNEFUSE_BENCH_ISA: expected baseline, avx2, avx512 or avx512_bf16, got 'avx9000'" in run.stderr


def laws(*rows: tuple[int, str, float, float]) -> tuple[Tensor, Tensor, Tensor]:
    begins, kinds, a, b = zip(*rows, strict=True)
    return (
        torch.tensor(begins),
        torch.tensor([ops.LAWS[kind] for kind in kinds], dtype=torch.int32),
        torch.tensor(list(zip(a, b, strict=True))),
    )


SEGMENTS = laws(
    (0, "constant", 1.5, 0), (10, "uniform", -0.1, 0.2), (20_000, "normal", 0.5, 2.0), (50_001, "keep", 0, 0),
    (50_001, "normal", 0.0, 1.0), (80_000, "uniform", 0.0, 1e-3), (99_999, "keep", 0, 0),
)  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("index_dtype", [torch.int64, torch.int32])
def test_fusing_is_that_of_the_reference(dtype: torch.dtype, index_dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    dense, values = torch.randn(100_003, generator=generator).to(dtype), torch.randn(999, generator=generator).to(dtype)
    origin = torch.full((100_003,), -1, dtype=index_dtype)
    copied = torch.randperm(100_003, generator=generator)[:999]
    origin[copied] = torch.arange(999, dtype=index_dtype)
    for seed in (0, 2**63 - 1):
        fused = ops.fuse_flat(dense, origin, values, *SEGMENTS, seed)
        expected = reference.fuse_flat(dense, origin, values, *SEGMENTS, seed)
        assert torch.equal(fused[copied], values)
        assert torch.equal(fused[99_999:], expected[99_999:])
        # Draws are computed in single precision and then rounded to the type.
        tolerance = {torch.bfloat16: 2**-7, torch.float16: 2**-10}.get(dtype, 2e-6)
        torch.testing.assert_close(fused, expected, rtol=tolerance, atol=2e-6)


def test_a_draw_depends_on_seed_and_position_alone() -> None:
    one = laws((0, "normal", 0.0, 1.0))
    none = torch.empty(0)
    long = ops.fuse_flat(torch.zeros(300_000), torch.full((300_000,), -1), none, *one, 5)
    short = ops.fuse_flat(torch.ones(777), torch.full((777,), -1), none, *one, 5)
    assert torch.equal(long[:777], short)
    other = ops.fuse_flat(torch.ones(777), torch.full((777,), -1), none, *one, 6)
    assert not torch.equal(short, other)
    assert len(long.unique()) > 290_000
    assert long.mean().item() == pytest.approx(0.0, abs=0.01)
    assert long.std().item() == pytest.approx(1.0, abs=0.01)
    assert torch.corrcoef(torch.stack([long[:-1], long[1:]]))[0, 1].abs().item() < 0.01


def test_philox_is_the_published_one() -> None:
    """The known answer of Random123 for a counter and key of zero: its first word is 0x6627e8d5."""
    uniform = ops.fuse_flat(
        torch.zeros(1, dtype=torch.float64), torch.tensor([-1]), torch.empty(0, dtype=torch.float64),
        *laws((0, "uniform", 0.0, 1.0)), 0,
    )  # fmt: skip
    assert uniform.item() == ((0x6627E8D5 >> 9) + 0.5) / 2**23


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dense": torch.zeros(4, dtype=torch.int64)}, r"dense \[T\]: expected a float vector"),
        ({"origin": torch.tensor([0, 1])}, r"origin: expected int64 or int32 \[4\], got torch.int64 \(2,\)"),
        ({"origin": torch.tensor([0, 1, -1, 3])}, "expected positions from -1 to 2, got -1 to 3"),
        ({"origin": torch.tensor([0, 1, -2, 2])}, "expected positions from -1 to 2, got -2 to 2"),
        ({"values": torch.zeros(3).double()}, r"values: expected torch.float32 \[V\], got torch.float64"),
        ({"begins": torch.tensor([1])}, "segments: expected ascending begins"),
        ({"laws": torch.tensor([4], dtype=torch.int32)}, "laws int32 .* from 0 to 3"),
        ({"parameters": torch.zeros(1, 3)}, "parameters float32"),
        ({"seed": -1}, "seed: expected from 0 to .*, got -1"),
    ],
)
def test_bad_arguments_of_fusing(change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {
        "dense": torch.zeros(4),
        "origin": torch.tensor([0, 1, -1, 2]),
        "values": torch.zeros(3),
        "begins": torch.tensor([0]),
        "laws": torch.tensor([0], dtype=torch.int32),
        "parameters": torch.zeros(1, 2),
        "seed": 0,
    }
    ops.fuse_flat(**good)
    with pytest.raises(ValueError, match=message):
        ops.fuse_flat(**good | change)
