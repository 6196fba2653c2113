"""GradMatch and GLISTER against references that form every gradient, and by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import nnls
from torch import Tensor

from prunefuse_bench.acquisition import ACQUISITIONS, Opinions, gradients

Floats = npt.NDArray[np.float64]


def opinions_of(logits: Tensor, features: Tensor, labels: Tensor, draws: int = 0) -> Opinions:
    return Opinions(
        indices=torch.arange(len(labels)),
        generator=torch.Generator().manual_seed(draws),
        logits=logits,
        features=features,
        labels=labels,
    )


def random_opinions(count: int = 60, *, classes: int = 4, dimension: int = 3, seed: int = 0) -> Opinions:
    """As of a network that is right more often than not, features not negative as behind a ReLU."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    logits = torch.randn(count, classes, generator=generator) + F.one_hot(labels, classes)
    return opinions_of(logits, torch.randn(count, dimension, generator=generator).relu() + 0.1, labels)


def choose(name: str, k: int, opinions: Opinions, **options: object) -> list[int]:
    return ACQUISITIONS[name].choose(k, opinions, options).indices.tolist()


def gradients_of(opinions: Opinions) -> Floats:
    """float64 [N, C D], by autograd: of the loss of each sample by the weight of a linear layer."""
    assert opinions.logits is not None
    assert opinions.features is not None
    assert opinions.labels is not None
    rows = []
    for logits, features, label in zip(opinions.logits, opinions.features, opinions.labels, strict=True):
        weight = torch.zeros(len(logits), len(features), dtype=torch.float64, requires_grad=True)
        loss = F.cross_entropy((logits.double() + weight @ features.double())[None], label[None])
        rows.append(torch.autograd.grad(loss, weight)[0].flatten().numpy())
    return np.array(rows)


def match_reference(g: Floats, share: int, regularisation: float) -> list[int]:
    """Orthogonal matching pursuit of the sum of g with weights >= 0, solved anew by least squares every time."""
    target = g.sum(0)
    support: list[int] = []
    weights = np.zeros(0)
    while len(support) < share:
        left = target - weights @ g[support]
        best = max((i for i in range(len(g)) if i not in support), key=lambda i: g[i] @ left, default=None)
        if best is None or g[best] @ left <= 1e-9 * np.linalg.norm(target) * np.linalg.norm(g[best]):
            break
        support, weights = add_reference(g, [*support, best], np.append(weights, 0.0), regularisation)
    return support


def add_reference(g: Floats, support: list[int], weights: Floats, regularisation: float) -> tuple[list[int], Floats]:
    """From these weights towards those of least error, without the samples whose weights become zero on the way."""
    while True:
        solution = ridge(g[support], g.sum(0), regularisation)
        if (solution > 0).all():
            return support, solution
        falling = solution <= 0
        stop = (weights[falling] / (weights[falling] - solution[falling])).min()
        weights = weights + stop * (solution - weights)
        gone = int(np.where(falling, weights, np.inf).argmin())
        support, weights = support[:gone] + support[gone + 1 :], np.delete(weights, gone)


def ridge(g: Floats, target: Floats, regularisation: float) -> Floats:
    stacked = np.vstack([g.T, np.sqrt(regularisation) * np.eye(len(g))])
    solution: Floats = np.linalg.lstsq(stacked, np.concatenate([target, np.zeros(len(g))]), rcond=None)[0]
    return solution


def nonnegative_ridge(g: Floats, target: Floats, regularisation: float) -> Floats:
    """The same weights by another hand."""
    stacked = np.vstack([g.T, np.sqrt(regularisation) * np.eye(len(g))])
    solution: Floats = nnls(stacked, np.concatenate([target, np.zeros(len(g))]))[0]
    return solution


def of_class(opinions: Opinions, label: int) -> list[int]:
    assert opinions.labels is not None
    return (opinions.labels == label).nonzero()[:, 0].tolist()


