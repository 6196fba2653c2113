from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from prunefuse_bench.data import Augmentation, Normalisation
from prunefuse_bench.inference.precision import Precision, autocast
from prunefuse_bench.models import CifarResNet
from prunefuse_bench.randomness import generator as named_generator
from prunefuse_bench.training import (
    Distillation,
    Diverged,
    StepSchedule,
    TrainingRecipe,
    distillation_loss,
    evaluate,
    fit,
    predict,
    resolve_precision,
)
from prunefuse_bench.training.trainer import _batches


def recipe(epochs: int = 2, **changes: object) -> TrainingRecipe:
    settings = {
        "schedule": StepSchedule(epochs, ((1, 0.1),)),
        "batch_size": 32,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "augmentation": Augmentation(1, flip=True),
        "normalisation": Normalisation((127.5,), (60.0,)),
        "precision": "fp32",
    }
    return TrainingRecipe(**{**settings, **changes})  # type: ignore[arg-type]


@pytest.fixture
def images() -> Tensor:
    """Two classes: bright above or bright below, with noise."""
    noise = torch.randint(0, 60, (96, 1, 8, 8), generator=named_generator(0, "noise"), dtype=torch.uint8)
    noise[::2, :, :4] += 120
    noise[1::2, :, 4:] += 120
    return noise


@pytest.fixture
def labels() -> Tensor:
    return torch.arange(96) % 2


def network(seed: int = 0) -> CifarResNet:
    torch.manual_seed(seed)
    return CifarResNet(8, 2, in_channels=1, width=0.25)


def test_the_papers_schedule_epoch_by_epoch() -> None:
    schedule = StepSchedule(181)
    rates = [schedule.learning_rate(epoch * 391, 181 * 391) for epoch in range(181)]
    assert rates == [0.01] + [0.1] * 90 + [0.01] * 45 + [0.001] * 45
    last_step_of_each = [schedule.learning_rate(epoch * 391 + 390, 181 * 391) for epoch in range(181)]
    assert last_step_of_each == rates


@pytest.mark.parametrize("total", [20, 181, 1000])
def test_a_shorter_schedule_keeps_the_shares(total: int) -> None:
    schedule = StepSchedule(1)
    rates = [schedule.learning_rate(step, total) for step in range(total)]
    for rate, share in ((0.1, 90), (0.001, 45)):
        assert rates.count(rate) == pytest.approx(total * share / 181, abs=1)
    assert rates.count(0.01) == pytest.approx(total * 46 / 181, abs=2)


def test_small_labeled_sets_are_passed_over_more_often() -> None:
    assert StepSchedule(10, min_steps=100).epochs_for(steps_per_epoch=3) == 34
    assert StepSchedule(10, min_steps=100).epochs_for(steps_per_epoch=40) == 10


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, [1]), (32, [32]), (33, [33]), (64, [32, 32]), (65, [32, 33]), (70, [32, 32, 6])]
)
def test_no_batch_of_one_unless_there_is_only_one(count: int, sizes: list[int]) -> None:
    rows = list(range(count))
    assert [len(rows[batch]) for batch in _batches(count, 32)] == sizes


def test_training_learns(images: Tensor, labels: Tensor) -> None:
    model = network()
    result = fit(model, images, labels, recipe(10), named_generator(0, "fit"))
    assert (result.epochs, result.steps, result.samples) == (10, 30, 960)
    assert not model.training
    assert evaluate(model, images, labels, recipe()).accuracy > 0.95


def test_same_generator_same_bits(images: Tensor, labels: Tensor) -> None:
    def trained(seed: int) -> dict[str, Tensor]:
        model = network()
        fit(model, images, labels, recipe(), named_generator(seed, "fit"))
        return model.state_dict()

    first, second, other = trained(0), trained(0), trained(1)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_first_step_is_plain_sgd(images: Tensor, labels: Tensor) -> None:
    """One step on one batch against the update written out: gradient and weight decay times the learning rate."""
    plain = recipe(1, batch_size=96, augmentation=Augmentation(0, flip=False))
    model, expected = network(), network()
    order = torch.randperm(96, generator=named_generator(0, "fit"))
    expected.train()
    logits = expected(plain.normalisation.apply(images[order]))
    nn.functional.cross_entropy(logits, labels[order]).backward()
    fit(model, images, labels, plain, named_generator(0, "fit"))
    for (name, parameter), start in zip(model.named_parameters(), expected.parameters(), strict=True):
        assert start.grad is not None
        torch.testing.assert_close(
            parameter,
            start - 0.1 * (start.grad + 5e-4 * start),
            rtol=1e-4,
            atol=1e-5,
            msg=lambda m, n=name: f"{n}: {m}",
        )


