"""Figures for papers: PDF and PNG, in the width of a column and of a page; matplotlib is loaded here alone.

Names come from data, so nothing in them is ever read as mathematics, and a character without a glyph is shown as its
code point. The same records give the same bytes. Every axis starts at zero or at chance, or says where it starts.
"""

from __future__ import annotations

import functools
import json
import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunefuse_bench import stats
from prunefuse_bench.atomic import make_folder, write_atomically
from prunefuse_bench.records import load_curves
from prunefuse_bench.report.costs import IN_NO_STAGE, STAGE_GROUPS, MachineCosts
from prunefuse_bench.report.payload import Board, read_board

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FORMATS", "WIDTHS", "Drawing", "drawings", "legible", "render", "write_figures"]

WIDTHS: Mapping[str, float] = {"column": 3.3, "page": 6.8}
"""Inches: one column of a paper in two columns, and the whole width."""
FORMATS = ("pdf", "png")
DOTS_PER_INCH = 300
FONT = "DejaVu Sans"
STYLE: Any = {
    "font.family": FONT,
    "font.size": 7.0,
    "axes.labelsize": 7.0,
    "figure.titlesize": 7.5,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "legend.columnspacing": 1.2,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.linewidth": 0.4,
    "grid.color": "#D9D9D9",
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.6,
    "hatch.linewidth": 0.4,
    "text.parse_math": False,
    "text.usetex": False,
    "axes.formatter.use_mathtext": False,
    # TrueType, so that text can be selected and a publisher's check for Type 3 fonts passes.
    "pdf.fonttype": 42,
    "figure.constrained_layout.use": True,
}
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
"""Okabe and Ito's palette, grey for its yellow, which is too light for a line on white."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*")
"""As many as have no factor in common with the colours: 88 methods before two look alike."""
DASHES = ("-", "--", ":", "-.")
HATCHES = ("", "", "", "", "////", "", "....", "", "xxxx", "\\\\\\\\")
GREY = "#7F7F7F"
LONGEST_NAME = 44
SPAN = 30
"""Factor between costs beyond which their axis is logarithmic."""
SMALLEST_PRINT = 3.0
"""Points below which a number in a cell is left out."""
LINE_HEIGHT = 0.135
"""Inches of a line of a legend."""


@dataclass(frozen=True)
class Drawing:
    """A figure, not yet of any size.

    Attributes:
        name: of its files.
        height: inches of the axes alone, of a width.
        draw: onto a figure of that width, in inches.
        lines: of the legend, of a width.
    """

    name: str
    height: Callable[[float], float]
    draw: Callable[[Figure, float], None]
    lines: Callable[[float], int]


def write_figures(
    runs: Sequence[Path], out: Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[Path]:
    """Write what these runs allow into ``out/figures``: a PDF and a PNG of each figure in each width.

    accuracy, selector-flops, seconds-N and stages-N (of machine N), convergence (if recorded) and wins; with several
    runs each name begins with ``runN-``. ``progress`` is told how many of how many are written.

    Returns:
        The files.

    Raises:
        BadInput: a folder holds no run, no cell of it was begun, or the folder cannot be made.
        CannotWrite: a file cannot be written.
    """
    boards = [read_board(run, str(number)) for number, run in enumerate(runs, start=1)]
    make_folder(out / "figures")
    written: list[Path] = []
    asked = [
        (f"run{board.key}-" if len(boards) > 1 else "", drawing, width)
        for board in boards
        for drawing in drawings(board, load_curves(board.run))
        for width in WIDTHS
    ]
    for number, (prefix, drawing, width) in enumerate(asked):
        progress(number, len(asked))
        stem = f"{prefix}{drawing.name}{'-wide' if width == 'page' else ''}"
        written += _save(drawing, WIDTHS[width], out / "figures" / stem)
    return written


def drawings(board: Board, curves: pandas.DataFrame) -> Iterator[Drawing]:
    """The figures of a run for which there is something to draw.

    Args:
        curves: of :func:`prunefuse_bench.records.load_curves`.
    """
    legend = functools.partial(_legend_lines, [_names(board)[row.key] for row in board.methods])
    wide = functools.partial(_legend_lines, [_names(board)[row.key] for row in board.methods], extra=1)
    if any(score.estimate.count for row in board.methods for score in row.accuracies.values()):
        yield Drawing("accuracy", _plot_height, functools.partial(_draw_accuracy, board), legend)
        yield Drawing("selector-flops", _plot_height, functools.partial(_draw_flops, board), wide)
        for number, machine in enumerate(board.machines, start=1):
            if machine.several:
                continue
            draw = functools.partial(_draw_seconds, board, machine)
            yield Drawing(f"seconds-{number}", _plot_height, draw, wide)
            if machine.stages:
                bars = functools.partial(_bars_height, len(machine.stages))
                stages = functools.partial(_legend_lines, list(STAGE_GROUPS))
                yield Drawing(f"stages-{number}", bars, functools.partial(_draw_stages, board, machine), stages)
    if len(curves):
        yield _convergence(board, curves)
    if board.comparisons.pairs["pairs"].sum():
        methods = len(board.methods)
        yield Drawing("wins", lambda width: _matrix_height(methods, width), functools.partial(_draw_wins, board), _none)


def render(drawing: Drawing, inches: float) -> Figure:
    """The figure in this width."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        height = drawing.height(inches) + LINE_HEIGHT * drawing.lines(inches)
        figure = Figure(figsize=(inches, height), dpi=DOTS_PER_INCH, layout="constrained")
        drawing.draw(figure, inches)
        return figure


