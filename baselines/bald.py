"""Bayesian active learning by disagreement: Monte Carlo dropout before the target's classifier."""

from typing import Annotated

from pydantic import Field

from prunefuse_bench.recipe import Fresh, MCDropout, Recipe, Target, TrainedSelector, method
from prunefuse_bench.recipe.originals import BALD_TRAINING, Preset, refuse_change

HEAD_ONLY = (
    "dropout before the classifier alone, so that the layers below run once; the original has it after every block"
)
BALD_FAIR = (
    f"fair: {HEAD_ONLY}; the same masks for all samples; T as stated (the original: 100)",
    "fair: the target is trained without dropout, as every other method's",
)
BALD_FAITHFUL = (
    "faithful: T = 100, masks of its own for each sample, Adam for 50 epochs, the network trained with dropout is the "
    "target",
    f"faithful, not reproduced: {HEAD_ONLY}; the original's own small network; 100 labels at first and 10 a query; NaN "
    "ranked first",
)
BATCHBALD_FAIR = (f"fair: {HEAD_ONLY}; the target is trained without dropout, as every other method's",)
BATCHBALD_FAITHFUL = (
    "faithful: K = 5, the default of the published code; the network trained with dropout is the target",
    f"faithful, not reproduced: {HEAD_ONLY}; its own training; queries of at most some tens of samples (budgets are "
    "the task's)",
)

Passes = Annotated[int, Field(ge=1, le=1000)]
Rate = Annotated[float, Field(gt=0, lt=1)]


@method("bald", source="Houlsby et al. 2011; Gal, Islam and Ghahramani 2017; paper, Table 3")
def bald(passes: Passes = 25, rate: Rate = 0.5, preset: Preset = "fair") -> Recipe:
    """The target, trained with dropout, selects where its dropout passes disagree."""
    refuse_change(preset, "bald", "passes", passes, 25, 100)
    if preset == "faithful":
        return Recipe(
            "bald",
            proxy=Target(),
            committee=MCDropout(100, rate, shared_masks=False),
            acquisition="bald",
            target_start=TrainedSelector(),
            own_training=BALD_TRAINING,
            notes=BALD_FAITHFUL,
        )
    return Recipe(
        "bald",
        proxy=Target(),
        committee=MCDropout(passes, rate),
        acquisition="bald",
        target_start=Fresh(),
        notes=BALD_FAIR,
    )


@method("batchbald", source="Kirsch, van Amersfoort and Gal 2019; not in the paper's tables")
def batchbald(passes: Passes = 25, rate: Rate = 0.5, preset: Preset = "fair") -> Recipe:
    """As bald, but the batch is chosen together, by its joint mutual information."""
    refuse_change(preset, "batchbald", "passes", passes, 25, 5)
    faithful = preset == "faithful"
    return Recipe(
        "batchbald",
        proxy=Target(),
        committee=MCDropout(5 if faithful else passes, rate),
        acquisition="batchbald",
        target_start=TrainedSelector() if faithful else Fresh(),
        notes=BATCHBALD_FAITHFUL if faithful else BATCHBALD_FAIR,
    )
