"""What acquisitions must give in cases that were worked out by hand, from the equations and not from the code.

The cases of an acquisition are what a function gives that is registered under its name:

    @oracle("entropy")
    def entropy_by_hand() -> list[Case]:
        return [Case(about(2, logits=torch.tensor([[0.0, 0.0], [0.0, -math.inf]])), Scores([math.log(2), 0]))]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from prunefuse_bench.acquisition import Opinions
from prunefuse_bench.conformance.opinions import about
from prunefuse_bench.training import History

__all__ = ["ORACLES", "Case", "Chances", "Expected", "Picks", "Scores", "oracle"]


@dataclass(frozen=True)
class Scores:
    """The value of each candidate; off by no more than the tolerance, and that share of the value."""

    values: Sequence[float]
    tolerance: float = 2e-6


@dataclass(frozen=True)
class Picks:
    """The positions of as many picks as there are here; first choice first, unless they may come in any order."""

    positions: Sequence[int]
    any_order: bool = False


@dataclass(frozen=True)
class Chances:
    """How probable it is that each candidate is the pick at one place (from 0) of k."""

    probabilities: Sequence[float]
    k: int
    place: int


Expected = Scores | Picks | Chances


@dataclass(frozen=True)
class Case:
    """Opinions, and what must come of them."""

    opinions: Opinions
    expected: Expected
    options: Mapping[str, Any] = field(default_factory=dict)


ByHand = Callable[[], list[Case]]
ORACLES: dict[str, ByHand] = {}
"""By the acquisition's name."""


def oracle(acquisition: str) -> Callable[[ByHand], ByHand]:
    """Register the function that gives an acquisition's cases."""

    def register(by_hand: ByHand) -> ByHand:
        if acquisition in ORACLES:
            raise ValueError(f"acquisition {acquisition!r} has an oracle already")
        ORACLES[acquisition] = by_hand
        return by_hand

    return register


def _predictions(*rows: Sequence[float]) -> Tensor:
    """float32 [N, C], logits of these probabilities."""
    return torch.tensor(rows, dtype=torch.float64).log().float()


def _history(
    *, correct: Sequence[Sequence[int]] | None = None, margin: Tensor | None = None, error: Tensor | None = None
) -> History:
    """Of what each sample went through, sample by sample, [N, E]; what is not given is zero."""
    given = torch.tensor(correct) if correct is not None else margin if margin is not None else error
    assert given is not None
    nothing = torch.zeros(given.shape)
    return History(
        (nothing if correct is None else given).bool().T,
        (nothing if margin is None else margin).T,
        (nothing if error is None else error).T,
    )


def _line(*values: float) -> Tensor:
    """float32 [N, 1], features on a line."""
    return torch.tensor(values)[:, None]


@oracle("random")
def _random() -> list[Case]:
    return [Case(about(5), Chances([1 / 5] * 5, k=3, place=place)) for place in range(3)]


@oracle("least_confidence")
def _least_confidence() -> list[Case]:
    logits = _predictions([0.25] * 4, [0, 0, 1, 0], [0.5, 0.3, 0.2, 0], [0.1, 0.2, 0.1, 0.6])
    return [Case(about(4, logits=logits), Scores([3 / 4, 0, 1 / 2, 2 / 5])), Case(about(4, logits=logits), Picks([0]))]


@oracle("entropy")
def _entropy() -> list[Case]:
    logits = _predictions([0.25] * 4, [0, 0, 1, 0], [0.5, 0.25, 0.25, 0], [0.5, 0, 0, 0.5])
    values = [math.log(4), 0, 1.5 * math.log(2), math.log(2)]
    return [Case(about(4, logits=logits), Scores(values)), Case(about(4, logits=logits), Picks([0, 2, 3, 1]))]


@oracle("margin")
def _margin() -> list[Case]:
    logits = _predictions([0.25] * 4, [0, 0, 1, 0], [0.3, 0.6, 0.1, 0], [0.5, 0.1, 0, 0.4])
    values = [0, -1, -0.3, -0.1]
    return [Case(about(4, logits=logits), Scores(values)), Case(about(4, logits=logits), Picks([0, 3, 2, 1]))]


@oracle("kcenters")
def _kcenters() -> list[Case]:
    # From 0 the distances of the four are 1, 4, 10 and 6.5; with 10 as a center, too, they are 1, 4, 0 and 3.5; with 4
    # then 1, 0, 0 and 2.5. With no center the first is drawn by lot.
    covered = about(4, features=_line(1, 4, 10, 6.5), labeled_features=_line(0))
    alone = about(4, features=_line(1, 4, 10, 6.5))
    return [Case(covered, Picks([2, 1, 3, 0])), Case(alone, Chances([1 / 4] * 4, k=1, place=0))]