def _save(drawing: Drawing, inches: float, stem: Path) -> Iterator[Path]:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_pdf import FigureCanvasPdf

    figure = render(drawing, inches)
    # Laid out once, for both files; without dates, so that the same records give the same bytes.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    with matplotlib.rc_context(STYLE):
        pdf = functools.partial(FigureCanvasPdf(figure).print_pdf, metadata={"CreationDate": None})
        write_atomically(stem.with_name(f"{stem.name}.pdf"), pdf)
        figure.set_dpi(DOTS_PER_INCH)
        png = functools.partial(FigureCanvasAgg(figure).print_png, metadata={"Software": None})
        write_atomically(stem.with_name(f"{stem.name}.png"), png)
    return (stem.with_name(f"{stem.name}.{kind}") for kind in FORMATS)


def legible(text: str) -> str:
    """Text on one line with only characters that the font has; others as their code points."""
    return "".join(c if _has_glyph(c) else f"[U+{ord(c):04X}]" for c in " ".join(text.split()))


@functools.cache
def _has_glyph(character: str) -> bool:
    from matplotlib.font_manager import findfont, get_font

    return character.isprintable() and bool(get_font(findfont(FONT)).get_char_index(ord(character)))


def _names(board: Board) -> dict[str, str]:
    """What each method is called in figures: short enough, and no two alike."""
    names: dict[str, str] = {}
    for row in board.in_order_of_name:
        name = legible(row.name) or "(no name)"
        if len(name) > LONGEST_NAME:
            name = f"{name[: LONGEST_NAME - 15]}…{name[-14:]}"
        alike = [other for other in names.values() if other == name or other.startswith(f"{name} (")]
        names[row.key] = f"{name} ({len(alike) + 1})" if name in alike else name
    return names


# ---- sizes ----


def _plot_height(inches: float) -> float:
    return 2.2 if inches < 5 else 3.2


def _bars_height(bars: int, inches: float) -> float:
    return 0.6 + bars * (0.22 if inches < 5 else 0.24)


def _matrix_height(methods: int, inches: float) -> float:
    return max(min(inches, 0.9 + 0.24 * methods), 0.7 + 0.12 * methods)


def _none(inches: float) -> int:
    return 0


def _legend_columns(names: Sequence[str], inches: float) -> int:
    """As many as fit side by side."""
    widest = max((len(name) for name in names), default=1)
    return max(1, min(len(names), int(inches / (0.45 + 0.051 * widest))))


def _legend_lines(names: Sequence[str], inches: float, extra: int = 0) -> int:
    count = len(names) + extra
    return math.ceil(count / _legend_columns(names, inches)) + 1 if count else 0


