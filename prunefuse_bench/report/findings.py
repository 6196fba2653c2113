"""What a board shows, in sentences: first of all what it could have shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prunefuse_bench.report.numbers import flops, percent, ratio
from prunefuse_bench.report.payload import Board, MethodRow
from prunefuse_bench.stats import Comparisons

__all__ = ["findings", "power_of"]

MOST_NAMES = 6
LONGEST_NAME = 48


def power_of(comparisons: Comparisons, blocks: int, one: str = "seed", several: str = "seeds") -> str:
    """The smallest difference that this many blocks could have shown; ``one`` and ``several`` name them."""
    pairs = len(comparisons.pairs)
    if not pairs:
        return "There is one method: nothing is compared."
    if blocks < 2:
        return f"With one {one} no difference between methods can be shown, however large it looks."
    if comparisons.smallest_difference is None:
        return f"What {blocks} {several} can show is not known: no two methods have results with any spread in common."
    smallest = 100 * comparisons.smallest_difference
    return (
        f"With {blocks} {several} this board could show differences in average accuracy of {smallest:.2f} points or "
        f"more (with 80% power at the 5% level, Holm's correction over {pairs} {'pair' if pairs == 1 else 'pairs'}). "
        "Smaller ones may be real, and would most likely not have been seen."
    )


def findings(board: Board) -> Iterator[str]:
    """What the numbers allow to say about the methods."""
    rows = {row.key: row for row in board.methods}
    best = rows.get(board.comparisons.best or "")
    if best is None or best.area is None:
        yield "No method has a result at every budget yet: nothing is ranked."
        return
    yield from _standing(board, best, rows)
    yield from _labels(board)
    yield from _cost(board)


def _standing(board: Board, best: MethodRow, rows: dict[str, MethodRow]) -> Iterator[str]:
    others = [rows[key].name for key in board.comparisons.inseparable if key != best.key]
    area = f"{percent(best.area.mean)}% on average over the budgets" if best.area else ""
    whole = " among the methods with every cell" if board.comparisons.incomplete else ""
    every = "every other of these" if whole else "every other method"
    if len(rows) == 1:
        yield f"{_cut(best.name)}: {area}."
    elif not others:
        yield f"{_cut(best.name)} is best by mean rank{whole} ({area}) and is told apart from {every}."
    else:
        yield f"{_cut(best.name)} has the best mean rank{whole} ({area}). Not separable from it: {_listed(others)}."
    if board.comparisons.incomplete:
        lacking = [rows[key].name for key in board.comparisons.incomplete if key in rows]
        yield f"Cells without a result count against their method, which is last with those seeds: {_listed(lacking)}."


def _labels(board: Board) -> Iterator[str]:
    """Label savings that are surely above 1 at the largest budget."""
    if board.last is None:
        return
    at = board.last
    found = [(row, row.label_savings[at.labels]) for row in board.methods if at.labels in row.label_savings]
    sure = [(row.name, saving) for row, saving in found if saving.low is not None and saving.low > 1]
    if sure:
        words = [f"{_cut(name)} {ratio(saving.value)}" for name, saving in sure]
        yield f"Fewer labels than random for the accuracy that random has at {at.heading}: {_listed(words)}."
    elif any(saving.value is not None for _, saving in found):
        yield f"No method surely needs fewer labels than random for the accuracy that random has at {at.heading}."


def _cost(board: Board) -> Iterator[str]:
    """The cheapest selector among those that are not told apart from the best."""
    if board.last is None:
        return
    group = [row for row in board.methods if row.group in ("best", "inseparable")]
    spent = [(row.flops[board.last.labels].selector, row) for row in group if board.last.labels in row.flops]
    priced = [(amount, row) for amount, row in spent if amount is not None]
    if priced and len(group) > 1:
        least, row = min(priced, key=lambda entry: entry[0])
        words = f"{flops(least)}, counted, at {board.last.heading}" if least else "nothing that is counted"
        yield f"Among the best and what is not separable from it, {_cut(row.name)} spends least on choosing: {words}."


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(_cut, names[:MOST_NAMES]))
    return shown if len(names) <= MOST_NAMES else f"{shown} and {len(names) - MOST_NAMES} more"


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
