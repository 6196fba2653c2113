"""Active learning that looks at the whole batch: BADGE, greedy k-centers, TypiClust."""

from prunefuse_bench.recipe import OnePass, Recipe, Target, TrainedSelector, method
from prunefuse_bench.recipe.originals import BADGE_TRAINING, SVP_TRAINING, Preset

BADGE_FAITHFUL = (
    "faithful: Adam at 0.001 without augmentation",
    "faithful, not reproduced: training until 99% training accuracy (100 epochs here); gradients clamped at 0.1; the "
    "original's networks; budgets are the task's",
)
KCENTERS_FAITHFUL = (
    "faithful: as in the published code of selection via proxy: 181 epochs, features of augmented images",
    "faithful, not reproduced: the mixed integer program of Sener and Savarese; accuracy of the best test epoch",
)
TYPICLUST = (
    "features of the trained selector; the original clusters self-supervised features, which this suite does not "
    "train, so there is no faithful preset",
)


@method("badge", source="Ash et al. 2020; not in the paper's tables")
def badge(preset: Preset = "fair") -> Recipe:
    """The target selects for itself, by k-means++ on the gradients of its last layer."""
    faithful = preset == "faithful"
    return Recipe(
        "badge",
        proxy=Target(),
        acquisition="badge",
        target_start=TrainedSelector(),
        own_training=BADGE_TRAINING if faithful else None,
        notes=BADGE_FAITHFUL if faithful else (),
    )


@method("kcenters", source="Sener and Savarese 2018; paper 4.2 and Table 2's supplements")
def kcenters(preset: Preset = "fair") -> Recipe:
    """The target selects for itself, by greedy k-centers on its features."""
    faithful = preset == "faithful"
    return Recipe(
        "kcenters",
        proxy=Target(),
        committee=OnePass(augmented=faithful),
        acquisition="kcenters",
        target_start=TrainedSelector(),
        own_training=SVP_TRAINING if faithful else None,
        notes=KCENTERS_FAITHFUL if faithful else (),
    )


@method("typiclust", source="Hacohen, Dekel and Weinshall 2022; not in the paper's tables")
def typiclust() -> Recipe:
    """The target selects for itself, the most typical sample of each cluster that has no label yet."""
    return Recipe("typiclust", proxy=Target(), acquisition="typiclust", target_start=TrainedSelector(), notes=TYPICLUST)
