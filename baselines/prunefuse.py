"""PruneFuse (paper, Algorithm 1)."""

from typing import Annotated

from pydantic import Field

from prunefuse_bench.fusion import Rest
from prunefuse_bench.recipe import Fused, Pruned, Recipe, method
from prunefuse_bench.training import Distillation


@method("prunefuse", source="paper, Algorithm 1")
def prunefuse(
    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.5,
    acquisition: str = "least_confidence",
    sync_every: Annotated[int, Field(ge=0)] = 0,
    distil: bool = True,
    rest: Rest = "reinit",
    cross_entropy_weight: Annotated[float, Field(ge=0, le=1)] = Distillation.cross_entropy_weight,
    temperature: Annotated[float, Field(gt=0)] = Distillation.temperature,
) -> Recipe:
    """A pruned copy of the target selects; its trained weights are fused back into the dense target."""
    distillation = Distillation(cross_entropy_weight, temperature) if distil else None
    return Recipe(
        "prunefuse",
        proxy=Pruned(ratio),
        acquisition=acquisition,
        target_start=Fused(rest, distillation),
        sync_every=sync_every,
    )
