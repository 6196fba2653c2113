"""Random sampling: the label budget spent by chance, the target trained from its initial weights."""

from prunefuse_bench.recipe import PROTOCOLS, Fresh, Recipe, method


@method("random", source="uniform sampling without replacement", protocols=PROTOCOLS)
def random() -> Recipe:
    """Labels by chance; no selector, so no cost of selection."""
    return Recipe("random", acquisition="random", target_start=Fresh())
