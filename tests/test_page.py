from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from made_runs import make_run, rising

from prunefuse_bench import load_results
from prunefuse_bench.errors import BadInput
from prunefuse_bench.records import RunFolder
from prunefuse_bench.records.store import grid_hash
from prunefuse_bench.report import numbers
from prunefuse_bench.report.page import write_page

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "<!--<img src=x onerror=alert(3)>",
    "quotes \" ' ` & &amp; ${x} {{ 7 * 7 }} %{x}",
    "a\u2028b\u202ec\x00d?e",
    "\U0001f469\u200d\U0001f52c emoji",
    "n" * 300,
)


class Page(HTMLParser):
    """Text and tables of a page, as a browser without scripts sees them."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.source = file.read_text(encoding="utf-8")
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.tables: list[list[list[str]]] = []
        self.captions: list[str] = []
        self.text = ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._inside: list[str] = []
        self._in_cell = False
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style", "caption"):
            self._inside.append(tag)
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        elif tag == "table":
            self.tables.append([])
            self.captions.append("")
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._in_cell = True

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        inside = self._inside[-1] if self._inside else ""
        if inside == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif inside == "caption":
            self.captions[-1] += data
        elif inside != "style":
            self.text += data
            if self._in_cell:
                self.tables[-1][-1][-1] = (self.tables[-1][-1][-1] + data).lstrip("\n").rstrip("\n")

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(next(text for attributes, text in self.scripts if attributes.get("id") == "data"))

    def table(self, caption: str) -> list[list[str]]:
        return next(table for table, words in zip(self.tables, self.captions, strict=True) if caption in words)


def page_of(*runs: Path) -> Page:
    return Page(write_page(runs, runs[0] / "report"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """Four methods on two machines, with a cell missing and one failed."""
    run = make_run(
        tmp_path_factory.mktemp("made") / "a run",
        methods=("random", "al", "prunefuse", "slow"),
        missing=[("slow", 2)],
        failed={("slow", 0): (1, "the loss is <nan> & more")},
        machine=lambda method, seed: {"cpu": "Another Processor"} if seed == 1 else {},
        notes={"slow": ["Not as its authors <b>wrote</b> it."]},
    )
    return page_of(run)


def test_the_page_is_one_file_of_less_than_6_mb_that_names_no_other(page: Page) -> None:
    assert len(page.source.encode()) < 6_000_000
    for tag, attributes in page.tags:
        for name in ("src", "href", "action", "data", "srcset", "poster"):
            value = attributes.get(name) or ""
            assert not value or value.startswith(("#", "data:")), (tag, name, value)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)


def test_the_policy_allows_the_scripts_of_the_page_and_no_connection(page: Page) -> None:
    policy = next(
        a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    assert "connect-src" not in policy
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    run = [text for attributes, text in page.scripts if attributes.get("type") != "application/json"]
    assert {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in run} == allowed
    assert len(run) == 2


def test_what_could_have_been_shown_stands_before_the_results(page: Page) -> None:
    power = page.source.index("With 3 seeds this board could show differences")
    assert power < page.source.index('id="board-1-table"') < page.source.index('id="board-1-curves"')


def test_missing_and_failed_cells_are_shown_and_counted_against(page: Page) -> None:
    assert "2 of 12 cells have no whole result" in page.text
    assert "slow, seed 0: failed (the loss is <nan> & more)" in page.text
    assert "slow, seed 2: missing (not run)" in page.text
    lines = page.table("Test accuracy of the target")[1:]
    assert lines[-1][0] == "slow"
    assert lines[-1][2].startswith("incomplete")
    assert lines[-1][10] == "1 of 3"
    assert lines[0][2].startswith("best of the complete")
    assert "Cells without a result count against their method, which is last with those seeds: slow." in page.text


def test_the_table_has_the_means_of_the_records(page: Page, tmp_path: Path) -> None:
    lines = {line[0]: line for line in page.table("Test accuracy of the target")[1:]}
    for method in ("random", "al", "prunefuse"):
        for column, labels in zip((11, 12, 13), (29, 144, 287), strict=True):
            mean = sum(rising(method, seed, labels) for seed in range(3)) / 3
            assert lines[method][column].startswith(f"{100 * mean:.2f} ± ")


def test_seconds_of_different_machines_are_never_in_one_table(page: Page) -> None:
    tables = [table for table, words in zip(page.tables, page.captions, strict=True) if words.startswith("Seconds,")]
    assert len(tables) == 2
    by_method = [{line[0]: line[1] for line in table[1:]} for table in tables]
    assert by_method[0] == {"random": "2 of 3", "al": "2 of 3", "prunefuse": "2 of 3", "slow": "1 of 3"}
    assert by_method[1] == {"random": "1 of 3", "al": "1 of 3", "prunefuse": "1 of 3", "slow": "1 of 3"}
    assert "Seconds of different machines do not compare" in page.text
    seconds = [key for key in page.data["figures"] if key.startswith(("board-1-seconds", "board-1-stages"))]
    assert seconds == ["board-1-seconds-0", "board-1-stages-0", "board-1-seconds-1", "board-1-stages-1"]


def test_counted_flops_and_the_papers_are_different_columns(page: Page) -> None:
    head = page.table("FLOPs, mean over cells")[0]
    assert head == ["Method", "Counted", "By the paper's rule"]
    line = next(line for line in page.table("FLOPs, mean over cells") if line[0] == "al")
    assert line[3] == "6.78 GFLOP"  # to choose the labels of the last budget, counted
    assert line[9] == "136 GFLOP"  # the same by the rule


def test_every_chart_has_words_and_what_is_absent_is_said(page: Page) -> None:
    charts = [attributes for _, attributes in page.tags if "data-chart" in attributes]
    assert {attributes["data-chart"] for attributes in charts} == set(page.data["figures"])
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in charts)
    assert "Not recorded: set task.accuracy_by_epoch to true and run again." in page.text


def test_curves_by_epoch_are_drawn_where_they_were_recorded(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "run", curve=lambda method, seed, labels: [0.1, 0.5 + 0.1 * seed, 0.8]))
    lines = page.data["figures"]["board-1-convergence"]["data"]["lines"]
    assert {line["start"] for line in lines} == {"fresh", "fused"}
    first = next(line for line in lines if (line["labels"], line["method"]) == (29, 0))
    assert first["epoch"] == [0, 1, 2]
    assert first["mean"] == pytest.approx([0.1, 0.6, 0.8])


def test_provenance_is_on_the_page(page: Page) -> None:
    for said in (
        "0123456789ab",
        "torch 2.14.1",
        "Another Processor",
        "Schedule: 4 epochs instead of 181.",
        "slow: Not as its authors <b>wrote</b> it.",
        '"acquisition": "least_confidence"',
        "content SHA-256 5db4d5a06c42",
    ):
        assert said in page.text, said


def test_the_grid_is_named_so_that_a_seed_left_out_shows(tmp_path: Path) -> None:
    whole, less = make_run(tmp_path / "whole"), make_run(tmp_path / "less", seeds=(0, 1))
    pages = [page_of(run) for run in (whole, less)]
    names = [grid_hash(RunFolder(run).read_suite()) for run in (whole, less)]
    assert names[0] != names[1]
    assert names[0] in pages[0].text
    assert names[1] in pages[1].text


def test_the_raw_results_are_in_the_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    packed = page_of(run).data["results"]["board-1"]["csv"]
    rows = list(csv.DictReader(io.StringIO(gzip.decompress(base64.b64decode(packed)).decode())))
    results = load_results(run)
    assert [float(row["accuracy"]) for row in rows] == results["accuracy"].tolist()
    assert rows[0]["run"] == "run"  # and not where it was on somebody's disk


def test_hostile_names_are_text(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "run",
        methods=("random", *HOSTILE),
        title=HOSTILE[1],
        model=HOSTILE[2],
        notes={HOSTILE[0]: [HOSTILE[3]]},
        failed={(HOSTILE[0], 0): (1, HOSTILE[1])},
    )
    page = page_of(run)
    assert len(page.scripts) == 3  # data, Plotly, the page's own
    data = next(text for attributes, text in page.scripts if attributes.get("id") == "data")
    assert not set("<>&\u2028") & set(data)
    assert page.data["boards"]["board-1"]["methods"][1] == HOSTILE[0]
    lines = [line[0] for line in page.table("Test accuracy of the target")[1:]]
    assert sorted(lines) == sorted(["random", *HOSTILE[:4], "a b c d?e", HOSTILE[5], HOSTILE[6]], key=lambda name: name)
    assert not [tag for tag, attributes in page.tags if tag == "img"]
    assert "7 * 7" in page.text
    page.source.encode("utf-8")


def test_one_seed_shows_no_difference(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "run", seeds=(5,)))
    assert "With one seed no difference between methods can be shown, however large it looks." in page.text
    assert all(not line[2].startswith("behind") for line in page.table("Test accuracy of the target")[1:])


def test_one_method_is_compared_with_nothing(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "run", methods=("mine",)))
    assert "There is one method: nothing is compared." in page.text
    assert page.table("Test accuracy of the target")[1][2] == "only method"


def test_a_run_without_a_result_is_a_page_that_says_so(tmp_path: Path) -> None:
    failed = {(method, seed): (0, "diverged") for method in ("random", "al") for seed in (0, 1)}
    page = page_of(make_run(tmp_path / "run", methods=("random", "al"), seeds=(0, 1), failed=failed))
    assert "4 of 4 cells have no whole result" in page.text
    assert "nothing is ranked" in page.text


def test_a_coreset_board_of_one_budget_has_its_accuracy_as_average(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", protocol="coreset", label_counts=(359,), accuracy=lambda method, seed, labels: 0.5)
    page = page_of(run)
    assert "coreset selection" in page.text
    assert all(line[3].startswith("50.00") for line in page.table("Test accuracy of the target")[1:])


def test_clear_differences_are_told_apart_and_equal_methods_are_not(tmp_path: Path) -> None:
    level = {"best": 0.9, "twin": 0.9, "worst": 0.5}
    run = make_run(
        tmp_path / "run",
        methods=tuple(level),
        seeds=range(6),
        accuracy=lambda method, seed, labels: level[method] + 0.001 * rising(method, seed, labels),
    )
    lines = {line[0]: line[2] for line in page_of(run).table("Test accuracy of the target")[1:]}
    assert lines["worst"].startswith("behind the best")
    assert "best" in {lines["best"].split("better")[0], lines["twin"].split("better")[0]}


def test_boards_of_several_tasks_are_ranked_together(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "one", title="one"),
        make_run(tmp_path / "two", title="two", dataset="two", methods=("random", "al", "another")),
    ]
    page = page_of(*runs)
    lines = page.table("Mean ranks over 2 boards")
    assert sorted(line[0] for line in lines[1:]) == ["al", "random"]
    assert [line[3] for line in lines[1:]] == ["6 of 6", "6 of 6"]
    assert "With 6 pairs of task and seed this board could show" in page.text
    options = [attributes.get("value") for tag, attributes in page.tags if tag == "option"]
    assert {"one, resnet8", "two, resnet8", "active learning", "20%"} <= set(options)


def test_two_runs_of_one_task_are_not_two_tasks(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "one"), make_run(tmp_path / "two"))
    assert not [words for words in page.captions if "Mean ranks over" in words]


def test_no_runs_and_no_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="at least one run"):
        write_page([], tmp_path)
    with pytest.raises(BadInput, match="expected the folder of a run"):
        write_page([tmp_path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_page_is_the_same_every_time(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    first = write_page([run], tmp_path / "first").read_bytes()
    assert write_page([run], tmp_path / "second").read_bytes() == first


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (numbers.percent(0.123456), "12.35"),
        (numbers.percent(None), "–"),
        (numbers.percent(float("nan")), "–"),
        (numbers.points(-0.01234), "-1.23"),
        (numbers.seconds(0.0), "0 s"),
        (numbers.seconds(0.0312), "31 ms"),
        (numbers.seconds(9.996), "10.0 s"),
        (numbers.seconds(119), "119 s"),
        (numbers.seconds(300), "5.00 min"),
        (numbers.seconds(36000), "10.0 h"),
        (numbers.flops(0), "0"),
        (numbers.flops(999.96e9), "1000 GFLOP"),
        (numbers.flops(7.24e10), "72.4 GFLOP"),
        (numbers.flops(None), "–"),
        (numbers.ratio(1.005), "1.00×"),
        (numbers.ratio(float("inf")), "∞"),
        (numbers.rank(2.0), "2"),
        (numbers.rank(1.333), "1.33"),
    ],
)
def test_numbers_are_printed_with_their_units(text: str, expected: str) -> None:
    assert text == expected
