"""What a cell will do, pass by pass: :mod:`prunefuse_bench.loop` without the doing.

Every step of the protocols that passes samples through a network is here, in the order and under the stage in which the
loop does it; a test holds the sums against the records of real runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from prunefuse_bench.acquisition import Needs
from prunefuse_bench.acquisition.products import Counts
from prunefuse_bench.recipe import Fresh, Fused, MCDropout, ProtocolName, Recipe
from prunefuse_bench.training import TrainingRecipe

__all__ = ["Choosing", "Passes", "Work", "cell_work", "trained_samples"]

Who = Literal["target", "selector"]


@dataclass(frozen=True)
class Passes:
    """Samples that go through a network in one stage.

    Attributes:
        round: 0 for the random start.
        stage: as records name it.
        network: which of the two.
        way: trained on, scored (the package's fast way), or evaluated (the plain way, also by a teacher).
        samples: each counts once for each pass.
        times_through_head: passes through the classifier alone, for each of ``samples``.
    """

    round: int
    stage: str
    network: Who
    way: Literal["training", "scoring", "evaluation"]
    samples: int
    times_through_head: int = 0


@dataclass(frozen=True)
class Choosing:
    """One query: what the acquisition is asked, for formulas of what it spends."""

    round: int
    candidates: int
    labeled: int
    k: int

    def counts(self, recipe: Recipe, classes: int, features: int) -> Counts:
        """The sizes that the acquisition meets; a selector has so many features."""
        needs, provides = recipe.find_acquisition().needs, recipe.committee.provides
        committee = recipe.committee
        members = committee.passes_of_head if isinstance(committee, MCDropout) else committee.passes
        with_members = bool(Needs.MEMBERS & provides)
        knows_features = Needs.FEATURES in needs and Needs.FEATURES in provides
        return Counts(
            candidates=self.candidates,
            labeled=self.labeled if knows_features and Needs.LABELED in needs else 0,
            k=self.k,
            classes=classes if needs & provides else 0,
            features=features if knows_features else 0,
            members=members if with_members else 0,
        )


Work = Passes | Choosing


def cell_work(
    recipe: Recipe,
    protocol: ProtocolName,
    training: TrainingRecipe,
    label_counts: tuple[int, ...],
    report_rounds: frozenset[int],
    pool: int,
    test: int,
    *,
    accuracy_by_epoch: bool = False,
) -> list[Work]:
    """All that the loop does for one cell.

    Args:
        training: of the cell, what the method itself insists on included.
        label_counts: labels after each round; the first is the random start.
        report_rounds: rounds whose target is trained and evaluated.
        pool, test: how many samples there are.
    """
    cell = _Cell(recipe, training, label_counts, report_rounds, pool, test, accuracy_by_epoch)
    return list(cell.coreset() if protocol == "coreset" else cell.active_learning())


def trained_samples(training: TrainingRecipe, count: int) -> tuple[int, int]:
    """Epochs, and samples that are seen in them, of a training on so many samples."""
    batches = -(-count // training.batch_size)
    if batches > 1 and count % training.batch_size == 1:
        batches -= 1  # a last batch of one sample joins the one before
    epochs = training.schedule.epochs_for(batches)
    return epochs, epochs * count


@dataclass(frozen=True)
class _Cell:
    recipe: Recipe
    training: TrainingRecipe
    label_counts: tuple[int, ...]
    report_rounds: frozenset[int]
    pool: int
    test: int
    accuracy_by_epoch: bool

    def active_learning(self) -> Iterator[Work]:
        recipe, counts = self.recipe, self.label_counts
        has_selector = recipe.uses_selector
        if has_selector:
            yield from self.train(0, "selector/train", "selector", counts[0])
        yield from self.close_round(0, has_selector)
        for number in range(1, len(counts)):
            labeled = counts[number - 1]
            if has_selector:
                yield from self.ask(number, self.pool - labeled, labeled)
            yield Choosing(number, self.pool - labeled, labeled, counts[number] - labeled)
            if recipe.sync_every > 0 and number % recipe.sync_every == 0:
                yield from self.train(number, "sync/train", "target", counts[number])
                yield from self.train(number, "selector/train", "selector", counts[number])
            elif number + 1 < len(counts) or recipe.target_start.needs_selector:
                if has_selector:
                    yield from self.train(number, "selector/train", "selector", counts[number])
            else:
                has_selector = False
            yield from self.close_round(number, has_selector)

    def coreset(self) -> Iterator[Work]:
        has_selector = self.recipe.uses_selector
        if has_selector:
            yield from self.train(0, "selector/train", "selector", self.pool)
            yield from self.ask(0, self.pool, 0)
        for number, budget in enumerate(self.label_counts):
            yield Choosing(number, self.pool, 0, budget)
            yield from self.close_round(number, has_selector and number == 0)

    def ask(self, number: int, candidates: int, labeled: int) -> Iterator[Work]:
        needs, committee = self.recipe.find_acquisition().needs, self.recipe.committee
        if not needs & committee.provides:
            return
        samples = committee.passes * candidates + (labeled if Needs.LABELED in needs else 0)
        yield Passes(number, "selector/infer", "selector", "scoring", samples)
        if isinstance(committee, MCDropout):
            yield Passes(number, "selector/infer", "selector", "scoring", 0, committee.passes_of_head * candidates)

    def train(self, number: int, stage: str, who: Who, count: int) -> Iterator[Work]:
        start = self.recipe.target_start
        epochs, samples = trained_samples(self.training, count)
        yield Passes(number, stage, who, "training", samples)
        if who == "target" and isinstance(start, Fresh | Fused) and start.distillation is not None:
            yield Passes(number, stage, "selector", "evaluation", samples)
        becomes_target = "selector/train" if start.is_selector else "target/train"
        if self.accuracy_by_epoch and stage == becomes_target and number in self.report_rounds:
            yield Passes(number, "target/eval", who, "evaluation", (epochs + 1) * self.test)

    def close_round(self, number: int, has_selector: bool) -> Iterator[Work]:
        if has_selector:
            yield Passes(number, "selector/eval", "selector", "evaluation", self.test)
        if number in self.report_rounds and not self.recipe.target_start.is_selector:
            yield from self.train(number, "target/train", "target", self.label_counts[number])
            yield Passes(number, "target/eval", "target", "evaluation", self.test)
