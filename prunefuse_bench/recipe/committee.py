"""How many opinions does the selector give per sample?"""

from __future__ import annotations

import copy
import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from prunefuse_bench.acquisition import HeadMembers, Members, Needs, Opinions, StoredMembers
from prunefuse_bench.data.stored import Images
from prunefuse_bench.distributed import current
from prunefuse_bench.distributed.kcenters import RowShard
from prunefuse_bench.inference import prepare
from prunefuse_bench.models import find_classifier
from prunefuse_bench.randomness import generator
from prunefuse_bench.recipe.parts import part_decorator
from prunefuse_bench.recipe.trained import Trained
from prunefuse_bench.registry import Registry
from prunefuse_bench.training import (
    Precision,
    TrainingRecipe,
    finer_precisions,
    predict,
    predict_prepared,
    predict_roughly,
)

__all__ = ["COMMITTEES", "Committee", "MCDropout", "OnePass", "Question", "Snapshots", "committee"]


def _no_progress(done: int, total: int) -> None:
    """Nobody watches."""


@dataclass(frozen=True)
class Question:
    """What a committee is asked about.

    Attributes:
        indices: int64 [N], the candidates' positions in the pool.
        images: uint8 [N, C, H, W], the candidates, or images that are read in batches; of texts, uint8 [N, L].
        labeled_images: uint8 [M, C, H, W], what is labeled already; empty if the protocol has nothing of the kind.
        needs: what the acquisition wants to know.
        training: how images are prepared.
        generator: for acquisitions that draw.
        seed: determines any draw of the committee.
        looked_again: whether logits may be a few percent off at first, for scores near the threshold will be computed
            again (:attr:`Opinions.refine`).
        in_shards: whether each of several processes may keep the features of its own samples, and say nothing else.
        progress: told of (samples done, samples in all).
    """

    indices: Tensor
    images: Images
    labeled_images: Images
    needs: Needs
    training: TrainingRecipe
    generator: torch.Generator
    seed: int
    looked_again: bool = False
    in_shards: bool = False
    progress: Callable[[int, int], None] = field(default=_no_progress, repr=False)

    def answer(
        self,
        *,
        logits: Tensor | None = None,
        features: Tensor | None = None,
        labeled_features: Tensor | None = None,
        members: Members | None = None,
    ) -> Opinions:
        """Opinions about the candidates, see :class:`prunefuse_bench.acquisition.Opinions`."""
        return Opinions(self.indices, self.generator, logits, features, labeled_features, members)


@dataclass(frozen=True)
class Committee(ABC):
    """Asks a trained selector about the candidates."""

    @property
    @abstractmethod
    def provides(self) -> Needs:
        """What it can say; labels, history and labeled samples are the protocol's business."""

    @property
    def head_dropout(self) -> float:
        """Share of the classifier's inputs that are dropped while the selector trains."""
        return 0.0

    @property
    def snapshot_times(self) -> tuple[float, ...]:
        """Shares of the selector's training after which a copy of it is kept."""
        return ()

    @abstractmethod
    def ask(self, selector: Trained, question: Question) -> Opinions:
        """What the acquisition needs to know about the candidates. The selector is not changed."""

    @property
    def passes(self) -> int:
        """Passes over the candidates through the whole selector."""
        return 1

    def extra_flops(self, selector: Trained, question: Question) -> int:
        """Counted FLOPs of asking beyond the passes through the whole selector."""
        return 0

    def cost_formula(self, parameters: str, samples: str) -> str:
        """FLOPs of asking about the samples by the paper's rule; ``parameters`` are the selector's, D its inputs."""
        return f"{f'{self.passes}·' if self.passes > 1 else ''}2·{parameters}·D·{samples}"


COMMITTEES: Registry[type[Committee]] = Registry("committee")
"""Committees by name."""
committee = part_decorator(COMMITTEES)
"""``@committee("name")`` registers a dataclass that derives from Committee."""


@committee("one_pass")
@dataclass(frozen=True)
class OnePass(Committee):
    """One forward pass in evaluation mode.

    Attributes:
        augmented: over randomly cropped and flipped images, as the published SVP code has it, instead of clean ones.
    """

    augmented: bool = False

    @property
    def provides(self) -> Needs:
        """One prediction per sample, and features."""
        return Needs.LOGITS | Needs.FEATURES

    def ask(self, selector: Trained, question: Question) -> Opinions:
        """Logits [N, C], and features if they are asked for."""
        model = selector.network.model
        with_features = Needs.FEATURES in question.needs
        if self._may_screen(question):
            logits = predict_roughly(model, question.images, question.training, progress=question.progress)
            return self._with_refining(question.answer(logits=logits), selector, question, look_first=True)
        logits, features = predict(
            model,
            question.images,
            question.training,
            features=with_features,
            augment=generator(question.seed, "augmented scoring") if self.augmented else None,
            gather=not question.in_shards,
            progress=question.progress,
        )
        labeled_features = None
        if with_features and Needs.LABELED in question.needs and len(question.labeled_images):
            _, labeled_features = predict(model, question.labeled_images, question.training, features=True)
        if question.in_shards:
            opinions = question.answer(labeled_features=labeled_features)
            return dataclasses.replace(opinions, feature_shard=RowShard.of(current(), features))
        opinions = question.answer(logits=logits, features=features, labeled_features=labeled_features)
        return opinions if self.augmented else self._with_refining(opinions, selector, question)

    def _may_screen(self, question: Question) -> bool:
        """Whether logits that are a few percent off will do, for they are computed again where it matters."""
        alone = not self.augmented and not question.in_shards and Needs.FEATURES not in question.needs
        return alone and question.looked_again and question.training.screening

    def _with_refining(
        self, opinions: Opinions, selector: Trained, question: Question, *, look_first: bool = False
    ) -> Opinions:
        """The same opinions, and how to get those in every precision above their own."""
        finer = finer_precisions(question.training.precision, look_first=look_first)
        return dataclasses.replace(
            opinions, refine=tuple(self._in_precision(precision, selector, question) for precision in finer)
        )

    def _in_precision(
        self, precision: Precision, selector: Trained, question: Question
    ) -> Callable[[Tensor], Opinions]:
        training = dataclasses.replace(question.training, precision=precision)
        example = training.normalisation.apply(question.images[:1])
        ready = functools.cache(lambda: prepare(selector.network.model, example, precision))

        def refine(positions: Tensor) -> Opinions:
            logits, features = predict_prepared(ready(), question.images[positions], training)
            return Opinions(question.indices[positions.cpu()], question.generator, logits, features)

        return refine


