"""Asking a committee changes nothing, and what it says is what its members say."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunefuse_bench.acquisition import ACQUISITIONS, Needs, Opinions, members
from prunefuse_bench.data import Augmentation, Normalisation
from prunefuse_bench.models import CifarResNet
from prunefuse_bench.pruning import Network
from prunefuse_bench.randomness import generator, seeded
from prunefuse_bench.recipe import COMMITTEES, Committee, MCDropout, OnePass, Question, Snapshots, Trained
from prunefuse_bench.training import SnapshotRecorder, StepSchedule, TrainingRecipe, fit, predict

CLASSES, SAMPLES = 3, 40
ALL = slice(None)
COMMITTEES_ASKED: dict[str, Committee] = {
    "one pass": OnePass(),
    "one pass, augmented": OnePass(augmented=True),
    "dropout, shared masks": MCDropout(passes_of_head=7),
    "dropout, own masks": MCDropout(passes_of_head=7, shared_masks=False),
    "snapshots": Snapshots(count=3),
    "one snapshot": Snapshots(count=1),
}
TRAINING = TrainingRecipe(
    schedule=StepSchedule(3, ((1, 0.1),)),
    batch_size=16,
    momentum=0.9,
    weight_decay=5e-4,
    augmentation=Augmentation(1, flip=True),
    normalisation=Normalisation((127.5,), (60.0,)),
    precision="fp32",
)
every_committee = pytest.mark.parametrize("committee", COMMITTEES_ASKED.values(), ids=COMMITTEES_ASKED.keys())


def images_of(count: int, seed: int) -> Tensor:
    """uint8 [N, 1, 8, 8]: a bright stripe at a height that is the class, i % 3, in noise."""
    images = torch.randint(0, 130, (count, 1, 8, 8), generator=generator(seed, "noise"), dtype=torch.uint8)
    for stripe in range(CLASSES):
        images[stripe::CLASSES, :, 3 * stripe : 3 * stripe + 2] += 100
    return images


@functools.cache
def trained_once(committee: Committee) -> Trained:
    """A network that was trained as the committee wants it."""
    with seeded(0, "weights"):
        network = CifarResNet(8, CLASSES, in_channels=1, width=0.25)
    recorder = SnapshotRecorder(committee.snapshot_times)
    done = fit(
        network,
        images_of(96, seed=0),
        torch.arange(96) % CLASSES,
        TRAINING,
        generator(0, "training"),
        head_dropout=committee.head_dropout,
        observers=[recorder],
    )
    return Trained(Network(network), done, tuple(recorder.snapshots))


def trained(committee: Committee) -> Trained:
    """A copy for one test."""
    return copy.deepcopy(trained_once(committee))


def question(committee: Committee, **changes: Any) -> Question:
    asked = Question(
        indices=torch.arange(50, 50 + SAMPLES),
        images=images_of(SAMPLES, seed=1),
        labeled_images=images_of(6, seed=2),
        needs=committee.provides | Needs.LABELED,
        training=TRAINING,
        generator=generator(0, "acquisition"),
        seed=3,
    )
    return dataclasses.replace(asked, **changes)


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def hooks(network: nn.Module) -> int:
    kinds = [name for name in vars(nn.Module()) if "hooks" in name]
    assert "_forward_pre_hooks" in kinds
    return sum(len(getattr(module, kind)) for module in network.modules() for kind in kinds)


def test_all_committees_are_asked() -> None:
    assert {type(committee) for committee in COMMITTEES_ASKED.values()} == {part for _, part in COMMITTEES.items()}


@every_committee
class TestAsking:
    def test_leaves_the_network_as_it_is(self, committee: Committee) -> None:
        selector = trained(committee)
        network = selector.network.model
        with torch.no_grad():  # unlike every snapshot
            next(network.parameters()).mul_(1.5)
        before, snapshots = state(network), [dict(snapshot) for snapshot in selector.snapshots]
        copies = [{name: tensor.clone() for name, tensor in snapshot.items()} for snapshot in snapshots]
        assert "bn1.running_mean" in before
        parameters = {name: (id(tensor), tensor.requires_grad) for name, tensor in network.named_parameters()}
        opinions = committee.ask(selector, question(committee))
        if opinions.members is not None:
            opinions.members.log_probabilities()
        for name, tensor in state(network).items():
            assert torch.equal(tensor, before[name]), name
        for snapshot, copied in zip(snapshots, copies, strict=True):
            assert all(torch.equal(tensor, copied[name]) for name, tensor in snapshot.items())
        assert {name: (id(tensor), tensor.requires_grad) for name, tensor in network.named_parameters()} == parameters
        assert not any(module.training for module in network.modules())
        assert hooks(network) == 0

    def test_leaves_the_images_as_they_are(self, committee: Committee) -> None:
        asked = question(committee)
        committee.ask(trained(committee), asked)
        assert torch.equal(asked.images, images_of(SAMPLES, seed=1))
        assert torch.equal(asked.labeled_images, images_of(6, seed=2))

    def test_draws_from_no_generator_but_its_own(self, committee: Committee) -> None:
        selector, asked = trained(committee), question(committee)
        states = torch.get_rng_state(), asked.generator.get_state()
        first = said(committee.ask(selector, asked))
        assert torch.equal(torch.get_rng_state(), states[0])
        assert torch.equal(asked.generator.get_state(), states[1])
        with seeded(99, "elsewhere"):
            again = said(committee.ask(selector, asked))
        assert first.keys() == again.keys()
        for name, tensor in first.items():
            assert torch.equal(tensor, again[name]), name

    def test_gives_what_it_provides(self, committee: Committee) -> None:
        asked = question(committee)
        opinions = committee.ask(trained(committee), asked)
        assert torch.equal(opinions.indices, asked.indices)
        assert opinions.generator is asked.generator
        shapes = {name: tuple(tensor.shape) for name, tensor in said(opinions).items()}
        if Needs.LOGITS in committee.provides:
            assert shapes["logits"] == (SAMPLES, CLASSES)
        if Needs.FEATURES in committee.provides:
            assert shapes["features"] == (SAMPLES, 16)
            assert shapes["labeled_features"] == (6, 16)
        if Needs.MEMBERS in committee.provides:
            assert shapes["members"][1:] == (SAMPLES, CLASSES)
        for name, tensor in said(opinions).items():
            assert tensor.dtype == torch.float32, name
            assert not tensor.requires_grad, name
            assert tensor.isfinite().all(), name

    def test_is_enough_for_every_acquisition_that_needs_no_more(self, committee: Committee) -> None:
        selector = trained(committee)
        fit_for = [name for name, one in ACQUISITIONS.items() if one.needs in committee.provides | Needs.LABELED]
        assert "random" in fit_for
        assert len(fit_for) > 3
        for name in fit_for:
            asked = question(committee, needs=ACQUISITIONS[name].needs)
            chosen = ACQUISITIONS[name].choose(5, committee.ask(selector, asked)).indices.tolist()
            assert len(set(chosen)) == 5
            assert set(chosen) <= set(range(50, 50 + SAMPLES))

    def test_members_are_the_same_whatever_the_block(
        self, committee: Committee, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if Needs.MEMBERS not in committee.provides:
            pytest.skip("it has no members")
        selector = trained(committee)
        found = []
        for elements in (2**22, 1, 13 * 7 * CLASSES):
            monkeypatch.setattr(members, "BLOCK_ELEMENTS", elements)
            asked = committee.ask(selector, question(committee)).members
            assert asked is not None
            found.append((asked.log_probabilities(), asked.score("bald")))
        for log_probabilities, scores in found[1:]:
            torch.testing.assert_close(log_probabilities, found[0][0], rtol=0, atol=1e-5)
            torch.testing.assert_close(scores, found[0][1], rtol=0, atol=1e-5)

    def test_another_order_of_the_candidates_is_another_order_of_what_is_said(self, committee: Committee) -> None:
        if committee in (OnePass(augmented=True), COMMITTEES_ASKED["dropout, own masks"]):
            pytest.skip("it draws for each sample of its own, in the order of the pool")
        selector, asked = trained(committee), question(committee)
        order = torch.randperm(SAMPLES, generator=generator(0, "order"))
        expected = said(committee.ask(selector, asked))
        permuted = said(committee.ask(selector, dataclasses.replace(asked, images=asked.images[order])))
        for name in expected.keys() - {"labeled_features"}:
            of_order = expected[name][:, order] if name == "members" else expected[name][order]
            torch.testing.assert_close(permuted[name], of_order, rtol=1e-5, atol=1e-5)


def said(opinions: Opinions) -> dict[str, Tensor]:
    """Everything that the committee said, by name."""
    found = {name: getattr(opinions, name) for name in ("logits", "features", "labeled_features")}
    found["members"] = None if opinions.members is None else opinions.members.logits(ALL)
    return {name: tensor for name, tensor in found.items() if tensor is not None}


@pytest.mark.parametrize("shared_masks", [True, False])
def test_the_mean_of_many_masks_is_the_network_without(shared_masks: bool) -> None:
    committee = MCDropout(passes_of_head=1000, shared_masks=shared_masks)
    selector = trained(committee)
    of_members = said(committee.ask(selector, question(committee)))["members"].double()
    whole = said(OnePass().ask(selector, question(OnePass())))["logits"].double()
    standard_error = of_members.std(dim=0) / math.sqrt(1000)
    assert standard_error.min() > 0
    deviations = (of_members.mean(dim=0) - whole) / standard_error
    assert deviations.abs().max() < 4.5
    assert deviations.abs().mean() > 0.1, "the mean of drawn masks is never exact"


def test_members_of_shared_masks_are_networks_and_of_own_masks_are_not() -> None:
    def residual(committee: MCDropout) -> float:
        """Of the best linear layer for each member."""
        selector = trained(committee)
        features = said(OnePass().ask(selector, question(OnePass())))["features"].double()
        inputs = torch.cat([features, torch.ones(SAMPLES, 1)], dim=1)
        logits = said(committee.ask(selector, question(committee)))["members"].double()
        return float(max((inputs @ torch.linalg.lstsq(inputs, z).solution - z).abs().max() for z in logits))

    assert residual(MCDropout(passes_of_head=5)) < 1e-4
    assert residual(MCDropout(passes_of_head=5, shared_masks=False)) > 1e-2


def test_each_snapshot_has_its_say_and_the_last_is_the_trained_network() -> None:
    committee = Snapshots(count=3)
    selector = trained(committee)
    logits = said(committee.ask(selector, question(committee)))["members"]
    assert len(logits) == len(selector.snapshots) == 3
    network = CifarResNet(8, CLASSES, in_channels=1, width=0.25)
    for snapshot, of_member in zip(selector.snapshots, logits, strict=True):
        network.load_state_dict(dict(snapshot))
        expected, _ = predict(network, images_of(SAMPLES, seed=1), TRAINING, features=False)
        torch.testing.assert_close(of_member, expected, rtol=1e-5, atol=1e-5)
    whole = said(OnePass().ask(selector, question(OnePass())))["logits"]
    torch.testing.assert_close(logits[-1], whole, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(logits[0], logits[-1], atol=1e-2)


def test_augmented_scoring_follows_the_seed() -> None:
    selector = trained(OnePass())

    def logits(committee: OnePass, seed: int) -> Tensor:
        return said(committee.ask(selector, question(committee, seed=seed)))["logits"]

    assert torch.equal(logits(OnePass(), 3), logits(OnePass(), 4))
    assert not torch.equal(logits(OnePass(augmented=True), 3), logits(OnePass(augmented=True), 4))
    assert not torch.equal(logits(OnePass(augmented=True), 3), logits(OnePass(), 3))