def _add_legend(figure: Figure, inches: float, entries: Sequence[tuple[Any, str]]) -> None:
    """Below the axes. A name that begins with _ is shown too, which matplotlib else takes for hidden."""
    if not entries:
        return
    names = [name for _, name in entries]
    legend = figure.legend(
        [handle for handle, _ in entries],
        [str(position) for position in range(len(entries))],
        loc="outside lower center",
        ncols=_legend_columns(names, inches),
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(name)


# ---- accuracy ----


def _style(number: int) -> dict[str, Any]:
    """Colour, marker and dashes of a method; the same in every figure of its run."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": DASHES[number // len(COLOURS) % len(DASHES)],
        "markerfacecolor": "white" if number // len(COLOURS) % 2 else None,
        "markeredgewidth": 0.8,
    }


def _draw_accuracy(board: Board, figure: Figure, inches: float) -> None:
    """Accuracy against labels, with 95% bands."""
    axes, names, entries, lows = figure.add_subplot(), _names(board), [], []
    for row in board.in_order_of_name:
        found = [(labels, score.estimate) for labels, score in sorted(row.accuracies.items()) if score.estimate.count]
        if not found:
            continue
        across = [labels for labels, _ in found]
        (line,) = axes.plot(across, [100 * one.mean for _, one in found], **_style(row.number))
        entries.append((line, names[row.key]))
        banded = [(labels, one.low, one.high) for labels, one in found if one.low is not None and one.high is not None]
        axes.fill_between(
            [labels for labels, *_ in banded],
            [100 * max(0.0, low) for _, low, _ in banded],
            [100 * min(1.0, high) for *_, high in banded],
            color=COLOURS[row.number % len(COLOURS)],
            alpha=0.13,
            linewidth=0,
        )
        lows += [*(one.mean for _, one in found), *(low for _, low, _ in banded)]
    _accuracy_axis(axes, board, lows)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("labels")
    _title(figure, board, inches)
    _add_legend(figure, inches, entries)


def _accuracy_axis(axes: Axes, board: Board, lows: Sequence[float]) -> None:
    """From zero or from chance; from higher up only if all is in the upper half, and then the axis says so."""
    lowest = min(lows, default=0.0)
    if lowest > (1 + board.chance) / 2:
        # The next multiple of 5% below, and some room.
        steps = math.floor(20 * lowest - 0.1)
        start, said = steps / 20, f" (axis from {5 * steps}%)"
    elif lowest >= board.chance:
        start, said = board.chance, f" (from chance, {100 * board.chance:.3g}%)"
    else:
        start, said = 0.0, ""
    top = min(100.0, axes.get_ylim()[1])
    axes.set_ylim(100 * start, max(top, 100 * start + 1))
    axes.set_ylabel(f"test accuracy, %{said}")
    axes.grid(visible=True)


def _title(figure: Figure, board: Board, inches: float, below: str = "") -> None:
    """Of what run, and what else there is to say; over the whole width, which the axes do not have."""
    figure.suptitle("\n".join([*_wrapped(board.title, inches, 3), *_wrapped(below, inches, 2)]))


def _wrapped(text: str, inches: float, most: int) -> list[str]:
    return textwrap.wrap(legible(text), int(inches * 16), max_lines=most, placeholder=" …")


# ---- cost ----


@dataclass(frozen=True)
class _Point:
    """A method at a budget: what it cost, and its accuracy with its interval."""

    cost: float
    accuracy: stats.Estimate


def _draw_flops(board: Board, figure: Figure, inches: float) -> None:
    """Accuracy against the FLOPs spent to choose the labels."""
    points = {
        row.key: [
            _Point(spent.selector, row.accuracies[labels].estimate)
            for labels, spent in sorted(row.flops.items())
            if spent.selector is not None and labels in row.accuracies and row.accuracies[labels].estimate.count
        ]
        for row in board.in_order_of_name
    }
    axes = _draw_costs(board, figure, inches, points)
    known = [point.cost for of_method in points.values() for point in of_method]
    _cost_axis(axes, known, "FLOP", "FLOPs to choose the labels")
    _title(figure, board, inches)


def _draw_seconds(board: Board, machine: MachineCosts, figure: Figure, inches: float) -> None:
    """Accuracy against the seconds to one target, of the cells of one machine."""
    points: dict[str, list[_Point]] = {}
    for row in board.in_order_of_name:
        of_budget = sorted(machine.seconds.get(row.key, {}).items())
        points[row.key] = [
            _Point(spent.to_target.mean, row.accuracies[labels].estimate)
            for labels, spent in of_budget
            if spent.to_target is not None and labels in row.accuracies and row.accuracies[labels].estimate.count
        ]
    axes = _draw_costs(board, figure, inches, points)
    _cost_axis(axes, [point.cost for found in points.values() for point in found], "s", "seconds to one target")
    _title(figure, board, inches, machine.machine)


def _draw_costs(board: Board, figure: Figure, inches: float, points: Mapping[str, Sequence[_Point]]) -> Axes:
    axes, names, entries, lows = figure.add_subplot(), _names(board), [], []
    for row in board.in_order_of_name:
        found = points[row.key]
        if not found:
            continue
        across, up = [point.cost for point in found], [100 * point.accuracy.mean for point in found]
        for point in found:
            low, high = point.accuracy.low, point.accuracy.high
            if low is not None and high is not None:
                colour = COLOURS[row.number % len(COLOURS)]
                axes.vlines(
                    point.cost, 100 * max(0.0, low), 100 * min(1.0, high), color=colour, linewidth=0.7, alpha=0.6
                )
                lows.append(low)
        (line,) = axes.plot(across, up, **_style(row.number))
        entries.append((line, names[row.key]))
        lows += [point.accuracy.mean for point in found]
    front = _front([point for found in points.values() for point in found])
    if front:
        across, up = [point.cost for point in front], [100 * point.accuracy.mean for point in front]
        (line,) = axes.step(across, up, where="post", color=GREY, linewidth=3.0, alpha=0.35, zorder=0)
        entries.append((line, "Pareto front"))
    _accuracy_axis(axes, board, lows)
    _add_legend(figure, inches, entries)
    return axes


def _front(points: Sequence[_Point]) -> list[_Point]:
    """Those than which no other is both as cheap and more accurate, or cheaper and as accurate; by cost."""
    front: list[_Point] = []
    for point in sorted(points, key=lambda one: (one.cost, -one.accuracy.mean)):
        if not front or point.accuracy.mean > front[-1].accuracy.mean:
            front.append(point)
    return front


def _cost_axis(axes: Axes, costs: Sequence[float], unit: str, what: str) -> None:
    """Linear from zero; logarithmic if costs span more than a factor of 30, with a place for zero if there is one."""
    from matplotlib.ticker import EngFormatter, FixedLocator, NullLocator

    positive = [cost for cost in costs if cost > 0]
    if positive and max(positive) > SPAN * min(positive):
        first, last = math.log10(min(positive)), math.log10(max(positive))
        decades = [10.0**power for power in range(math.ceil(first - 0.1), math.floor(last + 0.3) + 1)]
        if len(positive) < len(costs):
            # Left of the smallest cost is half a decade that is linear: it holds the zero alone.
            axes.set_xscale("symlog", linthresh=min(positive) / 2, linscale=0.4)
            axes.set_xlim(-0.15 * min(positive), 2 * max(positive))
            axes.xaxis.set_major_locator(FixedLocator([0.0, *decades]))
            what = f"{what} (0, then logarithmic)"
        else:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(FixedLocator(decades))
            what = f"{what} (logarithmic)"
        axes.xaxis.set_minor_locator(NullLocator())
    elif positive:
        axes.set_xlim(-0.02 * max(positive), 1.05 * max(positive))
    axes.xaxis.set_major_formatter(EngFormatter(unit=unit) if unit == "FLOP" else f"{{x:,g}} {unit}")
    axes.set_xlabel(what)


def _draw_stages(board: Board, machine: MachineCosts, figure: Figure, inches: float) -> None:
    """Mean seconds of a finished cell, stage by stage, one bar per method."""
    axes, names = figure.add_subplot(), _names(board)
    rows = [row for row in board.methods if row.key in machine.stages]
    places, entries = range(len(rows)), []
    ends = [0.0] * len(rows)
    groups = [*STAGE_GROUPS, IN_NO_STAGE]
    for number, group in enumerate(groups):
        widths = [max(0.0, machine.stages[row.key][group]) for row in rows]
        if not any(widths):
            continue
        colour = (*COLOURS[1:], "#B2DF8A", "#F0E442", "#BBBBBB")[number]
        bars = axes.barh(
            places, widths, left=ends, height=0.68, color=colour, hatch=HATCHES[number], edgecolor="white",
            linewidth=0.4,
        )  # fmt: skip
        entries.append((bars, group))
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    _name_rows(axes, [names[row.key] for row in rows], inches)
    axes.invert_yaxis()
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.set_xlabel("seconds of a cell, mean over seeds")
    axes.grid(visible=True, axis="x")
    _title(figure, board, inches, machine.machine)
    _add_legend(figure, inches, entries)


# ---- convergence ----


def _convergence(board: Board, curves: pandas.DataFrame) -> Drawing:
    last = curves.loc[curves["labels"] == curves["labels"].max()]
    lines = last.groupby(["method", "start", "epoch"], sort=False)["accuracy"].mean().reset_index()
    names = [f"{_names(board).get(method, method)}: {start}" for method, start in _starts(lines)]
    return Drawing(
        "convergence",
        _plot_height,
        functools.partial(_draw_convergence, board, lines, int(last["labels"].iloc[0])),
        functools.partial(_legend_lines, names),
    )


def _starts(lines: pandas.DataFrame) -> list[tuple[str, str]]:
    return list(dict.fromkeys(zip(lines["method"], lines["start"], strict=True)))


def _draw_convergence(board: Board, lines: pandas.DataFrame, labels: int, figure: Figure, inches: float) -> None:
    """Accuracy of targets by epoch, mean over seeds; fused dashed, fresh solid."""
    from matplotlib.ticker import MaxNLocator

    axes, names, entries = figure.add_subplot(), _names(board), []
    numbers = {row.key: row.number for row in board.methods}
    for method, start in _starts(lines):
        own = lines.loc[(lines["method"] == method) & (lines["start"] == start)].sort_values("epoch")
        style = _style(numbers.get(method, 0)) | {"linestyle": "-" if start.startswith("fresh") else "--"}
        every = max(1, len(own) // 8)
        (line,) = axes.plot(own["epoch"], 100 * own["accuracy"], markevery=every, **style)
        entries.append((line, f"{names.get(method, method)}: {legible(start)}"))
    axes.set_ylim(0, min(100.0, axes.get_ylim()[1]))
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(f"epoch of the target's training on {labels:,} labels")
    axes.set_ylabel("test accuracy, %")
    axes.grid(visible=True)
    _title(figure, board, inches)
    _add_legend(figure, inches, entries)


# ---- wins ----


def _draw_wins(board: Board, figure: Figure, inches: float) -> None:
    """In how many seeds the method of the row had the larger area than that of the column."""
    import numpy

    axes, names, count = figure.add_subplot(), _names(board), len(board.methods)
    place = {row.key: position for position, row in enumerate(board.methods)}
    shade = numpy.full((count, count), numpy.nan)
    size = min(7.0, 17 * inches / count)
    pairs: list[dict[str, Any]] = json.loads(board.comparisons.pairs.to_json(orient="records"))
    for pair in pairs:
        for one, other, wins, losses in (
            (pair["one"], pair["other"], pair["wins"], pair["losses"]),
            (pair["other"], pair["one"], pair["losses"], pair["wins"]),
        ):
            if not pair["pairs"]:
                continue
            row, column = place[one], place[other]
            balance = (wins - losses) / pair["pairs"]
            # Three wins of three are not yet a difference, and must not look like one.
            shade[row, column] = balance if pair["different"] else 0.35 * balance
            if size >= SMALLEST_PRINT:
                axes.text(
                    column, row, f"{wins}:{losses}", ha="center", va="center", fontsize=size,
                    fontweight="bold" if pair["different"] else "normal",
                    color="white" if abs(shade[row, column]) > 0.7 else "black",
                )  # fmt: skip
    axes.imshow(shade, cmap="PuOr", vmin=-1.25, vmax=1.25, aspect="auto")
    _name_rows(axes, [f"{names[row.key]}\u00a0\u00a0{place[row.key] + 1}" for row in board.methods], inches)
    axes.set_xticks(range(count), labels=[str(n) for n in range(1, count + 1)], fontsize=min(6.5, 1.6 * size))
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    words = "seeds won : lost" if size >= SMALLEST_PRINT else "violet: the row won more seeds"
    _title(figure, board, inches, f"{words} by area; dark: different")


def _name_rows(axes: Axes, names: Sequence[str], inches: float) -> None:
    """Names beside the rows, in two lines where a name would take half of the width."""
    width = max(int(inches * 8), LONGEST_NAME // 2 + 4)
    axes.set_yticks(range(len(names)), labels=["\n".join(textwrap.wrap(name, width)) for name in names])
