"""Every acquisition of the registry is held against every check, and every check against a fault that it must find."""

from __future__ import annotations

import dataclasses
import importlib
import math
import pkgutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import prunefuse_bench.acquisition
from prunefuse_bench import ops
from prunefuse_bench.acquisition import ACQUISITIONS, Acquisition, Needs, Opinions, top_k_by_lot
from prunefuse_bench.conformance import (
    CHECKS,
    ORACLES,
    Case,
    Chances,
    DoesNotApply,
    NotConforming,
    Picks,
    Scores,
    about,
    check,
    opinions_for,
    oracle,
    take,
)
from prunefuse_bench.conformance.chances import probability
from prunefuse_bench.conformance.opinions import tensors_of
from prunefuse_bench.ops.checks import refuse
from prunefuse_bench.recipe import load_outside_parts

# They register themselves, whether or not the package imports them by itself.
for module in pkgutil.iter_modules(prunefuse_bench.acquisition.__path__, "prunefuse_bench.acquisition."):
    importlib.import_module(module.name)
load_outside_parts()

NAMES = sorted(ACQUISITIONS)

outcomes: dict[tuple[str, str], str] = {}
"""What came of each acquisition and check."""


def applies(one: str, acquisition: Acquisition) -> bool:
    """Whether a check should have something to say; it gives its own reasons, and these are ours."""
    if one == "direction":
        return acquisition.uncertainty
    if one == "nothing_labeled":
        return Needs.LABELED in acquisition.needs
    if one == "subsets":
        return acquisition.score is not None and not acquisition.randomised
    if one == "not_a_number":
        return acquisition.name not in {"random", "forgetting"}  # one looks at nothing, one at right and wrong
    return True


@pytest.mark.parametrize("one", CHECKS)
@pytest.mark.parametrize("name", NAMES)
def test_conforms(name: str, one: str) -> None:
    acquisition = ACQUISITIONS[name]
    outcomes[name, one] = "FAILED"
    try:
        CHECKS[one](acquisition)
    except DoesNotApply as reason:
        assert not applies(one, acquisition)
        outcomes[name, one] = f"does not apply: {reason}"
        pytest.skip(str(reason))
    assert applies(one, acquisition)
    outcomes[name, one] = "passed"


def test_every_acquisition_of_the_registry_was_held_against_every_check(request: pytest.FixtureRequest) -> None:
    assert set(ACQUISITIONS) == set(NAMES), "registered after the tests were collected"
    tests = [item for item in request.session.items if getattr(item, "originalname", "") == "test_conforms"]
    if len(tests) < len(NAMES) * len(CHECKS):
        pytest.skip("only some of them were asked for")
    assert set(outcomes) == {(name, one) for name in ACQUISITIONS for one in CHECKS}
    for name in NAMES:
        print(f"\n{name}")
        for one in CHECKS:
            print(f"  {one:<16}{outcomes[name, one]}")


def test_oracles_are_those_of_acquisitions() -> None:
    assert set(ORACLES) == set(ACQUISITIONS)


NOTHING_BUT_CHANCE = {"name": "by lot", "needs": Needs.NOTHING, "randomised": True}


def score_of(function: Callable[..., Tensor], **changes: Any) -> Acquisition:
    """A right declaration around a score of logits that should be entropy."""
    right = Acquisition("faulty", Needs.LOGITS, "a test", "One line.", uncertainty=True, score=function)
    return dataclasses.replace(right, **changes)


def choice_of(function: Callable[..., Tensor], **changes: Any) -> Acquisition:
    """A right declaration around a choice by logits."""
    right = Acquisition("faulty", Needs.LOGITS, "a test", "One line.", choose_batch=function)
    return dataclasses.replace(right, **changes)


def entropy(opinions: Opinions) -> Tensor:
    assert opinions.logits is not None
    return ops.score(opinions.logits, "entropy")


def minus_entropy(opinions: Opinions) -> Tensor:
    return -entropy(opinions)


def with_an_option_of_no_type(opinions: Opinions, strength=1.0) -> Tensor:  # noqa: ANN001
    return strength * entropy(opinions)


def off_by_a_hundredth(opinions: Opinions) -> Tensor:
    return 1.01 * entropy(opinions)


def last_of_a_block_takes_the_one_before(opinions: Opinions) -> Tensor:
    scores = entropy(opinions)
    scores[15:16] = scores[14:15]
    return scores


def relative_to_the_largest(opinions: Opinions) -> Tensor:
    scores = entropy(opinions)
    return scores / scores.max().clamp_min(1e-9) if len(scores) else scores


def equal_ones_by_place(k: int, opinions: Opinions) -> Tensor:
    return entropy(opinions).sort(descending=True, stable=True).indices[:k]


