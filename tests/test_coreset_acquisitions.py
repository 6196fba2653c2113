"""What the acquisitions of the coreset protocol and TypiClust choose, against slow references and by hand."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from prunefuse_bench.acquisition import ACQUISITIONS, Opinions, clusters, gradients, history, prototypes
from prunefuse_bench.errors import BadInput, CellFailed
from prunefuse_bench.training.observer import History

MODULES = {
    history: ["forgetting", "el2n", "css"],
    prototypes: ["moderate"],
    clusters: ["typiclust"],
    gradients: ["gradmatch", "glister"],
}
NAMES = [name for names in MODULES.values() for name in names]
FIRST = 100
"""Position of the first candidate in the pool."""


def opinions_of(count: int = 40, *, classes: int = 3, seed: int = 0, draws: int = 0) -> Opinions:
    """Random opinions with everything that any of them needs; candidates are samples 100, 101, ... of the pool."""
    generator = torch.Generator().manual_seed(seed)
    shape = (6, count)
    return Opinions(
        indices=torch.arange(FIRST, FIRST + count),
        generator=torch.Generator().manual_seed(draws),
        logits=torch.randn(count, classes, generator=generator),
        features=torch.randn(count, 5, generator=generator),
        labeled_features=torch.randn(4, 5, generator=generator),
        labels=torch.randint(classes, (count,), generator=generator),
        history=History(
            torch.rand(shape, generator=generator) < 0.6,
            torch.rand(shape, generator=generator) * 2 - 1,
            torch.rand(shape, generator=generator) * math.sqrt(2),
        ),
    )


def with_history(
    *,
    correct: Sequence[Sequence[int]] | None = None,
    margin: Tensor | None = None,
    error: Tensor | None = None,
    draws: int = 0,
) -> Opinions:
    """Opinions that hold a history [E, N] and nothing else; what is not given is not a number."""
    given = torch.tensor(correct).bool() if correct is not None else margin if margin is not None else error
    assert given is not None
    nothing = torch.full(given.shape, math.nan)
    return Opinions(
        indices=torch.arange(FIRST, FIRST + given.shape[1]),
        generator=torch.Generator().manual_seed(draws),
        history=History(
            torch.tensor(correct).bool() if correct is not None else torch.zeros_like(nothing, dtype=torch.bool),
            nothing if margin is None else margin,
            nothing if error is None else error,
        ),
    )


def choose(name: str, k: int, opinions: Opinions, **options: object) -> list[int]:
    """Chosen positions among the candidates, first choice first."""
    return (ACQUISITIONS[name].choose(k, opinions, options).indices - FIRST).tolist()


class TestAll:
    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("k", [0, 1, 17, 40])
    def test_k_different_candidates_are_chosen(self, name: str, k: int) -> None:
        chosen = choose(name, k, opinions_of())
        assert len(chosen) == len(set(chosen)) == k
        assert set(chosen) <= set(range(40))

    @pytest.mark.parametrize("name", NAMES)
    def test_an_empty_pool_gives_nothing(self, name: str) -> None:
        assert choose(name, 0, opinions_of(0)) == []

    @pytest.mark.parametrize("name", NAMES)
    def test_one_sample_is_chosen(self, name: str) -> None:
        assert choose(name, 1, opinions_of(1)) == [0]

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("k", [0, 13, 40])
    def test_one_class_is_enough(self, name: str, k: int) -> None:
        assert len(set(choose(name, k, opinions_of(classes=1)))) == k

    @pytest.mark.parametrize("name", NAMES)
    def test_equal_samples_are_chosen_by_lot_and_never_twice(self, name: str) -> None:
        one = opinions_of(1)
        assert one.history is not None
        assert one.logits is not None
        assert one.features is not None
        firsts = Counter()
        for draws in range(30):
            equal = Opinions(
                torch.arange(FIRST, FIRST + 30),
                torch.Generator().manual_seed(draws),
                one.logits.expand(30, -1),
                one.features.expand(30, -1),
                labels=torch.zeros(30, dtype=torch.int64),
                history=History.of({name: tensor.expand(-1, 30) for name, tensor in one.history.tensors().items()}),
            )
            chosen = choose(name, 20, equal)
            assert len(set(chosen)) == 20
            firsts[chosen[0]] += 1
        assert len(firsts) > 10, "the first pick does not follow the generator"

    @pytest.mark.parametrize("name", NAMES)
    def test_the_choice_follows_the_generator_of_the_opinions_alone(self, name: str) -> None:
        torch.manual_seed(0)
        np.random.seed(0)
        first = choose(name, 15, opinions_of())
        torch.manual_seed(1)
        np.random.seed(1)
        before = torch.random.get_rng_state(), np.random.get_state()[1].tolist()
        assert choose(name, 15, opinions_of()) == first
        assert torch.equal(torch.random.get_rng_state(), before[0])
        assert np.random.get_state()[1].tolist() == before[1]

    @pytest.mark.parametrize("name", NAMES)
    def test_the_inputs_are_left_as_they_are(self, name: str) -> None:
        given, same = opinions_of(), opinions_of()
        choose(name, 15, given)
        assert given.history is not None
        assert same.history is not None
        for field in ("indices", "logits", "features", "labeled_features", "labels"):
            assert torch.equal(getattr(given, field), getattr(same, field)), field
        for field, tensor in given.history.tensors().items():
            assert torch.equal(tensor, same.history.tensors()[field]), field

    @pytest.mark.parametrize("name", ["moderate", "typiclust", "gradmatch", "glister"])
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_a_feature_that_is_not_finite_names_the_sample(self, name: str, value: float) -> None:
        bad = opinions_of()
        assert bad.features is not None
        bad.features[[7, 9], 2] = value
        with pytest.raises(CellFailed, match=rf"'{name}': features: 2 of 40 .* row 7, which is sample 107 of the pool"):
            choose(name, 3, bad)

    @pytest.mark.parametrize("name", ["gradmatch", "glister"])
    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_a_logit_that_cannot_be_ranked_names_the_sample(self, name: str, value: float) -> None:
        bad = opinions_of()
        assert bad.logits is not None
        bad.logits[7, 2] = value
        with pytest.raises(CellFailed, match=rf"'{name}': logits: 1 of 40 .* row 7, which is sample 107 of the pool"):
            choose(name, 3, bad)

    @pytest.mark.parametrize("name", ["gradmatch", "glister"])
    def test_a_probability_of_zero_is_allowed(self, name: str) -> None:
        opinions = opinions_of()
        assert opinions.logits is not None
        opinions.logits[:, 1] = -math.inf
        assert len(choose(name, 10, opinions)) == 10

    @pytest.mark.parametrize(("name", "values"), [("css", "margin"), ("el2n", "error")])
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_a_history_that_is_not_finite_names_the_sample(self, name: str, values: str, value: float) -> None:
        bad = opinions_of()
        assert bad.history is not None
        getattr(bad.history, values)[2, [7, 9]] = value
        with pytest.raises(CellFailed, match=rf"'{name}': history: {values}: 2 of 40 .* row 7, which is sample 107"):
            choose(name, 3, bad)

    def test_options_have_defaults(self) -> None:
        assert {name: ACQUISITIONS[name].check_options({}) for name in NAMES} == {
            "forgetting": {},
            "el2n": {"epochs": 10},
            "css": {"cutoff": 0.1, "strata": 50},
            "moderate": {},
            "typiclust": {"max_clusters": 500},
            "gradmatch": {"regularisation": 0.5},
            "glister": {"eta": 0.01, "rounds": 15},
        }

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("el2n", {"epochs": 0}),
            ("css", {"cutoff": 1.0}),
            ("css", {"cutoff": -0.1}),
            ("css", {"strata": 0}),
            ("typiclust", {"max_clusters": 0}),
            ("gradmatch", {"regularisation": -1.0}),
            ("glister", {"eta": 0.0}),
            ("glister", {"rounds": 0}),
        ],
    )
    def test_options_out_of_range_are_refused(self, name: str, options: dict[str, object]) -> None:
        with pytest.raises(BadInput, match=f"'{name}': {next(iter(options))}"):
            ACQUISITIONS[name].check_options(options)


class TestForgetting:
    def test_events_by_hand(self) -> None:
        rows = [[1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
        opinions = with_history(correct=torch.tensor(rows).T.tolist())
        assert history.forgetting(opinions).tolist() == [0, 4, 2, 1, 0]
        assert choose("forgetting", 3, opinions) == [1, 2, 3]

    def test_never_learned_ranks_above_the_most_forgotten(self) -> None:
        for epochs in range(1, 8):
            most = [1 - epoch % 2 for epoch in range(epochs)]
            opinions = with_history(correct=[[value, 0] for value in most])
            assert choose("forgetting", 1, opinions) == [1]

    def test_it_is_the_slow_count(self) -> None:
        opinions = opinions_of(200)
        assert opinions.history is not None
        correct = opinions.history.correct.tolist()
        expected = []
        for i in range(200):
            events, learned = 0, False
            for epoch in range(6):
                learned = learned or correct[epoch][i]
                if epoch and correct[epoch - 1][i] and not correct[epoch][i]:
                    events += 1
            expected.append(events if learned else 6)
        scores = history.forgetting(opinions)
        assert scores.is_floating_point()
        assert scores.tolist() == expected
        assert len(set(expected)) == 5, "the test should hold every count and samples that were never learned"

    def test_many_events_are_counted(self) -> None:
        opinions = with_history(correct=[[1], [0]] * 300)
        assert history.forgetting(opinions).tolist() == [300]

    def test_a_history_of_no_epochs_ranks_nothing(self) -> None:
        opinions = Opinions(
            torch.arange(3), torch.Generator(), history=History(torch.zeros(0, 3).bool(), *2 * [torch.zeros(0, 3)])
        )
        assert history.forgetting(opinions).tolist() == [0, 0, 0]
        assert history.el2n(opinions).tolist() == [0, 0, 0]


class TestEl2n:
    @pytest.mark.parametrize("epochs", [1, 3, 6, 50])
    def test_it_is_the_slow_mean(self, epochs: int) -> None:
        opinions = opinions_of(50)
        assert opinions.history is not None
        error = opinions.history.error.tolist()
        used = min(epochs, 6)
        expected = [sum(error[epoch][i] for epoch in range(used)) / used for i in range(50)]
        assert history.el2n(opinions, epochs=epochs).tolist() == pytest.approx(expected, rel=1e-12)
        by_error = sorted(range(50), key=lambda i: -expected[i])
        assert choose("el2n", 9, opinions, epochs=epochs) == by_error[:9]

    def test_ten_epochs_unless_said_otherwise(self) -> None:
        error = torch.zeros(20, 2)
        error[9, 0], error[10, 1] = 1.0, 1.4
        assert choose("el2n", 1, with_history(error=error)) == [0]
        assert choose("el2n", 1, with_history(error=error), epochs=11) == [1]

    def test_later_epochs_need_not_be_numbers(self) -> None:
        error = torch.rand(12, 4)
        error[10:] = math.nan
        assert history.el2n(with_history(error=error)).isfinite().all()


def css_budgets(values: list[float], k: int, strata: int) -> list[tuple[int, int]]:
    """(size, how many are to come from it) of each stratum, from their definition; sorted, as the lot orders equals."""
    low, width = min(values), (max(values) - min(values)) / strata
    sizes = []
    for s in range(strata):
        inside = [v for v in values if low + s * width <= v and (v < low + (s + 1) * width or s == strata - 1)]
        sizes.append(len(inside))
    budgets, left = [0] * strata, k
    for done, s in enumerate(sorted(range(strata), key=lambda s: sizes[s])):
        budgets[s] = min(sizes[s], left // (strata - done))
        left -= budgets[s]
    return sorted(zip(sizes, budgets, strict=True))


class TestCss:
    def test_budgets_by_hand(self) -> None:
        # AUM from 0 to 4 in four strata: 3 samples, 1, none and 10. Of 8 the empty one gives none, then 1 of 8 // 3,
        # 3 of 7 // 2, and the last one the other 4.
        aum = [0.0, 0.5, 0.9, 1.5, *[3.2] * 9, 4.0]
        for draws in range(20):
            chosen = choose("css", 8, with_history(margin=torch.tensor([aum]), draws=draws), cutoff=0, strata=4)
            assert Counter(min(3, int(aum[i])) for i in chosen) == {0: 3, 1: 1, 3: 4}

    def test_margins_of_all_epochs_are_added_up(self) -> None:
        margin = torch.tensor([[1.0, -1.0, 0.0, 0.2], [-1.0, 0.9, 0.0, 0.2], [0.5, 0.0, 0.0, 0.2]])
        for draws in range(20):  # AUM 0.5, -0.1, 0, 0.6
            chosen = choose("css", 2, with_history(margin=margin, draws=draws), cutoff=0.5)
            assert set(chosen) == {0, 3}

    @pytest.mark.parametrize("k", [1, 10, 59, 80, 100])
    @pytest.mark.parametrize("strata", [1, 3, 50])
    @pytest.mark.parametrize("cutoff", [0.0, 0.2])
    def test_each_stratum_gives_what_the_slow_budgets_say(self, k: int, strata: int, cutoff: float) -> None:
        margin = torch.randn(5, 100, generator=torch.Generator().manual_seed(1)) ** 3
        aum = margin.double().sum(0).tolist()
        hardest_first = sorted(range(100), key=lambda i: aum[i])
        kept = [aum[i] for i in hardest_first[min(round(100 * cutoff), 100 - k) :]]
        low, width = min(kept), (max(kept) - min(kept)) / strata
        for draws in range(5):
            chosen = choose("css", k, with_history(margin=margin, draws=draws), cutoff=cutoff, strata=strata)
            sizes, counts = [0] * strata, [0] * strata
            for value in kept:
                sizes[min(strata - 1, int((value - low) / width))] += 1
            for i in chosen:
                counts[min(strata - 1, int((aum[i] - low) / width))] += 1
            assert sorted(zip(sizes, counts, strict=True)) == css_budgets(kept, k, strata)

    def test_the_hardest_share_is_never_chosen(self) -> None:
        aum = torch.linspace(-1, 1, 50)[torch.randperm(50, generator=torch.Generator().manual_seed(3))]
        hardest, chosen = set(aum.argsort()[:10].tolist()), set()
        for draws in range(200):
            chosen |= set(choose("css", 12, with_history(margin=aum[None], draws=draws), cutoff=0.2))
        assert not chosen & hardest
        assert chosen == set(range(50)) - hardest

    def test_fewer_are_cut_off_if_k_would_not_be_left(self) -> None:
        aum = torch.linspace(-1, 1, 10)[None]
        assert set(choose("css", 8, with_history(margin=aum), cutoff=0.5)) == set(range(2, 10))

    def test_all_of_equal_margin_are_drawn_alike(self) -> None:
        counts = torch.zeros(10)
        for draws in range(2000):
            counts[choose("css", 3, with_history(margin=torch.full((2, 10), 0.3), draws=draws))] += 1
        assert ((counts - 600) ** 2 / 600).sum() < 27.9  # 99.9th percentile at 9 degrees of freedom

    def test_within_a_stratum_all_are_drawn_alike(self) -> None:
        counts = torch.zeros(20)
        aum = torch.cat([torch.linspace(-1.0, -0.8, 10), torch.linspace(0.8, 1.0, 10)])
        for draws in range(2000):
            chosen = choose("css", 6, with_history(margin=aum[None], draws=draws), cutoff=0, strata=2)
            counts[chosen] += 1
        assert counts[:10].sum() == counts[10:].sum() == 6000
        assert ((counts - 600) ** 2 / 600).sum() < 43.8  # 99.9th percentile at 19 degrees of freedom

    def test_the_first_pick_may_be_of_any_stratum(self) -> None:
        aum = torch.linspace(-1, 1, 10)[None]
        firsts = Counter(
            choose("css", 4, with_history(margin=aum, draws=d), cutoff=0, strata=2)[0] // 5 for d in range(200)
        )
        assert min(firsts[0], firsts[1]) > 70

    def test_a_largest_margin_below_zero_counts(self) -> None:
        aum = -torch.linspace(1, 2, 10)[None]
        assert set(choose("css", 10, with_history(margin=aum), cutoff=0)) == set(range(10))
        for draws in range(10):  # each of ten strata holds one of ten samples
            assert 0 in choose("css", 10, with_history(margin=aum, draws=draws), cutoff=0, strata=10)


def moderate_reference(features: Tensor, labels: Tensor, k: int) -> list[int]:
    """From the definition; distances must differ."""
    rows, classes = features.double().tolist(), labels.tolist()
    distances = []
    for row, label in zip(rows, classes, strict=True):
        members = [other for other, its in zip(rows, classes, strict=True) if its == label]
        prototype = [float(np.median([member[d] for member in members])) for d in range(len(row))]
        distances.append(math.dist(row, prototype))
    assert len(set(distances)) == len(distances)
    ranked = sorted(range(len(rows)), key=lambda i: distances[i])
    middle = ranked[(len(rows) - k) // 2 :][:k]
    return sorted(middle, key=lambda i: (abs(ranked.index(i) - (len(rows) - 1) / 2), ranked.index(i)))


class TestModerate:
    @pytest.mark.parametrize(("count", "classes"), [(41, 3), (40, 3), (30, 1), (25, 4)])
    @pytest.mark.parametrize("k", [1, 2, 12, 13, 25])
    def test_it_is_the_middle_of_the_slow_ranking(self, count: int, classes: int, k: int) -> None:
        # Odd classes hold their median in each feature, but no sample is the median in all of them.
        opinions = opinions_of(count, classes=classes)
        assert opinions.features is not None
        assert opinions.labels is not None
        assert choose("moderate", k, opinions) == moderate_reference(opinions.features, opinions.labels, k)

    def test_by_hand(self) -> None:
        # Median 2, distances 2, 1, 0, 2.5, 9: nearest first 2, 1, 0, 3, 4.
        opinions = dataclasses.replace(
            opinions_of(5), features=torch.tensor([[0.0], [1], [2], [4.5], [11]]), labels=torch.zeros(5).long()
        )
        assert choose("moderate", 1, opinions) == [0]
        assert choose("moderate", 3, opinions) == [0, 1, 3]
        assert choose("moderate", 4, opinions) == [0, 1, 3, 2]

    def test_the_prototype_is_a_median_and_of_the_own_class(self) -> None:
        # An outlier would pull a mean away: by medians 0 and 50 the distances are 1, 0, 1000 and 3, 0, 4.
        features = torch.tensor([[-1.0], [0], [1000], [47], [50], [54]])
        opinions = dataclasses.replace(
            opinions_of(6), features=features, labels=torch.tensor([0, 0, 0, 1, 1, 1]), generator=torch.Generator()
        )
        assert choose("moderate", 2, opinions) == [0, 3]

    def test_classes_are_ranked_together(self) -> None:
        # Class 0 is narrow, class 1 wide: the middle holds the far end of one and the near end of the other.
        narrow, wide = torch.tensor([0.0, 1, 2.1, 3.3, 4.6]), torch.tensor([0.0, 10, 21, 33, 46])
        opinions = dataclasses.replace(
            opinions_of(10), features=torch.cat([narrow, wide])[:, None], labels=torch.tensor([0] * 5 + [1] * 5)
        )
        # Distances: 2.1 1.1 0 1.2 2.5 and 21 11 0 12 25; ranked 0 0 1.1 1.2 2.1 2.5 11 12 21 25.
        assert choose("moderate", 4, opinions) == [0, 4, 3, 6]

    def test_fewer_picks_are_the_first_of_more(self) -> None:
        longest = choose("moderate", 40, opinions_of())
        for k in range(40):
            assert choose("moderate", k, opinions_of()) == longest[:k]

    def test_equal_distances_are_ranked_by_lot(self) -> None:
        features = torch.tensor([[-1.0], [-2], [0], [2], [1], [0]])
        seen = Counter()
        for draws in range(100):
            opinions = dataclasses.replace(opinions_of(6, draws=draws), features=features, labels=torch.zeros(6).long())
            chosen = choose("moderate", 2, opinions)
            assert set(chosen) == {0, 4}  # distances 0, 0, 1, 1, 2, 2
            seen[chosen[0]] += 1
        assert min(seen[0], seen[4]) > 25

    def test_large_features_do_not_overflow(self) -> None:
        opinions = opinions_of()
        assert opinions.features is not None
        large = dataclasses.replace(opinions, features=opinions.features * 2.0**120, generator=torch.Generator())
        assert choose("moderate", 10, large) == choose("moderate", 10, opinions_of())


def typiclust_reference(points: Tensor, assigned: list[int], candidates: int, k: int) -> list[int]:
    """One pick after the other; no two samples may be equally typical."""
    rows = points.double().tolist()
    members = {c: [i for i, its in enumerate(assigned) if its == c] for c in set(assigned)}

    def mean_distance(i: int) -> float:
        distances = sorted(math.dist(rows[i], rows[j]) for j in members[assigned[i]] if j != i)[:20]
        return sum(distances) / len(distances) if distances else 0.0

    picked: list[int] = []
    for _ in range(k):
        free = {c: [i for i in of if i < candidates and i not in picked] for c, of in members.items()}
        covered = {c: len(members[c]) - len(free[c]) for c in members}
        cluster = min(
            (c for c in members if free[c]), key=lambda c: (len(members[c]) <= 5, covered[c], -len(members[c]), c)
        )
        picked.append(min(free[cluster], key=mean_distance))
    return picked


def blobs(sizes: Sequence[int], *, seed: int = 0) -> Tensor:
    """Far from one another, around (0, 0), (100, 0), (200, 0), ...; the first of each is its center."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for number, size in enumerate(sizes):
        part = torch.randn(size, 2, generator=generator)
        part[0] = 0
        parts.append(part + torch.tensor([100.0 * number, 0]))
    return torch.cat(parts)


