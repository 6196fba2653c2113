"""Proxies, committees and what they ask of training."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from prunefuse_bench.acquisition import Needs
from prunefuse_bench.data import Augmentation, Normalisation
from prunefuse_bench.errors import BadInput
from prunefuse_bench.inference import Prepared, prepare
from prunefuse_bench.models import CifarResNet, build_model, count_parameters
from prunefuse_bench.pruning import Network
from prunefuse_bench.randomness import generator
from prunefuse_bench.recipe import (
    COMMITTEES,
    PROXIES,
    MCDropout,
    OnePass,
    OwnTraining,
    Pruned,
    Question,
    Smaller,
    Snapshots,
    Target,
    Trained,
    make_part,
    resolve_recipe,
)
from prunefuse_bench.training import (
    CosineSchedule,
    HistoryRecorder,
    SnapshotRecorder,
    StepSchedule,
    TrainingObserver,
    TrainingRecipe,
    fit,
    predict,
)

TRAINING = TrainingRecipe(
    schedule=StepSchedule(3, ((1.0, 0.1),)),
    batch_size=32,
    momentum=0.9,
    weight_decay=5e-4,
    augmentation=Augmentation(1, flip=True),
    normalisation=Normalisation((127.5,), (60.0,)),
    precision="fp32",
)


@pytest.fixture
def images() -> Tensor:
    noise = torch.randint(0, 60, (96, 1, 8, 8), generator=generator(0, "noise"), dtype=torch.uint8)
    noise[::2, :, :4] += 120
    noise[1::2, :, 4:] += 120
    return noise


@pytest.fixture
def labels() -> Tensor:
    return torch.arange(96) % 2


def network() -> CifarResNet:
    torch.manual_seed(0)
    return CifarResNet(8, 2, in_channels=1, width=0.25)


def train(
    images: Tensor, labels: Tensor, *observers: TrainingObserver, head_dropout: float = 0.0, **changes: object
) -> Trained:
    model = network()
    training = TrainingRecipe(**{**TRAINING.__dict__, **changes})  # type: ignore[arg-type]
    result = fit(
        model, images, labels, training, generator(0, "fit"), head_dropout=head_dropout, observers=list(observers)
    )
    return Trained(Network(model), result)


def question(images: Tensor, needs: Needs, seed: int = 0) -> Question:
    return Question(torch.arange(len(images)), images, images[:0], needs, TRAINING, generator(seed, "draws"), seed)


def equal_states(first: Trained, second: Trained) -> bool:
    one, two = first.network.model.state_dict(), second.network.model.state_dict()
    return all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("target", "proxy"), [("resnet56", "resnet20"), ("resnet20", "resnet8"), ("resnet14", "resnet8")]
)
def test_the_smaller_proxy_of_a_target_is_the_papers(target: str, proxy: str) -> None:
    dense = build_model(target, num_classes=10, in_channels=3)
    chosen = Smaller().start(dense, torch.zeros(1, 3, 32, 32), seed=0).model
    assert count_parameters(chosen) == count_parameters(build_model(proxy, num_classes=10, in_channels=3))


def test_the_smaller_proxy_has_initial_weights_of_its_own() -> None:
    dense, example = build_model("resnet20", num_classes=4, in_channels=1), torch.zeros(1, 1, 8, 8)
    before = torch.get_rng_state()
    first, again, other = (Smaller("resnet8").start(dense, example, seed).model.state_dict() for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert first["classifier.weight"].shape[0] == 4
    assert torch.equal(first["conv1.weight"], again["conv1.weight"])
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_a_target_too_small_for_a_smaller_proxy_is_refused() -> None:
    with pytest.raises(BadInput, match=r"no registered network has at most half of the target's .* name one"):
        Smaller().start(build_model("resnet8", num_classes=10, in_channels=3), torch.zeros(1, 3, 32, 32), seed=0)


def test_the_advice_for_a_target_that_reads_text_names_a_network_that_does() -> None:
    target = build_model("vdcnn9", num_classes=4, in_channels=1, width=0.25)
    with pytest.raises(BadInput, match=r"model: vdcnn9, width: 0\.5"):
        Smaller().start(target, torch.zeros(1, 64, dtype=torch.int64), seed=0)


def test_observers_change_nothing(images: Tensor, labels: Tensor) -> None:
    plain = train(images, labels)
    watched = train(images, labels, HistoryRecorder(), SnapshotRecorder((0.5, 1.0)))
    assert equal_states(plain, watched)
    assert plain.fit == watched.fit


class Keeper(TrainingObserver):
    """Keeps all that it is told."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, Tensor, Tensor, Tensor]] = []

    def saw(self, epoch: int, batch: Tensor, logits: Tensor, labels: Tensor) -> None:
        self.seen.append((epoch, batch.clone(), logits.clone(), labels.clone()))


