"""Choices by what training showed of each sample; only the coreset protocol has it, its selector saw the whole pool.

The history is that of one training run, as the network saw the samples: augmented, in training mode, once an epoch.
What differs from the authors' own code:

- ``forgetting``: theirs adds up the events of five training runs; here it is one run, the selector's. Samples that were
  never learned come first in both.
- ``el2n``: Paul et al. average the error over ten networks, each at one early epoch. Here it is averaged over the first
  epochs of one network, which is what the code of Zheng et al. does to compare with it.
- ``css``: the rule of Zheng et al. (who call it CCS). Theirs multiplies the largest value by 1.0001 so that the last
  stratum takes it in, which fails if it is negative; here it is always in. Which of equal values are cut off, and
  which of equally large strata are filled first, is drawn by lot; theirs takes what sorting happens to give.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from prunefuse_bench.acquisition.acquisition import Needs, Opinions, acquisition, batch_acquisition, top_k_by_lot
from prunefuse_bench.acquisition.products import no_products
from prunefuse_bench.ops.checks import refuse


@acquisition(
    "forgetting",
    needs=Needs.HISTORY,
    source="Toneva et al. 2019; paper, Table 4",
    equation="number of epochs e with x right in e and wrong in e + 1; E if x was never right",
    flops=no_products("counts over N values of each epoch"),
)
def forgetting(opinions: Opinions) -> Tensor:
    """Forgetting events; float32 [N], whole numbers, so many are equal.

    A sample that was never right gets the number of epochs E. Between two events a sample must be learned again, so one
    that was ever right has at most E / 2 of them and ranks below.
    """
    assert opinions.history is not None
    correct = opinions.history.correct
    events = (correct[:-1] & ~correct[1:]).sum(0)
    return events.masked_fill(~correct.any(0), len(correct)).float()


@acquisition(
    "el2n",
    needs=Needs.HISTORY,
    source="Paul, Ganguli and Dziugaite 2021",
    equation="mean over the first epochs of |p(.|x) - onehot(y)|_2",
    flops=no_products("sums over N values of each epoch"),
)
def el2n(opinions: Opinions, *, epochs: Annotated[int, Field(ge=1)] = 10) -> Tensor:
    """Error of the first ``epochs`` epochs, or of all if there are fewer; float64 [N], 0 to sqrt 2.

    Raises:
        NotRankable: one of these errors of a sample is NaN or infinite.
    """
    assert opinions.history is not None
    early = opinions.history.error[:epochs]
    # Finite float32 values cannot overflow a float64 sum: it is finite exactly if all of them are.
    total = early.sum(0, dtype=torch.float64)
    refuse(~total.isfinite(), "history: error", "NaN or infinity")
    return total / max(1, len(early))


@batch_acquisition(
    "css",
    needs=Needs.HISTORY,
    source="Zheng et al. 2023 (coverage-centric coreset selection, CCS); paper, Table 4",
    equation="AUM(x) = sum over epochs of p_y - max_c!=y p_c; cut the lowest, then as even as possible over its strata",
    randomised=True,
    flops=no_products("sums over N values of each epoch, and sorting"),
)
def css(
    k: int,
    opinions: Opinions,
    *,
    cutoff: Annotated[float, Field(ge=0, lt=1)] = 0.1,
    strata: Annotated[int, Field(ge=1)] = 50,
) -> Tensor:
    """Cut the hardest samples off, then draw by lot, as evenly as possible from all levels of difficulty.

    Difficulty is the area under the margin (AUM) over training, lower = harder. The range of AUM that the kept samples
    have is cut into ``strata`` of equal width, and from the smallest stratum to the largest, equal ones by lot, each
    gives min(its size, places left // strata left). Time O(E N + N log N), memory O(N).

    Args:
        cutoff: share of the pool that is cut off, rounded to whole samples; fewer are cut if less than k would be left.
            The authors choose it for each dataset and rate (0.3 if a tenth of CIFAR-10 is kept, less the more is kept),
            the paper of PruneFuse states none; 0.1 is ours, for 25% to 50% kept.
        strata: 50 as in the authors' code.

    Returns:
        int64 [k] in an order drawn by lot, as no pick is meant to come before another.

    Raises:
        NotRankable: a margin of a sample is NaN or infinite.
    """
    assert opinions.history is not None
    margin_sum = opinions.history.margin.sum(0, dtype=torch.float64)
    refuse(~margin_sum.isfinite(), "history: margin", "NaN or infinity")
    count = len(margin_sum)
    cut = min(round(cutoff * count), count - k)
    kept, _ = top_k_by_lot(margin_sum, count - cut, opinions.generator)
    kept = kept[torch.randperm(len(kept), generator=opinions.generator)]
    stratum = _equal_width_strata(margin_sum[kept], strata)
    sizes = stratum.bincount(minlength=strata)
    budgets = _even_budgets(sizes, k, torch.randperm(strata, generator=opinions.generator))
    # Rank inside the stratum in the order of the lot: the first ones of each stratum are its draw.
    by_stratum = stratum.argsort(stable=True)
    ranks = torch.empty_like(stratum)
    ranks[by_stratum] = torch.arange(len(kept)) - (sizes.cumsum(0) - sizes)[stratum[by_stratum]]
    chosen = kept[ranks < budgets[stratum]]
    # In the order of the lot so far, large strata, of which only the first ones are taken, would come first.
    return chosen[torch.randperm(len(chosen), generator=opinions.generator)]


def _equal_width_strata(values: Tensor, strata: int) -> Tensor:
    """int64 [N], 0 to strata - 1: which part of the values' range each value is in; the largest is in the last."""
    if not len(values):
        return torch.empty(0, dtype=torch.int64)
    above = values - values.min()
    width = above.max()
    if width == 0:
        return torch.zeros(len(values), dtype=torch.int64)
    return (above * strata / width).long().clamp(max=strata - 1)


def _even_budgets(sizes: Tensor, k: int, lot: Tensor) -> Tensor:
    """int64 [S] that sum to k, for strata of these sizes that sum to at least k; equally large ones by lot, int64 [S].

    The places that are left over by dividing go to the strata that are filled last. With more strata than picks that is
    all places, so without the lot they would all go to the same end of strata of equal size.
    """
    budgets = torch.zeros_like(sizes)
    left = k
    for done, stratum in enumerate(lot[sizes[lot].argsort(stable=True)].tolist()):
        budgets[stratum] = min(int(sizes[stratum]), left // (len(sizes) - done))
        left -= int(budgets[stratum])
    return budgets
