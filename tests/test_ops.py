from __future__ import annotations

import itertools
import math

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunefuse_bench import ops
from prunefuse_bench.ops import NotRankable

KINDS = ["least_confidence", "entropy", "margin"]
UNDECIDED = {"least_confidence": 0.75, "entropy": math.log(4), "margin": 0.0}
CERTAIN = {"least_confidence": 0.0, "entropy": 0.0, "margin": -1.0}


@pytest.mark.parametrize("kind", KINDS)
def test_value_and_direction(kind: ops.ScoreKind) -> None:
    """Uniform is chosen before one-hot, and both have their analytic value."""
    certain = [0.0, -math.inf, -math.inf, -math.inf]
    logits = torch.tensor([certain, [5.0] * 4, [1e4, -1e4, 0.0, 0.0], [-1e4] * 4])
    scores = ops.score(logits, kind)
    expected = torch.tensor([CERTAIN[kind], UNDECIDED[kind], CERTAIN[kind], UNDECIDED[kind]])
    torch.testing.assert_close(scores, expected)
    assert ops.top_k(scores, 2).tolist() == [1, 3]


def test_probabilities_worked_out_by_hand() -> None:
    logits = torch.tensor([[0.7, 0.2, 0.1]]).log()
    assert ops.score(logits, "least_confidence").item() == pytest.approx(0.3)
    assert ops.score(logits, "margin").item() == pytest.approx(-0.5)
    expected = -(0.7 * math.log(0.7) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1))
    assert ops.score(logits, "entropy").item() == pytest.approx(expected)


def test_least_confidence_keeps_its_digits_where_the_network_is_sure() -> None:
    assert ops.score(torch.tensor([[40.0, 0.0]]), "least_confidence").item() == pytest.approx(math.exp(-40), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_one_class_is_certain(kind: ops.ScoreKind) -> None:
    assert ops.score(torch.tensor([[3.0]]), kind).item() == CERTAIN[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_a_number_is_never_ranked(kind: ops.ScoreKind, bad: float) -> None:
    logits = torch.zeros(5, 3)
    logits[2, 1] = logits[4, 0] = bad
    with pytest.raises(NotRankable, match=r"2 of 5 rows cannot be ranked .* the first is row 2") as error:
        ops.score(logits, kind)
    assert error.value.row == 2


def test_a_row_without_any_probability_is_refused() -> None:
    with pytest.raises(NotRankable, match="first is row 0"):
        ops.score(torch.full((1, 3), -math.inf), "entropy")


def test_bad_arguments_say_what_was_expected() -> None:
    with pytest.raises(ValueError, match="kind: expected one of least_confidence, entropy, margin, got 'bald'"):
        ops.score(torch.zeros(1, 2), "bald")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"logits \[N, C\]: expected a float matrix"):
        ops.score(torch.zeros(3), "entropy")
    with pytest.raises(ValueError, match="expected a float matrix"):
        ops.score(torch.zeros(3, 2, dtype=torch.int64), "entropy")
    with pytest.raises(ValueError, match=r"k: expected from 0 to the 3 that can be picked, got 4"):
        ops.top_k(torch.zeros(3), 4)
    with pytest.raises(NotRankable, match="NaN"):
        ops.top_k(torch.tensor([0.0, math.nan]), 1)


def test_ties_go_to_the_lowest_position() -> None:
    assert ops.top_k(torch.tensor([1.0, 2.0, 1.0, 2.0, 2.0]), 4).tolist() == [1, 3, 4, 0]
    assert ops.top_k(torch.zeros(100_000), 5).tolist() == [0, 1, 2, 3, 4]
    assert ops.top_k(torch.zeros(3), 0).tolist() == []


def farthest_first(points: numpy.ndarray, k: int, initial: list[int]) -> list[int]:
    """Slow and obvious: every distance anew at every pick."""
    centers = list(initial)
    picks: list[int] = []
    for _ in range(k):
        anchors = points[centers] if centers else points.mean(0, keepdims=True)
        nearest = [min(((p - a) ** 2).sum() for a in anchors) for p in points]  # squared: whole numbers stay exact
        free = [i for i in range(len(points)) if i not in centers]
        picks.append(max(free, key=lambda i: (nearest[i], -i)))
        centers.append(picks[-1])
    return picks


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 14), st.integers(1, 3), st.data())
def test_kcenters_against_brute_force(count: int, dimensions: int, data: st.DataObject) -> None:
    """Small whole coordinates: many duplicates and exact ties, and no rounding."""
    coordinates = st.lists(st.integers(-3, 3), min_size=dimensions, max_size=dimensions)
    points = numpy.array(data.draw(st.lists(coordinates, min_size=count, max_size=count)), dtype=float)
    initial = data.draw(st.lists(st.integers(0, count - 1), max_size=count // 2, unique=True))
    k = data.draw(st.integers(0, count - len(initial)))
    points = points * count - points.sum(0)  # centred, and still whole: the mean is zero without rounding
    features = torch.from_numpy(points).float()
    indices, radii = ops.greedy_kcenters(features, k, torch.tensor(initial, dtype=torch.int64))
    assert indices.tolist() == farthest_first(points, k, initial)
    assert not set(indices.tolist()) & set(initial)
    assert all(first >= second - 1e-6 for first, second in itertools.pairwise(radii))


def test_kcenters_on_a_line() -> None:
    line = torch.arange(11.0)[:, None]
    indices, radii = ops.greedy_kcenters(line, 3, torch.tensor([0]))
    assert indices.tolist() == [10, 5, 2]
    assert radii.tolist() == [10.0, 5.0, 2.0]


def test_kcenters_never_picks_twice() -> None:
    indices, radii = ops.greedy_kcenters(torch.ones(6, 4), 6)
    assert sorted(indices.tolist()) == list(range(6))
    assert radii[1:].tolist() == [0.0] * 5
