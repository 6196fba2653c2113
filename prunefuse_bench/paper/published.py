"""The tables of the paper (Kousar, Bhatti and Moon 2026, arXiv:2603.26138) as typed data.

One file per table in ``tables/``. Numbers keep the digits that are printed, for a figure of two digits cannot be met
more closely than by half a unit of its last one. Settings say which experiment a cell is of, so that runs can be
matched; those of a table hold for its parts, and so on to columns and rows, the inner ones winning.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal, get_args

import pydantic
import yaml

from prunefuse_bench.errors import BadInput

__all__ = [
    "Column",
    "Experiment",
    "Number",
    "Part",
    "PublishedTable",
    "Quantity",
    "Row",
    "published_table",
    "published_tables",
]

Quantity = Literal["accuracy", "flops", "selector_training_time", "selection_time", "target_training_time"]

PAPER_PATH = "2% 10% 20% 30% 40% 50%"
"""Budgets of the paper's active learning: a random start, and what every query leads to (section 6.1)."""
UNSTATED = "unstated"


class Experiment(pydantic.BaseModel):
    """The settings of one published cell, as far as the paper states them.

    Attributes:
        dataset: as the paper names it.
        network: the target, as ``prunefuse-bench models`` names it where it is there.
        epochs: of every training from scratch.
        stop_after: epochs of it that are run, where the target's training is stopped early.
        protocol: of this suite.
        selector: which network looks at the pool: the target, the target pruned, or a smaller one.
        selector_network: the smaller one.
        ratio: p, for a pruned selector.
        pruning: at once, or in steps while the selector trains.
        criterion: what decides which channels go.
        committee: one pass, dropout (BALD) or snapshots (ALSE).
        acquisition: how samples are chosen, by this suite's names.
        sync_every: T_sync; 0 for never.
        rest: start of the fused network's other weights.
        distilled: whether the fused network learns from the selector too.
        budget: share of the pool that is labeled, where no column says it.
        path: shares that are labeled one after another on the way, or ``unstated``.
        measured_on: whose accuracy it is: the target's, the selector's, or their difference.
        not_comparable: why no run can be set beside it, if so.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    dataset: str
    network: str
    epochs: int
    stop_after: int | None = None
    protocol: Literal["active_learning", "coreset"] = "active_learning"
    selector: Literal["target", "pruned", "smaller"] = "target"
    selector_network: str | None = None
    ratio: float | None = None
    pruning: Literal["static", "dynamic"] = "static"
    criterion: str = "magnitude"
    committee: Literal["one_pass", "mc_dropout", "snapshots"] = "one_pass"
    acquisition: str
    sync_every: int = 0
    rest: Literal["reinit", "retain", "zero"] = "reinit"
    distilled: bool = True
    budget: float
    path: str = PAPER_PATH
    measured_on: Literal["target", "selector", "difference"] = "target"
    not_comparable: str | None = None

    @pydantic.model_validator(mode="after")
    def _agree(self) -> Experiment:
        if (self.selector == "pruned") != (self.ratio is not None):
            raise ValueError("a pruned selector has a ratio, and no other has one")
        return self


@dataclass(frozen=True)
class Number:
    """A number as it is printed, ``80.53±0.20``.

    Attributes:
        text: the number without its deviation.
        deviation: standard deviation over three runs as it is printed; None if there is none.
    """

    text: str
    deviation: str | None = None

    @property
    def value(self) -> float:
        """The number."""
        return float(self.text)

    @property
    def half_unit(self) -> float:
        """Half a unit of the last printed digit: what rounding alone can hide."""
        return 0.5 * 10.0 ** -len(self.text.partition(".")[2])

    def __str__(self) -> str:
        return self.text if self.deviation is None else f"{self.text}±{self.deviation}"


@dataclass(frozen=True)
class Column:
    """One column of numbers.

    Attributes:
        group: what stands above several columns.
        heading: what stands above this one; a budget or not.
        unit: ``%``, ``1e16 FLOPs`` or ``minutes``.
    """

    group: str
    heading: str
    quantity: Quantity
    unit: str


@dataclass(frozen=True)
class Row:
    """One row of a published table.

    Attributes:
        name: its labels as published, from left to right.
        params: parameters of the selector as published, ``0.85 M``.
        numbers: one for each column.
        experiments: the settings of each number.
    """

    name: tuple[str, ...]
    params: str | None
    numbers: tuple[Number, ...]
    experiments: tuple[Experiment, ...]


@dataclass(frozen=True)
class Part:
    """A table, or the part of one that has its own heading.

    Attributes:
        title: data set and network, in words of our own where the paper's are longer.
        letter: ``a`` of Table 9(a); None where the paper gives none.
    """

    title: str
    letter: str | None
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    def quantity(self, quantity: Quantity) -> list[int]:
        """Positions of the columns of this quantity."""
        return [i for i, column in enumerate(self.columns) if column.quantity == quantity]


@dataclass(frozen=True)
class PublishedTable:
    """One table of the paper.

    Attributes:
        number: ``1`` to ``31``.
        section: of the paper, where it is discussed.
        caption: what it shows, in words of our own.
        notes: what a reader should know.
        parts: at least one, but none for Table 1, which holds no numbers.
    """

    number: str
    section: str
    caption: str
    notes: tuple[str, ...]
    parts: tuple[Part, ...]

    def has(self, quantity: Quantity) -> bool:
        """Whether any column is of this quantity."""
        return any(part.quantity(quantity) for part in self.parts)


@functools.cache
def published_tables() -> tuple[PublishedTable, ...]:
    """All tables of the paper, by number."""
    folder = resources.files("prunefuse_bench.paper") / "tables"
    files = [file for file in folder.iterdir() if file.name.endswith(".yaml")]
    tables = [_table(file.read_text(encoding="utf-8"), file.name) for file in files]
    return tuple(sorted(tables, key=lambda table: int(table.number)))


def published_table(number: str) -> PublishedTable:
    """The table of this number.

    Raises:
        BadInput: the paper has no such table.
    """
    for table in published_tables():
        if table.number == number:
            return table
    last = published_tables()[-1].number
    raise BadInput(
        f"the paper has no table {number!r}: expected a number from 1 to {last} without a letter (the parts of a table "
        "come together); 'prunefuse-bench paper' lists them"
    )


def _table(text: str, file: str) -> PublishedTable:
    # The base loader makes no numbers of what is printed, so that 91.90 keeps its last digit; nor any object.
    data: dict[str, Any] = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506
    try:
        return PublishedTable(
            number=data["table"],
            section=data["section"],
            caption=data["caption"],
            notes=tuple(data.get("notes", ())),
            parts=tuple(_part(part, data) for part in data["parts"]),
        )
    except (KeyError, ValueError) as error:
        raise ValueError(f"{file}: {error!r}") from error


def _part(part: Mapping[str, Any], table: Mapping[str, Any]) -> Part:
    columns, settings = [], []
    shared = {**table.get("settings", {}), **part.get("settings", {})}
    groups = part.get("columns") or table["columns"]
    for group, columns_of_group in groups.items():
        for column, own in _columns(group, columns_of_group):
            columns.append(column)
            settings.append({**shared, **columns_of_group.get("settings", {}), **own})
    rows = tuple(_row(row, columns, settings, list(groups)) for row in part["rows"])
    return Part(part["title"], part.get("part"), tuple(columns), rows)


def _columns(name: str, group: Mapping[str, Any]) -> Iterator[tuple[Column, dict[str, Any]]]:
    """The columns of a group, each with the settings that are its own."""
    text = group["headings"]
    if "|" in text:
        headings = [heading.strip() for heading in text.split("|")]
    else:
        headings = text.split() if "%" in text else [text]
    if group["quantity"] not in get_args(Quantity):
        raise ValueError(f"unknown quantity {group['quantity']}")
    for heading, own in zip(headings, group.get("each", [{}] * len(headings)), strict=True):
        budget = {"budget": heading} if heading.endswith("%") else {}
        yield Column(name, heading, group["quantity"], group["unit"]), {**budget, **own}


def _row(row: Mapping[str, Any], columns: list[Column], settings: list[dict[str, Any]], groups: list[str]) -> Row:
    numbers = tuple(_number(text) for group in groups for text in row[group].split())
    experiments = []
    for of_column in settings:
        merged = {**of_column, **row.get("settings", {})}
        experiments.append(Experiment(**{**merged, "budget": float(merged["budget"].removesuffix("%")) / 100}))
    if len(numbers) != len(columns):
        raise ValueError(f"{row['name']}: expected {len(columns)} numbers, got {len(numbers)}")
    return Row(tuple(row["name"]), row.get("params"), numbers, tuple(experiments))


def _number(text: str) -> Number:
    number, _, deviation = text.partition("±")
    float(number), float(deviation or 0)
    return Number(number, deviation or None)
