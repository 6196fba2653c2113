"""Methods over several boards: paired by task and seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas

from prunefuse_bench import stats
from prunefuse_bench.report.payload import Board, Group, group_of
from prunefuse_bench.report.rows import rows_of

__all__ = ["Across", "AcrossRow", "across_boards"]


@dataclass(frozen=True)
class AcrossRow:
    """One method over the boards of a protocol; ``blocks`` of ``expected`` have a result."""

    name: str
    group: Group
    rank: float
    places: tuple[int, int]
    blocks: int
    expected: int


@dataclass(frozen=True)
class Across:
    """What several runs of one protocol say together.

    Attributes:
        boards: their titles.
        blocks: pairs of a run and a seed in which methods are compared.
        comparisons: of average accuracies.
    """

    protocol: str
    boards: tuple[str, ...]
    blocks: int
    comparisons: stats.Comparisons
    rows: tuple[AcrossRow, ...]


def across_boards(boards: Sequence[Board]) -> Iterator[Across]:
    """For each protocol with several boards, the methods that all of its boards have.

    A method that some boards lack is left out: ranks among different rivals are not one thing. Boards of one and the
    same task are not several tasks, and are left out too.
    """
    protocols = dict.fromkeys(board.protocol for board in boards)
    for protocol in protocols:
        mine = [board for board in boards if board.protocol == protocol]
        common = set.intersection(*({row.key for row in board.methods} for board in mine))
        if len(mine) < 2 or len(common) < 2 or len({board.task for board in mine}) < len(mine):
            continue
        values = pandas.DataFrame(
            [
                {"block": (board.key, cell.seed), "method": row.key, "value": cell.area}
                for board in mine
                for row in board.methods
                if row.key in common
                for cell in row.cells
            ]
        )
        comparisons = stats.compare(values)
        names = {row.key: row.name for row in mine[0].methods}
        blocks = int(values["block"].nunique())
        rows = tuple(
            AcrossRow(
                name=names[line["method"]],
                group=group_of(line["method"], comparisons),
                rank=float(line["rank"]),
                places=(int(line["place_low"]), int(line["place_high"])),
                blocks=int(line["blocks"]),
                expected=blocks,
            )
            for line in rows_of(comparisons.ranks)
        )
        yield Across(protocol, tuple(board.title for board in mine), blocks, comparisons, rows)
