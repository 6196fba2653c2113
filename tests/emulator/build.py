"""Compiles programs that run kernels on the emulator, with or without sanitizers, and runs them."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

Sanitizer: TypeAlias = Literal["address", "thread"] | None

EMULATOR = Path(__file__).resolve().parent
CORE = EMULATOR.parents[1] / "csrc" / "core"  # launch.h
RUNTIME = EMULATOR / "simt_runtime.cpp"

FLAGS: dict[Sanitizer, list[str]] = {
    None: ["-O2"],
    "address": ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=thread"],
}


class CompilerMissing(RuntimeError):
    """There is no C++ compiler: nothing is skipped for that."""


class CompileError(RuntimeError):
    """What the compiler said."""


def compiler() -> list[str]:
    """The command in $CXX, or g++."""
    command = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    if shutil.which(command[0]) is None:
        raise CompilerMissing(
            f"expected a C++20 compiler as $CXX or g++, found no {command[0]!r}: "
            "install one (on Debian and Ubuntu: apt install g++) or name another with CXX=..."
        )
    return command


def compile_program(
    sources: Sequence[Path],
    output: Path,
    *,
    sanitizer: Sanitizer = None,
    defines: Sequence[str] = (),
    include_dirs: Sequence[Path] = (),
    options: Sequence[str] = (),
) -> Path:
    """Compile and link the sources (.cpp or .cu) with the emulator; returns ``output``.

    The last of contradicting ``options`` wins over what is set here: ``-O0``, or ``-shared`` and ``-fPIC``. The
    emulator's runtime is compiled once for the folder of ``output``, and never with a sanitizer.
    """
    runtime = _runtime_object(output.parent)
    _compile(
        "-DSIMT_CPU",
        *(f"-D{define}" for define in defines),
        *(f"-I{folder}" for folder in (EMULATOR, CORE, *include_dirs)),
        *FLAGS[sanitizer],
        *options,
        *("-x", "c++", *map(str, sources)),  # .cu would be unknown otherwise
        *("-x", "none", str(runtime), "-o", str(output)),
        *(option for option in options if option.startswith(("-l", "-Wl,"))),  # libraries come after what needs them
    )
    return output


def run_program(
    program: Path, *arguments: str, timeout: float = 120, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run it, without address space randomisation if ThreadSanitizer cannot run with it."""

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env={**os.environ, **(environment or {})},
        )

    done = run(str(program), *arguments)
    if "FATAL: ThreadSanitizer: unexpected memory mapping" in done.stderr and shutil.which("setarch"):
        done = run("setarch", platform.machine(), "-R", str(program), *arguments)
    return done


def _runtime_object(folder: Path) -> Path:
    output = folder / "simt_runtime.o"
    files = [RUNTIME, *EMULATOR.glob("*.h"), *EMULATOR.glob("simt/*.h"), *EMULATOR.glob("runtime/*.h")]
    if not output.exists() or output.stat().st_mtime < max(file.stat().st_mtime for file in files):
        _compile("-O2", "-g", "-fPIC", "-c", str(RUNTIME), "-o", str(output))
    return output


def _compile(*arguments: str) -> None:
    command = [*compiler(), "-std=c++20", "-Wall", "-Wextra", *arguments]
    english = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=english)
    if done.returncode != 0:
        raise CompileError(f"{shlex.join(command)}\nended with {done.returncode}:\n{done.stderr}")
