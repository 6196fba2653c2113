"""Which cells of a plan would train the very same selectors, so that one of them does it for all.

Methods that differ in the start of their target alone (Figure 4, Tables 18 and 19 of the paper) choose the same samples
and train the same selectors; methods with the same selector that differ in how they choose share that of the random
start. What is shared changes no result and no bill, see :meth:`prunefuse_bench.cell.Cell.train_selector`.
"""

from __future__ import annotations

from collections.abc import Sequence

from prunefuse_bench.cell import selector_settings
from prunefuse_bench.config import content_hash
from prunefuse_bench.recipe import ProtocolName, Recipe
from prunefuse_bench.training import TrainingRecipe

__all__ = ["selector_names", "shared_rounds"]


def shared_rounds(recipes: Sequence[Recipe], training: TrainingRecipe, rounds: int) -> list[frozenset[int]]:
    """For each recipe, the rounds of active learning whose selector another recipe trains too, for the same seed.

    Cells that share a selector have all of this in common: task, proxy, training, dropout and snapshots of the
    committee, seed and round; and from round 1 on committee, acquisition and its options, so that they have chosen the
    same samples in the same order. A round that synchronises makes a selector that is the recipe's own from then on.

    Args:
        training: the task's.
        rounds: of the task, the random start included.
    """
    of_round = list(zip(*(selector_names(recipe, training, rounds) for recipe in recipes), strict=True))
    return [
        frozenset(
            number
            for number, keys in enumerate(of_round)
            if keys[position] is not None and keys.count(keys[position]) > 1
        )
        for position in range(len(recipes))
    ]


def selector_names(
    recipe: Recipe, training: TrainingRecipe, rounds: int, protocol: ProtocolName = "active_learning"
) -> list[str | None]:
    """For each round a name of the selector that is trained in it, which is equal for cells of one seed that share it.

    None if none is trained in the round, or one that no other recipe could train. Arguments as for
    :func:`shared_rounds`.
    """
    if not recipe.uses_selector:
        return [None] * rounds
    settings = selector_settings(recipe, training, seed=0)
    if protocol == "coreset":  # one for all budgets
        return [content_hash(settings), *[None] * (rounds - 1)]
    whole = recipe.settings()
    settings_later = {**settings, "chosen by": {name: whole[name] for name in ("committee", "acquisition", "options")}}
    names: list[str | None] = []
    for number in range(rounds):
        unasked = 0 < number == rounds - 1 and not recipe.target_start.needs_selector
        if unasked or 0 < recipe.sync_every <= number:
            names.append(None)
        else:
            names.append(content_hash({"round": number, **(settings_later if number else settings)}))
    return names
