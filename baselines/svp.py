"""Selection via proxy (Coleman et al. 2020): a smaller network selects, and is then thrown away."""

from prunefuse_bench.recipe import Fresh, OnePass, Recipe, Smaller, method
from prunefuse_bench.recipe.originals import SVP_TRAINING, Preset

FAITHFUL = (
    "faithful: the published code's 181 epochs, whatever the task's; scores augmented images, as that code does",
    "faithful, not reproduced: pre-activation ResNets (the task's network and a smaller one of its family instead); "
    "the best test epoch as accuracy (the last here, as always); budgets are the task's",
)
FAIR = ("fair: scores clean images; the published code scores augmented ones",)


@method("svp", source="Coleman et al. 2020; paper, Tables 3 and 19 to 21")
def svp(
    model: str | None = None,
    width: float = 1.0,
    acquisition: str = "least_confidence",
    preset: Preset = "fair",
) -> Recipe:
    """A smaller architecture selects, retrained from scratch every round; the target is trained apart from it."""
    faithful = preset == "faithful"
    return Recipe(
        "svp",
        proxy=Smaller(model, width),
        committee=OnePass(augmented=faithful),
        acquisition=acquisition,
        target_start=Fresh(),
        own_training=SVP_TRAINING if faithful else None,
        notes=FAITHFUL if faithful else FAIR,
    )
