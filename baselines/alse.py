"""Active learning with snapshot ensembles (Jung, Kim and Lee 2023)."""

from typing import Annotated

from pydantic import Field

from prunefuse_bench.recipe import Recipe, Snapshots, Target, TrainedSelector, method
from prunefuse_bench.recipe.originals import ALSE_TRAINING, Preset, refuse_change

FAIR = (
    "fair: the task's own schedule, snapshots at 60, 70, 80, 90 and 100% of its steps; the original keeps the learning "
    "rate high and constant while it takes them",
    "fair: least confidence of the mean prediction, which the paper's Table 31 compares; the original's rule is the "
    "variation ratio (acquisition=variation_ratio)",
)
FAITHFUL = (
    "faithful: variation ratio; 200 epochs with a constant learning rate of 0.01 in the last quarter; weight decay "
    "0.01, batch 64, flips alone",
    "faithful, not reproduced: ResNet-18 (the task's network instead); equal votes are drawn by lot, not by the place "
    "in the pool; the last snapshot is the target, not an average of them; budgets are the task's",
    "on CIFAR-100 and Tiny-ImageNet the published settings keep 2 and 1 snapshots by mistake: snapshots=2 or 1 does so",
)


@method("alse", source="Jung, Kim and Lee 2023; paper, Tables 3 and 31")
def alse(
    snapshots: Annotated[int, Field(ge=1, le=100)] = 5,
    acquisition: str = "mean_least_confidence",
    preset: Preset = "fair",
) -> Recipe:
    """The target selects for itself, by the predictions of five snapshots of its training."""
    refuse_change(preset, "alse", "acquisition", acquisition, "mean_least_confidence", "variation_ratio")
    if preset == "faithful":
        return Recipe(
            "alse",
            proxy=Target(),
            committee=Snapshots(snapshots),
            acquisition="variation_ratio",
            target_start=TrainedSelector(),
            own_training=ALSE_TRAINING,
            notes=FAITHFUL,
        )
    return Recipe(
        "alse",
        proxy=Target(),
        committee=Snapshots(snapshots),
        acquisition=acquisition,
        target_start=TrainedSelector(),
        notes=FAIR,
    )
