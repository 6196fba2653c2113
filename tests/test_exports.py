"""Tables and figures for papers."""

from __future__ import annotations

import functools
import io
import re
import shutil
import subprocess
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import make_run, rising
from matplotlib.text import Text

from prunefuse_bench import stats
from prunefuse_bench.records import load_curves, load_results
from prunefuse_bench.report import figures
from prunefuse_bench.report.exports import paper_tables, write_tables
from prunefuse_bench.report.figures import WIDTHS, Drawing, drawings, legible, render, write_figures
from prunefuse_bench.report.latex import WRITTEN, Cell, PaperTable, escape_latex, latex_table
from prunefuse_bench.report.payload import read_board

HOSTILE = (
    "random",
    "$x$ _ ^ & % # ~ {y} \\z",
    "<script>alert(1)</script>",
    "\"quotes\" `ticks` '' -- ,,",
    "[0] * end of \\\\ row",
    "\\input{/etc/passwd}",
    "a | b\nc",
    "_hidden",
    "ÄÖÜ é ß ± × →",
    "選択 🙂 \u202ereversed",
    "long " * 60,
)


# ---- LaTeX ----

MEANING = {
    **{written: character for character, written in WRITTEN.items()},
    "{}": "",
}
TOKEN = re.compile(
    r"\\texttt\{U\+(?P<code>[0-9A-F]{4,6})\}|"
    + "|".join(re.escape(written) for written in sorted(MEANING, key=len, reverse=True))
    + r"|[^\\{}$&#_%~^<>|\"`\[\]*]"
)


def read_latex(text: str) -> str:
    """What LaTeX sets for text without commands of our own; fails on anything that is active."""
    found, position = [], 0
    while position < len(text):
        token = TOKEN.match(text, position)
        assert token, f"active or unknown: {text[position : position + 20]!r}"
        code = token["code"]
        found.append(chr(int(code, 16)) if code else MEANING.get(token[0], token[0]))
        position = token.end()
    return "".join(found)


def plain(text: str) -> str:
    return " ".join(text.split())


@given(st.text(max_size=60))
def test_every_text_survives_latex(text: str) -> None:
    escaped = escape_latex(text)
    assert read_latex(escaped) == plain(text)
    assert escaped.isprintable()


@given(st.text(alphabet="\\{}$&#_%~^<>|\"'`-,[]*?! ab", max_size=30))
def test_every_mixture_of_special_characters_survives_latex(text: str) -> None:
    escaped = escape_latex(text)
    assert read_latex(escaped) == plain(text)
    for ligature in ("--", "''", ",,", "<<", ">>", "?`", "!`", "``"):
        assert ligature not in escaped


@given(st.text(max_size=30))
def test_what_is_not_latin_is_written_as_its_code_point(text: str) -> None:
    # Which letters a font has depends on its encoding: these are in all of them.
    assert not re.search(r"[^\x20-\x7eÀ-ž]", escape_latex(text))


def read_rows(tex: str) -> list[list[tuple[str, str]]]:
    """(text, emphasis) of every cell of a table, heading first."""
    body = tex.partition("\\toprule\n")[2].partition("    \\bottomrule")[0]
    lines = [line.strip() for line in body.splitlines() if line.strip() != "\\midrule"]
    rows = []
    for line in lines:
        assert line.endswith(" \\\\")
        cells = []
        for written in re.split(r"(?<!\\)&", line[:-3]):
            mark = re.fullmatch(r"\\(textbf|underline)\{(.*)\}", written.strip())
            cells.append((read_latex(mark[2]), mark[1]) if mark else (read_latex(written.strip()), ""))
        rows.append(cells)
    return rows


@given(st.lists(st.lists(st.text(max_size=20), min_size=3, max_size=3), max_size=5), st.text(max_size=40))
def test_every_cell_of_a_latex_table_survives(texts: list[list[str]], caption: str) -> None:
    rows = tuple((Cell(one), Cell(other, "best"), Cell(third, "inseparable")) for one, other, third in texts)
    tex = latex_table(PaperTable("name", caption, ("a&b", "c\\\\", "[d"), rows))
    heading, *found = read_rows(tex)
    assert [text for text, _ in heading] == ["a&b", "c\\\\", "[d"]
    expected = [[(plain(a), ""), (plain(b), "textbf"), (plain(c), "underline")] for a, b, c in texts]
    assert found == expected
    (written,) = re.findall(r"^  \\caption\{(.*)\}$", tex, flags=re.MULTILINE)
    assert read_latex(written) == plain(caption)


