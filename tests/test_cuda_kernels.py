"""The CUDA kernels, run on the CPU by the emulator; and broken ones, each of which has to be found out.

No GPU takes part: what the emulator does not model (tests/emulator/README.md) is not tested here.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from emulator import cases
from emulator.build import compile_program, run_program

ROOT = Path(__file__).parent.parent
RUNNER = ROOT / "tests/emulator/run_cases.cpp"
ALL_CASES = {name: list(make()) for name, make in cases.OPERATORS.items()}

FEW_BLOCKS = "PRUNEFUSE_MOST_BLOCKS=2"  # so that blocks have more than one piece of work

Build = Literal["plain", "address", "thread"]
SIGNS: dict[Build, list[str]] = {  # of a fault
    "plain": ["FAIL "],
    "address": ["ERROR: AddressSanitizer", "runtime error: "],
    "thread": ["WARNING: ThreadSanitizer: data race"],
}


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all programs: the emulator's runtime is compiled once for a folder."""
    return tmp_path_factory.mktemp("programs")


def run_cases(
    program: Path,
    build: Build,
    tests: Iterable[cases.Case],
    *,
    seeds: int,
    source: Path = RUNNER,
    defines: Sequence[str],
) -> subprocess.CompletedProcess[str]:
    """Compiles the program, and runs it over the cases."""
    compile_program(
        [source],
        program,
        sanitizer=None if build == "plain" else build,
        defines=defines,
        # Sanitizers compile for long what they then run for seconds.
        options=["-g0", "-Wno-unknown-pragmas", "-Wno-unused-parameter", "-O0" if build == "address" else "-O1"],
    )
    file = program.with_suffix(".cases")
    cases.write_cases(file, tests)
    options = {"ASAN_OPTIONS": "detect_leaks=0", "TSAN_OPTIONS": "halt_on_error=1"}
    return run_program(program, str(file), "--seeds", str(seeds), timeout=240, environment=options)


@pytest.fixture(scope="session")
def verdicts(programs: Path) -> dict[str, str]:
    """The line that the plain build prints about each case, by the case's name."""
    tests = itertools.chain.from_iterable(ALL_CASES.values())
    lines = run_cases(programs / "plain", "plain", tests, seeds=3, defines=[]).stdout.splitlines()
    return {line.split()[1].rstrip(":"): line for line in lines}


@pytest.mark.parametrize("name", [case.name for case in itertools.chain.from_iterable(ALL_CASES.values())])
def test_kernel_does_what_plain_torch_does(name: str, verdicts: dict[str, str]) -> None:
    assert verdicts.get(name, "the program ended before this case") == f"ok {name}"


def test_nothing_is_read_or_written_out_of_bounds(programs: Path) -> None:
    tests = itertools.chain.from_iterable(ALL_CASES.values())
    result = run_cases(programs / "address", "address", tests, seeds=1, defines=[FEW_BLOCKS])
    assert result.returncode == 0, result.stdout + result.stderr


def test_threads_do_not_race(programs: Path) -> None:
    result = run_cases(programs / "thread", "thread", cases.brief_cases(), seeds=2, defines=[FEW_BLOCKS])
    assert result.returncode == 0, result.stdout + result.stderr


@dataclass(frozen=True)
class Broken:
    """A kernel with a fault: `text`, which occurs once in the file, becomes `fault`; this build has to notice."""

    name: str
    operator: str
    file: str
    text: str
    fault: str
    build: Build = "plain"