class TestTypiclust:
    def opinions(self, features: Tensor, labeled: Tensor | None = None, draws: int = 0) -> Opinions:
        return Opinions(
            torch.arange(FIRST, FIRST + len(features)),
            torch.Generator().manual_seed(draws),
            features=features,
            labeled_features=labeled,
        )

    def test_the_most_typical_of_each_cluster_largest_cluster_first(self) -> None:
        # The others of a cluster lie on a circle around its first. With up to 20 others all of them are neighbours, so
        # the first is at a mean distance of 1 and those on the circle at 4 / pi.
        circles, sizes, starts = [], [15, 19, 12, 21], [0, 15, 34, 46]
        for number, size in enumerate(sizes):
            angle = torch.arange(size - 1) * 2 * math.pi / (size - 1)
            circle = torch.cat([torch.zeros(1, 2), torch.stack([angle.sin(), angle.cos()], 1)])
            circles.append(circle + 100.0 * number)
        chosen = choose("typiclust", 4, self.opinions(torch.cat(circles)))
        assert chosen == [starts[3], starts[1], starts[0], starts[2]]

    def test_labeled_clusters_come_later(self) -> None:
        features = blobs([30, 20, 10])
        labeled = torch.tensor([[0.1, 0.1], [0.2, -0.1]])
        for draws in range(5):
            chosen = choose("typiclust", 1, self.opinions(features, labeled, draws))
            assert 30 <= chosen[0] < 50

    @pytest.mark.parametrize("seed", range(6))
    @pytest.mark.parametrize("labeled", [0, 9])
    def test_it_is_the_slow_choice(self, seed: int, labeled: int, monkeypatch: pytest.MonkeyPatch) -> None:
        generator = torch.Generator().manual_seed(seed)
        candidates = 120
        points = torch.randn(candidates + labeled, 3, generator=generator)
        # Unequal clusters, one of more than 21, some of 5 and fewer, some empty.
        assigned = (torch.rand(len(points), generator=generator) ** 3 * 17).long()
        assigned[assigned.bincount()[assigned] == 2] = 0  # two samples are equally typical of one another
        monkeypatch.setattr(clusters, "_cluster", lambda *_: assigned.numpy())
        sizes = assigned.bincount()
        assert (sizes > 25).any()
        assert ((sizes > 0) & (sizes <= 5)).any()
        for k in (17, 30, 100, candidates):
            chosen = choose("typiclust", k, self.opinions(points[:candidates], points[candidates:]))
            assert chosen == typiclust_reference(points, assigned.tolist(), candidates, k)

    def test_blocks_do_not_change_the_choice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        features = opinions_of(200).features
        assert features is not None
        expected = choose("typiclust", 20, self.opinions(features), max_clusters=3)
        for at_once in (1, 333, 1000):
            monkeypatch.setattr(clusters, "_DISTANCES_AT_ONCE", at_once)
            assert choose("typiclust", 20, self.opinions(features), max_clusters=3) == expected

    @pytest.mark.parametrize(("k", "labeled", "expected"), [(7, 0, 7), (7, 4, 11), (60, 4, 60), (3, 100, 60)])
    def test_as_many_clusters_as_labels_there_will_be(
        self, k: int, labeled: int, expected: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        counts = []
        cluster = clusters._cluster
        monkeypatch.setattr(clusters, "_cluster", lambda *given: counts.append(given[1]) or cluster(*given))
        points = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
        choose("typiclust", k, self.opinions(points[:100], points[100 : 100 + labeled]), max_clusters=60)
        assert counts == [expected]

    def test_small_clusters_follow_when_the_others_are_used_up(self) -> None:
        opinions = self.opinions(blobs([3, 6, 5, 8]))
        chosen = choose("typiclust", 22, opinions, max_clusters=4)
        first, last = chosen[:14], chosen[14:]
        assert set(first) == set(range(3, 9)) | set(range(14, 22))
        assert set(last) == set(range(3)) | set(range(9, 14))

    def test_clusters_take_turns_when_there_are_fewer_than_picks(self) -> None:
        chosen = choose("typiclust", 12, self.opinions(blobs([20, 30, 40])), max_clusters=3)
        assert [0 if i < 20 else 1 if i < 50 else 2 for i in chosen] == [2, 1, 0] * 4

    def test_more_clusters_than_distinct_samples(self, recwarn: pytest.WarningsRecorder) -> None:
        features = torch.tensor([[0.0, 0.0], [1.0, 1.0]]).repeat(10, 1)
        for k in (12, 20):
            assert len(set(choose("typiclust", k, self.opinions(features)))) == k
        assert not recwarn.list

    @pytest.mark.parametrize("count", [20, 80])  # all samples at once, and mini-batches
    def test_clusters_follow_the_generator(self, count: int) -> None:
        features = opinions_of(300).features
        assert features is not None
        first = choose("typiclust", count, self.opinions(features))
        assert choose("typiclust", count, self.opinions(features)) == first
        assert any(choose("typiclust", count, self.opinions(features, draws=d)) != first for d in (1, 2, 3))

    def test_distances_far_from_zero_keep_their_digits(self) -> None:
        near = torch.randn(60, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        assigned = torch.arange(60) % 2
        expected = [
            sum(sorted(math.dist(near[i], near[j]) for j in range(60) if i != j and i % 2 == j % 2)[:20]) / 20
            for i in range(60)
        ]
        for offset in (0.0, 2.0**23):
            distances = clusters._mean_distances_to_neighbours(near + offset, assigned)
            assert distances.tolist() == pytest.approx(expected, rel=1e-7)

    def test_a_labeled_feature_that_is_not_a_number_is_refused(self) -> None:
        labeled = torch.tensor([[0.0, math.nan]])
        with pytest.raises(CellFailed, match="labeled features: expected finite values"):
            choose("typiclust", 1, self.opinions(blobs([5]), labeled))
