from __future__ import annotations

import importlib
import itertools
import math
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kcenters_data import DATA, assert_valid
from torch import Tensor

from prunefuse_bench import ops
from prunefuse_bench.ops import NotRankable, reference

REAL_IMAGES = "PRUNEFUSE_BENCH_CIFAR10_JPEG"
REAL_CACHE = os.environ.get("PRUNEFUSE_BENCH_CACHE")  # before the fixture that gives every test its own


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("labeled", [0, 1, 300])
def test_every_pick_is_the_furthest(name: str, labeled: int) -> None:
    features = DATA[name](3_000)
    initial = torch.randperm(len(features), generator=torch.Generator().manual_seed(1))[:labeled]
    indices, radii = ops.greedy_kcenters(features, 400, initial)
    assert_valid(features, indices, radii, initial)


@pytest.mark.parametrize("dimensions", [1, 2, 3, 7, 31, 32, 33, 64, 257, 1024, 1500, 2048])
def test_any_width(dimensions: int) -> None:
    features = torch.randn(700, dimensions, generator=torch.Generator().manual_seed(dimensions)).relu()
    indices, radii = ops.greedy_kcenters(features, 150, torch.arange(0, 700, 50))
    assert_valid(features, indices, radii, torch.arange(0, 700, 50))


@pytest.mark.parametrize("count", [1, 2, 31, 32, 33, 63, 65, 4_095, 4_097])
def test_any_number_of_points(count: int) -> None:
    features = torch.randn(count, 5, generator=torch.Generator().manual_seed(count))
    k = min(count, 200)
    assert_valid(features, *ops.greedy_kcenters(features, k), None)


@pytest.mark.slow
@pytest.mark.parametrize("name", DATA)
def test_two_hundred_thousand_points(name: str) -> None:
    features = DATA[name](200_000)
    initial = torch.arange(0, len(features), 500)
    indices, radii = ops.greedy_kcenters(features, 300, initial)
    assert_valid(features, indices, radii, initial)


