"""Whether a recipe can be trained as a task trains."""

from __future__ import annotations

from prunefuse_bench.errors import BadInput
from prunefuse_bench.recipe.recipe import Recipe
from prunefuse_bench.training import TrainingRecipe

__all__ = ["check_training"]


def check_training(recipe: Recipe, training: TrainingRecipe) -> None:
    """Refuse what cannot be done in the epochs that there are.

    Args:
        training: of the recipe's networks.

    Raises:
        BadInput: dynamic pruning does not end before the training does, or before the first snapshot is taken.
    """
    steps = recipe.proxy.pruning_steps_to_come
    if not steps:
        return
    pruned_after, epochs = steps[-1][0], training.schedule.epochs
    if pruned_after >= epochs:
        advice = f"at most {epochs - 1}" if epochs > len(steps) else "more epochs than steps"
        raise BadInput(
            f"method {recipe.label!r}: pruning_epochs: the selector is pruned until epoch {pruned_after}, but its "
            f"training has only {epochs}, and some must follow; expected {advice} (the paper prunes in the first 20 of "
            "181)"
        )
    # A snapshot right at the end of an epoch would still be of the network before that epoch's pruning.
    first = min(recipe.committee.snapshot_times, default=1.0)
    if first * epochs < pruned_after + 1:
        raise BadInput(
            f"method {recipe.label!r}: the first snapshot is taken after epoch {first * epochs:.3g}, when the selector "
            f"is not yet pruned to its last structure (after epoch {pruned_after}); all members must have one "
            "structure: lower pruning_epochs, take later snapshots, or take pruning: static"
        )
