"""Two figures of the paper's numbers; matplotlib is loaded here and nowhere else."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunefuse_bench.atomic import make_folder, write_atomically
from prunefuse_bench.paper.published import Part, PublishedTable
from prunefuse_bench.paper.recompute import DENSE_TOLERANCE, PRUNED_TOLERANCE, best_fit, recompute

__all__ = ["Figure", "draw_accuracy", "draw_rule", "write_figures"]

STYLES = (
    ("#000000", "o"),
    ("#0072B2", "s"),
    ("#D55E00", "^"),
    ("#009E73", "D"),
    ("#CC79A7", "v"),
    ("#E69F00", "P"),
    ("#56B4E9", "X"),
    ("#7F7F7F", "<"),
    ("#8C6D1F", ">"),
)
"""Colour and marker of a series: the palette of Okabe and Ito, told apart by shape too."""


@dataclass(frozen=True)
class Figure:
    """A figure that was written.

    Attributes:
        file: relative to the report.
        caption: what it shows.
    """

    file: str
    caption: str


def write_figures(tables: Sequence[PublishedTable], folder: Path) -> list[Figure]:
    """Write what these tables allow, ``rule.svg`` and ``accuracy.svg``; nothing without FLOPs."""
    tables = [table for table in tables if table.has("flops")]
    if not tables:
        return []
    make_folder(folder)
    written = [
        _write(
            folder,
            "rule.svg",
            "Selector FLOPs as published and by the fitted rule; below, by how much they differ.",
            functools.partial(draw_rule, tables=tables),
            (7.2, 7.2),
        )
    ]
    for table in tables:
        if len(table.parts) == 1:
            caption = f"Table {table.number}: published accuracy against published selector FLOPs, 10% to 50% labeled."
            draw = functools.partial(draw_accuracy, part=table.parts[0])
            written.append(_write(folder, "accuracy.svg", caption, draw, (7.2, 5.2)))
    return written


def draw_rule(figure: Any, tables: Sequence[PublishedTable]) -> None:
    """Published against recomputed on logarithmic axes, and the difference in percent below."""
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    parts = [(table, part) for table in tables for part in table.parts]
    low, high = float("inf"), 0.0
    for (table, part), (colour, marker) in zip(parts, STYLES, strict=False):
        # In the column's printed unit: what a unit is does not matter to the comparison.
        cells = [cell for computed in best_fit(recompute(part)) for cell in computed.cells]
        published = [cell.published.value for cell in cells]
        label = f"Table {table.number}, {part.title}"
        style = {"color": colour, "marker": marker, "linestyle": "none", "markerfacecolor": "none"}
        upper.plot(published, [cell.value for cell in cells], label=label, **style)
        differences = [100 * cell.difference for cell in cells]
        rounding = [100 * cell.published.half_unit / cell.published.value for cell in cells]
        lower.errorbar(published, differences, yerr=rounding, elinewidth=0.6, **style)
        low, high = min(low, *published), max(high, *published)
    upper.plot([low, high], [low, high], color="#7F7F7F", linewidth=0.8, zorder=0)
    upper.set(xscale="log", yscale="log", ylabel="by the rule, printed unit")
    upper.legend(fontsize=8)
    upper.set_title("Selector FLOPs: published and by the fitted rule", fontsize=11)
    for tolerance, shade in ((PRUNED_TOLERANCE, 0.10), (DENSE_TOLERANCE, 0.18)):
        lower.axhspan(-100 * tolerance, 100 * tolerance, color="#7F7F7F", alpha=shade, linewidth=0)
    lower.axhline(0, color="#7F7F7F", linewidth=0.8)
    lower.set(xlabel="published, printed unit", ylabel="difference, %", ylim=(-14, 28))
    lower.text(
        0.99, 0.04, "bars: half a unit of the last printed digit; bands: 1% and 5%", transform=lower.transAxes,
        ha="right", fontsize=8,
    )  # fmt: skip


def draw_accuracy(figure: Any, part: Part) -> None:
    """Published accuracy against published FLOPs of the selector, one line per method."""
    axes = figure.subplots()
    accuracies, flops = part.quantity("accuracy"), part.quantity("flops")
    for row, (colour, marker) in zip(part.rows, STYLES, strict=False):
        across = [row.numbers[i].value for i in flops]
        up = [row.numbers[i].value for i in accuracies]
        axes.plot(across, up, color=colour, marker=marker, linewidth=1.2, label=" / ".join(row.name))
    axes.set(
        xscale="log",
        xlabel=f"selector FLOPs by the paper's rule, {part.columns[flops[0]].unit}, logarithmic",
        ylabel="accuracy of the target, %",
    )
    axes.set_title(f"{part.title}: what accuracy costs, as published", fontsize=11)
    axes.grid(alpha=0.3, linewidth=0.5)
    axes.legend(fontsize=8)


def _write(folder: Path, name: str, caption: str, draw: Callable[[Any], None], size: tuple[float, float]) -> Figure:
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=size, layout="constrained")
    draw(figure)
    # A fixed salt and no date, so that the same numbers give the same file.
    with matplotlib.rc_context({"svg.hashsalt": name}):
        save = functools.partial(figure.savefig, format="svg", metadata={"Date": None})
        write_atomically(folder / name, save)
    return Figure(f"{folder.name}/{name}", caption)
