"""What a cell is given, what its rounds bring, and what is kept of it to go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from prunefuse_bench.cost import Bill, StageCost
from prunefuse_bench.data import ImageDataset
from prunefuse_bench.data.corruptions import Corruption
from prunefuse_bench.decomposition import Decomposition, Gaps, PoolLosses
from prunefuse_bench.pruning import PruningStep
from prunefuse_bench.recipe import Trained
from prunefuse_bench.training import (
    Evaluation,
    Fit,
    History,
    TrainingRecipe,
)
from prunefuse_bench.training.robustness import Robustness

__all__ = ["Checkpoint", "Outcome", "Progress", "Removed", "Round", "SavedSelector", "SelectorShelf", "Task"]


class Progress(Protocol):
    """Told where a run is: a stage, and how much of it is done."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take note."""


@dataclass(frozen=True)
class Task:
    """Everything of a cell that is the same for all methods.

    Attributes:
        dataset: images and labels.
        model: name of the target network; ``width`` a factor on its channels.
        training: how every network is trained.
        label_counts: labels after each round; the first is the random start.
        report_rounds: rounds whose target network is trained and evaluated.
        device: where it all happens.
        accuracy_by_epoch: whether targets are also judged before training and after every epoch, for curves of
            convergence; nothing is chosen by it.
        corruptions: of the test images; targets that are reported are judged on them too.
        corrupted_selector: whether the selectors of those rounds are as well.
        decomposition: whether the parts of the paper's bound are measured, see :mod:`prunefuse_bench.decomposition`;
            active learning alone.
    """

    dataset: ImageDataset
    model: str
    width: float
    training: TrainingRecipe
    label_counts: tuple[int, ...]
    report_rounds: frozenset[int]
    device: torch.device
    accuracy_by_epoch: bool = False
    corruptions: tuple[Corruption, ...] = ()
    corrupted_selector: bool = False
    decomposition: bool = False


@dataclass(frozen=True)
class Removed:
    """How much of the dense network a pruned selector has lost.

    Attributes:
        ratio: the share of the channels that was asked for; None if that is not on record.
        channels: output channels of all layers with weights but the classifier, before and after.
        parameters: before and after.
        forward_flops: of one sample, counted, before and after.
    """

    ratio: float | None
    channels: tuple[int, int]
    parameters: tuple[int, int]
    forward_flops: tuple[int, int]


@dataclass(frozen=True)
class Outcome:
    """How a trained network does on the test set, after its last epoch.

    And, if that was asked for, on the way, and on corrupted test images.

    Attributes:
        removed: how much pruning took from it, if it is a pruned selector.
    """

    evaluation: Evaluation
    fit: Fit
    parameters: int
    accuracy_by_epoch: tuple[float, ...] | None = None
    robustness: Robustness | None = None
    removed: Removed | None = None


@dataclass(frozen=True)
class Round:
    """One whole round.

    Attributes:
        number: 0 for the random start.
        query: int64 [k], the samples labeled in this round, first choice first.
        labels: size of the labeled set.
        selector: trained on the labeled set, the one that the next round asks; None if the recipe needs none.
        selector_outcome: how it does.
        target_outcome: how the target does that was trained on the labeled set; None if this budget is not reported.
        bill: what it cost, stage by stage.
        tied: how many of the query were drawn by lot among equal scores; None for a random start.
        decomposition: of the networks of this round, if the task asks for it and there is a target.
        query_gaps: of this round's query, under the networks that ``decomposition`` of the round before is about: its
            selector chose the query.
        losses: of the pool under the networks of ``decomposition``, to judge the next query by.
    """

    number: int
    query: Tensor
    labels: int
    selector: Trained | None
    selector_outcome: Outcome | None
    target_outcome: Outcome | None
    bill: Bill
    tied: int | None = None
    decomposition: Decomposition | None = None
    query_gaps: Gaps | None = None
    losses: PoolLosses | None = None


@dataclass(frozen=True)
class SavedSelector:
    """A trained selector as plain data.

    Attributes:
        state: its parameters and buffers.
        history: the pruning steps that made its structure; None if it was not pruned.
        ratio: the share of the channels that they were asked to remove, if it is known.
        fit: the training run that made it.
        snapshots, training_history, accuracy_by_epoch: what its training left behind, see
            :class:`prunefuse_bench.recipe.Trained`.
    """

    state: Mapping[str, Tensor]
    history: tuple[PruningStep, ...] | None
    fit: Fit
    snapshots: tuple[Mapping[str, Tensor], ...] = ()
    training_history: History | None = None
    ratio: float | None = None
    accuracy_by_epoch: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Checkpoint:
    """What is needed to go on: the last whole round's number, the queries of all rounds, and the trained selector.

    And for the decomposition of errors, if the task asks for it, ``losses`` of the last round. If ``is_lost``, a
    selector, or losses, there were, but their files are gone or damaged: they have to be made again from the queries.
    """

    number: int
    queries: tuple[Tensor, ...]
    selector: SavedSelector | None
    losses: PoolLosses | None = None
    is_lost: bool = False


class SelectorShelf(Protocol):
    """Where trained selectors wait for other cells that would train the very same one."""

    def within(self, settings: Mapping[str, Any]) -> SelectorShelf:
        """The part of it for selectors that have these settings in common."""

    def get(self, settings: Mapping[str, Any]) -> tuple[SavedSelector, dict[str, StageCost]] | None:
        """The selector that was trained by these settings, and what its training took, stage by stage."""

    def put(self, settings: Mapping[str, Any], selector: Trained, costs: Mapping[str, StageCost]) -> None:
        """Keep a selector."""
