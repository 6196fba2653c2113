"""What an operator needs beside its inputs, read from the process itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# The peak of resident memory is set back before the call ("5" to clear_refs) and read after it.
PROGRAM = """
import torch
from prunefuse_bench import ops

def resident(field):
    for line in open("/proc/self/status"):
        if line.startswith(field):
            return int(line.split()[1]) / 1024

def peak_of(call):
    call(True)  # libraries start their threads and buffers once
    open("/proc/self/clear_refs", "w").write("5")
    before = resident("VmRSS")
    call(False)
    print(resident("VmHWM") - before)
"""

KCENTERS = """
torch.manual_seed(0)
features = torch.empty({count}, {width}).normal_().relu_()
labeled = torch.arange({labeled})
few = (features[:3000], 100, labeled[:10])
peak_of(lambda warm: ops.greedy_kcenters(*(few if warm else (features, {k}, labeled))))
"""

HEAD = """
features = torch.empty({count}, {width}).normal_()
weight, bias = torch.randn({classes}, {width}), torch.randn({classes})
peak_of(lambda warm: ops.score_head(features[:5000] if warm else features, weight, bias, "entropy"))
"""

ALLOCATES = """
peak_of(lambda warm: torch.ones(1 if warm else 25_000_000).sum())
"""

SCORE = """
logits = torch.empty({count}, {classes}).normal_()
peak_of(lambda warm: ops.score(logits[:1000] if warm else logits, "entropy"))
"""

COMMITTEE = """
logits = torch.empty(10, {count}, {classes}).normal_()
peak_of(lambda warm: ops.score_committee(logits[:, :100] if warm else logits, "bald"))
"""


def peak_megabytes(program: str) -> float:
    if not Path("/proc/self/clear_refs").exists():
        pytest.fail("expected a Linux /proc to read the peak of memory from")
    run = subprocess.run([sys.executable, "-c", PROGRAM + program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return float(run.stdout)


def test_an_allocation_is_seen() -> None:
    assert 90 < peak_megabytes(ALLOCATES) < 110


def test_kcenters_needs_little_beside_the_features() -> None:
    assert peak_megabytes(KCENTERS.format(count=50_000, width=64, labeled=5_000, k=5_000)) < 32


@pytest.mark.slow
def test_kcenters_of_two_hundred_thousand() -> None:
    assert peak_megabytes(KCENTERS.format(count=200_000, width=512, labeled=0, k=10_000)) < 64


def test_a_head_never_holds_its_logits() -> None:
    assert peak_megabytes(HEAD.format(count=100_000, width=512, classes=1_000)) < 32  # all logits would be 381 MB


def test_scores_hold_no_probabilities() -> None:
    assert peak_megabytes(SCORE.format(count=100_000, classes=500)) < 8  # all probabilities would be 191 MB
    assert peak_megabytes(COMMITTEE.format(count=20_000, classes=200)) < 8  # all probabilities would be 153 MB