@pytest.mark.slow
def test_what_a_trained_network_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    """CIFAR-10 (JPEG) through a ResNet-20, if the images are at hand."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    real_features = importlib.import_module("real_features")
    if REAL_IMAGES not in os.environ:
        pytest.skip(f"set {REAL_IMAGES} to the folder or .zip of CIFAR-10 (JPEG)")
    if REAL_CACHE is not None:
        monkeypatch.setenv("PRUNEFUSE_BENCH_CACHE", REAL_CACHE)
    _, features = real_features.cifar10_features()
    assert features.shape == (50_000, 64)
    for rows in (features, features.bfloat16()):
        initial = torch.arange(0, 50_000, 50)
        indices, radii = ops.greedy_kcenters(rows, 1_000, initial)
        assert_valid(rows, indices, radii, initial)


def test_all_points_can_be_picked() -> None:
    features = DATA["duplicated"](500)
    indices, radii = ops.greedy_kcenters(features, 500)
    assert sorted(indices.tolist()) == list(range(500))
    distinct = len(features.unique(dim=0))
    assert radii[distinct:].tolist() == [0.0] * (500 - distinct)
    assert bool((radii[:distinct] > 0).all())


def test_without_near_ties_the_picks_are_those_of_the_reference() -> None:
    features = torch.randn(2_000, 40, generator=torch.Generator().manual_seed(0))
    initial = torch.arange(0, 2_000, 9)
    indices, radii = ops.greedy_kcenters(features, 600, initial)
    expected, expected_radii = reference.greedy_kcenters(features, 600, initial)
    assert torch.equal(indices, expected)
    torch.testing.assert_close(radii, expected_radii, rtol=1e-6, atol=0)


def test_bfloat16_features_are_compared_as_they_are() -> None:
    features = torch.randn(1_500, 48, generator=torch.Generator().manual_seed(3)).relu().bfloat16()
    in_single, radii_in_single = ops.greedy_kcenters(features.float(), 300)
    indices, radii = ops.greedy_kcenters(features, 300)
    assert torch.equal(indices, in_single)
    assert torch.equal(radii, radii_in_single)


def test_other_layouts_and_precisions() -> None:
    features = torch.randn(40, 300, generator=torch.Generator().manual_seed(4))
    expected = ops.greedy_kcenters(features.T.contiguous(), 50)[0]
    assert torch.equal(ops.greedy_kcenters(features.T, 50)[0], expected)
    assert torch.equal(ops.greedy_kcenters(features.T.double(), 50)[0], expected)
    assert torch.equal(ops.greedy_kcenters(features.T.requires_grad_(), 50)[0], expected)


def test_moving_all_points_far_away_changes_little() -> None:
    """The expansion |x|^2 + |c|^2 - 2 x.c would lose every digit here."""
    features = torch.randint(-50, 50, (1_000, 6), generator=torch.Generator().manual_seed(5)).float()
    indices, radii = ops.greedy_kcenters(features, 200, torch.tensor([0]))
    moved, moved_radii = ops.greedy_kcenters(features + 4_000_000, 200, torch.tensor([0]))
    assert torch.equal(indices, moved)
    assert torch.equal(radii, moved_radii)


@pytest.mark.parametrize("factor", [1e-36, 1e-20, 1e20, 1e36])
def test_the_unit_does_not_matter(factor: float) -> None:
    features = torch.randn(600, 12, generator=torch.Generator().manual_seed(6))
    indices, radii = ops.greedy_kcenters(features, 100, torch.tensor([3]))
    scaled, scaled_radii = ops.greedy_kcenters(features * factor, 100, torch.tensor([3]))
    assert torch.equal(indices, scaled)
    torch.testing.assert_close(scaled_radii, radii * factor, rtol=1e-5, atol=0)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 400), st.integers(1, 70), st.integers(0, 10**6), st.data())
def test_stopping_and_going_on_changes_nothing(count: int, dimensions: int, seed: int, data: st.DataObject) -> None:
    """Whole coordinates: distances are exact, so that even the order of ties must be the same."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randint(-4, 5, (count, dimensions), generator=generator).float()
    initial = torch.randperm(count, generator=generator)[: data.draw(st.integers(1, count // 2))]
    cuts = sorted(data.draw(st.lists(st.integers(0, count - len(initial)), min_size=2, max_size=5)))
    at_once, radii_at_once = ops.greedy_kcenters(features, cuts[-1], initial)

    selection = ops.GreedyKCenters(features, initial)
    parts = []
    for before, after in itertools.pairwise([0, *cuts]):
        stored = selection.state_dict()
        selection.pick(min(3, count - len(selection.centers)))  # leaves what was stored as it is
        selection = ops.GreedyKCenters(features)
        selection.load_state_dict(stored)
        parts.append(selection.pick(after - before))
    assert torch.equal(torch.cat([indices for indices, _ in parts]), at_once)
    assert torch.equal(torch.cat([radii for _, radii in parts]), radii_at_once)
    assert torch.equal(selection.centers, torch.cat([initial, at_once]))
    assert torch.equal(at_once, reference.greedy_kcenters(features, cuts[-1], initial)[0])


def test_the_first_pick_can_be_given() -> None:
    line = torch.arange(11.0)[:, None]
    indices, radii = ops.greedy_kcenters(line, 3, first=4)
    assert indices.tolist() == [4, 10, 0]
    assert radii.tolist() == [math.inf, 6.0, 4.0]
    with pytest.raises(ValueError, match="first: expected a row from 0 to 10 and no initial centers, got 3 and 1"):
        ops.greedy_kcenters(line, 1, torch.tensor([0]), first=3)
    with pytest.raises(ValueError, match="got 11 and 0 centers"):
        ops.greedy_kcenters(line, 1, first=11)

    waiting = ops.GreedyKCenters(line)
    waiting.load_state_dict(ops.GreedyKCenters(line, first=4).state_dict())
    assert waiting.pick(2)[0].tolist() == [4, 10]


@pytest.mark.parametrize("dimensions", [3, 24, 64, 100, 513])
def test_of_equal_points_the_lowest_comes_first(dimensions: int) -> None:
    base = torch.randn(400, dimensions, generator=torch.Generator().manual_seed(dimensions))
    picked = ops.greedy_kcenters(base.repeat(3, 1), 300, torch.tensor([5]))[0].tolist()
    assert all(index < 400 for index in picked)


@pytest.mark.parametrize("dimensions", [2_048, 16_384])
def test_many_equal_columns_lose_no_digits(dimensions: int) -> None:
    generator = torch.Generator().manual_seed(0)
    line = torch.linspace(0, 1, 101)[:, None].expand(-1, dimensions)
    features = line * (1 + 3e-5 * torch.rand(101, dimensions, generator=generator))
    assert_valid(features, *ops.greedy_kcenters(features, 60, torch.tensor([0])), torch.tensor([0]))


def test_the_mean_of_points_far_from_the_origin() -> None:
    features = (2.0**24 + torch.tensor([0, 2, 2, 2, 2, 2, 2, 2, 2, 4, 0, 0]))[:, None]
    assert ops.greedy_kcenters(features, 1)[0].tolist() == [9]


def test_the_largest_floats() -> None:
    features = torch.tensor([[3e38], [-3e38], [1e38], [0.0]])
    indices, radii = ops.greedy_kcenters(features / 2, 3, torch.tensor([3]))
    assert indices.tolist() == [0, 1, 2]
    torch.testing.assert_close(radii, torch.tensor([1.5e38, 1.5e38, 0.5e38]))


def test_nothing_to_pick() -> None:
    for features, initial in ((torch.ones(4, 2), None), (torch.ones(0, 2), None), (torch.ones(3, 2), torch.arange(3))):
        indices, radii = ops.greedy_kcenters(features, 0, initial)
        assert indices.shape == radii.shape == (0,)
        assert (indices.dtype, radii.dtype) == (torch.int64, torch.float32)


@pytest.mark.parametrize(
    ("features", "initial", "message"),
    [
        (
            torch.zeros(3),
            None,
            r"features \[N, D\]: expected a float matrix with at least one column, got torch.float32 \(3,\)",
        ),
        (torch.zeros(3, 0), None, "at least one column"),
        (torch.zeros(3, 2, dtype=torch.int64), None, "got torch.int64"),
        (torch.zeros(5, 2), torch.tensor([7]), "expected rows from 0 to 4, got 7 to 7"),
        (torch.zeros(5, 2), torch.tensor([-1]), "expected rows from 0 to 4, got -1 to -1"),
        (torch.zeros(5, 2), torch.tensor([1, 1]), "expected distinct rows"),
        (torch.zeros(5, 2), torch.tensor([0.5]), r"expected int64 \[M\]"),
        (torch.zeros(5, 2), torch.tensor([0], device="meta"), "expected all tensors on one device, got"),
    ],
)
def test_bad_arguments(features: Tensor, initial: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ops.greedy_kcenters(features, 1, initial)


@pytest.mark.parametrize("k", [-1, 5])
def test_too_many_or_too_few(k: int) -> None:
    with pytest.raises(ValueError, match=f"k: expected from 0 to the 4 that can be picked, got {k}"):
        ops.greedy_kcenters(torch.zeros(5, 2), k, torch.tensor([0]))


def test_too_large_for_single_precision() -> None:
    with pytest.raises(NotRankable, match="row 0"):
        ops.greedy_kcenters(torch.tensor([[1e300], [0.0], [1.0]], dtype=torch.float64), 1, torch.tensor([1]))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_features_that_are_no_numbers_are_named(bad: float) -> None:
    features = torch.zeros(9, 3)
    features[4, 1] = features[7, 0] = bad
    with pytest.raises(NotRankable, match=r"features: 2 of 9 rows .* the first is row 4") as error:
        ops.greedy_kcenters(features, 1)
    assert error.value.row == 4


def test_a_state_belongs_to_its_features() -> None:
    state = ops.GreedyKCenters(torch.zeros(5, 2)).state_dict()
    with pytest.raises(ValueError, match="expected bounds of 6 points, got 5; it belongs to other features"):
        ops.GreedyKCenters(torch.zeros(6, 2)).load_state_dict(state)
    with pytest.raises(ValueError, match="expected folded from 0 to its 0 centers, got up to 3"):
        ops.GreedyKCenters(torch.zeros(5, 2)).load_state_dict(state | {"folded": torch.full((5,), 3)})
    with pytest.raises(ValueError, match="expected bounds of 0 or more"):
        ops.GreedyKCenters(torch.zeros(5, 2)).load_state_dict(state | {"bounds": torch.full((5,), -1.0)})
