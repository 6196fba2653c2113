from __future__ import annotations

import math

import pytest
import torch
from test_memory import peak_megabytes
from torch import Tensor

from prunefuse_bench.acquisition import ACQUISITIONS, Opinions, badge
from prunefuse_bench.errors import CellFailed

SHAPES = [(1, 3, 4), (2, 2, 1), (60, 2, 5), (200, 10, 16), (500, 3, 40), (300, 30, 7)]


def opinions(logits: Tensor, features: Tensor, seed: int = 0) -> Opinions:
    return Opinions(
        indices=torch.arange(100, 100 + len(logits)),
        generator=torch.Generator().manual_seed(seed),
        logits=logits,
        features=features,
    )


def random_pool(count: int, classes: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(count, classes, generator=draw), torch.randn(count, width, generator=draw)


def choose(k: int, logits: Tensor, features: Tensor, seed: int = 0) -> list[int]:
    """Through the harness, which checks that they are k different positions."""
    chosen = ACQUISITIONS["badge"].choose(k, opinions(logits, features, seed))
    return (chosen.indices - 100).tolist()


def textbook_embeddings(logits: Tensor, features: Tensor) -> Tensor:
    """float64 [N, C * D], sample by sample."""
    rows = [torch.empty(0, logits.shape[1] * features.shape[1], dtype=torch.float64)]
    for sample, feature in zip(logits.double(), features.double(), strict=True):
        gradient = torch.softmax(sample, dim=0)
        gradient[sample.argmax()] -= 1
        rows.append(torch.outer(gradient, feature).reshape(1, -1))
    return torch.cat(rows)


def textbook_choice(k: int, embeddings: Tensor, generator: torch.Generator) -> list[int]:
    """k-means++ seeding from the sample with the largest norm, on the embeddings themselves."""
    torch.randint(1, (), generator=generator)  # the lot among equal norms; here all differ
    chosen = [int(embeddings.norm(dim=1).argmax())]
    while len(chosen) < k:
        distances = torch.stack([(embeddings - embeddings[center]).square().sum(dim=1) for center in chosen])
        nearest = distances.amin(dim=0)
        threshold = float(torch.rand((), generator=generator, dtype=torch.float64)) * float(nearest.sum())
        passed = 0.0
        for position, weight in enumerate(nearest.tolist()):
            passed += weight
            if passed > threshold:
                chosen.append(position)
                break
    return chosen


@pytest.mark.parametrize("shape", SHAPES)
def test_factored_distances_are_those_of_the_embeddings(shape: tuple[int, int, int]) -> None:
    logits, features = random_pool(*shape)
    embeddings = textbook_embeddings(logits, features)
    factored = badge.GradientEmbeddings(logits, features)
    assert torch.allclose(factored.squared_norms, embeddings.square().sum(dim=1), rtol=1e-12, atol=0)
    for sample in {0, len(logits) // 2, len(logits) - 1}:
        expected = (embeddings - embeddings[sample]).square().sum(dim=1)
        distances = torch.full((len(logits),), math.inf, dtype=torch.float64)
        factored.lower(distances, sample)
        assert distances[sample] == 0
        assert torch.allclose(distances, expected, rtol=1e-9, atol=1e-12 * float(embeddings.square().sum(1).max()))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_choice_is_that_of_the_textbook_with_the_same_draws(shape: tuple[int, int, int], seed: int) -> None:
    logits, features = random_pool(*shape, seed=seed)
    k = min(shape[0], 25)
    expected = textbook_choice(k, textbook_embeddings(logits, features), torch.Generator().manual_seed(seed))
    assert choose(k, logits, features, seed) == expected


def test_features_far_from_the_origin_are_told_apart() -> None:
    """Distances that are a millionth of the norms, where float32 products would see nothing but rounding."""
    logits, features = random_pool(200, 4, 8)
    logits[:], features = logits[0], 1000 + features
    expected = textbook_choice(20, textbook_embeddings(logits, features), torch.Generator().manual_seed(3))
    assert choose(20, logits, features, seed=3) == expected


def test_gradients_of_certain_predictions_keep_their_digits() -> None:
    """1 - p is 0 in float64 where the others have 1e-20, and yet one sample's gradient is twice the other's."""
    logits = torch.tensor([[0.0, -46.0, -46.0], [0.0, -46.0, -46.0 + math.log(3.0)]])
    norms = badge.GradientEmbeddings(logits, torch.ones(2, 1)).squared_norms
    # Others (e, e) and (e, 3e): squared norms 1 + 1 + 2^2 = 6 and 1 + 9 + 4^2 = 26, times e^2.
    assert norms[1] / norms[0] == pytest.approx(26 / 6, rel=1e-5)


def test_the_second_choice_follows_squared_distances() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0]]).repeat(8, 1)
    features = torch.tensor([[10.0, 9, 7, 5, 3, 0.5, -2, 8]]).T  # near the first one and far from it
    embeddings = textbook_embeddings(logits, features)
    first = int(embeddings.norm(dim=1).argmax())
    distances = (embeddings - embeddings[first]).square().sum(dim=1)
    draws, counts = 2000, torch.zeros(8, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for _ in range(draws):
        chosen = badge.badge(2, Opinions(torch.arange(8), generator, logits=logits, features=features))
        assert chosen[0] == first
        counts[chosen[1]] += 1
    expected = draws * distances / distances.sum()
    assert counts[first] == 0
    others = expected > 0
    assert expected[others].min() > 5  # otherwise chi-squared says nothing
    chi_squared = ((counts - expected) ** 2 / expected)[others].sum().item()
    assert others.sum() == 7
    assert chi_squared < 22.5  # 99.9th percentile at 6 degrees of freedom; the draws are fixed
    by_distance = draws * distances.sqrt() / distances.sqrt().sum()
    assert ((counts - by_distance) ** 2 / by_distance)[others].sum() > 22.5  # it would notice distances not squared


@pytest.mark.parametrize(("uniform", "position"), [(0.0, 2), (0.5, 2), (0.75, 4), (1.0, 4)])
def test_no_draw_finds_a_weight_of_zero(monkeypatch: pytest.MonkeyPatch, uniform: float, position: int) -> None:
    """1 stands for draws so near to it that the product with the sum is the sum."""
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor(uniform, dtype=torch.float64))
    weights = torch.tensor([0.0, 0, 3, 0, 1, 0], dtype=torch.float64)
    assert badge._draw(weights, torch.Generator()) == position


