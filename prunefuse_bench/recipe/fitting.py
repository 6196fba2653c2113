"""How the networks of a recipe are trained in a task, and whether that is possible."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from prunefuse_bench.acquisition import Needs
from prunefuse_bench.errors import BadInput
from prunefuse_bench.recipe.recipe import Recipe
from prunefuse_bench.training import TrainingRecipe

__all__ = ["check_training", "selector_training", "training_of"]


def training_of(recipe: Recipe, training: TrainingRecipe) -> TrainingRecipe:
    """How targets are trained, and the fused networks of synchronised rounds: as the task says, or the original."""
    return recipe.own_training.apply(training) if recipe.own_training else training


def selector_training(recipe: Recipe, training: TrainingRecipe) -> TrainingRecipe:
    """How selectors are trained; ``training`` is what :func:`training_of` says of targets.

    What the paper stops early is the fused network (section 9.10), so selectors run their whole schedule, unless they
    are the targets themselves or the task asks for it.
    """
    stopping = training.stopping
    if stopping is None or stopping.selectors or recipe.target_start.is_selector:
        return training
    return dataclasses.replace(training, stopping=None)


def check_training(recipe: Recipe, training: TrainingRecipe, labels: int) -> None:
    """Refuse what cannot be done in the epochs, or with the samples, that there are.

    Args:
        training: of the recipe's targets.
        labels: in the smallest labeled set.

    Raises:
        BadInput: too few labels for a share to be held out; an early stop that would leave the selector without what
            it is asked for; dynamic pruning that does not end before the training does, or before the first snapshot.
    """
    for problem in (*_holding_out(training, labels), *_stopping(recipe, training), *_pruning(recipe, training)):
        raise BadInput(f"method {recipe.label!r}: {problem}")


def _holding_out(training: TrainingRecipe, labels: int) -> Iterator[str]:
    stopping = training.stopping
    if stopping is None or stopping.patience is None:
        return
    held = max(1, round(stopping.holdout * labels))
    if labels - held < 2 or round(stopping.holdout * labels) < 1:
        yield (
            f"task.training.plateau.holdout: {stopping.holdout:g} of the {labels} labels of the first budget is "
            f"{stopping.holdout * labels:.3g}; expected at least one sample to judge by and two to train on"
        )


def _stopping(recipe: Recipe, training: TrainingRecipe) -> Iterator[str]:
    stopping = selector_training(recipe, training).stopping
    if stopping is None or stopping.patience is None or not recipe.uses_selector:
        return
    advice = "take task.training.stop_after, or leave out task.training.stop_selectors"
    if recipe.committee.snapshot_times:
        yield (
            "task.training.plateau: snapshots are taken at shares of the selector's training, whose length a plateau "
            f"leaves open; {advice}"
        )
    if Needs.HISTORY in recipe.find_acquisition().needs:
        yield (
            f"task.training.plateau: acquisition {recipe.acquisition!r} needs the training history of every sample, "
            f"but some would be held out; {advice}"
        )


def _pruning(recipe: Recipe, training: TrainingRecipe) -> Iterator[str]:
    if not (steps := recipe.proxy.pruning_steps_to_come):
        return
    training = selector_training(recipe, training)
    pruned_after, epochs = steps[-1][0], training.schedule.epochs
    if training.stopping is not None:
        epochs = training.stopping.epochs_of(epochs, epochs)
    if pruned_after >= epochs:
        advice = f"at most {epochs - 1}" if epochs > len(steps) else "more epochs than steps"
        yield (
            f"pruning_epochs: the selector is pruned until epoch {pruned_after}, but its training has only {epochs}, "
            f"and some must follow; expected {advice} (the paper prunes in the first 20 of 181)"
        )
    # A snapshot right at the end of an epoch would still be of the network before that epoch's pruning.
    first = min(recipe.committee.snapshot_times, default=1.0)
    if first * epochs < pruned_after + 1:
        yield (
            f"the first snapshot is taken after epoch {first * epochs:.3g}, when the selector is not yet pruned to its "
            f"last structure (after epoch {pruned_after}); all members must have one structure: lower pruning_epochs, "
            "take later snapshots, or take pruning: static"
        )