def test_the_history_is_what_training_saw(images: Tensor, labels: Tensor) -> None:
    recorder, keeper = HistoryRecorder(), Keeper()
    train(images, labels, recorder, keeper)
    history = recorder.history()
    visited = torch.zeros(3, 96)
    for epoch, batch, logits, batch_labels in keeper.seen:
        probabilities = logits.double().softmax(1)
        for row, sample in enumerate(batch.tolist()):
            label = int(labels[sample])
            assert int(batch_labels[row]) == label
            one_hot = torch.eye(2, dtype=torch.float64)[label]
            others = [float(p) for c, p in enumerate(probabilities[row]) if c != label]
            assert bool(history.correct[epoch, sample]) == (int(logits[row].argmax()) == label)
            assert history.margin[epoch, sample] == pytest.approx(
                float(probabilities[row, label]) - max(others), abs=1e-5
            )
            assert history.error[epoch, sample] == pytest.approx(float((probabilities[row] - one_hot).norm()), abs=1e-5)
            visited[epoch, sample] += 1
    assert torch.equal(visited, torch.ones(3, 96))  # every sample once in every epoch


def test_snapshots_are_taken_on_the_way_and_the_last_is_the_trained_network(images: Tensor, labels: Tensor) -> None:
    recorder = SnapshotRecorder(Snapshots(5).snapshot_times)
    assert recorder.times == pytest.approx([0.6, 0.7, 0.8, 0.9, 1.0])
    trained = train(images, labels, recorder, schedule=StepSchedule(10, ((1.0, 0.1),)))
    states = recorder.snapshots
    assert len(states) == 5
    state = trained.network.model.state_dict()
    assert all(torch.equal(states[-1][name], state[name]) for name in state)
    assert len({float(snapshot["conv1.weight"].sum()) for snapshot in states}) == 5
    steps = [int(snapshot["bn1.num_batches_tracked"]) for snapshot in states]
    assert steps == [18, 21, 24, 27, 30]


def test_dropout_before_the_classifier_trains_another_network_on_the_same_batches(
    images: Tensor, labels: Tensor
) -> None:
    with_dropout, without = Keeper(), Keeper()
    dropped = train(images, labels, with_dropout, head_dropout=0.5)
    plain = train(images, labels, without)
    for first, second in zip(with_dropout.seen, without.seen, strict=True):
        assert torch.equal(first[1], second[1])
    assert not equal_states(dropped, plain)
    assert equal_states(dropped, train(images, labels, head_dropout=0.5))
    assert list(dropped.network.model.state_dict()) == list(plain.network.model.state_dict())
    logits, _ = predict(dropped.network.model, images, TRAINING, features=False)
    again, _ = predict(dropped.network.model, images, TRAINING, features=False)
    assert torch.equal(logits, again)  # no dropout is left behind