def test_copies_of_a_chosen_sample_come_last() -> None:
    logits, features = random_pool(15, 4, 6)
    copies = torch.arange(150) % 15
    for seed in range(5):
        chosen = choose(150, logits[copies], features[copies], seed)
        assert {position % 15 for position in chosen[:15]} == set(range(15))


def test_what_equals_chosen_samples_is_drawn_by_lot() -> None:
    logits, features = torch.tensor([[3.0, 1.0, 0.0]]).repeat(40, 1), torch.ones(40, 5)
    seen = {tuple(choose(4, logits, features, seed)) for seed in range(30)}
    assert len(seen) == 30
    assert len({position for chosen in seen for position in chosen}) > 35
    assert len({chosen[0] for chosen in seen}) > 15


def test_scales_from_tiny_to_huge() -> None:
    logits, features = random_pool(50, 4, 6)
    at_one = choose(20, logits, features)
    for scale in (1e-30, 1e30):
        assert choose(20, logits, scale * features) == at_one


@pytest.mark.parametrize("k", [0, 1, 5])
def test_a_single_class_is_a_draw_by_lot(k: int) -> None:
    logits, features = random_pool(5, 1, 3)
    assert len(choose(k, logits, features)) == k
    assert len({tuple(choose(3, logits, features, seed)) for seed in range(20)}) > 5


@pytest.mark.parametrize(("count", "k"), [(0, 0), (1, 0), (1, 1), (7, 0), (7, 7)])
def test_any_number_of_picks(count: int, k: int) -> None:
    assert sorted(choose(k, *random_pool(count, 3, 4))) == (list(range(count)) if k == count else [])


def test_probabilities_of_zero_are_fine() -> None:
    logits, features = random_pool(20, 3, 4)
    logits[3, 1] = -math.inf
    logits[4] = torch.tensor([-math.inf, 0, -math.inf])  # certain: no gradient
    expected = textbook_choice(19, textbook_embeddings(logits, features), torch.Generator().manual_seed(0))
    assert choose(19, logits, features) == expected


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_name_the_sample(value: float) -> None:
    logits, features = random_pool(9, 3, 4)
    bad = logits.clone()
    bad[4, 1] = value
    with pytest.raises(CellFailed, match=r"'badge': logits: .* row 4, which is sample 104 of the pool"):
        choose(2, bad, features)
    bad = features.clone()
    bad[6:, 2] = value
    with pytest.raises(CellFailed, match=r"'badge': features: 3 of 9 .* row 6, which is sample 106 of the pool"):
        choose(2, logits, bad)


def test_follows_its_generator_and_leaves_its_inputs_alone() -> None:
    logits, features = random_pool(300, 5, 8)
    before = logits.clone(), features.clone()
    assert choose(30, logits, features, seed=1) == choose(30, logits, features, seed=1)
    assert choose(30, logits, features, seed=1) != choose(30, logits, features, seed=2)
    assert torch.equal(logits, before[0])
    assert torch.equal(features, before[1])


PROGRAM = """
from prunefuse_bench.acquisition import Opinions, badge
logits, features = torch.empty({count}, {classes}).normal_(), torch.empty({count}, {width}).normal_()
def call(warm):
    n, k = (1000, 10) if warm else ({count}, {k})
    generator = torch.Generator().manual_seed(0)
    badge.badge(k, Opinions(torch.arange(n), generator, logits=logits[:n], features=features[:n]))
peak_of(call)
"""


def test_the_embeddings_never_exist() -> None:
    # One factor in float64 is 8 MB; the embeddings would be 4 GB.
    assert peak_megabytes(PROGRAM.format(count=10_000, classes=100, width=512, k=5)) < 40


@pytest.mark.slow
def test_fifty_thousand_samples_of_a_hundred_classes() -> None:
    assert peak_megabytes(PROGRAM.format(count=50_000, classes=100, width=512, k=1_000)) < 100
