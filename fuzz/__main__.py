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
from dataclasses import dataclass
from pathlib import Path

from fuzz import HARNESSES

LIMITS = ("-rss_limit_mb=4096", "-timeout=60", "-max_len=32768")
"""Of libFuzzer: memory of the process, of which the libraries take one gigabyte; seconds by the clock, where
:data:`fuzz.guard.LONGEST_SECONDS` are of the processor; and bytes of an input."""
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
    own = folder / name
    own.mkdir(parents=True, exist_ok=True)
    before = _findings(own)
    options = [f"-max_total_time={seconds}", "-print_final_stats=1", f"-artifact_prefix={own}/", *LIMITS]
    command = [sys.executable, "-m", "fuzz.guided", name, str(own / "corpus"), *options]
    with (folder / f"{name}.log").open("w", errors="replace") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    lines = (folder / f"{name}.log").read_text(errors="replace").splitlines()
    statistics = {found[1]: int(found[2]) for line in lines if (found := STATISTIC.match(line))}
    coverage = [found for line in lines if (found := COVERAGE.search(line))]
    edges, features, corpus = map(int, coverage[-1].groups()) if coverage else (0, 0, 0)
    if code:
        print("\n".join(lines[-60:]))
    return Outcome(
        name,
        statistics.get("number_of_executed_units", 0),
        statistics.get("average_exec_per_sec", 0),
        edges,
        features,
        corpus,
        statistics.get("peak_rss_mb", 0),
        tuple(sorted(_findings(own) - before)),
        code,
    )


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