BROKEN = [
    Broken(
        "no barrier between copying rows and reading them",
        "score",
        "cuda/score.cuh",
        "stage_rows(logits + first * columns, tile, columns, staged);\n    __syncthreads();",
        "stage_rows(logits + first * columns, tile, columns, staged);",
        "thread",
    ),
    Broken(
        "lanes of another distance are merged",
        "score",
        "cuda/warp.cuh",
        "int distance = lanes / 2; distance > 0; distance /= 2) value.merge",
        "int distance = lanes / 4; distance > 0; distance /= 2) value.merge",
    ),
    Broken(
        "only some lanes come to a shuffle",
        "score",
        "cuda/score.cuh",
        "sum = merge_lanes<lanes>(sum);",
        "if (row < rows) sum = merge_lanes<lanes>(sum);",
    ),
    Broken(
        "sums are not rescaled to the larger top",
        "score",
        "core/prediction.h",
        "others += scale * (1.0f + low.others);",
        "others += 1.0f + low.others;",
    ),
    Broken(
        "minus infinity times zero",
        "score",
        "cuda/predict.cuh",
        "sum.shifted += weight > 0.0f ? difference * weight : 0.0f;",
        "sum.shifted += difference * weight;",
    ),
    Broken(
        "an element too many at the end of a row",
        "score",
        "cuda/element.cuh",
        "start + pack_size<T> <= count",
        "start + pack_size<T> <= count + 1",
        "address",
    ),
    Broken(
        "16 bytes are loaded from any address",
        "top_k",
        "cuda/element.cuh",
        " && starts_a_pack(row + start)",
        "",
        "address",
    ),
    Broken(
        "rows in shared memory are closer than they are wide",
        "score",
        "cuda/score.cuh",
        "sizeof(float) * staged_threads * (width | 1)",
        "sizeof(float) * staged_threads * width",
        "address",
    ),
    Broken(
        "a member votes for the highest of equal classes",
        "committee",
        "cuda/committee.cuh",
        "other.choice < choice",
        "other.choice > choice",
    ),
    Broken(
        "sums of many members are not compensated",
        "committee",
        "cuda/committee.cuh",
        "lost = (sum - total) - corrected;",
        "",
    ),
    Broken(
        "the next row's sums overwrite the last one's",
        "score",
        "cuda/score.cuh",
        "scores[row] = sum.score(kind);\n    __syncthreads();\n  }\n}\n\ntemplate",
        "scores[row] = sum.score(kind);\n  }\n}\n\ntemplate",
        "thread",
    ),
    Broken(
        "blocks count into one histogram without atomic additions",
        "top_k",
        "cuda/top_k.cuh",
        "atomicAdd(&histogram[digit], counts[digit])",
        "histogram[digit] += counts[digit]",
        "thread",
    ),
    Broken(
        "counts of the last digit are left for the next one",
        "top_k",
        "cuda/top_k.cuh",
        "    histogram[highest - i] = 0;\n",
        "",
    ),
    Broken(
        "ties that are not chosen take up room",
        "top_k",
        "cuda/top_k.cuh",
        "above + (equal < ties_taken ? equal : ties_taken)",
        "above + equal",
        "address",
    ),
    Broken(
        "the chosen are written in the order of threads",
        "top_k",
        "cuda/top_k.cuh",
        "const uint64_t slot = above + (equal < ties_taken ? equal : ties_taken);",
        "const uint64_t slot = atomicAdd(reinterpret_cast<unsigned*>(const_cast<uint64_t*>(tile_counts)), 1u);",
    ),
    Broken(
        "of equal candidates the last is picked",
        "kcenters",
        "cuda/kcenters.cuh",
        "__ffs(__ballot_sync(whole_warp, key == best)) - 1",
        "31 - __clz(static_cast<int>(__ballot_sync(whole_warp, key == best)))",
    ),
    Broken(
        "picking goes on when another row is ahead",
        "kcenters",
        "cuda/kcenters.cuh",
        "best.key < outside_key || ",
        "",
    ),
    Broken(
        "an equal row outside is not looked at",
        "kcenters",
        "cuda/kcenters.cuh",
        " || (best.key == outside_key && best.candidate > outside_at)",
        "",
    ),
    Broken(
        "a row is picked twice",
        "kcenters",
        "cuda/kcenters.cuh",
        "radii[picked] = sqrtf(value) * unscale;\n      value = -1.0f;",
        "radii[picked] = sqrtf(value) * unscale;",
    ),
    Broken(
        "centers are not kept from the candidates",
        "kcenters",
        "cuda/kcenters.cuh",
        "bounds[centers[i]] = -1.0f;",
        "bounds[centers[i]] = 0.0f;",
    ),
    Broken(
        "the slab ahead is copied over the one that is read",
        "kcenters",
        "cuda/distances.cuh",
        "copy(slabs[(s + 1) % 2]);",
        "copy(slabs[s % 2]);",
    ),
    Broken(
        "a slab is copied without waiting for its readers",
        "kcenters",
        "cuda/distances.cuh",
        "    if (s + 1 < count) copy(slabs[(s + 1) % 2]);\n    __syncthreads();",
        "    if (s + 1 < count) copy(slabs[(s + 1) % 2]);",
        "thread",
    ),
    Broken(
        "distances are not scaled",
        "kcenters",
        "cuda/distances.cuh",
        "return 1.0f;\n  const int exponent",
        "return 1.0f;\n  return 1.0f;\n  const int exponent",
    ),
    Broken(
        "entries that come from nowhere are copied too",
        "fuse",
        "cuda/fuse.cuh",
        "if (from.element[i] >= 0) {",
        "if (from.element[i] >= -1) {",
        "address",
    ),
    Broken(
        "a segment that begins within a group is missed",
        "fuse",
        "cuda/fuse.cuh",
        "      while (segment + 1 < segments.count && segments.begins[segment + 1] <= position) ++segment;\n",
        "",
    ),
]


@pytest.mark.parametrize("broken", [pytest.param(broken, id=broken.name) for broken in BROKEN])
def test_fault_is_noticed(broken: Broken, programs: Path, tmp_path: Path) -> None:
    for folder in ("core", "cuda"):
        shutil.copytree(ROOT / "csrc" / folder, tmp_path / "csrc" / folder)
    (tmp_path / "tests/emulator").mkdir(parents=True)
    for source in (RUNNER, RUNNER.with_name("case_file.h")):
        shutil.copy(source, tmp_path / "tests/emulator")
    mutated = tmp_path / "csrc" / broken.file
    text = mutated.read_text()
    assert text.count(broken.text) == 1, f"{broken.file} holds this text {text.count(broken.text)} times"
    mutated.write_text(text.replace(broken.text, broken.fault))

    result = run_cases(
        programs / "broken",
        broken.build,
        cases.brief_cases() if broken.build == "thread" else ALL_CASES[broken.operator],
        seeds=1,
        source=tmp_path / "tests/emulator" / RUNNER.name,
        defines=[broken.operator.upper(), *([FEW_BLOCKS] if broken.build == "thread" else [])],
    )
    output = result.stdout + result.stderr
    assert result.returncode != 0, f"all cases passed:\n{output}"
    assert any(sign in output for sign in SIGNS[broken.build]), output