@committee("mc_dropout")
@dataclass(frozen=True)
class MCDropout(Committee):
    """Monte Carlo dropout before the classifier (Gal and Ghahramani 2016).

    The selector is trained with this dropout. Everything below the dropout is deterministic (batch norm in evaluation
    mode), so it runs once, whatever the number of passes.

    Attributes:
        passes_of_head: T, members of the committee.
        rate: share of the classifier's inputs that are dropped.
        shared_masks: the same T masks for every sample, as BatchBALD needs, so that the members are T networks; or
            masks of its own for each sample, as in the original BALD.
    """

    passes_of_head: Annotated[int, Field(ge=1, le=1000)] = 25
    rate: Annotated[float, Field(gt=0, lt=1)] = 0.5
    shared_masks: bool = True

    @property
    def provides(self) -> Needs:
        """T predictions per sample."""
        return Needs.MEMBERS | Needs.JOINT if self.shared_masks else Needs.MEMBERS

    @property
    def head_dropout(self) -> float:
        """The same rate as at scoring."""
        return self.rate

    def extra_flops(self, selector: Trained, question: Question) -> int:
        """T times through the classifier."""
        classifier = self._classifier(selector, question)
        return self.passes_of_head * 2 * classifier.weight.numel() * len(question.images)

    def cost_formula(self, parameters: str, samples: str) -> str:
        """One pass, and T through the classifier alone, which has F inputs and C classes."""
        return f"{super().cost_formula(parameters, samples)} + {self.passes_of_head}·2·F·C·{samples}"

    def ask(self, selector: Trained, question: Question) -> Opinions:
        """Members that are made from the features, block by block."""
        model = selector.network.model
        _, features = predict(model, question.images, question.training, features=True, progress=question.progress)
        assert features is not None
        classifier = self._classifier(selector, question)
        bias = None if classifier.bias is None else classifier.bias.detach().float()
        members = HeadMembers(
            features,
            classifier.weight.detach().float(),
            bias,
            count=self.passes_of_head,
            keep=1 - self.rate,
            seed=question.seed,
            shared_masks=self.shared_masks,
        )
        return question.answer(members=members)

    def _classifier(self, selector: Trained, question: Question) -> nn.Linear:
        return find_classifier(selector.network.model, question.training.normalisation.apply(question.images[:1]))


@committee("snapshots")
@dataclass(frozen=True)
class Snapshots(Committee):
    """Copies of the selector from one training run, equally spaced from ``first`` to its end (Jung, Kim and Lee 2023).

    Attributes:
        count: members.
        first: share of the training after which the first copy is kept. The original keeps 5 in the last 40 percent of
            its steps on CIFAR-10 (after epochs 120, 140, 160, 180 and 200).
    """

    count: Annotated[int, Field(ge=1, le=100)] = 5
    first: Annotated[float, Field(gt=0, le=1)] = 0.6

    @property
    def provides(self) -> Needs:
        """One prediction per sample of each copy; features differ from copy to copy, so there are none."""
        return Needs.MEMBERS | Needs.JOINT

    @property
    def snapshot_times(self) -> tuple[float, ...]:
        """Equally spaced, the last one the trained network."""
        if self.count == 1:
            return (1.0,)
        return tuple(torch.linspace(self.first, 1, self.count, dtype=torch.float64).tolist())

    @property
    def passes(self) -> int:
        """Every copy passes over all candidates."""
        return self.count

    def ask(self, selector: Trained, question: Question) -> Opinions:
        """Logits [K, N, C], one whole pass for each copy."""
        model, total = copy.deepcopy(selector.network.model), len(question.images)
        logits = []
        for position, snapshot in enumerate(selector.snapshots):
            model.load_state_dict(dict(snapshot))

            def report(done: int, _: int, before: int = position * total) -> None:
                question.progress(before + done, len(selector.snapshots) * total)

            logits.append(predict(model, question.images, question.training, features=False, progress=report)[0])
        return question.answer(members=StoredMembers(torch.stack(logits)))