def test_momentum_and_schedule_against_a_loop_written_out(images: Tensor, labels: Tensor) -> None:
    """Four epochs of three batches over two learning rates, with torch's own SGD stepped by hand."""
    plain = recipe(4, schedule=StepSchedule(4, ((1, 0.1), (3, 0.01))), augmentation=Augmentation(0, flip=False))
    model, expected = network(), network().to(memory_format=torch.channels_last)
    draws = named_generator(0, "fit")
    velocity = {name: torch.zeros_like(p) for name, p in expected.named_parameters()}
    expected.train()
    for epoch in range(4):
        order = torch.randperm(96, generator=draws)
        plain.augmentation.draw(96, draws, torch.device("cpu"))
        for batch in order.split(32):
            expected.zero_grad()
            logits = expected(plain.normalisation.apply(images[batch]))
            nn.functional.cross_entropy(logits, labels[batch]).backward()
            for name, p in expected.named_parameters():
                assert p.grad is not None
                velocity[name] = 0.9 * velocity[name] + p.grad + 5e-4 * p.data
                p.data -= (0.1 if epoch == 0 else 0.01) * velocity[name]
    fit(model, images, labels, plain, named_generator(0, "fit"))
    for (name, found), wanted in zip(model.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_divergence_is_an_error_that_names_the_epoch(images: Tensor, labels: Tensor) -> None:
    wild = recipe(3, schedule=StepSchedule(3, ((1, 1e30),)))
    with pytest.raises(Diverged, match=r"the loss is (nan|inf) after epoch [12] of 3"):
        fit(network(), images, labels, wild, named_generator(0, "fit"))


def test_distillation_loss_against_the_definition() -> None:
    student, teacher = torch.randn(5, 4), torch.randn(5, 4)
    assert distillation_loss(teacher, teacher, 4.0).item() == pytest.approx(0, abs=1e-6)
    p, q = torch.softmax(teacher / 2, 1), torch.softmax(student / 2, 1)
    expected = 4 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(distillation_loss(student, teacher, 2.0), expected)


def test_distillation_pulls_towards_the_teacher_and_leaves_it_alone(images: Tensor, labels: Tensor) -> None:
    teacher = network(1)
    fit(teacher, images, labels, recipe(5), named_generator(0, "teacher"))
    before = copy.deepcopy(teacher.state_dict())
    wrong_labels = 1 - labels
    student = network(2)
    only_teacher = Distillation(cross_entropy_weight=0.0)
    fit(student, images, wrong_labels, recipe(10), named_generator(0, "s"), teacher=teacher, distillation=only_teacher)
    assert evaluate(student, images, labels, recipe()).accuracy > 0.9
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())


def test_prediction_changes_no_state_and_gives_the_classifiers_input(images: Tensor) -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    logits, features = predict(model, images, recipe(), features=True)
    assert features is not None
    torch.testing.assert_close(model.classifier(features), logits)
    assert predict(model, images, recipe(), features=False)[1] is None
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_evaluation_by_hand(images: Tensor, labels: Tensor) -> None:
    model = network()
    logits, _ = predict(model, images, recipe(), features=False)
    found = evaluate(model, images, labels, recipe())
    assert found.accuracy == (logits.argmax(1) == labels).float().mean().item()
    assert found.loss == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert not math.isnan(found.loss)


def test_precision_is_what_is_asked() -> None:
    cpu = torch.device("cpu")
    assert resolve_precision("fp32", cpu) == "fp32"
    assert resolve_precision("bf16", cpu) == "bf16"
    assert resolve_precision("auto", cpu) in ("fp32", "bf16")


def test_bf16_trains_to_nearly_the_same(images: Tensor, labels: Tensor) -> None:
    model = network()
    result = fit(model, images, labels, recipe(10, precision="bf16"), named_generator(0, "fit"))
    assert math.isfinite(result.loss)
    assert model.conv1.weight.dtype == torch.float32
    assert evaluate(model, images, labels, recipe()).accuracy > 0.95


@pytest.mark.parametrize(("precision", "fused"), [("bf16", False), ("fp32", True)])
def test_attention_in_bf16_on_a_processor_is_made_of_matrix_products(precision: Precision, fused: bool) -> None:
    x = torch.randn(2, 3, 5, 8, requires_grad=True)
    with autocast(x.device, precision):
        attended = nn.functional.scaled_dot_product_attention(x, x, x)
    assert (attended.grad_fn is not None and "FlashAttention" in attended.grad_fn.name()) == fused
