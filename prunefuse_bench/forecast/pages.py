"""Forecasts as tables for a person, and as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prunefuse_bench.cost import StageCost
from prunefuse_bench.data.corruptions import COMPUTED_PREFIX
from prunefuse_bench.forecast.cells import CellForecast, PartForecast
from prunefuse_bench.report.numbers import flops, seconds
from prunefuse_bench.report.sheets import NOTHING, Sheet

__all__ = ["NOT_INCLUDED", "as_data", "part_sheet", "total_sheet"]

NOT_INCLUDED = (
    "Seconds are an estimate: measured on a few batches of random samples, with the machine as busy as it was then, "
    "times the samples of the schedule. Not included: ranking (FLOPs of matrix products are, where they do not depend "
    "on the data), reading and decoding data, pruning, fusing, preparing networks for scoring, and records."
)
RULE = (
    "Choosing: all that the labels of the last budget take; target: all that the target of this budget takes besides. "
    "The whole cell has the targets of all budgets, and evaluation. FLOPs by the rule are those of the paper's tables, "
    "and to be compared with them alone."
)


def part_sheet(part: PartForecast) -> Sheet:
    """One line for each method; its cells differ in their seed alone, and cost the same."""
    seeds = part.suite.seeds
    columns = (
        "method", "selector", "parameters", "choosing", "by the rule", "target", "by the rule", "whole cell", "time",
    )  # fmt: skip
    rows = tuple(
        (
            cell.recipe.label,
            cell.selector or "none",
            f"{cell.parameters:,}" if cell.parameters else NOTHING,
            flops(_counted(cell.choosing)) + ("+" if cell.uncounted_choice else ""),
            flops(cell.choosing.paper_flops),
            flops(_counted(cell.target)),
            flops(cell.target.paper_flops),
            flops(_counted(cell.total)),
            _time(cell.total.seconds, at_most=cell.at_most),
        )
        for cell in part.cells
        if cell.seed == seeds[0]
    )
    title = f"{part.suite.name}: {part.sizes.title}, {_network(part)}"
    return Sheet(title, columns, rows, tuple(_notes(part)))


def total_sheet(parts: Sequence[PartForecast]) -> Sheet:
    """Cells, FLOPs and seconds of each part and of all."""
    rows = [
        (
            part.name or part.suite.name,
            str(len(part.cells)),
            flops(sum(_counted(cell.total) for cell in part.cells)),
            flops(sum(cell.total.paper_flops for cell in part.cells)),
            _time(part.seconds, at_most=part.at_most),
        )
        for part in parts
    ]
    if len(parts) > 1:
        cells = [cell for part in parts for cell in part.cells]
        rows.append(
            (
                "all",
                str(len(cells)),
                flops(sum(_counted(cell.total) for cell in cells)),
                flops(sum(cell.total.paper_flops for cell in cells)),
                _time(sum(part.seconds for part in parts), at_most=any(part.at_most for part in parts)),
            )
        )
    columns = "part", "cells", "counted FLOPs", "by the rule", "time on this machine"
    return Sheet("In all", columns, tuple(rows), (NOT_INCLUDED, RULE))


def as_data(name: str, parts: Sequence[PartForecast]) -> dict[str, Any]:
    """Everything, cell by cell and stage by stage."""
    return {
        "name": name,
        "not_included": [NOT_INCLUDED],
        "seconds": sum(part.seconds for part in parts),
        "at_most": any(part.at_most for part in parts),
        "parts": [
            {
                "name": part.name,
                "dataset": part.sizes.title,
                "published_sizes": part.sizes.published,
                "train_size": part.sizes.train,
                "test_size": part.sizes.test,
                "sample": list(part.sizes.shape),
                "classes": part.sizes.classes,
                "model": part.suite.task.model.name,
                "width": part.suite.task.model.width,
                "protocol": part.suite.protocol,
                "label_counts": list(part.label_counts),
                "seconds": part.seconds,
                "at_most": part.at_most,
                "how": part.how,
                "cells": [_cell(cell, taken) for cell, taken in zip(part.cells, part.taken, strict=True)],
            }
            for part in parts
        ],
    }


def _cell(cell: CellForecast, taken: float) -> dict[str, Any]:
    return {
        "method": cell.recipe.label,
        "seed": cell.seed,
        "recipe": cell.recipe.settings(),
        "selector": cell.selector,
        "selector_parameters": cell.parameters,
        "seconds": cell.total.seconds,
        "seconds_of_shared_selectors": taken,
        "at_most": cell.at_most,
        "choosing": _cost(cell.choosing),
        "target": _cost(cell.target),
        "total": _cost(cell.total),
        "choosing_counted_in_full": not cell.uncounted_choice,
        "stages": {name: {"samples": cost.samples, **_cost(cost)} for name, cost in cell.stages.items()},
    }


def _cost(cost: StageCost) -> dict[str, float]:
    return {"flops": _counted(cost), "paper_flops": cost.paper_flops, "seconds": cost.seconds}


def _counted(cost: StageCost) -> int:
    return cost.flops_forward + cost.flops_backward


def _network(part: PartForecast) -> str:
    model = part.suite.task.model
    return model.name if model.width == 1 else f"{model.name}, width {model.width:g}"


def _notes(part: PartForecast) -> list[str]:
    sizes, schedule = part.sizes, part.training.schedule
    whence = "as published" if sizes.published else "as found"
    shape = "x".join(map(str, sizes.shape))
    counts = ", ".join(f"{count:,}" for count in part.label_counts)
    seeds = ", ".join(map(str, part.suite.seeds))
    notes = [
        f"{sizes.train:,} samples in the pool, {sizes.test:,} to test, {shape}, {sizes.classes} classes ({whence}); "
        f"labels: {counts}; {schedule.epochs} epochs, at least {schedule.min_steps} steps; seeds: {seeds}."
    ]
    ways: dict[str, list[str]] = {}
    for network, how in part.how.items():
        ways.setdefault(how, []).append(network)
    notes += [f"Seconds of {', '.join(networks)}: {how}." for how, networks in ways.items()]
    if any(cell.uncounted_choice for cell in part.cells):
        notes.append("+: and what choosing itself spends, which depends on the data.")
    if any(part.taken):
        notes.append("Methods that train the same selector share it: each is charged, the time in all counts it once.")
    if part.at_most:
        notes.append(
            "At most: training may stop where the accuracy on held-out samples no longer rises, which nobody knows "
            "before; FLOPs and times are those of the whole schedule."
        )
    if any(cell.recipe.proxy.pruning_steps_to_come for cell in part.cells if cell.selector):
        notes.append("Dynamic pruning: the selector and its parameters are those after the last step.")
    if any(cell.recipe.proxy.structure_depends_on_weights for cell in part.cells if cell.selector):
        notes.append(
            "Global sparsity: how many channels a layer keeps depends on the weights; the selector and its costs are "
            "those of one random start, and differ a little from cell to cell."
        )
    published = part.corruptions and not part.corruptions[0].startswith(COMPUTED_PREFIX)
    if published and part.suite.task.corruptions.path is None:
        notes.append("The run needs the files of CIFAR-10-C: --set task.corruptions.path=PATH.")
    return notes


def _time(value: float, *, at_most: bool) -> str:
    time = f"{value / 86400:.3g} days" if value >= 3 * 86400 else seconds(value)
    return f"at most {time}" if at_most else time
