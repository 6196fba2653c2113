"""Scores near the k-th highest are computed again, and the choice is then that of full precision."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tiny_runs import tiny_run
from torch import Tensor, nn

from prunefuse_bench import load_results, runner
from prunefuse_bench.acquisition import ACQUISITIONS, Needs, Opinions
from prunefuse_bench.acquisition.refinement import refine_near_threshold
from prunefuse_bench.data import Augmentation, Normalisation
from prunefuse_bench.inference import Screen, screening
from prunefuse_bench.models import build_model
from prunefuse_bench.ops import NotRankable
from prunefuse_bench.ops.quantised import has_quantised_chains
from prunefuse_bench.pruning import Network
from prunefuse_bench.recipe import OnePass, Question
from prunefuse_bench.recipe.trained import Trained
from prunefuse_bench.report.deviations import deviations
from prunefuse_bench.training import Fit, Precision, StepSchedule, TrainingRecipe


def highest(scores: Tensor, k: int) -> set[int]:
    return set(scores.argsort(descending=True, stable=True)[:k].tolist())


@pytest.mark.parametrize("noise", [1e-3, 1e-2, 0.1])
@pytest.mark.parametrize("k", [1, 50, 400, 5_000, 9_999])
def test_the_choice_is_that_of_the_right_scores(noise: float, k: int, generator: torch.Generator) -> None:
    right = torch.rand(10_000, generator=generator)
    rough = right + noise * torch.randn(10_000, generator=generator)
    asked: list[Tensor] = []

    def rescore(positions: Tensor) -> Tensor:
        asked.append(positions)
        return right[positions]

    refined = refine_near_threshold(rough, k, rescore)
    assert len(highest(refined, k) & highest(right, k)) >= k - max(1, k // 1000)
    everything = torch.cat(asked)
    assert len(everything.unique()) == len(everything)  # nobody is asked twice
    if noise <= 1e-2:
        assert len(everything) < 1_400


def test_without_it_the_choice_differs(generator: torch.Generator) -> None:
    """So the test above can fail."""
    right = torch.rand(10_000, generator=generator)
    rough = right + 0.01 * torch.randn(10_000, generator=generator)
    assert len(highest(rough, 400) & highest(right, 400)) < 395


@pytest.mark.parametrize("k", [0, 7])
def test_nobody_is_asked_if_none_or_all_are_chosen(k: int) -> None:
    def fail(positions: Tensor) -> Tensor:
        raise AssertionError

    scores = torch.arange(7.0)
    assert torch.equal(refine_near_threshold(scores, k, fail), scores)


def test_equal_scores_everywhere() -> None:
    refined = refine_near_threshold(torch.ones(1000), 10, lambda positions: torch.ones(len(positions)))
    assert torch.equal(refined, torch.ones(1000))


def test_a_row_that_cannot_be_ranked_is_named_by_its_place_in_the_pool() -> None:
    def rescore(positions: Tensor) -> Tensor:
        raise NotRankable("row 0", 0)

    with pytest.raises(NotRankable) as error:
        refine_near_threshold(torch.arange(1000.0), 10, rescore)
    assert error.value.row == 999


def rough_question(generator: torch.Generator) -> tuple[Trained, Question]:
    images = torch.randint(0, 256, (3000, 3, 16, 16), dtype=torch.uint8, generator=generator)
    training = TrainingRecipe(StepSchedule(1), 32, 0.9, 0.0, Augmentation(), Normalisation.of(images), precision="bf16")
    torch.manual_seed(0)
    network = build_model("resnet14", num_classes=10, in_channels=3).train()
    with torch.no_grad():
        network(training.normalisation.apply(images[:100]))
    selector = Trained(Network(network.eval()), Fit(1, 1, 1, 0.0))
    question = Question(torch.arange(3000) * 2, images, images[:0], Needs.LOGITS, training, generator, seed=1)
    return selector, question


@pytest.mark.parametrize("name", ["least_confidence", "entropy", "margin"])
def test_a_pool_scored_in_16_bits_gives_the_choice_of_32(name: str, generator: torch.Generator) -> None:
    selector, question = rough_question(generator)
    fine = dataclasses.replace(question, training=dataclasses.replace(question.training, precision="fp32"))
    acquisition = ACQUISITIONS[name]
    opinions = OnePass().ask(selector, question)
    assert len(opinions.refine) == 1
    exact = set(acquisition.choose(60, OnePass().ask(selector, fine)).indices.tolist())
    rough = set(acquisition.choose(60, dataclasses.replace(opinions, refine=())).indices.tolist())
    refined = set(acquisition.choose(60, opinions).indices.tolist())
    assert len(exact & refined) >= 59
    assert len(exact & rough) <= len(exact & refined)  # 16 bits may happen to choose the same


@pytest.mark.skipif(not has_quantised_chains(), reason="no AVX512-VNNI, or AMX beside it")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["least_confidence", "entropy", "margin"])
def test_a_pool_looked_at_in_8_bits_gives_the_choice_of_32(
    name: str, precision: Precision, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screening, "SCREENED_FROM", 3000)
    selector, question = rough_question(generator)
    acquisition = ACQUISITIONS[name]
    fine = dataclasses.replace(question, training=dataclasses.replace(question.training, precision="fp32"))
    exact = OnePass().ask(selector, fine)
    training = dataclasses.replace(question.training, precision=precision, screening=True)
    screened = dataclasses.replace(question, training=training, looked_again=acquisition.looks_again)
    opinions = OnePass().ask(selector, screened)
    assert len(opinions.refine) == (1 if precision == "fp32" else 2)
    assert opinions.logits is not None
    assert exact.logits is not None
    assert not torch.equal(opinions.logits, exact.logits)
    chosen = set(acquisition.choose(60, opinions).indices.tolist())
    assert len(set(acquisition.choose(60, exact).indices.tolist()) & chosen) >= 59
    # Who wants features, or scores that are not computed again, gets no look in 8 bits.
    for other in (
        dataclasses.replace(screened, needs=Needs.LOGITS | Needs.FEATURES),
        dataclasses.replace(screened, looked_again=False),
    ):
        usual = OnePass().ask(selector, other)
        assert len(usual.refine) == (0 if precision == "fp32" else 1)
        if precision == "fp32":
            assert usual.logits is not None
            assert torch.equal(usual.logits, exact.logits)


def test_only_scores_that_are_computed_again_are_screened() -> None:
    screened = {name for name in ACQUISITIONS if ACQUISITIONS[name].screened}
    assert screened == {"entropy", "least_confidence"}
    assert all(ACQUISITIONS[name].looks_again and ACQUISITIONS[name].needs == Needs.LOGITS for name in screened)


@pytest.mark.skipif(not has_quantised_chains(), reason="no AVX512-VNNI, or AMX beside it")
def test_a_run_screens_large_pools_says_so_and_can_be_told_not_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []

    def counted(network: nn.Module, images: Tensor, *normalisation: Sequence[float]) -> Screen | None:
        looks.append(len(images))
        return screening.prepare_screen(network, images, *normalisation)

    monkeypatch.setattr("prunefuse_bench.training.prediction.prepare_screen", counted)
    recipes = 'recipes=["al", {method: al, acquisition: margin, label: al-margin}]'
    for module in (screening, runner):
        monkeypatch.setattr(module, "SCREENED_FROM", 1000)
    asked = ("seeds=[0]", recipes, "precision=auto")
    screened = tiny_run(tmp_path / "screened", *asked)
    assert len(looks) == 2, "least confidence in two rounds, margin never"
    off = tiny_run(tmp_path / "off", *asked, "screening=never")
    exact = tiny_run(tmp_path / "exact", "seeds=[0]", recipes, "precision=fp32")
    assert len(looks) == 2
    for folder, expected in ((screened, True), (off, False), (exact, False)):
        settings = [json.loads(file.read_text())["settings"] for file in folder.glob("cells/*/cell.json")]
        assert [one["task"]["training"].get("screening", False) for one in settings] == [expected] * 2
        assert any(line.startswith("Screening: ") for line in deviations(settings)) is expected
        assert set(load_results(folder)["status"]) == {"finished"}


def test_float32_and_augmented_scoring_are_not_refined(generator: torch.Generator) -> None:
    selector, question = rough_question(generator)
    fine = dataclasses.replace(question, training=dataclasses.replace(question.training, precision="fp32"))
    assert OnePass().ask(selector, fine).refine == ()
    assert OnePass(augmented=True).ask(selector, question).refine == ()


def test_refined_opinions_are_about_the_samples_that_were_asked_for(generator: torch.Generator) -> None:
    selector, question = rough_question(generator)
    opinions = OnePass().ask(selector, question)
    assert len(opinions.refine) == 1
    assert opinions.logits is not None
    some = torch.tensor([2999, 5, 77])
    found: Opinions = opinions.refine[0](some)
    assert found.indices.tolist() == [5998, 10, 154]
    assert found.logits is not None
    torch.testing.assert_close(found.logits, opinions.logits[some], rtol=0.1, atol=0.1)
