"""The CPU kernels without torch: clean under sanitizers, and right on another processor."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from prunefuse_bench import ops

HERE = Path(__file__).parent
KERNELS = sorted((HERE.parent / "csrc/cpu").glob("*.cpp"))


def build(compiler: str, output: Path, *flags: str) -> Path:
    command = [
        compiler,
        "-std=c++17",
        *flags,
        str(HERE / "portable/check_cpu.cpp"),
        *map(str, KERNELS),
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
    assert len(checks) == 77
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
