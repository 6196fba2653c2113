"""Submissions that are made to harm whoever reads them: beyond what ``test_publishing.py`` refuses."""

from __future__ import annotations

import csv
import io
import json
import resource
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest

from fuzz.submissions import _zip, assembled, made
from prunefuse_bench.data import load_dataset
from prunefuse_bench.errors import BadInput
from prunefuse_bench.publishing import Refused, merge, verify
from prunefuse_bench.publishing.layout import MANIFEST, describe_file
from prunefuse_bench.records import CellStore
from prunefuse_bench.records.selectors import unpack_selector
from prunefuse_bench.records.tensors import pack_tensors, read_tensors
from prunefuse_bench.report import compare_benchmark_files, write_leaderboard, write_page, write_tables
from prunefuse_bench.report.gallery import NoGallery, gallery
from prunefuse_bench.report.overlap import overlaps
from prunefuse_bench.report.spreadsheets import FORMULA_STARTS, as_csv
from prunefuse_bench.training import Fit

RunCli = Callable[..., tuple[int, str, str]]


def changed(file: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A submission of changed parts, all hashes right."""
    parts = made()
    change(parts)
    file.write_bytes(_zip(assembled(parts)))
    return file


def refused(file: Path) -> str:
    """Why it is refused; within seconds, and not for more memory than its file could need."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(Refused) as error:
        verify(file)
    assert time.process_time() - start < 8
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # kilobytes
    reason = str(error.value)
    assert all(character.isprintable() for character in reason)
    assert len(reason) < 1_000
    return reason


def replaced(file: Path, name: str, content: bytes) -> Path:
    """A submission one of whose files has other content, which its manifest fits."""
    files = assembled(made())
    name = next(one for one in files if one.endswith(name))
    files[name] = content
    manifest = json.loads(files[MANIFEST])
    manifest["files"][name] = describe_file(content)
    with zipfile.ZipFile(file, "w") as archive:  # not packed: what packs well is refused before
        for one, data in {**files, MANIFEST: json.dumps(manifest).encode()}.items():
            archive.writestr(one, data)
    return file


def test_what_is_made_is_accepted(tmp_path: Path) -> None:
    summary = verify(changed(tmp_path / "a.zip", lambda parts: None)).summary
    assert (summary.cells, summary.rounds) == (4, 12)


def test_a_range_of_seeds_does_not_fill_the_memory(tmp_path: Path) -> None:
    file = changed(tmp_path / "a.zip", lambda parts: parts["suite"]["suite"].update(seeds="0-9999999999"))
    assert "seeds: expected at most 10,000" in refused(file)


def test_a_million_wrong_values_are_one_complaint(tmp_path: Path) -> None:
    """What is told is the first; the others must not be collected before."""
    noise = ",".join(f"-{number}" for number in range(400_000))
    record = json.dumps(made()["cells"][0]["rounds"][0] | {"query": []})
    content = record.replace('"query": []', f'"query": [{noise}]').encode()
    assert "'query.1'" in refused(replaced(tmp_path / "a.zip", "round-000.json", content))
    keys = ",".join(f'"k{number}":{number}' for number in range(600_000))
    content = record.replace('"query": []', f'"query": [], {keys}').encode()
    assert "500,000 keys, got more" in refused(replaced(tmp_path / "b.zip", "round-000.json", content))
    plain = json.loads(assembled(made())["suite.json"])
    suite = json.dumps({**{key: value for key, value in plain.items() if key != "sha256"}, "cells": []})
    cells = ",".join("{}" for _ in range(300_000))
    content = suite.replace('"cells": []', f'"cells": [{cells}]').encode()
    assert "cells.0.id" in refused(replaced(tmp_path / "c.zip", "suite.json", content))


def test_settings_are_of_a_bounded_size(tmp_path: Path) -> None:
    file = changed(
        tmp_path / "a.zip", lambda parts: parts["suite"]["suite"]["task"].update(budgets=[*range(-100_001, 0)])
    )
    assert "more than 100,000 keys and values" in refused(file)


@pytest.mark.parametrize("offset", [2**63, 2**64 - 1])
def test_a_place_beyond_all_files_is_refused(tmp_path: Path, offset: int) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(MANIFEST, b"{}")
        archive.filelist[0].header_offset = offset
    (tmp_path / "a.zip").write_bytes(stream.getvalue())
    assert "manifest.json" in refused(tmp_path / "a.zip") or "zip" in refused(tmp_path / "a.zip")


def test_a_pool_that_is_only_claimed_takes_no_room(tmp_path: Path) -> None:
    """Any size can be stated; what is compared is what was bought."""
    file = changed(tmp_path / "a.zip", lambda parts: parts["shared"]["task"]["dataset"].update(train_size=2**39))
    (run,) = merge([file], tmp_path / "out").runs
    found = overlaps(run)
    assert found["shared"].tolist() == [0, 0]
    assert found["bought"].tolist() == [4, 8]
    assert isinstance(gallery(run), NoGallery)


def test_pictures_are_shown_only_if_the_data_is_of_the_size_that_is_claimed(tmp_path: Path) -> None:
    digits = load_dataset("digits")
    size, shape = len(digits.train_labels), list(digits.train_images.shape[1:])
    for claimed, image, shown in ((size, shape, True), (2**39, shape, False), (size, [1, 9, 9], False)):

        def claim(parts: dict[str, Any], claimed: int = claimed, image: list[int] = image) -> None:
            parts["shared"]["task"]["dataset"].update(sha256=digits.sha256(), train_size=claimed, image=image)

        (run,) = merge([changed(tmp_path / "a.zip", claim)], tmp_path / f"{claimed}-{image[1]}").runs
        assert isinstance(gallery(run), NoGallery) is not shown


def test_overlaps_are_what_they_were_with_a_table_of_the_whole_pool(tmp_path: Path) -> None:
    def share(parts: dict[str, Any]) -> None:
        for cell in parts["cells"]:
            cell["rounds"][1]["query"][:2] = [30, 31]

    (run,) = merge([changed(tmp_path / "a.zip", share)], tmp_path / "out").runs
    found = overlaps(run)
    assert found["overlap"].tolist() == pytest.approx([2 / 6, 2 / 14])
    assert found["shared"].tolist() == [2, 2]


@pytest.mark.parametrize("name", ["hf:evil/code", "hf:/etc", "image-archive", "npz", "imagenet", "text-csv", "no-such"])
def test_a_report_neither_asks_nor_opens_what_a_submission_names(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import ModuleType

    module = ModuleType("datasets")
    module.__version__ = "4.0.0"  # type: ignore[attr-defined]
    module.load_dataset = lambda *_: pytest.fail("it was asked for")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)

    def rename(parts: dict[str, Any]) -> None:
        parts["shared"]["task"]["dataset"]["name"] = name
        parts["suite"]["suite"]["task"]["dataset"]["name"] = name

    (run,) = merge([changed(tmp_path / "a.zip", rename)], tmp_path / "out").runs
    assert isinstance(gallery(run), NoGallery)


HOSTILE = (
    '=HYPERLINK("http://x")', "+1", "-1", "@SUM(A1)", "[red]x[/]", "[/]", "$\\badcommand{$",
    "<script>alert(1)</script>", "a\nb", "\\input{/etc/passwd}", "{{ 7 * 7 }}", "{% for %}", "&amp;", "`x`|y",
    "x" * 300, "\u2028", ":boom:",
)  # fmt: skip


@pytest.mark.parametrize("start", range(0, len(HOSTILE), 6))
def test_hostile_names_are_text_in_everything_that_is_written(
    start: int, tmp_path: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file of a report of a run whose methods, data set and machine have such names."""
    names = HOSTILE[start : start + 6]
    methods = {"random": names[0], "prunefuse": names[1 % len(names)] + " "}

    def rename(parts: dict[str, Any]) -> None:
        parts["suite"]["dataset"] = names[2 % len(names)]
        for cell in parts["cells"]:
            cell["grid"]["method"] = methods[cell["grid"]["method"]]
            cell["grid"]["notes"] = [names[3 % len(names)]]
            for record in cell["rounds"]:
                record["environment"]["cpu"] = names[4 % len(names)]
        parts["cells"][0]["rounds"].pop()
        parts["cells"][0]["failure"] = {"round": 2, "error": "CellFailed", "reason": names[-1]}

    file = changed(tmp_path / "theirs.zip", rename)
    out = tmp_path / "out"
    code, printed, errors = run_cli("report", "--merge", file, "--out", out, "--no-figures")
    assert code == 0, errors
    assert "\x1b" not in printed + errors
    page = (out / "leaderboard.html").read_text()
    assert "<script>alert" not in page
    for name in ("leaderboard.csv", "leaderboard-accuracy.csv"):
        with (out / name).open(newline="") as stream:
            cells = {row["method"] for row in csv.DictReader(stream)}
        assert cells == {f"'{one}" if one.startswith(FORMULA_STARTS) else one for one in methods.values()}
    tex = (out / "leaderboard.tex").read_text()
    assert "\\input{" not in tex
    assert "\\badcommand" not in tex


def test_names_as_they_stand_in_a_table_for_spreadsheets() -> None:
    frame = pandas.DataFrame({"method": ["=1", "a", "-x", None], "value": [-1.5, 2, 3, 4], "big": [2**80, 1, 2, -3]})
    assert as_csv(frame) == "method,value,big\n'=1,-1.5,1208925819614629174706176\na,2.0,1\n'-x,3.0,2\n,4.0,-3\n"


def test_a_message_cannot_speak_to_the_terminal(tmp_path: Path, run_cli: RunCli) -> None:
    """A class of an archive, the label of a method, the words of an error: escapes are shown and not obeyed."""
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train/\x1b]0;owned\x07/[bold]a[/bold].png", b"")
    suite = tmp_path / "suite.yaml"
    suite.write_text(f"recipes: [random]\ntask: {{dataset: {{name: image-archive, path: {path}}}}}\n")
    code, printed, errors = run_cli("run", suite, "--out", tmp_path / "run")
    assert code == 2
    assert "\x1b" not in printed + errors
    assert "\\x1b" in errors
    benchmark = {"fullname": "a\x1b[2J[/]", "stats": {"data": [0.1] * 6}}
    for name in ("a.json", "b.json"):
        text = json.dumps({"benchmarks": [benchmark], "commit_info": {"id": "[/]\x1b[2J"}})
        (tmp_path / name).write_text(text)
    code, printed, errors = run_cli("report", tmp_path / "a.json", tmp_path / "b.json")
    assert code == 0, errors
    assert "\x1b" not in printed + errors
    assert "\\x1b" in printed


# --- benchmarks and weights ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"benchmarks": [{"fullname": "a", "stats": {"median": 1e999, "rounds": 1}}]}',
     '{"benchmarks": [{"fullname": "a", "stats": {"median": 1, "rounds": 1e999}}]}',
     '{"benchmarks": [{"fullname": "a", "stats": {"median": 1' + "0" * 400 + ', "rounds": 1}}]}',
     '{"benchmarks": [{"fullname": "a", "stats": {"median": ' + "1" * 5_000 + ', "rounds": 1}}]}',
     '{"benchmarks": [{"fullname": [], "stats": {"median": 1, "rounds": 1}}]}'],
)  # fmt: skip
def test_hostile_benchmarks_are_bad_input(tmp_path: Path, text: str) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match="expected what pytest"):
        compare_benchmark_files([tmp_path / "a", tmp_path / "b"])


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({"snapshot/x/weight": 0}, {}),
        ({"snapshot/": 0}, {}),
        ({"snapshotless": 0, "history/correct": 0}, {}),
        ({}, {"pruning_history": "[[1, 2]]"}),
        ({}, {"pruning_history": "[1]"}),
        ({}, {"pruning_history": "[" * 100_000}),
        ({}, {"pruning_history": "5"}),
        ({}, {"more": "[]"}),
        ({}, {"more": "1" * 5_000}),
        ({}, {"curve": "3"}),
        ({}, {"more": '{"fit": {"evil": 1}}'}),
    ],
)
def test_hostile_weights_are_bad_input(tmp_path: Path, tensors: dict[str, int], metadata: dict[str, str]) -> None:
    import torch

    plain = {"pruning_history": "null", "pruning_ratio": "null", "curve": "null", "more": "{}", **metadata}
    packed = pack_tensors({name: torch.zeros(2) for name in tensors}, plain)
    (tmp_path / "a.safetensors").write_bytes(packed)
    fit = None if "fit" in plain["more"] else Fit(1, 1, 1, 0.5)
    with pytest.raises(BadInput, match="expected a trained selector, but it is not readable"):
        unpack_selector(tmp_path / "a.safetensors", fit)


@pytest.mark.parametrize("more", ["[" * 100_000, "1" * 5_000, "[]"])
def test_hostile_losses_are_bad_input(tmp_path: Path, more: str) -> None:
    import torch

    store = CellStore(tmp_path, {})
    store.losses_file(0).write_bytes(pack_tensors({"target": torch.zeros(2)}, {"more": more}))
    with pytest.raises(BadInput, match="expected losses of the pool"):
        store.read_losses(0)


@pytest.mark.parametrize(
    "header",
    [b"", b"\xff" * 8, (2**62).to_bytes(8, "little"), b"\4" + bytes(7) + b"[[[[", b"\x80\4N." * 4,
     b"\x09" + bytes(7) + b'{"a":{}}'],
)  # fmt: skip
def test_hostile_headers_of_weights_are_no_weights(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "a").write_bytes(header)
    with pytest.raises(ValueError, match="Error"):
        read_tensors(tmp_path / "a")


def test_a_page_and_its_tables_of_what_is_only_just_accepted(tmp_path: Path) -> None:
    """Numbers at the ends of their ranges."""

    def stretch(parts: dict[str, Any]) -> None:
        for cell in parts["cells"]:
            for record in cell["rounds"]:
                record["target"]["loss"] = 1e30
                stage = record["stages"]["target/train"]
                stage.update(flops_forward=2**99, flops_backward=2**99, paper_flops=1e30, cpu_seconds=1e30, joules=1e30)
                record.update(seconds=1e30, unaccounted_seconds=1e30)
        parts["shared"]["task"]["dataset"].update(classes=2**62, test_size=20 * 2**30)
        parts["shared"]["task"]["training"]["augmentation"]["crop_padding"] = 2**62

    runs = merge([changed(tmp_path / "a.zip", stretch)], tmp_path / "out").runs
    for write in (write_leaderboard, write_tables, write_page):
        assert write(runs, tmp_path / "report")
