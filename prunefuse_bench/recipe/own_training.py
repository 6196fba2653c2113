"""A method that insists on its original's way of training."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from prunefuse_bench.data import Augmentation
from prunefuse_bench.training import OptimizerName, Schedule, TrainingRecipe

__all__ = ["OwnTraining"]


@dataclass(frozen=True)
class OwnTraining:
    """What replaces the task's settings for every network of the method; None leaves a setting as the task has it.

    Attributes:
        schedule: length and learning rates.
        batch_size, momentum, weight_decay, nesterov, optimizer: see :class:`prunefuse_bench.training.TrainingRecipe`.
        augmentation: of every batch.
    """

    schedule: Schedule | None = None
    batch_size: int | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    nesterov: bool | None = None
    optimizer: OptimizerName | None = None
    augmentation: Augmentation | None = None

    def describe(self) -> str:
        """What is replaced, in one line."""
        changes = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in changes if value is not None)

    def apply(self, training: TrainingRecipe) -> TrainingRecipe:
        """The task's training with these changes; a schedule of the original's is run to its end."""
        changes = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        changed = dataclasses.replace(training, **{name: value for name, value in changes.items() if value is not None})
        return dataclasses.replace(changed, stopping=None) if self.schedule else changed
