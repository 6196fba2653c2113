from __future__ import annotations

import itertools
import math

import pytest
import torch
from test_memory import peak_megabytes
from torch import Tensor

from prunefuse_bench import ops
from prunefuse_bench.acquisition import ACQUISITIONS, Opinions, StoredMembers, batchbald
from prunefuse_bench.acquisition.batchbald import Configurations, greedy_choice, joint_entropy
from prunefuse_bench.errors import BadInput, CellFailed


def random_logits(members: int, samples: int, classes: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    """float32 [K, N, C]; members agree on some samples more than on others."""
    draw = torch.Generator().manual_seed(seed)
    common = torch.randn(1, samples, classes, generator=draw)
    spread = torch.rand(1, samples, 1, generator=draw)
    return scale * (common + spread * torch.randn(members, samples, classes, generator=draw))


def log_probabilities(logits: Tensor) -> Tensor:
    """float64 [N, K, C]."""
    return StoredMembers(logits).log_probabilities()


def choose(k: int, logits: Tensor, seed: int = 0, **options: object) -> list[int]:
    """Through the harness, which checks that they are k different positions."""
    samples = logits.shape[1]
    opinions = Opinions(
        torch.arange(100, 100 + samples), torch.Generator().manual_seed(seed), members=StoredMembers(logits)
    )
    entry = ACQUISITIONS["batchbald"]
    return (entry.choose(k, opinions, entry.check_options(options)).indices - 100).tolist()


def greedy(k: int, logits: Tensor, seed: int = 0, max_configurations: int = 40_000) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return greedy_choice(k, log_probabilities(logits), max_configurations=max_configurations, generator=generator)


def nats(probability: float) -> float:
    return -probability * math.log(probability) if probability > 0 else 0.0


def brute_force_joint_entropy(p: Tensor) -> float:
    """Of n samples, float64 [n, K, C]: the probability of every combination of labels is multiplied out."""
    samples, members, classes = p.shape
    values = p.tolist()
    total = 0.0
    for labels in itertools.product(range(classes), repeat=samples):
        of_members = [math.prod(values[i][k][y] for i, y in enumerate(labels)) for k in range(members)]
        total += nats(sum(of_members) / members)
    return total


def brute_force_information(p: Tensor) -> float:
    """I(y_1, ..., y_n; w) = H(y_1, ..., y_n) - sum_i mean_k H[p_k(.|x_i)]."""
    conditional = sum(nats(value) for value in p.flatten().tolist()) / p.shape[1]
    return brute_force_joint_entropy(p) - conditional


def brute_force_greedy(k: int, p: Tensor) -> list[int]:
    """Everything anew for every candidate, float64 [N, K, C]."""
    chosen: list[int] = []
    while len(chosen) < k:
        information = {x: brute_force_information(p[[*chosen, x]]) for x in range(len(p)) if x not in chosen}
        chosen.append(max(information, key=lambda x: information[x]))
    return chosen


def exactly(log_p: Tensor) -> Configurations:
    """All combinations of labels of n samples, float64 [n, K, C]."""
    configurations = Configurations.without_labels(log_p.shape[1])
    for sample in log_p:
        configurations = configurations.extended(sample)
    return configurations


@pytest.mark.parametrize(("samples", "members", "classes"), [(0, 2, 2), (1, 4, 3), (2, 1, 5), (4, 3, 4), (7, 5, 2)])
@pytest.mark.parametrize("scale", [0.1, 2.0, 30.0])
def test_joint_entropy_is_that_of_all_combinations_of_labels(
    samples: int, members: int, classes: int, scale: float
) -> None:
    log_p = log_probabilities(random_logits(members, samples, classes, scale=scale))
    assert joint_entropy(log_p) == pytest.approx(brute_force_joint_entropy(log_p.exp()), abs=1e-10)


def test_joint_entropy_of_labels_that_cannot_occur() -> None:
    logits = random_logits(3, 3, 4)
    logits[0, :, 1] = -math.inf
    logits[:, 2, 1:] = -math.inf
    log_p = log_probabilities(logits)
    assert joint_entropy(log_p) == pytest.approx(brute_force_joint_entropy(log_p.exp()), abs=1e-10)


def test_gains_are_differences_of_information() -> None:
    log_p = log_probabilities(random_logits(4, 9, 3))
    gains = exactly(log_p[:3]).gains(log_p)
    before = brute_force_information(log_p[:3].exp())
    expected = [brute_force_information(log_p[[0, 1, 2, x]].exp()) - before for x in range(9)]
    assert gains.tolist() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("seed", range(12))
def test_picks_are_those_of_brute_force(seed: int) -> None:
    members, samples, classes, k = [(5, 9, 3, 4), (3, 8, 4, 4), (8, 7, 2, 7), (4, 10, 5, 3)][seed % 4]
    logits = random_logits(members, samples, classes, seed=seed)
    assert greedy(k, logits) == brute_force_greedy(k, log_probabilities(logits).exp())


@pytest.mark.parametrize("seed", range(6))
def test_being_lazy_changes_nothing(seed: int) -> None:
    logits = random_logits(6, 400, 2, seed=seed)
    log_p = log_probabilities(logits)
    chosen: list[int] = []
    for _ in range(12):
        gains = exactly(log_p[chosen]).gains(log_p)
        gains[chosen] = -math.inf
        chosen.append(int(gains.argmax()))
    assert greedy(12, logits) == chosen


@pytest.mark.parametrize("seed", range(5))
def test_the_first_pick_is_that_of_bald(seed: int) -> None:
    logits = random_logits(10, 500, 6, seed=seed)
    bald = ops.score_committee(logits, "bald")
    assert choose(1, logits) == [int(bald.argmax())]
    assert choose(7, logits)[0] == int(bald.argmax())


def test_drawn_combinations_give_nearly_the_exact_gains() -> None:
    log_p = log_probabilities(random_logits(5, 40, 3))
    exact = exactly(log_p[:6]).gains(log_p)
    drawn = Configurations.draw(log_p[:6], 100_000, torch.Generator().manual_seed(0))
    assert len(drawn.weights) == 100_000
    errors = torch.tensor([drawn.standard_error(sample) for sample in log_p])
    assert float(errors.max()) < 2e-3
    assert ((drawn.gains(log_p) - exact).abs() < 4 * errors).all()
    assert ((drawn.undecided().gains(log_p) - exact).abs() < 4 * errors + 1e-3 * math.log(5)).all()
    assert drawn.entropies(log_p).tolist() == pytest.approx(exactly(log_p[:6]).entropies(log_p).tolist(), abs=1e-2)


def test_estimates_have_no_bias_and_know_their_error() -> None:
    log_p = log_probabilities(random_logits(4, 20, 3, seed=1))
    exact = exactly(log_p[:5]).gains(log_p)
    generator = torch.Generator().manual_seed(0)
    runs = [Configurations.draw(log_p[:5], 40, generator) for _ in range(2000)]
    gains = torch.stack([run.gains(log_p) for run in runs])
    error_of_mean = gains.std(dim=0) / len(runs) ** 0.5
    assert ((gains.mean(dim=0) - exact).abs() < 4 * error_of_mean).all()
    informative = int(exact.argmax())
    claimed = torch.tensor([run.standard_error(log_p[informative]) for run in runs]).mean().item()
    assert 0.5 * claimed < gains[:, informative].std().item() < 1.05 * claimed


def test_drawn_combinations_choose_a_batch_that_is_nearly_as_good() -> None:
    logits = random_logits(8, 100, 2, seed=3)
    p = log_probabilities(logits).exp()
    best = brute_force_information(p[greedy(9, logits)])
    drawn = brute_force_information(p[greedy(9, logits, max_configurations=160)])
    bald = brute_force_information(p[ops.score_committee(logits, "bald").topk(9).indices])
    assert drawn > 0.97 * best
    assert bald < drawn


def test_as_many_combinations_are_drawn_from_each_member() -> None:
    log_p = log_probabilities(random_logits(7, 3, 4))
    for count, expected in ((0, 7), (1, 7), (7, 7), (8, 14)):
        drawn = Configurations.draw(log_p, count, torch.Generator().manual_seed(0))
        assert len(drawn.weights) == expected
        assert float(drawn.weights.sum()) == pytest.approx(1)


def test_a_copy_is_not_chosen_before_something_useful() -> None:
    """Members 0 and 1 against 2 and 3, twice; another sample tells 0 and 2 from 1 and 3, but not as clearly."""
    clear, vague = 40.0, 1.0
    first = torch.tensor([[clear, 0], [clear, 0], [0, clear], [0, clear]])
    second = torch.tensor([[vague, 0], [0, vague], [vague, 0], [0, vague]])
    logits = torch.stack([first, first, second, torch.zeros(4, 2)], dim=1)
    assert set(ops.score_committee(logits, "bald").topk(2).indices.tolist()) == {0, 1}
    firsts = set()
    for seed in range(10):
        chosen = choose(2, logits, seed)
        assert set(chosen) in ({0, 2}, {1, 2})
        firsts.add(chosen[0])
    assert firsts == {0, 1}  # by lot


def test_what_adds_nothing_is_taken_by_bald() -> None:
    """One sample says which of two members is right; what comes after it is ordered by its own score."""
    certain = torch.linspace(0.2, 4, 30)
    halves = torch.stack([certain, -certain]).flatten().reshape(2, 30)
    logits = torch.stack([halves, torch.zeros(2, 30)], dim=2)
    logits = torch.cat([logits, torch.tensor([[[900.0, 0.0]], [[0.0, 900.0]]])], dim=1)
    assert greedy(31, logits) == [30]
    assert choose(31, logits) == [30, *range(29, -1, -1)]
    assert choose(31, logits, max_configurations=1) == [30, *range(29, -1, -1)]


def test_equal_gains_are_drawn_by_lot() -> None:
    logits = random_logits(4, 1, 3).repeat(1, 30, 1)
    chosen = [choose(3, logits, seed) for seed in range(30)]
    assert len({picks[0] for picks in chosen}) > 12
    assert len({picks[2] for picks in chosen}) > 12


@pytest.mark.parametrize(("members", "classes"), [(1, 4), (3, 1), (1, 1)])
def test_one_member_or_one_class_is_a_draw_by_lot(members: int, classes: int) -> None:
    logits = random_logits(members, 8, classes)
    assert len({tuple(choose(3, logits, seed)) for seed in range(30)}) > 20
    assert sorted(choose(8, logits)) == list(range(8))


def test_members_that_agree_leave_the_choice_to_the_lot() -> None:
    logits = random_logits(1, 40, 10).repeat(7, 1, 1)
    seen = [choose(2, logits, seed) for seed in range(30)]
    assert len({picks[0] for picks in seen}) > 12
    assert len({picks[1] for picks in seen}) > 12


@pytest.mark.parametrize(("samples", "k"), [(0, 0), (1, 0), (1, 1), (6, 0), (6, 6)])
def test_any_number_of_picks(samples: int, k: int) -> None:
    assert sorted(choose(k, random_logits(3, samples, 4))) == (list(range(samples)) if k == samples else [])


def test_hundreds_of_picks_stay_numbers() -> None:
    """Of probabilities down to 0, and of weak ones whose product over the picks is below any float64."""
    log_p = log_probabilities(random_logits(6, 900, 10, scale=0.3))
    drawn = Configurations.draw(log_p, 60, torch.Generator().manual_seed(0))
    assert torch.allclose(drawn.log_posterior.exp().sum(dim=1), torch.ones(60, dtype=torch.float64))
    assert drawn.gains(log_p).isfinite().all()
    assert math.isfinite(drawn.standard_error(log_p[0]))

    logits = random_logits(6, 400, 10, scale=0.3)
    assert len(greedy(400, logits, max_configurations=6_000)) > 30  # it does not end at once
    assert sorted(choose(400, logits, max_configurations=6_000)) == list(range(400))

    logits[:, ::3] *= 3000
    logits[2, ::5, 4] = -math.inf
    assert sorted(choose(400, logits, max_configurations=6_000)) == list(range(400))


def test_information_is_that_of_the_members_and_no_more() -> None:
    """Picks end when the members are told apart: what they added is at most log K."""
    logits = random_logits(5, 300, 4, scale=6)
    log_p = log_probabilities(logits)
    chosen = greedy(300, logits, max_configurations=8_000)
    assert 3 <= len(chosen) < 60
    left = Configurations.draw(log_p[chosen], 2_000, torch.Generator().manual_seed(9))
    assert float(left.gains(log_p).max()) < 0.01


def test_follows_its_generator_and_leaves_its_inputs_alone() -> None:
    logits = random_logits(6, 200, 5)
    before = logits.clone()
    assert choose(50, logits, 1, max_configurations=250) == choose(50, logits, 1, max_configurations=250)
    assert choose(50, logits, 1, max_configurations=250) != choose(50, logits, 2, max_configurations=250)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_numbers_name_the_sample(value: float) -> None:
    logits = random_logits(3, 9, 4)
    logits[1, 5:7, 2] = value
    with pytest.raises(CellFailed, match=r"'batchbald': .* 2 of 9 .* row 5, which is sample 105 of the pool"):
        choose(2, logits)


def test_a_prediction_of_nothing_names_the_sample() -> None:
    logits = random_logits(3, 9, 4)
    logits[2, 8] = -math.inf
    with pytest.raises(CellFailed, match=r"row 8, which is sample 108 of the pool"):
        choose(0, logits)


def test_options_are_checked() -> None:
    assert batchbald.batchbald.__doc__ is not None
    with pytest.raises(BadInput, match="max_configurations"):
        ACQUISITIONS["batchbald"].check_options({"max_configurations": 0})


PROGRAM = """
from prunefuse_bench.acquisition.batchbald import greedy_choice
log_p = torch.empty({count}, {members}, {classes}, dtype=torch.float64).normal_().log_softmax(2)
def call(warm):
    generator = torch.Generator().manual_seed(0)
    greedy_choice({k}, log_p[:100] if warm else log_p, max_configurations=40_000, generator=generator)
peak_of(call)
"""


def test_little_is_held_beside_the_probabilities() -> None:
    assert peak_megabytes(PROGRAM.format(count=400, members=10, classes=100, k=6)) < 64


@pytest.mark.slow
@pytest.mark.parametrize(("count", "members", "classes"), [(10_000, 25, 10), (2_000, 25, 1_000)])
def test_ten_thousand_samples(count: int, members: int, classes: int) -> None:
    k = 1_000 if classes == 10 else 10
    assert peak_megabytes(PROGRAM.format(count=count, members=members, classes=classes, k=k)) < 256
