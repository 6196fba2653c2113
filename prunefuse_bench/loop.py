"""The protocols as plain code, whatever the recipe: Algorithm 1 of the paper, line by line, and coreset selection."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor, nn

from prunefuse_bench.cell import Cell
from prunefuse_bench.pruning import Network
from prunefuse_bench.recipe import ProtocolName, Trained
from prunefuse_bench.rounds import Checkpoint, Round

__all__ = ["PROTOCOL_LOOPS", "active_learning", "coreset"]


def active_learning(cell: Cell, after: Checkpoint | None = None) -> Iterator[Round]:
    """Algorithm 1 of the paper; yields each round when it is whole, and so can be stored and resumed from.

    Lines 14 and 15 are carried out at every budget that is reported, not only at the last.

    Args:
        cell: the task, the recipe and the seed.
        after: go on after this round instead of from the start.

    Raises:
        CellFailed: training diverged, or a score could not be ranked.
    """
    target = cell.new_target()  # line 1
    untrained = cell.new_selector(target)  # line 2
    if after is None:
        start = cell.random_start()
        labeled = cell.pool.label(start)  # line 4
        selector = cell.train_selector(untrained, labeled, 0)  # line 3
        yield cell.close_round(0, start, target, selector, labeled)
    elif after.is_lost:
        selector = train_again(cell, after.queries, target, untrained)
    else:
        labeled = cell.label_again(after.queries)
        selector = cell.restore_selector(after.selector, target, untrained)
        cell.losses = after.losses
        cell.ledger.close_round()  # what it took to get here is on record already
    for r, k in cell.rounds(after):  # line 5
        opinions = cell.ask(selector, cell.pool.unlabeled, cell.pool.labeled, r)
        query = cell.choose(k, opinions)  # line 6
        labeled = cell.pool.label(query.indices)  # lines 7 and 8
        if not cell.syncs_at(r):  # line 9
            selector = cell.train_selector(untrained, labeled, r) if cell.needs_selector_after(r) else None  # line 10
        else:  # line 11
            fused = cell.train_target(target, selector, labeled, r, stage="sync")  # line 12
            selector = cell.train_selector(cell.new_selector(fused.network.model), labeled, r)  # line 13
        yield cell.close_round(r, query.indices, target, selector, labeled, query.tied)  # lines 14 and 15


def train_again(cell: Cell, queries: Sequence[Tensor], target: nn.Module, untrained: Network | None) -> Trained | None:
    """The selector after these rounds, bit for bit, when it is lost; what it takes is in the stage ``recovery``.

    Labels make a selector that starts from the pruned network of line 2. One of a round that synchronises starts from a
    network that the selector before it was fused into, so that is trained again, too.
    """
    last = len(queries) - 1
    first = last
    while first and cell.syncs_at(first):
        first -= 1
    with cell.recovering():
        labeled = cell.label_again(tuple(queries[: first + 1]))
        selector = cell.train_selector(untrained, labeled, first)
        for r in range(first + 1, last + 1):
            labeled = cell.pool.label(queries[r])
            fused = cell.train_target(target, selector, labeled, r, stage="sync")
            selector = cell.train_selector(cell.new_selector(fused.network.model), labeled, r)
        if cell.task.decomposition:
            cell.compare_networks(last, target, selector, labeled)
    return selector


def coreset(cell: Cell, after: Checkpoint | None = None) -> Iterator[Round]:
    """Coreset selection (paper, sections 4.2 and 9.13): train the selector on the whole pool, score, pick once.

    Each budget is picked anew from the whole pool by the same selector; it is a round of its own, so that a run can be
    resumed between budgets.

    Args and errors as for :func:`active_learning`.
    """
    target = cell.new_target()
    untrained = cell.new_selector(target)
    if after is None:
        selector = cell.train_shared_selector(untrained, cell.pool.everything, target)
    elif after.is_lost:
        with cell.recovering():
            selector = cell.train_shared_selector(untrained, cell.pool.everything, target)
    else:
        selector = cell.restore_selector(after.selector, target, untrained)
        cell.ledger.close_round()
    done = after.number + 1 if after else 0
    opinions = cell.ask(selector, cell.pool.everything.indices, None, 0) if done < len(cell.task.label_counts) else None
    for number, budget in list(enumerate(cell.task.label_counts))[done:]:
        assert opinions is not None
        pick = cell.choose(budget, cell.draws_for(opinions, number))
        chosen = cell.pool.take(pick.indices)
        yield cell.close_round(number, pick.indices, target, selector, chosen, pick.tied)


PROTOCOL_LOOPS: dict[ProtocolName, Callable[[Cell, Checkpoint | None], Iterator[Round]]] = {
    "active_learning": active_learning,
    "coreset": coreset,
}
"""The loop of each protocol."""
