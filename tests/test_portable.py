"""The CPU kernels without torch: clean under sanitizers, and right on another processor."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from prunefuse_bench import ops
from prunefuse_bench.ops.chain import has_chains

HERE = Path(__file__).parent
CORE = HERE.parent / "csrc"


def build(compiler: str, output: Path, *flags: str, core: Path = CORE) -> Path:
    command = [
        compiler,
        "-std=c++17",
        *flags,
        str(HERE / "portable/check_cpu.cpp"),
        *map(str, sorted((core / "cpu").glob("*.cpp"))),
        "-o",
        str(output),
    ]
    run = subprocess.run([*command, "-lpthread"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    return output


def assert_all_ok(command: list[str], isa: str, says: str) -> None:
    environment = {**os.environ, "PRUNEFUSE_BENCH_ISA": isa}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr[-3000:]
    first, *checks = run.stdout.splitlines()
    assert says in first
    assert len(checks) == 81
    assert all(line.startswith("ok ") for line in checks), run.stdout


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Nothing is optimised away that a sanitizer would see; and it compiles in a third of the time of -O1 -g.
    flags = ("-O0", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    return build(os.environ.get("CXX", "g++"), tmp_path_factory.mktemp("portable") / "check", *flags)


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512", "avx512_bf16", ""])
def test_clean_under_address_and_undefined_behaviour_sanitizers(sanitized: Path, isa: str) -> None:
    order = ["baseline", "AVX2", "AVX-512", "AVX-512 with bfloat16", "AVX-512 and AMX"]
    wanted = dict(zip(["baseline", "avx2", "avx512", "avx512_bf16", ""], order, strict=True))[isa]
    used = order[min(order.index(wanted), order.index(ops.instruction_set()))]
    name = {"AVX2": "avx2", "baseline": "baseline"}.get(used, "avx512")
    assert_all_ok([str(sanitized)], isa, f"kernels: {name}")


@pytest.mark.skipif(not has_chains(), reason="needs AMX or AVX512-BF16")
def test_what_matrix_units_are_told_is_right_without_them_too(tmp_path: Path) -> None:
    shutil.copytree(CORE, tmp_path / "csrc")
    shutil.copy(HERE / "portable/matrix_units.h", tmp_path / "csrc/cpu/matrix_units.h")
    choice = tmp_path / "csrc/cpu/choice.cpp"
    before = "bfloat16_units() { return choice().units; }"
    assert before in choice.read_text()
    choice.write_text(choice.read_text().replace(before, "bfloat16_units() { return Bfloat16Units::matrix; }"))
    program = build(os.environ.get("CXX", "g++"), tmp_path / "check", "-O1", core=tmp_path / "csrc")
    assert_all_ok([str(program)], "", "and bfloat16 matrix units")


@pytest.mark.slow
def test_two_threads_never_race(tmp_path: Path) -> None:
    program = build(os.environ.get("CXX", "g++"), tmp_path / "check", "-O1", "-g", "-fsanitize=thread")
    assert_all_ok(["setarch", "-R", str(program)], "", "kernels: ")


@pytest.mark.slow
def test_an_arm_processor_gets_the_same(tmp_path: Path) -> None:
    compiler, machine = "aarch64-linux-gnu-g++", "qemu-aarch64-static"
    for tool, package in ((compiler, "g++-aarch64-linux-gnu"), (machine, "qemu-user-static")):
        if shutil.which(tool) is None:
            pytest.fail(f"expected {tool}; install the package {package} (Debian, Ubuntu)")
    program = build(compiler, tmp_path / "check", "-O2", "-static")
    assert_all_ok([machine, str(program)], "", "kernels: baseline")
