from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas
import pytest
from tiny_runs import tiny_run

from prunefuse_bench import load_results
from prunefuse_bench.errors import BadInput
from prunefuse_bench.records import RunFolder, grid_hash, load_curves
from prunefuse_bench.records.checksums import checksum, parse_json, sealed, unseal

FLIPS = 200
"""Damages of every file."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    overrides = ("recipes=[prunefuse]", "seeds=[0]", "task.budgets=[0.02, 0.03]")
    return tiny_run(tmp_path_factory.mktemp("whole") / "run", *overrides)


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def everything(run: Path) -> tuple[pandas.DataFrame, pandas.DataFrame, list[Any]]:
    """All that a reader gets from a run."""
    folder = RunFolder(run)
    stores = [folder.open_cell(cell["id"]) for cell in folder.read_suite()["cells"]]
    records = [(store.settings, store.read_rounds()) for store in stores if store is not None]
    return load_results(run), load_curves(run), records


def error_of(run: Path) -> str | None:
    try:
        everything(run)
    except BadInput as error:
        return str(error)
    return None


def damages(content: bytes, draws: random.Random) -> Iterator[bytes]:
    """The content with one bit, one byte, one digit or its end changed."""
    digits = [position for position, byte in enumerate(content) if byte in b"0123456789"]
    for number in range(FLIPS):
        data = bytearray(content)
        if number % 4 == 0:
            data[draws.randrange(len(data))] ^= 1 << draws.randrange(8)
        elif number % 4 == 1:
            data[draws.randrange(len(data))] = draws.randrange(256)
        elif number % 4 == 2:
            data[draws.choice(digits)] = draws.choice(b"0123456789")
        else:
            del data[draws.randrange(len(data)) :]
        yield bytes(data)


@pytest.mark.parametrize("name", ["suite.json", "cell.json", "round-000.json", "round-001.json"])
def test_any_damage_to_a_record_is_an_error_that_names_it_or_changes_no_number(run: Path, name: str) -> None:
    file = next(run.rglob(name))
    content, wanted = file.read_bytes(), everything(run)
    noticed = 0
    for damaged in damages(content, random.Random(name)):
        file.write_bytes(damaged)
        message = error_of(run)
        if message is not None:
            assert message.startswith(str(file))
            assert "restore it, or remove" in message or "run the suite again" in message
            noticed += 1
            continue
        results, curves, records = everything(run)
        pandas.testing.assert_frame_equal(results, wanted[0])
        pandas.testing.assert_frame_equal(curves, wanted[1])
        assert records == wanted[2]
    assert noticed > 0.75 * FLIPS


@pytest.mark.parametrize("name", ["suite.json", "cell.json", "round-001.json"])
@pytest.mark.parametrize(("old", "new"), [(": 0", ": 1"), ("[", "[1, "), ("{", '{"a": 1, ')])
def test_a_record_edited_by_hand_is_named_with_what_was_expected_and_found(
    run: Path, name: str, old: str, new: str
) -> None:
    file = next(run.rglob(name))
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(BadInput, match=r"expected content with SHA-256 [0-9a-f]{64}, got [0-9a-f]{64}") as error:
        everything(run)
    assert str(error.value).startswith(str(file))


def edit(file: Path, change: Callable[[Any], object]) -> None:
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def test_only_the_content_counts_not_the_layout(run: Path) -> None:
    wanted = everything(run)[2]
    for file in run.rglob("*.json"):
        data = json.loads(file.read_text())
        file.write_text(json.dumps(dict(reversed(data.items())), indent=7) + "\n\n")
    assert everything(run)[2] == wanted


def test_records_from_before_there_were_checksums_are_read_and_counted(run: Path) -> None:
    wanted = everything(run)
    assert RunFolder(run).unverified == ()
    files = sorted(run.rglob("*.json"))
    for file in files:
        edit(file, lambda data: data.pop("sha256"))
    assert sorted(RunFolder(run).unverified) == files
    for one, other in zip(everything(run)[:2], wanted[:2], strict=True):
        pandas.testing.assert_frame_equal(one, other)
    # Going on with such a run mixes both kinds.
    edit(run / "suite.json", lambda data: data.update(sealed(data)))
    edit(files[1 + 1], lambda data: data.update(sealed(data)))
    assert len(RunFolder(run).unverified) == len(files) - 2


def test_a_checksum_cannot_be_taken_off(run: Path) -> None:
    file = next(run.rglob("round-001.json"))
    edit(file, lambda data: data.pop("sha256"))
    with pytest.raises(BadInput, match=r"round-001\.json: expected a checksum, as its cell\.json has one, got none"):
        load_results(run)


def test_a_round_of_another_place_is_noticed(run: Path, tmp_path: Path) -> None:
    first, second = next(run.rglob("round-000.json")), next(run.rglob("round-001.json"))
    shutil.copy(first, second)
    with pytest.raises(BadInput, match=r"round-001\.json: expected round 1, got 0"):
        load_results(run)
    overrides = ("recipes=[prunefuse]", "seeds=[1]", "task.budgets=[0.02, 0.03]")
    other = tiny_run(tmp_path / "other", *overrides)
    shutil.copy(next(other.rglob("round-001.json")), second)
    with pytest.raises(BadInput, match=r"round-001\.json: expected cell [0-9a-f]{16}, got [0-9a-f]{16}: it is the rec"):
        load_results(run)


@pytest.mark.parametrize("name", ["suite.json", "cell.json"])
@pytest.mark.parametrize("schema", [1, 2, None, "3"])
def test_records_of_another_schema_are_refused_by_name(run: Path, name: str, schema: object) -> None:
    file = next(run.rglob(name))
    edit(file, lambda data: data.update(schema=schema))
    edit(file, lambda data: data.pop("sha256"))
    with pytest.raises(BadInput, match=rf"{name}: expected records of schema 3, got {schema}; run the suite again"):
        load_results(run)


def test_a_damaged_suite_can_be_written_anew_and_loses_no_cell(run: Path) -> None:
    wanted = everything(run)
    (run / "suite.json").write_text("{")
    with pytest.raises(BadInput, match="remove it and run the suite again with --resume: its cells are kept"):
        load_results(run)
    (run / "suite.json").unlink()
    times = {file: file.stat().st_mtime_ns for file in run.rglob("round-*.json")}
    tiny_run(run, "recipes=[prunefuse]", "seeds=[0]", "task.budgets=[0.02, 0.03]")
    assert {file: file.stat().st_mtime_ns for file in run.rglob("round-*.json")} == times
    pandas.testing.assert_frame_equal(everything(run)[0], wanted[0])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": -Infinity}', "-Infinity is no number"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' is there twice"),
        ("[1]", "expected an object, got list"),
        ('{"a": ' + "[" * 100_000, "nested too deeply"),
        (b'{"a": "\xff"}', "can't decode"),
        ("", "Expecting value"),
    ],
)
def test_only_json_by_the_letter_is_read(text: str | bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_json(text)


def test_the_checksum_is_of_the_canonical_json() -> None:
    """Worked by hand, so that other programs can verify records: sha256sum of the text below."""
    import hashlib

    text = '{"a":[1,2.5,null,true],"\\u00fc":"x"}'
    assert checksum({"ü": "x", "a": [1, 2.5, None, True]}) == hashlib.sha256(text.encode()).hexdigest()
    assert unseal(sealed({"a": 1})) == ({"a": 1}, True)
    assert unseal({"a": 1}) == ({"a": 1}, False)
    with pytest.raises(ValueError, match="not JSON compliant"):
        sealed({"a": float("inf")})


def test_a_grid_is_named_by_its_task_and_all_its_cells() -> None:
    suite = {"task": "t", "cells": [{"id": "a", "method": "x"}, {"id": "b"}]}
    assert grid_hash(suite) == grid_hash({"task": "t", "cells": [{"id": "b", "method": "y"}, {"id": "a"}], "more": 1})
    others = [
        {"task": "t", "cells": [{"id": "a"}]},
        {"task": "u", "cells": [{"id": "a"}, {"id": "b"}]},
        {"task": "t", "cells": [{"id": "a"}, {"id": "c"}]},
        {"task": "t", "cells": [{"id": "ab"}]},
    ]
    assert len({grid_hash(other) for other in (suite, *others)}) == 5
    assert len(grid_hash(suite)) == 64


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda suite: suite["cells"][0].update(method="a\ud800"), r"half of a surrogate pair in 'a\\ud800'"),
        (lambda suite: suite.update(dataset="\udfff"), "expected text as dataset, got half of a surrogate pair"),
        (lambda suite: suite.update(model=["resnet20"]), r"expected a text as model, got \['resnet20'\]"),
        (lambda suite: suite["cells"][0].update(id=3), "expected a text as id of a cell, got 3"),
        (lambda suite: suite["cells"][0].update(seed="0"), "expected a whole number as seed, got '0'"),
        (lambda suite: suite["cells"][0].update(seed=True), "expected a whole number as seed, got True"),
        (lambda suite: suite["cells"].append("al"), "expected cells, each with id, method, seed, target_needs_sel"),
        (lambda suite: suite["cells"][0].pop("method"), "expected cells, each with id, method, seed, target_needs_sel"),
        (lambda suite: suite.update(cells={}), r"expected cells, each with .*, got \{\}"),
    ],
)
def test_names_made_by_hand_are_texts_or_refused_with_a_right_checksum_too(
    run: Path, change: Callable[[Any], object], expected: str
) -> None:
    def edited(suite: dict[str, Any]) -> None:
        del suite["sha256"]
        change(suite)
        suite.update(sealed(suite))

    edit(run / "suite.json", edited)
    with pytest.raises(BadInput, match=expected) as error:
        load_results(run)
    assert str(error.value).startswith(str(run / "suite.json"))


def test_the_reason_of_a_failure_is_text_whatever_it_quotes(run: Path) -> None:
    folder = RunFolder(run)
    store = folder.open_cell(folder.read_suite()["cells"][0]["id"])
    assert store is not None
    store.round_file(1).unlink()
    store.write_failure(ValueError("no such file: \udcff\x1b[31m"))
    (reason,) = load_results(run).query("status == 'failed'")["reason"].unique()
    assert reason == r"no such file: \udcff\x1b[31m"
