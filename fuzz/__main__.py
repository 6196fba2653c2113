"""``python -m fuzz [NAME ...] [--seconds 600] [--folder build/fuzz]``: fuzz every harness, or those that are named.

Needs atheris (the extra ``fuzz``, Python 3.11 or later). Inputs that find something new are kept in the folder, and the
next run begins with them. An input that fails is written there, too, and the exit code is 1: to see it again, give it
to ``test_one`` of its harness.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fuzz import HARNESSES

LIMITS = ("-rss_limit_mb=4096", "-timeout=60", "-max_len=32768")
"""Of libFuzzer: memory of the process, of which the libraries take one gigabyte; seconds by the clock, where
:data:`fuzz.guard.LONGEST_SECONDS` are of the processor; and bytes of an input."""
SECONDS_OF_A_PROCESS = 120
"""After which another goes on with what was found: what traces the branches keeps some memory for each input."""
FINDINGS = "crash-*", "timeout-*", "oom-*", "leak-*", "slow-unit-*"
STATISTIC = re.compile(r"^stat::(\w+):\s+(\d+)$")
COVERAGE = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)")


@dataclass(frozen=True)
class Outcome:
    """What a run came to; edges and features as libFuzzer counts them."""

    name: str
    executions: int
    per_second: int
    edges: int
    features: int
    corpus: int
    peak_megabytes: int
    findings: tuple[Path, ...]
    exit_code: int

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.executions:,} executions, {self.per_second:,} a second, {self.edges:,} edges, "
            f"{self.features:,} features, {self.corpus:,} inputs kept, {self.peak_megabytes:,} MB at most, "
            f"{len(self.findings)} findings, exit code {self.exit_code}"
        )


def run(name: str, seconds: int, folder: Path) -> Outcome:
    """Fuzz one harness; what libFuzzer says goes to NAME.log in the folder."""
    own, log, code, done = folder / name, folder / f"{name}.log", 0, 0
    own.mkdir(parents=True, exist_ok=True)
    before = _findings(own)
    log.write_bytes(b"")
    while done < seconds and not code:
        turn = min(SECONDS_OF_A_PROCESS, seconds - done)
        options = [f"-max_total_time={turn}", "-print_final_stats=1", f"-artifact_prefix={own}/", *LIMITS]
        command = [sys.executable, "-m", "fuzz.guided", name, str(own / "corpus"), *options]
        with log.open("a", errors="replace") as stream:
            code = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, check=False).returncode
        done += turn
    lines = log.read_text(errors="replace").splitlines()
    executions = sum(_statistic(lines, "number_of_executed_units"))
    coverage = [found for line in lines if (found := COVERAGE.search(line))]
    edges, features, corpus = map(int, coverage[-1].groups()) if coverage else (0, 0, 0)
    if code:
        print("\n".join(line[:1_000] for line in lines[-60:]))
    return Outcome(
        name,
        executions,
        executions // max(1, done),
        edges,
        features,
        corpus,
        max(_statistic(lines, "peak_rss_mb"), default=0),
        tuple(sorted(_findings(own) - before)),
        code,
    )


def _statistic(lines: Sequence[str], name: str) -> list[int]:
    """What each process said of it at its end."""
    return [int(found[2]) for line in lines if (found := STATISTIC.match(line)) and found[1] == name]


def _findings(folder: Path) -> set[Path]:
    return {file for pattern in FINDINGS for file in folder.glob(pattern)}


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description="Fuzz what reads files from strangers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(HARNESSES)}; all if none is given")
    parser.add_argument("--seconds", type=int, default=600, help="for each (%(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("build/fuzz"), help="for inputs and logs (%(default)s)")
    asked = parser.parse_args()
    for name in asked.names:
        if name not in HARNESSES:
            parser.error(f"no harness {name!r}: expected some of {', '.join(HARNESSES)}")
    outcomes = []
    for name in asked.names or HARNESSES:
        outcomes.append(run(name, asked.seconds, asked.folder))
        print(outcomes[-1], flush=True)
        for file in outcomes[-1].findings:
            print(f"  {file}", flush=True)
    return int(any(one.exit_code or one.findings or not one.executions for one in outcomes))


if __name__ == "__main__":
    sys.exit(main())