class TestGradMatch:
    @pytest.mark.parametrize("seed", range(8))
    @pytest.mark.parametrize("regularisation", [0.0, 0.01, 0.5, 30.0])
    @pytest.mark.parametrize("k", [1, 7, 30, 60])
    def test_it_is_the_slow_pursuit_in_each_class(self, seed: int, regularisation: float, k: int) -> None:
        opinions = random_opinions(seed=seed)
        g = gradients_of(opinions)
        chosen = choose("gradmatch", k, opinions, regularisation=regularisation)
        shares = gradients._shares([len(of_class(opinions, c)) for c in range(4)], k)
        for label, share in enumerate(shares):
            members = of_class(opinions, label)
            expected = [members[i] for i in match_reference(g[members], share, regularisation)]
            picks = [i for i in chosen if i in members]
            assert len(picks) == share
            assert picks[: len(expected)] == expected

    @pytest.mark.parametrize("regularisation", [0.0, 0.5])
    def test_samples_are_taken_out_again_in_these_tests(self, regularisation: float) -> None:
        """Or else the comparisons with the slow pursuit would not reach that branch."""
        removed = 0
        for seed in range(8):
            g = gradients_of(random_opinions(classes=1 + 3, seed=seed))
            order = match_reference(g, 20, regularisation)
            naive: list[int] = []
            while len(naive) < len(order):
                left = g.sum(0) - ridge(g[naive], g.sum(0), regularisation) @ g[naive] if naive else g.sum(0)
                naive.append(max((i for i in range(len(g)) if i not in naive), key=lambda i: g[i] @ left))
            removed += naive != order
        assert removed

    @pytest.mark.parametrize("regularisation", [0.0, 0.1, 0.5])
    def test_with_room_for_all_it_ends_at_the_least_error(self, regularisation: float) -> None:
        for seed in range(5):
            opinions = random_opinions(count=80, classes=3, dimension=8, seed=seed)
            errors = gradients._errors(*(part for part in gradients._checked(opinions)[::2]))
            features = gradients._checked(opinions)[1]
            g = gradients_of(opinions)
            matched = gradients._match(errors, features, 80, regularisation).tolist()
            best = nonnegative_ridge(g, g.sum(0), regularisation)
            weights = nonnegative_ridge(g[matched], g.sum(0), regularisation)

            def error(subset: Floats, w: Floats, g: Floats = g) -> float:
                return float(np.square(w @ subset - g.sum(0)).sum() + regularisation * np.square(w).sum())

            assert error(g[matched], weights) == pytest.approx(error(g, best), abs=1e-8)
            if regularisation:  # else the weights are not unique
                assert sorted(matched) == np.nonzero(best > 1e-9)[0].tolist()

    def test_several_samples_may_have_to_go_for_one(self) -> None:
        removed = Counter()
        for seed in (0, 1, 2, 109, 158, 278):  # the last ones go wrong if the way to the best weights is left out
            generator = torch.Generator().manual_seed(seed)
            features = (torch.randn(100, 40, generator=generator) + 0.3).double()
            errors = torch.tensor([[-0.5, 0.5]], dtype=torch.float64).expand(100, 2)
            g = (errors[:, :, None] * features[:, None, :]).flatten(1).numpy()
            match = gradients._Match(errors, features, torch.from_numpy(np.square(g).sum(1)), 100, 0.05)
            support: list[int] = []
            weights = np.zeros(0)
            for row in range(100):  # not in the order of a pursuit, where this is rare
                along = g[row] @ (g.sum(0) - weights @ g[support])
                if along <= 1e-6:
                    continue
                before = len(support)
                support, weights = add_reference(g, [*support, row], np.append(weights, 0.0), 0.05)
                removed[before + 1 - len(support)] += 1
                assert match.add(row, torch.tensor(along))
                assert match.rows_in_order.tolist() == support
                by_row = dict(zip(match.rows.tolist(), match._weights.tolist(), strict=True))
                assert [by_row[row] for row in support] == pytest.approx(weights.tolist(), rel=1e-8)
        assert removed[2] + removed[3] > 20

    def test_a_combination_of_what_is_matched_is_refused_without_a_penalty(self) -> None:
        errors = torch.tensor([[-0.5, 0.5]], dtype=torch.float64).expand(3, 2)
        features = torch.tensor([[1.0, 2.0], [1e5, 2e5], [0.0, 1e-3]], dtype=torch.float64)
        squared_norms = errors.square().sum(1) * features.square().sum(1)
        along = torch.tensor(1.0, dtype=torch.float64)
        for regularisation, fits in ((0.0, False), (1.0, True)):
            match = gradients._Match(errors, features, squared_norms, 3, regularisation)
            assert match.add(0, along)
            assert match.add(1, along) == fits
            assert match.rows_in_order.tolist() == ([0, 1] if fits else [0])
            assert match.add(2, along)

    def test_weights_stay_right_over_hundreds_of_updates(self) -> None:
        opinions = random_opinions(count=600, classes=6, dimension=40)
        logits, features, labels = gradients._checked(opinions)
        errors = gradients._errors(logits, labels)
        squared_norms = errors.square().sum(1) * features.square().sum(1)
        for regularisation in (1e-6, 0.5):
            match = gradients._Match(errors, features, squared_norms, 600, regularisation)
            target = errors.T @ features
            for row in range(200):
                along = float(gradients._products(errors, target - match.matrix(), features)[row])
                if along > 0:
                    assert match.add(row, torch.tensor(along, dtype=torch.float64))
            assert 50 < match.size < 200
            g = (errors[:, :, None] * features[:, None, :]).flatten(1).numpy()
            expected = ridge(g[match.rows.numpy()], g.sum(0), regularisation)
            assert match._weights.numpy() == pytest.approx(expected, rel=1e-6)

    def test_by_hand_what_is_matched_already_does_not_count_again(self) -> None:
        # Two classes and even predictions: the gradients are parallel to the features (3, 0), (2.9, 0), (0, 1). Their
        # sum is (5.9, 1); the first goes furthest along it and leaves (0, 1), to which the second adds nothing.
        features = torch.tensor([[3.0, 0.0], [2.9, 0.0], [0.0, 1.0]])
        opinions = opinions_of(torch.zeros(3, 2), features, torch.zeros(3, dtype=torch.int64))
        assert choose("gradmatch", 2, opinions, regularisation=0.0) == [0, 2]
        # A weight that costs so much matches next to nothing, so the longest along the whole sum are taken.
        assert choose("gradmatch", 2, opinions, regularisation=1e6) == [0, 1]

    def test_by_hand_a_sample_whose_weight_becomes_zero_is_taken_out(self) -> None:
        # The sum is (3, 3), reached by (1, 0) and (0, 1) without (2, 2.1)... which is picked first.
        features = torch.tensor([[2.0, 2.1], [3.0, 0.0], [0.0, 3.0], [-2.0, -2.1]])
        opinions = opinions_of(torch.zeros(4, 2), features, torch.zeros(4, dtype=torch.int64))
        expected = match_reference(gradients_of(opinions), 4, 0.0)
        assert choose("gradmatch", len(expected), opinions, regularisation=0.0) == expected
        assert 3 not in expected

    def test_classes_share_in_proportion_by_largest_remainders(self) -> None:
        assert gradients._shares([5, 3, 2], 5) == [3, 1, 1]  # 2.5, 1.5 and 1
        assert gradients._shares([1, 0, 98, 1], 3) == [0, 0, 3, 0]  # 0.03, 0, 2.94 and 0.03
        assert gradients._shares([2, 2, 2], 4) == [2, 1, 1]
        assert gradients._shares([7, 0, 4], 11) == [7, 0, 4]
        assert gradients._shares([], 0) == []

    def test_shares_sum_to_k_and_fit_their_classes(self) -> None:
        generator = torch.Generator().manual_seed(0)
        for _ in range(200):
            sizes = torch.randint(0, 9, (6,), generator=generator).tolist()
            k = int(torch.randint(sum(sizes) + 1, (), generator=generator))
            shares = gradients._shares(sizes, k)
            assert sum(shares) == k
            for share, size in zip(shares, sizes, strict=True):
                assert abs(share - k * size / max(1, sum(sizes))) < 1
                assert 0 <= share <= size

    def test_classes_take_turns(self) -> None:
        opinions = random_opinions(count=40)
        assert opinions.labels is not None
        chosen = opinions.labels[choose("gradmatch", 20, opinions)]
        counts = chosen.bincount(minlength=4)
        expected = [c for turn in range(20) for c in range(4) if turn < counts[c]]
        assert chosen.tolist() == expected

    def test_what_is_missing_is_drawn_by_lot_from_the_class(self) -> None:
        # All gradients of a class are parallel: without a penalty the first pick matches their sum.
        features = torch.cat([torch.linspace(1, 2, 10), torch.linspace(3, 4, 10)])[:, None]
        labels = torch.tensor([0] * 10 + [1] * 10)
        seconds = Counter()
        for draws in range(100):
            opinions = opinions_of(torch.zeros(20, 2), features, labels, draws)
            chosen = choose("gradmatch", 6, opinions, regularisation=0.0)
            assert chosen[:2] == [9, 19]
            assert sum(i < 10 for i in chosen) == 3
            seconds[chosen[2]] += 1
        assert len(seconds) == 9

    def test_equal_samples_without_a_penalty(self) -> None:
        opinions = opinions_of(torch.zeros(30, 3), torch.ones(30, 4), torch.arange(30) % 3)
        assert len(set(choose("gradmatch", 21, opinions, regularisation=0.0))) == 21

    def test_nothing_to_match_is_a_draw(self) -> None:
        sure = opinions_of(torch.tensor([[500.0, 0.0]] * 8), torch.ones(8, 2), torch.zeros(8, dtype=torch.int64))
        assert len(set(choose("gradmatch", 5, sure))) == 5
        zero = opinions_of(torch.zeros(8, 2), torch.zeros(8, 2), torch.zeros(8, dtype=torch.int64))
        assert len(set(choose("gradmatch", 5, zero))) == 5

    @pytest.mark.parametrize("seed", range(3))
    def test_the_sum_of_the_whole_class_is_matched_better_than_by_chance(self, seed: int) -> None:
        opinions = random_opinions(count=200, classes=2, dimension=6, seed=seed)
        g = gradients_of(opinions)

        def distance(chosen: list[int]) -> float:
            total = 0.0
            for label in range(2):
                members = of_class(opinions, label)
                own = [i for i in chosen if i in members]
                weights = nonnegative_ridge(g[own], g[members].sum(0), 0.0)
                total += float(np.linalg.norm(weights @ g[own] - g[members].sum(0)))
            return total

        matched = distance(choose("gradmatch", 8, opinions, regularisation=0.0))
        by_chance = []
        generator = torch.Generator().manual_seed(0)
        for _ in range(40):
            lot = torch.randperm(200, generator=generator).tolist()
            drawn = [i for label in range(2) for i in [j for j in lot if j in of_class(opinions, label)][:4]]
            by_chance.append(distance(drawn))
        assert matched < np.quantile(by_chance, 0.1)  # greedily, so a lucky draw may still do better


