"""The protocol as plain code: Algorithm 1 of the paper, line by line, whatever the recipe."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from prunefuse_bench.acquisition import Needs, Opinions
from prunefuse_bench.cost import Ledger, StageCost
from prunefuse_bench.data import ImageDataset, LabeledSet, Pool
from prunefuse_bench.models import build_model, count_parameters
from prunefuse_bench.pruning import Network, PruningStep, replay_pruning
from prunefuse_bench.randomness import derive_seed, generator, seeded
from prunefuse_bench.recipe import Recipe, Start
from prunefuse_bench.training import Diverged, Evaluation, Fit, TrainingRecipe, evaluate, fit

__all__ = ["Cell", "Checkpoint", "Outcome", "Progress", "Round", "SavedSelector", "Task", "Trained", "active_learning"]


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
    """

    dataset: ImageDataset
    model: str
    width: float
    training: TrainingRecipe
    label_counts: tuple[int, ...]
    report_rounds: frozenset[int]
    device: torch.device


@dataclass(frozen=True)
class Trained:
    """A network and the training run that made it."""

    network: Network
    fit: Fit


@dataclass(frozen=True)
class Outcome:
    """How a trained network does on the test set, after its last epoch."""

    evaluation: Evaluation
    fit: Fit
    parameters: int


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
        stages: cost by stage.
    """

    number: int
    query: Tensor
    labels: int
    selector: Trained | None
    selector_outcome: Outcome | None
    target_outcome: Outcome | None
    stages: dict[str, StageCost]


@dataclass(frozen=True)
class SavedSelector:
    """A trained selector as plain data.

    Attributes:
        state: its parameters and buffers.
        history: the pruning steps that made its structure; None if it was not pruned.
        fit: the training run that made it.
    """

    state: Mapping[str, Tensor]
    history: tuple[PruningStep, ...] | None
    fit: Fit


@dataclass(frozen=True)
class Checkpoint:
    """What is needed to go on: the last whole round's number, the queries of all rounds, and the trained selector."""

    number: int
    queries: tuple[Tensor, ...]
    selector: SavedSelector | None


def active_learning(cell: Cell, after: Checkpoint | None = None) -> Iterator[Round]:
    """Algorithm 1 of the paper; yields each round when it is whole, and so can be stored and resumed from.

    Lines 14 and 15 are carried out at every budget that is reported, not only at the last.

    Args:
        cell: the task, the recipe and the seed.
        after: go on after this round instead of from the start.

    Raises:
        CellFailed: training diverged, or a score could not be ranked.
    """
    target = cell.new_target()  # line 1
    untrained = cell.new_selector(target)  # line 2
    if after is None:
        query = cell.random_start()
        labeled = cell.pool.label(query)  # line 4
        selector = cell.train_selector(untrained, labeled, 0)  # line 3
        yield cell.close_round(0, query, target, selector, labeled)
    else:
        labeled = cell.label_again(after.queries)
        selector = cell.restore_selector(after.selector, target, untrained)
        cell.ledger.close_round()  # what it took to get here is on record already
    for r, k in cell.rounds(after):  # line 5
        query = cell.choose(k, selector, r)  # line 6
        labeled = cell.pool.label(query)  # lines 7 and 8
        if not cell.syncs_at(r):  # line 9
            selector = cell.train_selector(untrained, labeled, r)  # line 10
        else:  # line 11
            fused = cell.train_target(target, selector, labeled, r, stage="sync")  # line 12
            selector = cell.train_selector(cell.new_selector(fused.network.model), labeled, r)  # line 13
        yield cell.close_round(r, query, target, selector, labeled)  # lines 14 and 15


