"""Active learning with the target network itself (the paper's baseline AL), by one prediction per sample."""

from prunefuse_bench.recipe import Recipe, Target, TrainedSelector, method


@method("al", source="Settles 2012; the baseline of the paper's Table 2")
def al(acquisition: str = "least_confidence") -> Recipe:
    """The target selects for itself: retrained from scratch every round, and then it is the target."""
    return Recipe("al", proxy=Target(), acquisition=acquisition, target_start=TrainedSelector())


@method("margin", source="Scheffer, Decomain and Wrobel 2001; not in the paper")
def margin() -> Recipe:
    """As al, by the gap between the two most likely classes."""
    return Recipe("margin", proxy=Target(), acquisition="margin", target_start=TrainedSelector())