def _divided() -> tuple[Tensor, float]:
    """Two members, logits [2, 4, 2], and the mutual information of the last sample.

    Certain and opposed; certain and agreed; even; one certain and one even, whose mean is (3/4, 1/4).
    """
    first = _predictions([1, 0], [1, 0], [0.5, 0.5], [1, 0])
    second = _predictions([0, 1], [1, 0], [0.5, 0.5], [0.5, 0.5])
    return torch.stack([first, second]), _binary_entropy(1 / 4)


def _binary_entropy(p: float) -> float:
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


@oracle("bald")
def _bald() -> list[Case]:
    members, entropy = _divided()
    values = [math.log(2), 0, 0, entropy - math.log(2) / 2]
    return [Case(about(4, members=members), Scores(values)), Case(about(4, members=members), Picks([0, 3]))]


@oracle("mean_entropy")
def _mean_entropy() -> list[Case]:
    members, entropy = _divided()
    return [Case(about(4, members=members), Scores([math.log(2), 0, math.log(2), entropy]))]


@oracle("mean_least_confidence")
def _mean_least_confidence() -> list[Case]:
    members, _ = _divided()
    return [Case(about(4, members=members), Scores([1 / 2, 0, 1 / 2, 1 / 4]))]


@oracle("variation_ratio")
def _variation_ratio() -> list[Case]:
    votes = torch.tensor([[0, 2, 1, 0], [0, 2, 2, 1], [0, 1, 1, 2]])  # of three members about four samples
    members = 3.0 * torch.nn.functional.one_hot(votes, 3)
    values = [0, 1 / 3, 1 / 3, 2 / 3]
    return [Case(about(4, members=members), Scores(values)), Case(about(4, members=members), Picks([3]))]


@oracle("batchbald")
def _batchbald() -> list[Case]:
    # Members 1 and 2 differ from 3 and 4 about the first sample, and, a little less certain, about the second; members
    # 1 and 3 differ from 2 and 4 about the third, still less certain. With h(q) the entropy of (q, 1 - q), BALD is
    # log 2, log 2 - h(1/100) and log 2 - h(1/20). Once the first is labeled the second says nothing new, the third as
    # much as before.
    def leaning(q: float, first: Sequence[int]) -> list[list[float]]:
        return [[1 - q, q] if member in first else [q, 1 - q] for member in (1, 2, 3, 4)]

    samples = [leaning(0, (1, 2)), leaning(0.01, (1, 2)), leaning(0.05, (1, 3)), leaning(0, (1, 2, 3, 4))]
    members = torch.stack([_predictions(*sample) for sample in samples], dim=1)
    return [Case(about(4, members=members), Picks([0, 2, 1, 3]))]


@oracle("badge")
def _badge() -> list[Case]:
    # All predictions are (3/4, 1/4), so that all gradients are (-1/4, 1/4) times the feature. The largest two are
    # equal; from 4, the squared distances of 1 and 2 are 9 and 4.
    opinions = about(4, logits=_predictions(*[[0.75, 0.25]] * 4), features=_line(4, 1, 2, 4))
    # Nothing is left to learn from a certain prediction. From 0 the squared distances are those of the gradients
    # themselves: with predictions (1/2, 1/2) of the first class |a|^2 = 1/2, with (3/4, 1/4) it is 1/8.
    certain = about(3, logits=_predictions([1, 0], [0.5, 0.5], [0.75, 0.25]), features=_line(9, 2, 2))
    # Orthogonal features: the first choice is the second sample, |g|^2 = 2, and the others are 2 + 0 and 2 + 1/2 away.
    apart = about(
        3,
        logits=_predictions([1, 0], [0.5, 0.5], [0.75, 0.25]),
        features=torch.tensor([[9.0, 0.0], [0.0, 2.0], [2.0, 0.0]]),
    )
    return [
        Case(opinions, Chances([1 / 2, 0, 0, 1 / 2], k=1, place=0)),
        Case(opinions, Chances([0, 9 / 13, 4 / 13, 0], k=2, place=1)),
        Case(certain, Picks([1])),
        Case(apart, Chances([4 / 9, 0, 5 / 9], k=2, place=1)),
    ]


