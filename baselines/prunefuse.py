"""PruneFuse (paper, Algorithm 1), alone and with its rivals' ways of asking (Tables 3 and 31)."""

from typing import Annotated

from pydantic import Field

from prunefuse_bench.fusion import Rest
from prunefuse_bench.pruning import DYNAMIC_EPOCHS, DYNAMIC_STEPS, Sparsity
from prunefuse_bench.recipe import (
    PROTOCOLS,
    Committee,
    Fused,
    MCDropout,
    OnePass,
    Pruned,
    PruningMode,
    Recipe,
    Snapshots,
    method,
)
from prunefuse_bench.training import Distillation

Ratio = Annotated[float, Field(gt=0, lt=1)]
Sync = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


@method("prunefuse", source="paper, Algorithm 1; sections 4.2 and 9.13 for coresets", protocols=PROTOCOLS)
def prunefuse(
    ratio: Ratio = 0.5,
    acquisition: str = "least_confidence",
    sync_every: Sync = 0,
    distil: bool = True,
    rest: Rest = "reinit",
    cross_entropy_weight: Annotated[float, Field(ge=0, le=1)] = Distillation.cross_entropy_weight,
    temperature: Annotated[float, Field(gt=0)] = Distillation.temperature,
    criterion: str = "magnitude",
    sparsity: Sparsity = "local",
    round_to: Count = 1,
    pruning: PruningMode = "static",
    pruning_steps: Count = DYNAMIC_STEPS,
    pruning_epochs: Count = DYNAMIC_EPOCHS,
) -> Recipe:
    """A pruned copy of the target selects; its trained weights are fused back into the dense target."""
    distillation = Distillation(cross_entropy_weight, temperature) if distil else None
    proxy = Pruned(ratio, criterion, sparsity, round_to, pruning, pruning_steps, pruning_epochs)
    return _fused("prunefuse", proxy, OnePass(), acquisition, sync_every, Fused(rest, distillation))


@method("prunefuse+bald", source="paper, Table 3")
def prunefuse_bald(
    ratio: Ratio = 0.5,
    sync_every: Sync = 1,
    passes: Annotated[int, Field(ge=1, le=1000)] = 25,
    rate: Annotated[float, Field(gt=0, lt=1)] = 0.5,
    criterion: str = "magnitude",
    sparsity: Sparsity = "local",
    round_to: Count = 1,
    pruning: PruningMode = "static",
    pruning_steps: Count = DYNAMIC_STEPS,
    pruning_epochs: Count = DYNAMIC_EPOCHS,
) -> Recipe:
    """As prunefuse with T_sync = 1; the pruned selector, trained with dropout, asks as bald does."""
    proxy = Pruned(ratio, criterion, sparsity, round_to, pruning, pruning_steps, pruning_epochs)
    return _fused("prunefuse+bald", proxy, MCDropout(passes, rate), "bald", sync_every, Fused())


@method("prunefuse+alse", source="paper, Tables 3 and 31")
def prunefuse_alse(
    ratio: Ratio = 0.5,
    sync_every: Sync = 0,
    snapshots: Annotated[int, Field(ge=1, le=100)] = 5,
    acquisition: str = "mean_least_confidence",
    criterion: str = "magnitude",
    sparsity: Sparsity = "local",
    round_to: Count = 1,
    pruning: PruningMode = "static",
    pruning_steps: Count = DYNAMIC_STEPS,
    pruning_epochs: Count = DYNAMIC_EPOCHS,
) -> Recipe:
    """As prunefuse with T_sync = 0; five snapshots of the pruned selector ask as alse does."""
    proxy = Pruned(ratio, criterion, sparsity, round_to, pruning, pruning_steps, pruning_epochs)
    return _fused("prunefuse+alse", proxy, Snapshots(snapshots), acquisition, sync_every, Fused())


def _fused(
    label: str, proxy: Pruned, committee: Committee, acquisition: str, sync_every: int, target_start: Fused
) -> Recipe:
    return Recipe(
        label,
        proxy=proxy,
        committee=committee,
        acquisition=acquisition,
        target_start=target_start,
        sync_every=sync_every,
    )
