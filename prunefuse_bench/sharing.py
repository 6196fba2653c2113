"""Which cells of a plan would train the very same selectors, so that one of them does it for all.

Methods that differ in the start of their target alone (Figure 4, Tables 18 and 19 of the paper) choose the same samples
and train the same selectors; methods with the same selector that differ in how they choose share that of the random
start. What is shared changes no result and no bill, see :meth:`prunefuse_bench.cell.Cell.train_selector`.
"""

from __future__ import annotations

from collections.abc import Sequence

from prunefuse_bench.cell import selector_settings
from prunefuse_bench.config import content_hash
from prunefuse_bench.recipe import Recipe
from prunefuse_bench.rounds import Task

__all__ = ["shared_rounds"]


def shared_rounds(recipes: Sequence[Recipe], task: Task) -> list[frozenset[int]]:
    """For each recipe, the rounds of active learning whose selector another recipe trains too, for the same seed.

    Cells that share a selector have all of this in common: task, proxy, training, dropout and snapshots of the
    committee, seed and round; and from round 1 on committee, acquisition and its options, so that they have chosen the
    same samples in the same order. A round that synchronises makes a selector that is the recipe's own from then on.
    """
    of_round = [[_selector_of(recipe, task, number) for recipe in recipes] for number in range(len(task.label_counts))]
    return [
        frozenset(
            number
            for number, keys in enumerate(of_round)
            if keys[position] is not None and keys.count(keys[position]) > 1
        )
        for position in range(len(recipes))
    ]


def _selector_of(recipe: Recipe, task: Task, number: int) -> str | None:
    """Names the selector that is trained in a round, if one is that others might train too."""
    unasked = 0 < number == len(task.label_counts) - 1 and not recipe.target_start.needs_selector
    if not recipe.uses_selector or unasked:
        return None
    settings = selector_settings(recipe, task, seed=0)
    if number:
        if 0 < recipe.sync_every <= number:
            return None
        whole = recipe.settings()
        settings["chosen by"] = {name: whole[name] for name in ("committee", "acquisition", "options")}
    return content_hash(settings)