@oracle("forgetting")
def _forgetting() -> list[Case]:
    lives = [[1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [1, 0, 1, 0, 1], [0, 0, 1, 0, 0], [0, 1, 1, 1, 1]]
    opinions = about(5, history=_history(correct=lives))
    return [Case(opinions, Scores([0, 5, 2, 1, 0])), Case(opinions, Picks([1, 2, 3]))]


@oracle("el2n")
def _el2n() -> list[Case]:
    error = torch.zeros(3, 12)
    error[0, :4] = 1.0
    error[1, 9] = 1.25
    error[2, 10:] = 1.25  # after the first ten epochs
    opinions = about(3, history=_history(error=error))
    return [
        Case(opinions, Scores([0.4, 0.125, 0])),
        Case(opinions, Scores([4 / 12, 1.25 / 12, 2.5 / 12]), {"epochs": 12}),
    ]


@oracle("css")
def _css() -> list[Case]:
    # AUM over two epochs: -1 (the hardest tenth, cut off), then 0 to 4 in two strata of width 2: three samples below
    # and six above. Of 4 the smaller stratum gives min(3, 4 // 2) = 2, the other 2; each of its samples is as probable.
    aum = torch.tensor([-1.0, 0, 0.5, 1, 2.5, 3, 3, 3.5, 3.5, 4])
    opinions = about(10, history=_history(margin=torch.stack([aum + 2, torch.full_like(aum, -2.0)], dim=1)))
    chances = [0, *[1 / 6] * 3, *[1 / 12] * 6]
    return [Case(opinions, Chances(chances, k=4, place=place), {"strata": 2}) for place in (0, 3)]


@oracle("moderate")
def _moderate() -> list[Case]:
    # From the median 2 the distances are 2, 1, 0, 2.5, 9: the middle one is the first, the next are 1 and 2.5.
    one = about(5, features=_line(0, 1, 2, 4.5, 11), labels=torch.zeros(5, dtype=torch.int64))
    # From the medians 0 and 50 they are 1, 0, 1000 and 3, 0, 4 (a mean would be pulled away), ranked over both classes
    # together: 0, 0, 1, 3, 4, 1000.
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    two = about(6, features=_line(-1, 0, 1000, 47, 50, 54), labels=labels)
    middle = Picks([0, 1, 3], any_order=True)
    return [Case(one, Picks([0])), Case(one, middle), Case(two, Picks([0, 3], any_order=True))]


@oracle("typiclust")
def _typiclust() -> list[Case]:
    # Two clusters far apart, of 7 and 9 samples in steps of 1; the nearest neighbours are those of the middle.
    features = _line(-3, -2, -1, 0, 1, 2, 3, *(1000 + step for step in (-4, -3, -2, -1, 0, 1, 2, 3, 4)))
    labeled = _line(1000.25)
    return [
        Case(about(16, features=features), Picks([11, 3])),
        Case(about(16, features=features, labeled_features=labeled), Picks([3])),
    ]


@oracle("gradmatch")
def _gradmatch() -> list[Case]:
    # Predictions are even, all labels are 0: the gradients are (-1/2, 1/2) times the feature, their sum is 7 times it.
    # The third has the largest product with it. Its weight is 14 / 8.5, so that more than 0 is left to match.
    logits, labels = torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64)
    line = about(3, logits=logits, features=_line(1, 2, 4), labels=labels)
    # Of (3, 0), (2.9, 0), (0, 2), with the sum (5.9, 2): the first by product 8.85 against 8.555 and 2. Its weight
    # without regularisation is 5.9 / 3, which leaves (0, 2).
    plane = about(3, logits=logits, features=torch.tensor([[3.0, 0], [2.9, 0], [0, 2]]), labels=labels)
    # Two classes share three picks by their sizes, 4 and 2.
    classes = about(
        6, logits=torch.zeros(6, 2), features=_line(1, 2, 3, 4, 9, 8), labels=torch.tensor([0, 0, 0, 0, 1, 1])
    )
    return [
        Case(line, Picks([2, 1])),
        Case(plane, Picks([0, 2]), {"regularisation": 0.0}),
        Case(classes, Picks([3, 4, 2])),
    ]


@oracle("glister")
def _glister() -> list[Case]:
    # Predictions are even, all labels are 0. The first choice goes furthest along the gradient of the mean loss, which
    # is along (5.9, 2). One long step with it makes the first two certain, and only the third has anything left to
    # gain; after a short one the second is still ahead.
    logits, labels = torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64)
    opinions = about(3, logits=logits, features=torch.tensor([[3.0, 0], [2.9, 0], [0, 2]]), labels=labels)
    return [
        Case(opinions, Picks([0, 2]), {"eta": 10.0, "rounds": 2}),
        Case(opinions, Picks([0, 1]), {"eta": 0.001, "rounds": 2}),
    ]