# ---- tables of runs ----


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five seeds; ``al`` is best, ``like-al`` differs from it by noise, and ``prunefuse`` lacks a cell."""

    def accuracy(method: str, seed: int, labels: int) -> float:
        base = 0.9 * rising("same", seed, labels)
        if method in ("al", "like-al"):
            return base + 0.06 + (0.002 * (-1) ** (seed + 1) if method == "like-al" else 0.0)
        return base + (0.03 if method == "prunefuse" else 0.0) + 0.002 * rising(method, seed, labels)

    return make_run(
        tmp_path_factory.mktemp("runs") / "run",
        methods=["random", "al", "like-al", "prunefuse"],
        seeds=range(5),
        accuracy=accuracy,
        missing=[("prunefuse", 3)],
        curve=lambda method, seed, labels: [0.1, 0.3, 0.5 + 0.01 * seed, 0.6],
    )


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(
        tmp_path_factory.mktemp("runs") / "hostile", methods=HOSTILE, seeds=(0, 1), title="$d_a^t$ & <b>🙂</b>"
    )


def test_tables_hold_the_statistics_and_mark_the_best(run: Path, tmp_path: Path) -> None:
    write_tables([run], tmp_path)
    tables = (tmp_path / "leaderboard.tex").read_text().split("\\end{table")
    heading, *rows = read_rows(tables[0])
    assert [text for text, _ in heading] == ["Method", "2.02% (29)", "10% (144)", "20% (287)", "Area", "Rank"]
    of = {row[0][0]: row[1:] for row in rows}
    found = stats.summarise(load_results(run)).set_index(["method", "labels"]).loc[("al", 287)]
    assert of["al"][2][0] == f"{100 * found['mean']:.2f} ± {100 * (found['high'] - found['mean']):.2f}"
    assert {name: row[3][1] for name, row in of.items()} == {
        "al": "textbf", "like-al": "underline", "prunefuse": "", "random": "",
    }  # fmt: skip
    assert of["prunefuse"][0][0].endswith("(4 of 5)")


def test_captions_say_how_the_numbers_came_about(run: Path) -> None:
    board = read_board(run, "1")
    accuracy, costs, seconds = paper_tables(board)
    for said in ("digits, resnet8", "seeds 0, 1, 2, 3, 4", "95% interval by Student's t", "Holm", board.grid[:12]):
        assert said in accuracy.caption
    assert f"differs from the paper's in {len(board.leaderboard.deviations)} points" in accuracy.caption
    assert "counted on the real graph" in costs.caption
    assert "A Processor" in seconds.caption


def test_one_seed_marks_nothing_as_told_apart(tmp_path: Path) -> None:
    board = read_board(make_run(tmp_path / "run", seeds=[0]), "1")
    table = next(paper_tables(board))
    assert "With one seed no method can be told from another." in table.caption
    assert {cell.emphasis for row in table.rows for cell in row[1:-1]} == {"best", "inseparable"}
    assert not any("±" in cell.text for row in table.rows for cell in row)


def test_seconds_of_two_machines_are_never_in_one_table(tmp_path: Path) -> None:
    moved = make_run(tmp_path / "run", machine=lambda method, seed: {"cpu": f"Processor {seed % 2}"})
    tables = list(paper_tables(read_board(moved, "1")))
    captions = [table.caption for table in tables if "seconds" in table.name]
    assert len(captions) == 2
    assert [("Processor 0" in caption, "Processor 1" in caption) for caption in captions] == [
        (True, False),
        (False, True),
    ]


def test_hostile_names_survive_every_table(hostile_run: Path, tmp_path: Path) -> None:
    files = write_tables([hostile_run], tmp_path)
    assert [file.name for file in files] == [
        "leaderboard.tex", "leaderboard-tables.md", "leaderboard-accuracy.csv", "leaderboard-areas.csv",
        "leaderboard-pairs.csv", "leaderboard-savings.csv",
    ]  # fmt: skip
    names = {plain(name).replace("\u202e", " ") for name in HOSTILE}
    for table in (tmp_path / "leaderboard.tex").read_text().split("\\end{table")[:-1]:
        # What cannot be printed is a space on every page.
        assert {plain(row[0][0]) for row in read_rows(table)[1:]} == {plain(name) for name in names}
    page = (tmp_path / "leaderboard-tables.md").read_text()
    assert not re.search(r"(?<!\\)<", page)
    areas = pandas.read_csv(tmp_path / "leaderboard-areas.csv", keep_default_na=False)
    assert set(areas["method"]) == set(HOSTILE)


def test_csv_is_tidy_and_holds_what_the_statistics_say(run: Path, tmp_path: Path) -> None:
    write_tables([run], tmp_path)
    expected = stats.summarise(load_results([run]))
    found = pandas.read_csv(tmp_path / "leaderboard-accuracy.csv")
    pandas.testing.assert_frame_equal(found, expected, check_dtype=False)
    pairs = pandas.read_csv(tmp_path / "leaderboard-pairs.csv")
    assert len(pairs) == 6
    savings = pandas.read_csv(tmp_path / "leaderboard-savings.csv")
    assert set(savings["reference"]) == {"random", "al"}


def test_a_run_without_any_result_still_has_tables(tmp_path: Path) -> None:
    empty = make_run(
        tmp_path / "run", failed={(m, s): (0, "no") for m in ("random", "al", "prunefuse") for s in range(3)}
    )
    files = write_tables([empty], tmp_path / "out")
    assert "random" in files[0].read_text()
    assert write_figures([empty], tmp_path / "out") == []


@pytest.mark.skipif(not any(map(shutil.which, ("tectonic", "pdflatex"))), reason="no TeX engine")
def test_the_tables_compile(hostile_run: Path, tmp_path: Path) -> None:
    write_tables([hostile_run], tmp_path)
    (tmp_path / "paper.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\\input{leaderboard}\\end{document}"
    )
    engine = next(filter(shutil.which, ("tectonic", "pdflatex")))
    options = [] if engine == "tectonic" else ["-interaction=nonstopmode", "-halt-on-error"]
    subprocess.run([engine, *options, "paper.tex"], cwd=tmp_path, check=True, capture_output=True)


# ---- figures ----


@functools.cache
def of_run(run: Path) -> dict[str, Drawing]:
    return {drawing.name: drawing for drawing in drawings(read_board(run, "1"), load_curves(run))}


def texts(drawing: Drawing, inches: float = 3.3) -> list[str]:
    return [text.get_text() for text in render(drawing, inches).findobj(Text)]


def test_a_figure_is_a_pdf_and_a_png_and_the_same_records_give_the_same_bytes(run: Path, tmp_path: Path) -> None:
    for name in ("accuracy", "stages-1"):
        for folder in ("one", "other"):
            (tmp_path / folder).mkdir(exist_ok=True)
            files = list(figures._save(of_run(run)[name], WIDTHS["column"], tmp_path / folder / name))
            assert [file.name for file in files] == [f"{name}.pdf", f"{name}.png"]
    for file in (tmp_path / "one").iterdir():
        content = file.read_bytes()
        assert content == (tmp_path / "other" / file.name).read_bytes()
        assert content.startswith(b"%PDF" if file.suffix == ".pdf" else b"\x89PNG")
        assert b"CreationDate" not in content
    with PIL.Image.open(tmp_path / "one" / "accuracy.png") as image:
        assert image.width == 990


def test_fonts_are_embedded_as_truetype(run: Path) -> None:
    written = io.BytesIO()
    with matplotlib.rc_context({**figures.STYLE, "pdf.compression": 0}):
        render(of_run(run)["accuracy"], 3.3).savefig(written, format="pdf")
    assert b"/FontFile2" in written.getvalue()
    assert b"/Type3" not in written.getvalue()


@pytest.mark.parametrize("name", ["accuracy", "selector-flops", "seconds-1", "stages-1", "wins"])
def test_every_method_is_named_in_every_figure_as_it_is(name: str, hostile_run: Path) -> None:
    found = " ".join(plain(text) for text in texts(of_run(hostile_run)[name], 6.8))
    flat = found.replace(" ", "")
    for method in HOSTILE[:-1]:
        expected = legible(plain(method.replace("\u202e", " ")))
        shown = expected if len(expected) <= 44 else expected[:29]
        assert shown.replace(" ", "") in flat
    assert "longlonglong" in flat


def test_no_text_of_data_is_read_as_mathematics(hostile_run: Path) -> None:
    for drawing in of_run(hostile_run).values():
        figure = render(drawing, 3.3)
        assert not any(text.get_parse_math() for text in figure.findobj(Text) if "$" in text.get_text())


def test_no_glyph_is_missing_whatever_the_names_are(hostile_run: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for drawing in of_run(hostile_run).values():
            render(drawing, WIDTHS["page"]).draw_without_rendering()
    assert legible("選 🙂") == "[U+9078] [U+1F642]"
    assert legible("Ünï ±→") == "Ünï ±→"


def test_many_and_long_names_leave_room_for_the_axes(tmp_path: Path) -> None:
    many = make_run(
        tmp_path / "run", methods=[f"method {n} {'x' * 30}" for n in range(14)], seeds=[0, 1], label_counts=[29, 144]
    )
    for name, drawing in of_run(many).items():
        figure = render(drawing, WIDTHS["column"])
        figure.draw_without_rendering()
        (axes,) = figure.axes
        place = axes.get_window_extent().transformed(figure.dpi_scale_trans.inverted())
        assert min(place.width, place.height) > 1.0, name


def axis_of(run: Path, name: str) -> Any:
    (axes,) = render(of_run(run)[name], 3.3).axes
    return axes


@pytest.mark.parametrize(
    ("values", "start", "said"),
    [
        ((0.05, 0.2, 0.4), 0.0, "test accuracy, %"),
        ((0.2, 0.4, 0.9), 10.0, "test accuracy, % (from chance, 10%)"),
        ((0.92, 0.93, 0.97), 90.0, "test accuracy, % (axis from 90%)"),
    ],
)
def test_an_axis_that_does_not_start_at_zero_says_so(
    tmp_path: Path, values: Sequence[float], start: float, said: str
) -> None:
    levels = dict(zip((29, 144, 287), values, strict=True))
    run = make_run(tmp_path / "run", accuracy=lambda m, s, n: levels[n] + 0.001 * s)
    for name in ("accuracy", "selector-flops", "seconds-1"):
        axes = axis_of(run, name)
        assert axes.get_ylim()[0] == pytest.approx(start)
        assert axes.get_ylabel() == said


def test_costs_start_at_zero_or_are_logarithmic_and_say_so(run: Path, tmp_path: Path) -> None:
    axes = axis_of(run, "selector-flops")
    assert axes.get_xlim()[0] <= 0
    assert axes.get_xscale() == "linear"
    assert axis_of(run, "seconds-1").get_xlim()[0] <= 0
    assert axis_of(run, "stages-1").get_xlim()[0] == 0
    wide = make_run(tmp_path / "run", label_counts=(10, 20, 700, 1400), seeds=(0, 1), epochs=400)
    flops, seconds = axis_of(wide, "selector-flops"), axis_of(wide, "seconds-1")
    assert (flops.get_xscale(), flops.get_xlabel()) == ("symlog", "FLOPs to choose the labels (0, then logarithmic)")
    assert flops.get_xlim()[0] <= 0
    assert (seconds.get_xscale(), seconds.get_xlabel()) == ("log", "seconds to one target (logarithmic)")


def test_each_machine_has_its_own_seconds(tmp_path: Path) -> None:
    moved = make_run(tmp_path / "run", machine=lambda method, seed: {"cpu": f"Processor {seed % 2}"})
    found = of_run(moved)
    titles = [plain(render(found[f"seconds-{n}"], 6.8).get_suptitle()) for n in (1, 2)]
    assert ["Processor 0" in title for title in titles] == [True, False]
    half_way = make_run(tmp_path / "both", seeds=[0], machine=lambda method, seed: {"threads": len(method)})
    assert [name for name in of_run(half_way) if name.startswith("seconds")] == ["seconds-1", "seconds-2", "seconds-3"]


def test_without_curves_there_is_no_figure_of_convergence(hostile_run: Path, run: Path) -> None:
    assert "convergence" in of_run(run)
    assert "convergence" not in of_run(hostile_run)


def test_every_figure_is_written_in_both_widths_and_runs_have_files_of_their_own(
    run: Path, hostile_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    monkeypatch.setattr(figures, "_save", lambda drawing, inches, stem: written.append((stem.name, inches)) or [stem])
    assert write_figures([run], tmp_path)[0] == tmp_path / "figures" / "accuracy"
    names = ("accuracy", "selector-flops", "seconds-1", "stages-1", "convergence", "wins")
    assert written == [(f"{name}{wide}", inches) for name in names for wide, inches in (("", 3.3), ("-wide", 6.8))]
    names = [file.name for file in write_figures([run, hostile_run], tmp_path)]
    assert len(set(names)) == len(names) == 2 * (6 + 5)
    assert "run2-accuracy" in names
