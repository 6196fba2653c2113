"""The emulator that runs the CUDA kernels on the CPU (tests/emulator): its primitives, its checks, its sanitizers."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from emulator.build import EMULATOR, RUNTIME, CompileError, CompilerMissing, Sanitizer, compile_program, run_program

# Read from the sources, so that collecting tests compiles nothing; the program itself confirms them below.
CHECKS = [
    name
    for file in sorted(EMULATOR.glob("self_test/*.h"))
    for name in re.findall(r"^CHECK\((\w+)\)", file.read_text(), re.MULTILINE)
]

POISONED = "AddressSanitizer: use-after-poison"
RACE = "ThreadSanitizer: data race"

# The sanitizer that finds it, what it reports, and the place that it names.
FAULTS: dict[str, tuple[Sanitizer, str, str]] = {
    "shared_overrun_by_one": ("address", POISONED, "shared_overrun_kernel"),
    "shared_overrun_by_far": ("address", POISONED, "shared_overrun_kernel"),
    "shared_underrun": ("address", POISONED, "shared_overrun_kernel"),
    "dynamic_shared_overrun": ("address", POISONED, "dynamic_overrun_kernel"),
    "global_overrun": ("address", "AddressSanitizer: heap-buffer-overflow", "global_overrun_kernel"),
    "misaligned_vector_load": ("address", "misaligned address", "faults.h:"),
    "misaligned_shared_vector_load": ("address", "misaligned address", "faults.h:"),
    "missing_syncthreads": ("thread", RACE, "missing_barrier_kernel"),
    "missing_syncthreads_after_others": ("thread", RACE, "missing_second_barrier_kernel"),
    "syncwarp_in_place_of_syncthreads": ("thread", RACE, "warp_barrier_kernel"),
    "shuffle_in_place_of_syncwarp": ("thread", RACE, "shuffle_as_barrier_kernel"),
    "two_blocks_write_to_one_place": ("thread", RACE, "same_place_kernel"),
    "missing_threadfence": ("thread", RACE, "missing_fence_kernel"),
    "plain_write_beside_atomics": ("thread", RACE, "plain_and_atomic_kernel"),
}

Build = Callable[[Sanitizer], Path]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where programs are compiled to: they share the emulator's runtime."""
    return tmp_path_factory.mktemp("emulator")


@pytest.fixture(scope="session")
def self_test(folder: Path) -> Build:
    """The program of the emulator's own tests, compiled once for each sanitizer."""

    @functools.cache
    def build(sanitizer: Sanitizer) -> Path:
        output = folder / f"self_test_{sanitizer}"
        # -O0: optimising takes the compiler much longer than the tests take to run.
        return compile_program(
            [EMULATOR / "self_test.cpp"], output, sanitizer=sanitizer, options=["-O0"] if sanitizer else ["-O1"]
        )

    return build


def test_every_check_and_every_fault_is_tested_here(self_test: Build) -> None:
    assert sorted(run_program(self_test(None), "--list").stdout.split()) == sorted(CHECKS)
    assert sorted(run_program(self_test(None), "--list-faults").stdout.split()) == sorted(FAULTS)


@pytest.mark.parametrize("name", CHECKS)
def test_check(self_test: Build, name: str) -> None:
    done = run_program(self_test(None), name)
    assert (done.stdout, done.stderr, done.returncode) == (f"ok {name}\n", "", 0)


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_sanitizers_find_nothing_in_correct_kernels(self_test: Build, sanitizer: Sanitizer) -> None:
    done = run_program(self_test(sanitizer), "--seeds", "1")
    assert (done.stderr, done.returncode) == ("", 0), done.stdout
    assert {line.split()[0] for line in done.stdout.splitlines()} == {"ok"}


@pytest.mark.parametrize("name", FAULTS)
def test_sanitizers_find_faults(self_test: Build, name: str) -> None:
    sanitizer, report, place = FAULTS[name]
    done = run_program(self_test(sanitizer), "--fault", name, environment={"TSAN_OPTIONS": "halt_on_error=1"})
    assert done.returncode != 0
    assert report in done.stderr
    assert place in done.stderr


def test_the_runtime_refuses_sanitizers(folder: Path) -> None:
    """Instrumented, it would fail in ways that nobody understands."""
    for sanitizer in ("address", "thread"):
        with pytest.raises(CompileError, match="must be compiled without -fsanitize"):
            compile_program([RUNTIME], folder / "never", options=["-fsyntax-only", f"-fsanitize={sanitizer}"])


def test_shared_memory_without_the_macro_does_not_compile(folder: Path, tmp_path: Path) -> None:
    """It would be one array for all blocks."""
    source = tmp_path / "kernel.cu"
    source.write_text('#include "launch.h"\n__global__ void kernel() { __shared__ int values[1]; }\nint main() {}\n')
    with pytest.raises(CompileError, match=r"__shared__. was not declared|unknown type name .__shared__"):
        compile_program([source], folder / "never")


def test_kernels_of_several_files_make_one_program(tmp_path: Path) -> None:
    """Kernels may share a name, as in CUDA; they share the count of launches."""
    (tmp_path / "value.h").write_text("void launch_other(int* out);\n")
    (tmp_path / "other.cu").write_text(
        '#include "launch.h"\n#include "value.h"\n'
        "__global__ void kernel(int* out) { *out += VALUE; }\n"
        "void launch_other(int* out) { LAUNCH(kernel, 1, 1, 0, nullptr, out); }\n"
    )
    (tmp_path / "main.cpp").write_text(
        '#include <cstdio>\n#include "launch.h"\n#include "value.h"\n'
        "__global__ void kernel(int* out) { *out = 1; }\n"
        "int main() {\n  int out;\n  LAUNCH(kernel, 1, 1, 0, nullptr, &out);\n  launch_other(&out);\n"
        '  std::printf("%d after %d", out, static_cast<int>(simt::launches()));\n}\n'
    )
    folder = tmp_path / "out"
    folder.mkdir()
    sources = [tmp_path / "main.cpp", tmp_path / "other.cu"]
    program = compile_program(sources, folder / "program", defines=["VALUE=41"], include_dirs=[tmp_path])
    assert run_program(program).stdout == "42 after 2"
    assert {file.name for file in folder.iterdir()} == {"program", "simt_runtime.o"}


def test_a_missing_compiler_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -pipe")
    with pytest.raises(CompilerMissing, match=r"expected a C\+\+20 compiler .*, found no 'no-such-compiler'"):
        compile_program([EMULATOR / "self_test.cpp"], tmp_path / "program")


def test_programs_run_without_randomised_addresses_where_they_must(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(name: str, text: str) -> Path:
        file = tmp_path / name
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)
        return file

    program = script(
        "program", 'test "$FIXED" || { echo "FATAL: ThreadSanitizer: unexpected memory mapping 0x1" >&2; exit 66; }'
    )
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    script("setarch", 'test "$2" = -R && shift 2 && FIXED=1 exec "$@"')
    assert run_program(program).returncode == 0