def round_the_pool_from_a_place_by_lot(k: int, opinions: Opinions) -> Tensor:
    start = torch.randint(max(1, len(opinions)), (), generator=opinions.generator)
    equal = entropy(opinions).roll(-int(start)).sort(descending=True, stable=True).indices[:k]
    return (equal + start) % max(1, len(opinions))


def first_places_more_often(k: int, opinions: Opinions) -> Tensor:
    weights = torch.linspace(10, 1, len(opinions))
    return torch.multinomial(weights, k, generator=opinions.generator) if k else torch.empty(0, dtype=torch.int64)


def undeclared_draws(opinions: Opinions) -> Tensor:
    return entropy(opinions) + 1e-7 * torch.rand(len(opinions), generator=opinions.generator)


def from_the_global_generator(k: int, opinions: Opinions) -> Tensor:
    return torch.randperm(len(opinions))[:k]


def changes_the_logits(opinions: Opinions) -> Tensor:
    assert opinions.logits is not None
    opinions.logits.sub_(opinions.logits.logsumexp(1, keepdim=True))
    return entropy(opinions)


def duplicates_more_than_once(k: int, opinions: Opinions) -> Tensor:
    assert opinions.logits is not None
    picks, _ = top_k_by_lot(entropy(opinions), k, opinions.generator)
    different = opinions.logits.unique(dim=0, return_inverse=True)[1] if k else torch.empty(0)
    distinct = int(different.max()) + 1 if k else 0
    return picks[torch.arange(k) % distinct] if distinct > 1 else picks


def approximate_for_duplicates(opinions: Opinions) -> Tensor:
    scores = entropy(opinions)
    scores[20:] *= 1 + 1e-6  # another instruction for the rest of a block
    return scores


def in_units_of_log_classes(opinions: Opinions) -> Tensor:
    assert opinions.logits is not None
    return entropy(opinions) / torch.tensor(opinions.logits.shape[1]).log()


def one_too_few_of_all(k: int, opinions: Opinions) -> Tensor:
    picks, _ = top_k_by_lot(entropy(opinions), k, opinions.generator)
    return picks[: max(1, len(opinions) - 1)]


def look_at_the_largest(opinions: Opinions) -> Tensor:
    scores = entropy(opinions)
    assert scores.max() < math.inf  # there is none of nothing
    return scores


def far_from_any_labeled(opinions: Opinions) -> Tensor:
    assert opinions.features is not None
    refuse(~opinions.features.isfinite().all(1), "features", "NaN or infinity")
    if opinions.labeled_features is None:
        return opinions.features.norm(dim=1)
    if not opinions.labeled_features.isfinite().all():
        raise ValueError("labeled features that are not finite")
    return (opinions.features[:, None] - opinions.labeled_features).norm(dim=2).amin(1)


def far_from_all_labeled(opinions: Opinions) -> Tensor:
    labeled = opinions.labeled_features
    return far_from_any_labeled(
        dataclasses.replace(opinions, labeled_features=labeled if labeled is not None and len(labeled) else None)
    )


def not_a_number_is_zero(opinions: Opinions) -> Tensor:
    assert opinions.logits is not None
    return ops.score(opinions.logits.nan_to_num(0.0, posinf=math.inf), "entropy")


def infinity_is_large(opinions: Opinions) -> Tensor:
    assert opinions.logits is not None
    return ops.score(opinions.logits.clamp_max(1e30), "entropy")


FAULTS: dict[str, tuple[Acquisition, set[str]]] = {
    "reversed": (score_of(minus_entropy), {"direction", "oracle"}),
    "no source": (score_of(entropy, source=""), {"declared"}),
    "an option of no type": (score_of(with_an_option_of_no_type), {"declared"}),
    "joint of no members": (score_of(entropy, needs=Needs.LOGITS | Needs.JOINT), {"declared"}),
    "wrong values": (score_of(off_by_a_hundredth, name="wrong by hand"), {"oracle"}),
    "no oracle": (score_of(entropy, name="unknown"), {"oracle"}),
    "a place that matters": (score_of(last_of_a_block_takes_the_one_before), {"permutation"}),
    "places with better chances": (
        choice_of(first_places_more_often, **NOTHING_BUT_CHANCE),
        {"permutation", "ties", "oracle"},
    ),
    "relative": (score_of(relative_to_the_largest), {"subsets"}),
    "ties by place": (choice_of(equal_ones_by_place), {"ties"}),
    "ties in a row": (choice_of(round_the_pool_from_a_place_by_lot), {"ties"}),
    "deaf to the seed": (score_of(entropy, randomised=True), {"chance"}),
    "draws undeclared": (score_of(undeclared_draws), {"chance", "duplicates"}),
    "global generator": (choice_of(from_the_global_generator, **NOTHING_BUT_CHANCE), {"determinism"}),
    "changes its input": (score_of(changes_the_logits), {"inputs"}),
    "picks twice": (choice_of(duplicates_more_than_once), {"duplicates"}),
    "equal samples unequal": (score_of(approximate_for_duplicates), {"duplicates"}),
    "divides by log 1": (score_of(in_units_of_log_classes), {"one_class"}),
    "too few": (choice_of(one_too_few_of_all), {"counts"}),
    "largest of none": (score_of(look_at_the_largest), {"empty_pool"}),
    "nearest of no labeled ones": (
        score_of(far_from_any_labeled, needs=Needs.FEATURES | Needs.LABELED, uncertainty=False),
        {"nothing_labeled"},
    ),
    "NaN is zero": (score_of(not_a_number_is_zero), {"not_a_number"}),
    "infinity is large": (score_of(infinity_is_large), {"not_a_number"}),
}
"""A faulty acquisition and the checks that must find it."""