def glister_reference(opinions: Opinions, k: int, eta: float, rounds: int) -> list[int]:
    """With every gradient and the loss of the pool after the step by autograd."""
    assert opinions.logits is not None
    assert opinions.features is not None
    assert opinions.labels is not None
    g = gradients_of(opinions)
    logits, features = opinions.logits.double(), opinions.features.double()
    chosen: list[int] = []
    for part in range(rounds):
        count = k * (part + 1) // rounds - k * part // rounds
        step = torch.tensor(-eta * g[chosen].sum(0)).reshape(logits.shape[1], features.shape[1]).requires_grad_()
        loss = F.cross_entropy(logits + features @ step.T, opinions.labels)
        along = torch.autograd.grad(loss, step)[0].flatten().numpy()
        free = [i for i in range(len(g)) if i not in chosen]
        chosen += sorted(free, key=lambda i: -float(g[i] @ along))[:count]
    return chosen


class TestGlister:
    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("eta", [0.01, 1.0])
    @pytest.mark.parametrize(("k", "rounds"), [(12, 1), (12, 4), (13, 5), (9, 9), (5, 20), (60, 7)])
    def test_it_is_the_slow_choice(self, seed: int, eta: float, k: int, rounds: int) -> None:
        opinions = random_opinions(seed=seed)
        assert choose("glister", k, opinions, eta=eta, rounds=rounds) == glister_reference(opinions, k, eta, rounds)

    def test_the_first_picks_lower_the_loss_of_the_pool_most(self) -> None:
        opinions = random_opinions(count=40)
        assert opinions.logits is not None
        assert opinions.features is not None
        assert opinions.labels is not None
        g, eta, chosen = gradients_of(opinions), 1e-5, []
        for _ in range(6):
            losses = {}
            for i in set(range(40)) - set(chosen):
                step = torch.tensor(-eta * g[[*chosen, i]].sum(0)).reshape(4, 3)
                losses[i] = float(
                    F.cross_entropy(opinions.logits.double() + opinions.features.double() @ step.T, opinions.labels)
                )
            chosen.append(min(losses, key=lambda i: losses[i]))
        assert choose("glister", 6, opinions, eta=eta, rounds=6) == chosen

    def test_by_hand_the_gain_is_taken_anew_after_a_step(self) -> None:
        # Even predictions, features 1, 1, 3, 2 of classes 0, 0, 1, 1. The pool's gradient is that of class 1, so its
        # samples gain, the longer the more. A step with the first of them turns all predictions to class 1.
        opinions = opinions_of(torch.zeros(4, 2), torch.tensor([[1.0], [1], [3], [2]]), torch.tensor([0, 0, 1, 1]))
        assert choose("glister", 2, opinions, eta=1.0, rounds=1) == [2, 3]
        second = choose("glister", 2, opinions, eta=1.0, rounds=2)
        assert second[0] == 2
        assert second[1] in {0, 1}

    def test_equal_gains_are_drawn_by_lot(self) -> None:
        seen = Counter()
        for draws in range(60):
            opinions = opinions_of(torch.zeros(6, 2), torch.ones(6, 2), torch.zeros(6, dtype=torch.int64), draws)
            seen[choose("glister", 1, opinions)[0]] += 1
        assert len(seen) == 6

    def test_a_step_of_any_length_keeps_the_choice_whole(self) -> None:
        assert sorted(choose("glister", 60, random_opinions(), eta=1e6, rounds=60)) == list(range(60))