def test_dropout_passes_have_the_deterministic_prediction_as_their_mean(images: Tensor, labels: Tensor) -> None:
    trained = train(images, labels, head_dropout=0.5)
    logits, _ = predict(trained.network.model, images, TRAINING, features=False)
    for shared in (True, False):
        opinions = MCDropout(1000, 0.5, shared_masks=shared).ask(trained, question(images, Needs.MEMBERS))
        assert opinions.members is not None
        sampled = opinions.members.logits(slice(0, 96))
        assert sampled.shape == (1000, 96, 2)
        deviation = sampled.std(0) / 1000**0.5
        assert ((sampled.mean(0) - logits).abs() <= 5 * deviation + 1e-5).all()


def test_the_trunk_runs_once_however_many_dropout_passes(
    images: Tensor, labels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = train(images, labels)
    runs: list[int] = []

    def counted(*arguments: Any) -> Prepared:
        ready = prepare(*arguments)

        def forward(inputs: Tensor) -> tuple[Tensor, Tensor | None]:
            runs.append(len(inputs))
            return ready.forward(inputs)

        return dataclasses.replace(ready, forward=forward)

    monkeypatch.setattr("prunefuse_bench.training.prediction.prepare", counted)
    MCDropout(25).ask(trained, question(images, Needs.MEMBERS)).members.score("bald")  # type: ignore[union-attr]
    assert runs == [96]


def test_snapshots_are_asked_one_by_one(images: Tensor, labels: Tensor) -> None:
    recorder = SnapshotRecorder((0.5, 1.0))
    trained = train(images, labels, recorder)
    trained = Trained(trained.network, trained.fit, tuple(recorder.snapshots))
    opinions = Snapshots(2, 0.5).ask(trained, question(images, Needs.MEMBERS))
    for member, snapshot in enumerate(recorder.snapshots):
        model = copy.deepcopy(trained.network.model)
        model.load_state_dict(snapshot)
        expected, _ = predict(model, images, TRAINING, features=False)
        assert torch.equal(opinions.members.logits(slice(None))[member], expected)  # type: ignore[union-attr]


def test_scoring_augmented_images_differs_from_clean_ones_and_follows_its_seed(images: Tensor, labels: Tensor) -> None:
    trained = train(images, labels)

    def ask(committee: OnePass, seed: int) -> Tensor:
        logits = committee.ask(trained, question(images, Needs.LOGITS, seed)).logits
        assert logits is not None
        return logits

    assert torch.equal(ask(OnePass(), 0), ask(OnePass(), 1))
    assert torch.equal(ask(OnePass(augmented=True), 0), ask(OnePass(augmented=True), 0))
    assert not torch.equal(ask(OnePass(augmented=True), 0), ask(OnePass(), 0))
    assert not torch.equal(ask(OnePass(augmented=True), 0), ask(OnePass(augmented=True), 1))


def test_own_training_replaces_what_it_names_and_nothing_else() -> None:
    own = OwnTraining(CosineSchedule(7, ((0.0, 0.1), (1.0, 0.0))), batch_size=16, nesterov=True)
    applied = own.apply(TRAINING)
    assert (applied.schedule.epochs, applied.batch_size, applied.nesterov) == (7, 16, True)
    assert (applied.momentum, applied.weight_decay, applied.augmentation) == (0.9, 5e-4, TRAINING.augmentation)
    assert own.describe() == (
        "schedule CosineSchedule(epochs=7, points=((0.0, 0.1), (1.0, 0.0)), min_steps=0), batch size 16, nesterov True"
    )


def test_a_cosine_schedule_goes_through_its_points() -> None:
    schedule = CosineSchedule(10, ((0.0, 0.0), (0.5, 1.0), (0.75, 1.0), (1.0, 0.0)))
    rates = [schedule.learning_rate(step, 100) for step in range(100)]
    assert rates[0] == 0
    assert rates[25] == pytest.approx(0.5)
    assert rates[50:75] == [1.0] * 25
    assert rates[87] > 0.5 > rates[88]
    assert max(abs(a - b) for a, b in itertools.pairwise(rates)) < 0.07
    assert schedule.epochs_for(3) == 10


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_both_optimisers_learn(images: Tensor, labels: Tensor, optimizer: str) -> None:
    rate = {"sgd": 0.05, "adam": 0.005}[optimizer]
    trained = train(
        images, labels, schedule=StepSchedule(20, ((1.0, rate),)), optimizer=optimizer, nesterov=optimizer == "sgd"
    )
    logits, _ = predict(trained.network.model, images, TRAINING, features=False)
    assert (logits.argmax(1) == labels).float().mean() > 0.9


def test_parts_by_name() -> None:
    assert make_part(PROXIES, "target") == Target()
    assert make_part(PROXIES, {"name": "pruned", "ratio": 0.7}) == Pruned(0.7)
    assert make_part(COMMITTEES, {"name": "mc_dropout", "passes_of_head": 7}) == MCDropout(7)
    combined = resolve_recipe({"method": "combine", "committee": "snapshots", "acquisition": "bald"})
    assert combined.committee == Snapshots()
    kcenters = {"method": "combine", "acquisition": "kcenters", "options": {"random_start": 5}}
    assert resolve_recipe(kcenters).settings()["options"] == {"random_start": 5}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"proxy": "prunned"}, "unknown proxy 'prunned': did you mean 'pruned'"),
        (
            {"proxy": {"name": "pruned", "ratoi": 0.5}},
            "unknown setting of proxy 'pruned' 'ratoi': did you mean 'ratio'",
        ),
        ({"proxy": {"name": "pruned", "ratio": 2}}, r"proxy 'pruned': ratio: .*less than 1, got 2"),
        ({"proxy": {"ratio": 0.5}}, "proxy: expected a name or a mapping with 'name'"),
        (
            {"acquisition": "bald"},
            r"'bald' needs the predictions of several members \(committee mc_dropout or snapshots",
        ),
        (
            {"acquisition": "batchbald", "committee": {"name": "mc_dropout", "shared_masks": False}},
            "'batchbald' needs members that are the same networks for every sample",
        ),
        ({"acquisition": "badge", "committee": "snapshots"}, "'badge' needs one prediction per sample; committee Snap"),
        ({"acquisition": "kcenters", "committee": "mc_dropout"}, "'kcenters' needs features; committee MCDropout"),
        ({"acquisition": "forgetting"}, "'forgetting' needs how each sample fared .* only the coreset protocol has"),
        ({"acquisition": "gradmatch"}, "'gradmatch' needs the labels of the whole pool, which only the coreset"),
        (
            {"acquisition": "kcenters", "options": {"random_strat": 5}},
            "unknown option of acquisition 'kcenters' 'random_strat': did you mean 'random_start'",
        ),
        ({"acquisition": "kcenters", "options": {"random_start": -5}}, "random_start: .*greater than or equal to 0"),
    ],
)
def test_parts_that_do_not_fit_are_refused_with_the_reason(entry: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        resolve_recipe({"method": "combine", **entry})


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"method": "combine", "target_start": "trained_selector"}, "the selector was trained on the whole pool"),
        ({"method": "prunefuse", "sync_every": 1}, "the coreset protocol picks once"),
        ("svp", "method 'svp' belongs to the protocol 'active_learning', and this suite's is 'coreset'"),
        ("forgeting", "unknown method 'forgeting': did you mean 'forgetting'"),
    ],
)
def test_what_does_not_fit_the_coreset_protocol_is_refused(entry: object, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        resolve_recipe(entry, "coreset")  # type: ignore[arg-type]


def test_cost_formulas_are_composed_of_the_parts() -> None:
    assert resolve_recipe("random").cost_formula() == "0"
    assert resolve_recipe("alse").cost_formula() == "Σ over rounds (6·P·D·|L|·T + 5·2·P·D·|U|)"
    assert resolve_recipe("prunefuse+bald").cost_formula() == (
        "Σ over rounds (6·P_pruned·D·|L|·T + 2·P_pruned·D·|U| + 25·2·F·C·|U| + 6·P·D·|L|·T)"
    )
    assert resolve_recipe("forgetting", "coreset").cost_formula("coreset") == "6·P·D·n·T"