@pytest.fixture
def oracles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cases of acquisitions that are not registered; they go with the test."""

    def the_second_is_even_and_far() -> list[Case]:
        logits, features = torch.tensor([[9.0, 0, 0], [0, 0, 0]]), torch.tensor([[0.0], [1]])
        return [Case(about(2, logits=logits, features=features, labeled_features=features[:1]), Picks([1]))]

    def three_classes() -> list[Case]:
        logits = torch.tensor([[0.0, 0, 0], [0, 0, -math.inf], [0, -math.inf, -math.inf]])
        return [Case(about(3, logits=logits), Scores([math.log(3), math.log(2), 0]))]

    monkeypatch.setitem(ORACLES, "faulty", the_second_is_even_and_far)
    monkeypatch.setitem(ORACLES, "by hand", three_classes)
    monkeypatch.setitem(ORACLES, "by lot", lambda: [Case(about(2), Chances([1 / 2, 1 / 2], k=1, place=0))])


@pytest.mark.parametrize("name", [name for name in NAMES if ACQUISITIONS[name].uncertainty])
def test_every_measure_of_uncertainty_fails_the_other_way_round(name: str) -> None:
    right = ACQUISITIONS[name]
    assert right.score is not None
    score = right.score
    reversed_measure = dataclasses.replace(right, score=lambda opinions: -score(opinions))
    for one in ("direction", "oracle"):
        with pytest.raises(NotConforming, match=f"{name!r} does not conform: {one}"):
            CHECKS[one](reversed_measure)


@pytest.mark.usefixtures("oracles")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_by_its_checks_and_no_other(fault: str) -> None:
    acquisition, checks = FAULTS[fault]
    with pytest.raises(NotConforming) as failure:
        check(acquisition)
    assert set(failure.value.failures) == checks, failure.value


def test_every_check_finds_a_fault() -> None:
    assert set().union(*(checks for _, checks in FAULTS.values())) == set(CHECKS)


@pytest.mark.usefixtures("oracles")
@pytest.mark.parametrize(
    "right",
    [
        score_of(entropy, name="by hand"),
        score_of(far_from_all_labeled, needs=Needs.FEATURES | Needs.LABELED, uncertainty=False),
    ],
)
def test_a_right_acquisition_passes(right: Acquisition) -> None:
    report = check(right)
    assert set(report.passed) | set(report.does_not_apply) == set(CHECKS)
    assert set(report.passed) == {one for one in CHECKS if applies(one, right)}
    assert str(report).startswith(f"{right.name}: passed declared, oracle")


@pytest.mark.usefixtures("oracles")
def test_the_report_says_why_a_check_does_not_apply() -> None:
    report = check(score_of(relative_to_the_largest, relative="in units of the largest"))
    assert report.does_not_apply == {
        "subsets": "its scores depend on the other candidates: in units of the largest",
        "nothing_labeled": "it does not look at the labeled samples",
    }
    assert "  subsets does not apply: its scores depend on the other" in str(report)


@pytest.mark.usefixtures("oracles")
def test_a_failure_says_who_and_what_was_expected_and_what_came() -> None:
    with pytest.raises(NotConforming) as failure:
        CHECKS["oracle"](score_of(off_by_a_hundredth, name="by hand"))
    assert str(failure.value) == (
        "acquisition 'by hand' does not conform: oracle: expected scores [1.098612, 0.693147, 0.0], "
        "got [1.109598, 0.700079, 0.0]"
    )
    assert failure.value.acquisition == "by hand"


def test_without_an_oracle_the_message_says_how_to_give_one() -> None:
    with pytest.raises(NotConforming, match=r'\'unknown\'.*by hand, got none; give them with @oracle\("unknown"\)'):
        CHECKS["oracle"](score_of(entropy, name="unknown"))


def test_an_acquisition_has_one_oracle() -> None:
    with pytest.raises(ValueError, match="'entropy' has an oracle already"):
        oracle("entropy")(list)


@pytest.mark.usefixtures("oracles")
def test_an_oracle_of_no_cases_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ORACLES, "by hand", list)
    with pytest.raises(NotConforming, match="at least one case that was worked out by hand, got none"):
        CHECKS["oracle"](score_of(entropy, name="by hand"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Picks([0, 1]), r"expected the picks \[0, 1\] in this order, got \[0, 2\]"),
        (Picks([2, 1], any_order=True), r"expected the picks \[2, 1\] in any order, got \[0, 2\]"),
        (Picks([2, 0]), "in this order"),
        (Scores([1.0, 0, 0.5001]), r"expected scores \[1.0, 0.0, 0.5001\], got \[1.0, 0.0, 0.5\]"),
        (Chances([0.5, 0, 0.5], k=1, place=0), "each candidate as pick 1 of 1 about .100.0, 0.0, 100.0. times"),
        (Chances([0.999, 0.001, 0], k=2, place=1), "as pick 2 of 2"),
    ],
)
def test_what_was_worked_out_wrong_is_found(
    wrong: Picks | Scores | Chances, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def the_feature(opinions: Opinions) -> Tensor:
        assert opinions.features is not None
        return opinions.features[:, 0]

    acquisition = score_of(the_feature, needs=Needs.FEATURES)
    opinions = about(3, features=torch.tensor([[1.0], [0], [0.5]]))
    for expected in (
        Picks([0, 2]),
        Picks([2, 0], any_order=True),
        Scores([1, 0, 0.5]),
        Chances([0, 0, 1], k=2, place=1),
    ):
        monkeypatch.setitem(ORACLES, "faulty", lambda expected=expected: [Case(opinions, expected)])
        CHECKS["oracle"](acquisition)
    monkeypatch.setitem(ORACLES, "faulty", lambda: [Case(opinions, wrong)])
    with pytest.raises(NotConforming, match=message):
        CHECKS["oracle"](acquisition)


EVERYTHING = Needs.LOGITS | Needs.FEATURES | Needs.LABELED | Needs.MEMBERS | Needs.LABELS | Needs.HISTORY


def test_opinions_hold_what_is_needed_and_nothing_else() -> None:
    fields = {
        Needs.LOGITS: "logits",
        Needs.FEATURES: "features",
        Needs.LABELED: "labeled_features",
        Needs.MEMBERS: "members",
        Needs.LABELS: "labels",
        Needs.HISTORY: "history",
    }
    for need, its_field in fields.items():
        opinions = opinions_for(need)
        assert {field for field in fields.values() if getattr(opinions, field) is not None} == {its_field}
    assert set(fields) | {Needs.JOINT} == set(Needs) - {Needs.NOTHING}, "a need of which the suite knows nothing"


def test_opinions_belong_to_one_another() -> None:
    opinions = opinions_for(EVERYTHING, 40)
    assert opinions.logits is not None
    assert opinions.features is not None
    assert opinions.members is not None
    assert opinions.labels is not None
    assert opinions.history is not None
    for logits in (opinions.logits, *opinions.members.logits(slice(None))):
        weight = torch.linalg.lstsq(opinions.features, logits).solution
        torch.testing.assert_close(opinions.features @ weight, logits, rtol=0, atol=1e-4)
    assert 0.5 < (opinions.logits.argmax(1) == opinions.labels).float().mean() < 1
    assert opinions.history.correct[-1].float().mean() > opinions.history.correct[0].float().mean()
    assert opinions.history.correct.eq(opinions.history.margin > 0).all()


def test_taken_opinions_are_copies_of_those_candidates() -> None:
    opinions, before = opinions_for(EVERYTHING), opinions_for(EVERYTHING)
    positions = torch.tensor([5, 2, 2])
    taken = take(opinions, positions, draws=3)
    assert taken.indices.tolist() == [100, 103, 106]
    assert taken.generator.initial_seed() == 3
    given, original = tensors_of(taken), tensors_of(before)
    assert set(given) == set(original)
    for name, tensor in given.items():
        if name == "members" or name.startswith("history"):
            assert torch.equal(tensor, original[name][:, positions]), name
        elif name == "labeled_features":
            assert torch.equal(tensor, original[name])
        elif name != "indices":
            assert torch.equal(tensor, original[name][positions]), name
        tensor.zero_()
    for name, tensor in tensors_of(opinions).items():
        assert torch.equal(tensor, original[name]), f"{name} is shared with the copy"


@pytest.mark.parametrize(("chi_squared", "degrees", "expected"), [(27.877, 9, 0.001), (3.841, 1, 0.05), (0, 4, 1)])
def test_probabilities_are_those_of_the_tables(chi_squared: float, degrees: int, expected: float) -> None:
    assert probability(chi_squared, degrees) == pytest.approx(expected, rel=1e-3)
