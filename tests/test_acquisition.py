from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from prunefuse_bench.acquisition import ACQUISITIONS, Acquisition, Needs, Opinions, StoredMembers, top_k_by_lot
from prunefuse_bench.errors import BadInput, CellFailed
from prunefuse_bench.randomness import generator

NAMES = ["random", "least_confidence", "entropy", "margin", "kcenters"]


def opinions(count: int = 12) -> Opinions:
    """Samples 100, 101, ... of the pool; the further down, the less certain and the further from the labeled ones."""
    certainty = torch.linspace(5, 0, count)
    features = torch.arange(float(count))[:, None]
    return Opinions(
        indices=torch.arange(100, 100 + count),
        generator=generator(0, "test"),
        logits=torch.stack([certainty, torch.zeros(count), torch.zeros(count)], dim=1),
        features=features,
        labeled_features=torch.tensor([[0.0], [-1.0]]),
    )


def test_all_are_there() -> None:
    assert set(NAMES) <= set(ACQUISITIONS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("k", [0, 1, 12])
def test_returns_k_different_samples_of_the_pool(name: str, k: int) -> None:
    chosen = ACQUISITIONS[name].choose(k, opinions()).indices
    assert len(set(chosen.tolist())) == k
    assert set(chosen.tolist()) <= set(range(100, 112))


@pytest.mark.parametrize("name", ["least_confidence", "entropy", "margin", "kcenters"])
def test_first_choice_is_the_most_uncertain_or_furthest(name: str) -> None:
    assert ACQUISITIONS[name].choose(3, opinions()).indices[0] == 111


def test_random_follows_its_generator_and_nothing_else() -> None:
    def choose(asked: Opinions) -> Tensor:
        return ACQUISITIONS["random"].choose(5, asked).indices

    assert torch.equal(choose(opinions()), choose(opinions()))
    other = Opinions(opinions().indices, generator(1, "test"))
    assert not torch.equal(choose(other), choose(opinions()))


def test_random_is_uniform() -> None:
    draws = generator(0, "many")
    counts = torch.zeros(10)
    for _ in range(2000):
        counts[ACQUISITIONS["random"].choose(3, Opinions(torch.arange(10), draws)).indices] += 1
    chi_squared = ((counts - 600) ** 2 / 600).sum().item()
    assert chi_squared < 27.9  # 99.9th percentile at 9 degrees of freedom; the draws are fixed


def test_a_score_that_is_not_a_number_names_the_sample() -> None:
    bad = opinions()
    assert bad.logits is not None
    bad.logits[4] = math.nan
    with pytest.raises(CellFailed, match=r"'entropy'.* row 4, which is sample 104 of the pool"):
        ACQUISITIONS["entropy"].choose(2, bad)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (torch.tensor([1, 1]), "expected 2 different positions, got 1 different"),
        (torch.tensor([1]), r"expected 2 positions, int64 \[2\], got torch.int64 \[1\]"),
        (torch.tensor([1.0, 2.0]), r"expected 2 positions, int64 \[2\], got torch.float32 \[2\]"),
        ([0, 1], r"expected 2 positions, int64 \[2\], got list"),
        (None, r"expected 2 positions, int64 \[2\], got NoneType"),
        (torch.tensor([0, 12]), "expected positions from 0 to 11, got 0 to 12"),
        (torch.tensor([-1, 3]), "expected positions from 0 to 11, got -1 to 3"),
    ],
)
def test_what_an_acquisition_returns_is_checked(returned: Tensor, message: str) -> None:
    wrong = Acquisition("wrong", Needs.NOTHING, "", "", choose_batch=lambda k, _: returned)
    with pytest.raises(CellFailed, match=f"'wrong': {message}"):
        wrong.choose(2, opinions())


def test_unknown_acquisition_suggests_the_nearest() -> None:
    with pytest.raises(BadInput, match="unknown acquisition 'entropie': did you mean 'entropy'"):
        ACQUISITIONS["entropie"]


def test_equal_scores_are_drawn_by_lot_and_counted() -> None:
    scores = torch.tensor([0.0, 1.0, 1.0, 2.0, 1.0, 0.0])
    chosen = set()
    for seed in range(40):
        positions, tied = top_k_by_lot(scores, 2, generator(seed, "lot"))
        assert positions[0] == 3
        assert tied == 1  # one of the two was drawn among three that are equal
        chosen.add(int(positions[1]))
    assert chosen == {1, 2, 4}
    assert top_k_by_lot(scores, 4, generator(0, "lot"))[1] == 0  # all three were taken: nothing was decided by lot
    assert top_k_by_lot(scores, 6, generator(0, "lot"))[1] == 0
    assert top_k_by_lot(scores, 0, generator(0, "lot"))[1] == 0


def test_few_votes_make_many_ties_and_the_choice_says_so() -> None:
    """Five members have few different votes: what is drawn by lot must not follow the order of the pool."""
    logits = torch.zeros(5, 100, 3)
    logits[0, :50, 1] = 1  # one of five disagrees about the first half
    members = StoredMembers(logits)
    draws = [
        ACQUISITIONS["variation_ratio"].choose(10, Opinions(torch.arange(100), generator(seed, "lot"), members=members))
        for seed in range(30)
    ]
    assert all(choice.tied == 10 for choice in draws)
    places = torch.cat([choice.indices for choice in draws])
    assert places.max() < 50
    assert 20 < places.float().mean() < 29


def test_features_of_labeled_samples_that_are_not_numbers_are_refused() -> None:
    bad = opinions()
    assert bad.labeled_features is not None
    bad.labeled_features[1] = math.nan
    with pytest.raises(CellFailed, match=r"'kcenters': .*row 13.*labeled"):
        ACQUISITIONS["kcenters"].choose(2, bad)
