"""FLOPs of choosing, against torch's count of the products that really run."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prunefuse_bench import ops
from prunefuse_bench.acquisition import ACQUISITIONS, Acquisition, HeadMembers, Needs, Opinions, StoredMembers
from prunefuse_bench.acquisition.clusters import _mean_distances_to_neighbours
from prunefuse_bench.acquisition.products import (
    Counts,
    MatrixProducts,
    multiplied,
    no_products,
    products_as_told,
    products_by_formula,
    tally,
)
from prunefuse_bench.conformance import opinions_for
from prunefuse_bench.cost.flops import flop_counter
from prunefuse_bench.errors import CellFailed
from prunefuse_bench.ops import reference
from prunefuse_bench.randomness import generator

N, C, D, K, M = 40, 4, 7, 5, 6
TOLD = ["badge", "batchbald", "gradmatch"]


def opinions(count: int = N, seed: int = 0) -> Opinions:
    draws = torch.Generator().manual_seed(seed)
    return Opinions(
        indices=torch.arange(count),
        generator=generator(seed, "test"),
        logits=torch.randn(count, C, generator=draws),
        features=torch.randn(count, D, generator=draws),
        labeled_features=torch.randn(M, D, generator=draws),
        members=StoredMembers(3 * torch.randn(K, count, C, generator=draws)),
        labels=torch.randint(C, (count,), generator=draws),
    )


@pytest.mark.parametrize("name", sorted(ACQUISITIONS))
def test_every_acquisition_says_what_it_spends_and_what_is_left_out(name: str) -> None:
    acquisition = ACQUISITIONS[name]
    assert acquisition.flops is not None
    assert acquisition.flops.besides
    flops = acquisition.choose(5, opinions_for(acquisition.needs, 30)).flops
    assert flops is not None
    assert (flops > 0) == (name in {*TOLD, "glister", "kcenters", "typiclust"})


@pytest.mark.parametrize("name", TOLD)
@pytest.mark.parametrize("k", [0, 1, 15, N])
def test_products_that_are_told_of_are_those_that_run(name: str, k: int) -> None:
    with flop_counter() as counter:
        choice = ACQUISITIONS[name].choose(k, opinions())
    assert choice.flops == counter.get_total_flops()
    assert choice.flops > 0 or k == 0


def test_products_that_are_told_of_are_those_that_run_with_drawn_configurations_and_hard_matches() -> None:
    for name, options in (("batchbald", {"max_configurations": 100}), ("gradmatch", {"regularisation": 0.0})):
        with flop_counter() as counter:
            choice = ACQUISITIONS[name].choose(15, opinions(), options)
        assert choice.flops == counter.get_total_flops() > 0


@pytest.mark.parametrize(("k", "rounds"), [(0, 15), (1, 15), (20, 15), (20, 3), (7, 50)])
def test_formula_of_glister_is_what_runs(k: int, rounds: int) -> None:
    with flop_counter() as counter:
        choice = ACQUISITIONS["glister"].choose(k, opinions(), {"rounds": rounds})
    assert choice.flops == counter.get_total_flops()


def test_formula_of_glister_takes_the_default_of_an_option_that_is_not_given() -> None:
    counts = Counts(candidates=N, k=20, classes=C, features=D)
    glister = ACQUISITIONS["glister"]
    assert glister.count_flops(counts) == glister.count_flops(counts, {"rounds": 15})
    assert glister.count_flops(counts, {"rounds": 3}) == 2 * C * D * (3 * 3 * N + 20)


@pytest.mark.parametrize(("k", "labeled"), [(1, M), (20, M), (20, 0)])
def test_formula_of_kcenters_is_what_the_definition_of_the_rule_does(k: int, labeled: int) -> None:
    asked = opinions()
    assert asked.features is not None
    assert asked.labeled_features is not None
    features = torch.cat([asked.features, asked.labeled_features[:labeled]])
    with flop_counter() as counter:
        reference.greedy_kcenters(features, k, torch.arange(N, N + labeled))
    counts = Counts(candidates=N, labeled=labeled, k=k, features=D)
    assert ACQUISITIONS["kcenters"].count_flops(counts) == counter.get_total_flops()
    assert ACQUISITIONS["kcenters"].choose(20, asked).flops == 2 * (N + M) * (M + 20) * D


def test_scores_and_classwise_medians_multiply_nothing() -> None:
    for name in ("entropy", "margin", "least_confidence", "bald", "variation_ratio", "moderate", "random"):
        with flop_counter() as counter:
            choice = ACQUISITIONS[name].choose(20, opinions())
        assert choice.flops == counter.get_total_flops() == 0
        assert ACQUISITIONS[name].count_flops(Counts(N, k=20)) == 0


def test_what_members_multiply_is_the_committees() -> None:
    features, weight = torch.randn(N, D), torch.randn(C, D)
    members = HeadMembers(features, weight, None, count=K, keep=0.5, seed=0, shared_masks=True)
    asked = Opinions(torch.arange(N), generator(0, "test"), members=members)
    with flop_counter() as counter:
        assert ACQUISITIONS["bald"].choose(3, asked).flops == 0
    assert counter.get_total_flops() == 2 * K * N * C * D


def test_distances_to_neighbours_of_typiclust_are_those_that_run() -> None:
    points, clusters = torch.randn(50, D).double(), torch.arange(50) % 3
    with flop_counter() as counter, tally() as told:
        _mean_distances_to_neighbours(points, clusters)
    assert told.flops == counter.get_total_flops() == 2 * D * (17**2 + 17**2 + 16**2)


def test_clustering_is_counted_by_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    import sklearn.cluster

    from prunefuse_bench.acquisition import clusters

    points = torch.randn(200, D).double()
    iterations = []
    kmeans = sklearn.cluster.KMeans

    def remember(*args: object, **options: object) -> object:
        iterations.append(kmeans(*args, **options))
        return iterations[-1]

    monkeypatch.setattr(sklearn.cluster, "KMeans", remember)
    with tally() as told:
        clusters._cluster(points, 8, seed=0)
    seeding = 2 * 200 * D * (1 + 7 * 4)  # 2 + log 8 = 4 trials for each center after the first
    assert told.flops == 2 * 200 * D * 8 * (iterations[0].n_iter_ + 1) + seeding


def choose_first(k: int, asked: Opinions) -> Tensor:
    multiplied(2, 3, 5)
    return torch.arange(k)


def test_an_acquisition_that_says_nothing_is_not_counted_rather_than_free() -> None:
    silent = Acquisition("silent", Needs.NOTHING, "a test", "", choose_batch=choose_first)
    assert silent.choose(3, opinions()).flops is None
    assert silent.count_flops(Counts(N)) is None


@pytest.mark.parametrize(
    ("flops", "expected"),
    [
        (products_as_told("nothing"), 60),
        (products_by_formula(lambda counts: counts.candidates * counts.members, "nothing"), N * K),
        (no_products("nothing"), 0),
    ],
)
def test_an_acquisition_of_the_users_own_can_say_it(flops: MatrixProducts, expected: int) -> None:
    own = Acquisition("own", Needs.NOTHING, "a test", "", choose_batch=choose_first, flops=flops)
    assert own.choose(3, opinions()).flops == expected


def test_a_formula_that_fails_fails_the_cell_and_not_the_run() -> None:
    flops = products_by_formula(lambda counts: counts.candidates // counts.members, "nothing")
    own = Acquisition("own", Needs.NOTHING, "a test", "", choose_batch=choose_first, flops=flops)
    with pytest.raises(CellFailed, match="'own' raised ZeroDivisionError"):
        own.choose(3, Opinions(torch.arange(5), generator(0, "test")))


def test_products_of_another_choice_are_not_added() -> None:
    with tally() as outer:
        multiplied(1, 2, 3)
        with tally() as inner:
            multiplied(1, 1, 1)
        multiplied(1, 1, 1)
    multiplied(9, 9, 9)  # nobody counts
    assert (outer.flops, inner.flops) == (14, 2)


def test_kcenters_of_the_core_chooses_what_the_formula_is_about() -> None:
    """The formula is that of the reference, so both must do the same."""
    features = torch.randn(40, D)
    initial = torch.tensor([3])
    assert torch.equal(ops.greedy_kcenters(features, 5, initial)[0], reference.greedy_kcenters(features, 5, initial)[0])
