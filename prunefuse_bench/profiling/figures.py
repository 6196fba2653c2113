"""Two figures of a profile; matplotlib is loaded here and nowhere else."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from prunefuse_bench.atomic import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from prunefuse_bench.profiling.session import Profile
    from prunefuse_bench.profiling.throughput import Way

__all__ = ["write_figures"]

TITLES: dict[Way, str] = {
    "training": "training",
    "plain scoring": "scoring, plain loop",
    "scoring": "scoring, prunefuse-bench",
    "screening": "scoring, in 8 bits first",
}
MARKERS: dict[Way, str] = {"training": "o", "plain scoring": "s", "scoring": "D", "screening": "^"}


def write_figures(profile: Profile, out: Path) -> list[Path]:
    """Write ``saving.svg`` and ``roofline.svg``. Returns what was written."""
    import matplotlib
    from matplotlib.figure import Figure

    files = []
    for name, draw in (("saving", draw_saving), ("roofline", draw_roofline)):
        figure = Figure(figsize=(6.4, 4.8), layout="constrained")
        draw(figure.add_subplot(), profile)
        file = out / f"{name}.svg"
        # A fixed salt and no date, so that the same numbers give the same file.
        with matplotlib.rc_context({"svg.hashsalt": name}):
            write_atomically(file, functools.partial(figure.savefig, format="svg", metadata={"Date": None}))
        files.append(file)
    return files


def draw_saving(axes: Axes, profile: Profile) -> None:
    """FLOPs saved against seconds saved, one line per way; on the diagonal all of the saving is realised."""
    smaller = sorted((one for one in profile.subjects if one.role == "pruned"), key=lambda one: one.ratio)
    for way, title in TITLES.items():
        if way == "screening" and not profile.is_screened:
            continue
        points = [profile.realised(subject, way) for subject in smaller]
        across = [100 * point.flops_saved for point in points]
        up = [100 * point.seconds_saved for point in points]
        axes.plot(across, up, marker=MARKERS[way], label=title)
        if way == "scoring":
            for subject, x, y in zip(smaller, across, up, strict=True):
                axes.annotate(f"p = {subject.ratio}", (x, y), textcoords="offset points", xytext=(4, -12))
    axes.plot([0, 100], [0, 100], color="grey", linestyle="--", label="all of it realised")
    axes.set_xlabel("FLOPs saved, %")
    axes.set_ylabel("seconds saved, %")
    axes.set_title(f"{profile.request.network}, pruned")
    axes.grid(alpha=0.3)
    axes.legend()


def draw_roofline(axes: Axes, profile: Profile) -> None:
    """FLOPs per byte against FLOPs per second, both logarithmic, under the ceilings of this machine."""
    points = profile.roofline()
    ceilings = profile.ceilings
    ridges = [flops / ceilings.bytes_per_second for flops in ceilings.flops_per_second.values()]
    low = min(*ridges, *(point.intensity for point in points)) / 2
    high = 2 * max(*ridges, *(point.intensity for point in points))
    for (precision, flops), ridge in zip(ceilings.flops_per_second.items(), ridges, strict=True):
        across = [low, ridge, high]
        up = [min(flops, x * ceilings.bytes_per_second) / 1e9 for x in across]
        axes.plot(across, up, label=f"ceiling, {precision}")
    for way in ("plain scoring", "scoring"):
        chosen = [point for point in points if point.way == way]
        axes.scatter(
            [point.intensity for point in chosen],
            [point.achieved_flops / 1e9 for point in chosen],
            marker=MARKERS[way],
            label=TITLES[way],
        )
        for point in chosen:
            where = (point.intensity, point.achieved_flops / 1e9)
            axes.annotate(point.network, where, textcoords="offset points", xytext=(5, -3), fontsize=7)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("FLOPs per byte (bytes estimated)")
    axes.set_ylabel("GFLOP/s")
    axes.set_title(f"scoring with {profile.request.network}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
