"""Hold the acquisition against the checks that every acquisition of prunefuse-bench passes."""

import math

import mirror_methods  # noqa: F401  (it registers its methods)
import pytest
import torch

from prunefuse_bench.acquisition import ACQUISITIONS
from prunefuse_bench.conformance import CHECKS, Case, DoesNotApply, Scores, about, oracle


@oracle("information_density")
def density_by_hand() -> list[Case]:
    """Two alike, one at a right angle: mean cosines 2/3, 2/3 and 1/3; entropies 0, log 2 and log 2."""
    opinions = about(
        3,
        logits=torch.tensor([[0.0, -math.inf], [0.0, 0.0], [0.0, 0.0]]),
        features=torch.tensor([[2.0, 0.0], [5.0, 0.0], [0.0, 1.0]]),
    )
    return [Case(opinions, Scores([0.0, math.log(2) * 5 / 6, math.log(2) * 4 / 6]))]


@pytest.mark.parametrize("name", CHECKS)
def test_information_density_conforms(name: str) -> None:
    """Every check by its name."""
    try:
        CHECKS[name](ACQUISITIONS["information_density"])
    except DoesNotApply as reason:
        pytest.skip(str(reason))
