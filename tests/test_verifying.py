from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import tiny_run

from prunefuse_bench.errors import BadInput
from prunefuse_bench.records import RunFolder
from prunefuse_bench.records.checksums import sealed
from prunefuse_bench.records.tensors import pack_tensors, read_tensors
from prunefuse_bench.verifying import Verification, verify_run

RunCli = Callable[..., tuple[int, str, str]]
METHODS = (
    "recipes=[{method: prunefuse, sync_every: 1, label: fused}, al, {method: bald, passes: 2, label: bald}, random]"
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run(tmp_path_factory.mktemp("verified") / "run", METHODS, "seeds=[0]")


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def cell_of(run: Path, method: str) -> Path:
    entry = next(one for one in RunFolder(run).read_suite()["cells"] if one["method"] == method)
    return run / "cells" / str(entry["id"])


def change(file: Path, how: Callable[[Any], object]) -> None:
    """As a program that knows of checksums would."""
    content = json.loads(file.read_text())
    del content["sha256"]
    how(content)
    file.write_text(json.dumps(sealed(content)))


def verify_one(run: Path, method: str) -> Verification:
    return verify_run(run, cell=cell_of(run, method).name)[0]


def test_every_cell_comes_out_as_it_was_recorded(run: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*")}
    found = verify_run(run, every=True)
    assert [one.title for one in found] == [f"{name}, seed 0" for name in ("fused", "al", "bald", "random")]
    for one in found:
        assert one.number == 2
        assert (one.differing, one.unchecked, one.environment) == ((), (), ()), one
        assert {"round", "labels", "target"} <= {*one.agreed}
        assert any(line.startswith("query, ") for line in one.agreed)
    assert [any("weights" in line for line in one.agreed) for one in found] == [True, True, False, False]
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*")} == before, "nothing is written"


def test_of_a_run_that_was_stopped_the_last_whole_round_is_verified(run: Path) -> None:
    for number, whole_rounds in ((1, 2), (0, 1)):
        (cell_of(run, "al") / f"round-{whole_rounds:03d}.json").unlink()
        one = verify_one(run, "al")
        assert (one.number, one.differing) == (number, ())
        assert one.unchecked == (f"selector's weights: selector-{number:03d}.safetensors is missing",)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (lambda record: record["query"].reverse(), "query: "),
        (lambda record: record["target"].update(accuracy=0.125), "target.accuracy: 0.125 on record, 0."),
        (lambda record: record["selector"].update(loss=1.5), "selector.loss: 1.5 on record, "),
        (lambda record: record["target"]["fit"].update(steps=7), "target.fit.steps: 7 on record, "),
    ],
)
def test_what_differs_is_named(run: Path, how: Callable[[Any], object], said: str) -> None:
    change(cell_of(run, "fused") / "round-002.json", how)
    one = verify_one(run, "fused")
    assert len(one.differing) == 1
    assert one.differing[0].startswith(said)
    assert one.environment == ()


def test_one_bit_of_the_weights_is_enough(run: Path) -> None:
    file = cell_of(run, "fused") / "selector-002.safetensors"
    tensors, metadata = read_tensors(file)
    name = next(name for name in tensors if name.endswith("weight"))
    tensors[name].view(-1)[:1].view(torch.int32).bitwise_xor_(1)
    file.write_bytes(pack_tensors(tensors, metadata))
    one = verify_one(run, "fused")
    assert len(one.differing) == 1
    assert one.differing[0].startswith(f"{name}: apart by up to ")


def test_another_environment_is_named(run: Path) -> None:
    def elsewhere(record: Any) -> None:
        record["environment"].update(threads=64, cpu="another")
        record["environment"]["packages"]["torch"] = "2.99"

    change(cell_of(run, "al") / "round-002.json", elsewhere)
    one = verify_one(run, "al")
    assert one.differing == ()
    assert {line.partition(":")[0] for line in one.environment} == {"threads", "cpu", "packages.torch"}


def test_the_command_says_what_agrees_and_ends_with_1_where_it_does_not(run: Path, run_cli: RunCli) -> None:
    code, printed, errors = run_cli("verify", run)
    assert code == 0, errors
    assert "fused, seed 0" in printed
    assert "agrees to the bit: query, " in printed
    assert "agrees to the bit: selector's weights" in printed
    cell = cell_of(run, "al")
    change(cell / "round-002.json", lambda record: record["target"].update(accuracy=0.125))
    code, printed, _ = run_cli("verify", run, "--cell", cell.name[:10])
    assert code == 1
    assert "differs: target.accuracy: 0.125 on record" in printed
    assert "something else changed the result" in printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--cell", "zz"), "has no such cell; it has "),
        (("--cell", ""), "expected the beginning of one cell, got that of 4"),
        (("--cell", "a", "--all"), "give one of them"),
        (("--set", "task.training.min_steps=9"), "task.training.schedule.min_steps: 2 on record, 9 now"),
        (("--set", "task.dataset.train_size=1000"), "the data is not what it was"),
        (("--set", "recipes=[random]"), "has no method 'fused' any more"),
    ],
)
def test_what_cannot_be_verified_is_an_error_before_any_training(
    run: Path, arguments: tuple[str, ...], said: str, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prunefuse_bench.cell.fit", lambda *_, **__: pytest.fail("it trains"))
    code, _, errors = run_cli("verify", run, *arguments)
    assert code == 2
    assert said in " ".join(errors.split())


def test_a_damaged_record_is_not_verified(run: Path) -> None:
    file = cell_of(run, "fused") / "round-001.json"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(BadInput, match=r"round-001\.json: not readable or damaged"):
        verify_run(run)


def test_the_selector_of_the_coreset_protocol_is_trained_again(tmp_path: Path) -> None:
    overrides = ("protocol=coreset", "recipes=[prunefuse, {method: forgetting, label: forgetting}]", "seeds=[0]")
    run = tiny_run(tmp_path / "run", *overrides)
    for one in verify_run(run, every=True):
        assert (one.number, one.differing, one.unchecked) == (2, (), ()), one
