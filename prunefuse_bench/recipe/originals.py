"""How the originals train, for the ``faithful`` presets: settings of the published code of each method."""

from typing import Literal

from prunefuse_bench.data import Augmentation
from prunefuse_bench.errors import BadInput
from prunefuse_bench.recipe.own_training import OwnTraining
from prunefuse_bench.training import CosineSchedule, StepSchedule

Preset = Literal["fair", "faithful"]
"""``fair``: the task's own training, clean images, the target trained as every other method's. ``faithful``: the
original's own settings."""

SVP_TRAINING = OwnTraining(
    StepSchedule(181), batch_size=128, momentum=0.9, weight_decay=5e-4, nesterov=False, optimizer="sgd"
)
"""Selection via proxy on CIFAR: 1, 90, 45, 45 epochs at 0.01, 0.1, 0.01, 0.001."""

BALD_TRAINING = OwnTraining(StepSchedule(50, ((1.0, 1e-3),)), weight_decay=0.0, optimizer="adam")
"""Deep Bayesian active learning: Adam, 50 epochs; 0.001 is Adam's usual rate."""

BADGE_TRAINING = OwnTraining(
    StepSchedule(100, ((1.0, 1e-3),)),
    batch_size=128,
    weight_decay=0.0,
    optimizer="adam",
    augmentation=Augmentation(0, flip=False),
)
"""BADGE: Adam without weight decay and augmentation, batch 128; 0.001 as in its paper (the code's default is 0.0001).
The original stops at 99% training accuracy and clamps gradients at 0.1; here it is 100 epochs."""

ALSE_TRAINING = OwnTraining(
    CosineSchedule(200, ((0.0, 4e-4), (0.3, 0.01), (0.5, 0.0081), (0.75, 0.01), (1.0, 0.01))),
    batch_size=64,
    momentum=0.9,
    weight_decay=0.01,
    nesterov=True,
    optimizer="sgd",
    augmentation=Augmentation(0, flip=True),
)
"""ALSE on CIFAR-10: one cycle up to 0.01 and its first descent for 100 epochs, then back to 0.01 and constant."""

STEPS_200 = OwnTraining(
    StepSchedule(200, ((60.0, 0.1), (60.0, 0.02), (40.0, 0.004), (40.0, 0.0008))),
    batch_size=128,
    momentum=0.9,
    weight_decay=5e-4,
    nesterov=True,
    optimizer="sgd",
)
"""Forgetting and Moderate on CIFAR: 200 epochs from 0.1, a fifth of it after 60, 120 and 160."""

CCS_TRAINING = OwnTraining(
    CosineSchedule(200, ((0.0, 0.1), (1.0, 1e-4))),
    batch_size=256,
    momentum=0.9,
    weight_decay=5e-4,
    nesterov=True,
    optimizer="sgd",
)
"""Coverage-centric coreset selection on CIFAR: 200 epochs, cosine from 0.1 to 0.0001."""


def refuse_change(
    preset: Preset, method: str, parameter: str, given: object, default: object, original: object
) -> None:
    """A parameter that the faithful preset fixes cannot be chosen as well (BadInput)."""
    if preset == "faithful" and given != default:
        raise BadInput(
            f"method {method!r}: {parameter}: the faithful preset has {original}, got {given}; "
            "leave it out, or take preset: fair"
        )
