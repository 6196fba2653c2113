"""Choice by chance, the baseline that every method has to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from prunefuse_bench.acquisition.acquisition import Needs, Opinions, acquisition
from prunefuse_bench.acquisition.products import no_products


@acquisition(
    "random",
    needs=Needs.NOTHING,
    source="uniform sampling without replacement",
    randomised=True,
    flops=no_products("a random number per candidate"),
)
def random(opinions: Opinions) -> Tensor:
    """Uniformly at random; float64 [N] from the round's generator."""
    return torch.rand(len(opinions), generator=opinions.generator, dtype=torch.float64)