class Cell:
    """One (task, recipe, seed) at work: the pool, the ledger, and the steps of Algorithm 1.

    Every draw depends on the seed and the purpose alone, so methods of one seed share the initial labels, the initial
    weights of the target and the order of the batches, and a resumed run draws what an uninterrupted one does.
    """

    def __init__(
        self, task: Task, recipe: Recipe, seed: int, progress: Progress = lambda stage, done, total: None
    ) -> None:
        self.task, self.recipe, self.seed, self.progress = task, recipe, seed, progress
        self.pool = Pool(task.dataset.train_images, task.dataset.train_labels, task.device)
        self.test_images = task.dataset.test_images.to(task.device)
        self.test_labels = task.dataset.test_labels.to(task.device)
        self.example_input = task.training.normalisation.apply(self.pool.images[:1])
        self.ledger = Ledger(task.device)

    def new_target(self) -> nn.Module:
        """The dense network with its initial weights, the same for every method of this seed."""
        with seeded(self.seed, "target"):
            network = build_model(
                self.task.model,
                num_classes=len(self.task.dataset.classes),
                in_channels=self.task.dataset.train_images.shape[1],
                width=self.task.width,
            )
        return network.to(self.task.device)

    def new_selector(self, target: nn.Module) -> Network | None:
        """The selector before its training, or None if the recipe needs none."""
        if not self.recipe.uses_selector:
            return None
        with self.ledger.stage("prune"):
            return self.recipe.proxy.start(target, self.example_input)

    def random_start(self) -> Tensor:
        """The first labels: uniformly at random, the same for every method of this seed; int64 [k]."""
        order = torch.randperm(len(self.pool), generator=generator(self.seed, "initial labels"))
        return order[: self.task.label_counts[0]]

    def label_again(self, queries: tuple[Tensor, ...]) -> LabeledSet:
        """Label what was labeled before a checkpoint, in the same order."""
        for query in queries:
            self.pool.label(query)
        return self.pool.labeled

    def restore_selector(
        self, saved: SavedSelector | None, target: nn.Module, untrained: Network | None
    ) -> Trained | None:
        """The trained selector of a checkpoint; its structure is that of ``untrained`` or made by its own history."""
        if saved is None or untrained is None:
            return None
        network = untrained
        if saved.history is not None:
            network = replay_pruning(target, self.example_input, saved.history)
        model = copy.deepcopy(network.model)
        model.to(memory_format=torch.channels_last)  # as training leaves it
        model.load_state_dict(dict(saved.state))
        return Trained(dataclasses.replace(network, model=model.eval()), saved.fit)

    def rounds(self, after: Checkpoint | None) -> Iterator[tuple[int, int]]:
        """(r, k): each round still to do, and how many labels it asks for."""
        counts = self.task.label_counts
        for number in range(after.number + 1 if after else 1, len(counts)):
            yield number, counts[number] - counts[number - 1]

    def syncs_at(self, number: int) -> bool:
        """Whether the selector is made anew from the fused network in this round (T_sync)."""
        return self.recipe.sync_every > 0 and number % self.recipe.sync_every == 0

    def choose(self, k: int, selector: Trained | None, number: int) -> Tensor:
        """The k samples of the unlabeled pool to label; int64 [k], first choice first."""
        acquisition = self.recipe.find_acquisition()
        unlabeled, draws = self.pool.unlabeled, generator(self.seed, "acquisition", number)
        opinions = Opinions(unlabeled, draws)
        if selector is not None and acquisition.needs != Needs.NOTHING:
            with self.ledger.stage("selector/infer") as cost:
                opinions = self.recipe.committee.ask(
                    selector.network,
                    self.pool,
                    acquisition.needs,
                    self.task.training,
                    draws,
                    functools.partial(self.progress, "selector/infer"),
                )
                cost.samples += len(unlabeled) + (len(self.pool.labeled) if Needs.FEATURES in acquisition.needs else 0)
        with self.ledger.stage("selector/rank") as cost:
            cost.samples += len(unlabeled)
            return acquisition.choose(k, opinions)

    def train_selector(self, start: Network | None, labeled: LabeledSet, number: int) -> Trained | None:
        """The selector, trained from ``start`` (not changed)."""
        return None if start is None else self._train(start, labeled, number, "selector/train")

    def train_target(
        self, target: nn.Module, selector: Trained | None, labeled: LabeledSet, number: int, stage: str = "target"
    ) -> Trained:
        """The dense network as the recipe starts it, fine-tuned on the labeled set."""
        with self.ledger.stage(f"{stage}/start"):
            start = self.recipe.target_start.begin(
                target, selector.network if selector else None, derive_seed(self.seed, "rest", number)
            )
        if start.trained and selector is not None:
            return selector
        return self._train(Network(start.network), labeled, number, f"{stage}/train", start)

    def close_round(
        self, number: int, query: Tensor, target: nn.Module, selector: Trained | None, labeled: LabeledSet
    ) -> Round:
        """Train and evaluate the target if this budget is reported, and evaluate the selector."""
        selector_outcome = self._evaluate(selector, "selector/eval") if selector else None
        target_outcome = None
        if number in self.task.report_rounds:
            trained = self.train_target(target, selector, labeled, number)
            target_outcome = selector_outcome if trained is selector else self._evaluate(trained, "target/eval")
        return Round(number, query, len(labeled), selector, selector_outcome, target_outcome, self.ledger.close_round())

    def _train(
        self, network: Network, labeled: LabeledSet, number: int, stage: str, start: Start | None = None
    ) -> Trained:
        model = copy.deepcopy(network.model)
        with self.ledger.stage(stage) as cost:
            result = fit(
                model,
                labeled.images,
                labeled.labels,
                self.task.training,
                generator(self.seed, "training", number),
                teacher=start.teacher if start else None,
                distillation=start.distillation if start else None,
                progress=functools.partial(self.progress, stage),
            )
            cost.samples += result.samples
        return Trained(dataclasses.replace(network, model=model), result)

    def _evaluate(self, trained: Trained, stage: str) -> Outcome:
        model = trained.network.model
        with self.ledger.stage(stage) as cost:
            evaluation = evaluate(model, self.test_images, self.test_labels, self.task.training)
            cost.samples += len(self.test_images)
        if not math.isfinite(evaluation.loss):
            raise Diverged(f"training diverged: {stage}: the test loss is {evaluation.loss} after the last epoch")
        return Outcome(evaluation, trained.fit, count_parameters(model))
