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
from prunefuse_bench.recipe import Fresh, Fused, MCDropout, ProtocolName, Recipe, selector_training
from prunefuse_bench.training import EarlyStopping, TrainingRecipe

__all__ = ["Choosing", "Length", "Passes", "Work", "cell_work", "training_length"]

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
        times_through_head: passes through the classifier alone.
        structure: of a selector that is pruned while it trains: after how many of its steps; None for its last.
        counted: whether they are samples of the stage; those that a teacher sees are the student's already.
    """

    round: int
    stage: str
    network: Who
    way: Literal["training", "scoring", "evaluation"]
    samples: int
    times_through_head: int = 0
    structure: int | None = None
    counted: bool = True


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
    corrupted: int = 0,
    corrupted_selector: bool = False,
    decomposition: bool = False,
) -> list[Work]:
    """All that the loop does for one cell. A training that stops at a plateau is taken to run to its end.

    Args:
        training: of the cell's targets, what the method itself insists on included.
        label_counts: labels after each round; the first is the random start.
        report_rounds: rounds whose target is trained and evaluated.
        pool, test: how many samples there are.
        corrupted: corrupted test images that a network is judged on, all corruptions and severities together.
        accuracy_by_epoch, corrupted_selector, decomposition: see :class:`prunefuse_bench.rounds.Task`.
    """
    cell = _Cell(
        recipe, training, label_counts, report_rounds, pool, test, accuracy_by_epoch, corrupted, corrupted_selector,
        decomposition,
    )  # fmt: skip
    return list(cell.coreset() if protocol == "coreset" else cell.active_learning())


@dataclass(frozen=True)
class Length:
    """Of a training, at most.

    Attributes:
        epochs: passes over what is trained on.
        trained, held: samples that are trained on, and that are held out and judged after every epoch.
    """

    epochs: int
    trained: int
    held: int


def training_length(training: TrainingRecipe, count: int) -> Length:
    """How long a training on so many labeled samples is."""
    stopping = training.stopping or EarlyStopping()
    held = 0 if stopping.patience is None else max(1, round(stopping.holdout * count))
    trained = count - held
    batches = -(-trained // training.batch_size)
    if batches > 1 and trained % training.batch_size == 1:
        batches -= 1  # a last batch of one sample joins the one before
    scheduled = training.schedule.epochs_for(batches)
    return Length(stopping.epochs_of(scheduled, training.schedule.epochs), trained, held)


@dataclass(frozen=True)
class _Cell:
    recipe: Recipe
    training: TrainingRecipe
    label_counts: tuple[int, ...]
    report_rounds: frozenset[int]
    pool: int
    test: int
    accuracy_by_epoch: bool
    corrupted: int
    corrupted_selector: bool
    decomposition: bool

    def active_learning(self) -> Iterator[Work]:
        recipe, counts = self.recipe, self.label_counts
        has_selector = recipe.uses_selector
        if has_selector:
            yield from self.train(0, "selector/train", "selector", counts[0])
        yield from self.close_round(0, has_selector)
        if has_selector:
            yield from self.judge_selector(0)
        yield from self.decompose(0, has_selector, synchronised=False)
        for number in range(1, len(counts)):
            labeled = counts[number - 1]
            if has_selector:
                yield from self.ask(number, self.pool - labeled, labeled)
            yield Choosing(number, self.pool - labeled, labeled, counts[number] - labeled)
            synchronised = recipe.sync_every > 0 and number % recipe.sync_every == 0
            if synchronised:
                yield from self.train(number, "sync/train", "target", counts[number])
                yield from self.train(number, "selector/train", "selector", counts[number])
            elif number + 1 < len(counts) or recipe.target_start.needs_selector:
                if has_selector:
                    yield from self.train(number, "selector/train", "selector", counts[number])
            else:
                has_selector = False
            yield from self.close_round(number, has_selector)
            if has_selector:
                yield from self.judge_selector(number)
            yield from self.decompose(number, has_selector, synchronised)

    def coreset(self) -> Iterator[Work]:
        has_selector = self.recipe.uses_selector
        if has_selector:
            yield from self.train(0, "selector/train", "selector", self.pool)
            yield from self.ask(0, self.pool, 0)
        for number, budget in enumerate(self.label_counts):
            yield Choosing(number, self.pool, 0, budget)
            # There is one selector, which is judged once.
            yield from self.close_round(number, has_selector and number == 0)
            if has_selector and number == min(self.report_rounds):
                yield from self.judge_selector(number)

    def ask(self, number: int, candidates: int, labeled: int) -> Iterator[Work]:
        needs, committee = self.recipe.find_acquisition().needs, self.recipe.committee
        if not needs & committee.provides:
            return
        samples = committee.passes * candidates + (labeled if Needs.LABELED in needs else 0)
        yield Passes(number, "selector/infer", "selector", "scoring", samples)
        if isinstance(committee, MCDropout):
            yield Passes(number, "selector/infer", "selector", "scoring", 0, committee.passes_of_head * candidates)

    def train(self, number: int, stage: str, who: Who, count: int, charged_as: str | None = None) -> Iterator[Work]:
        """``charged_as``: the stage of a diagnosis that pays for it."""
        start, paid = self.recipe.target_start, charged_as or stage
        is_selector = who == "selector"
        training = selector_training(self.recipe, self.training) if is_selector else self.training
        length = training_length(training, count)
        for structure, epochs in self.structures(length.epochs) if is_selector else [(None, length.epochs)]:
            yield Passes(number, paid, who, "training", epochs * length.trained, structure=structure)
            if length.held:
                yield Passes(number, paid, who, "evaluation", epochs * length.held, structure=structure)
        if who == "target" and isinstance(start, Fresh | Fused) and start.distillation is not None:
            yield Passes(number, paid, "selector", "evaluation", length.epochs * length.trained, counted=False)
        becomes_target = "selector/train" if start.is_selector else "target/train"
        if self.accuracy_by_epoch and stage == becomes_target and number in self.report_rounds:
            yield Passes(number, charged_as or "target/eval", who, "evaluation", (length.epochs + 1) * self.test)

    def structures(self, epochs: int) -> Iterator[tuple[int | None, int]]:
        """Structures that a selector has in so many epochs of its training, and how many of them it has each."""
        begin, steps = 0, self.recipe.proxy.pruning_steps_to_come
        for position, (end, _) in enumerate(steps):
            yield position, end - begin
            begin = end
        yield None, epochs - begin

    def close_round(self, number: int, has_selector: bool) -> Iterator[Work]:
        is_selector = self.recipe.target_start.is_selector
        if has_selector:
            yield Passes(number, "selector/eval", "selector", "evaluation", self.test)
        if number not in self.report_rounds:
            return
        if not is_selector:
            yield from self.train(number, "target/train", "target", self.label_counts[number])
            yield Passes(number, "target/eval", "target", "evaluation", self.test)
        if self.corrupted:
            who: Who = "selector" if is_selector else "target"
            yield Passes(number, "target/corruptions", who, "evaluation", self.corrupted)

    def judge_selector(self, number: int) -> Iterator[Work]:
        """On corrupted images, unless it is the target, which is judged on them anyway."""
        if self.corrupted_selector and number in self.report_rounds and not self.recipe.target_start.is_selector:
            yield Passes(number, "selector/corruptions", "selector", "evaluation", self.corrupted)

    def decompose(self, number: int, has_selector: bool, synchronised: bool) -> Iterator[Work]:
        if not self.decomposition or not (synchronised or number in self.report_rounds):
            return
        stage, is_selector = "decomposition", self.recipe.target_start.is_selector
        target: Who = "selector" if is_selector else "target"
        if synchronised:  # a selector that is trained from scratch, to compare with
            yield from self.train(number, "selector/train", "selector", self.label_counts[number], charged_as=stage)
            yield Passes(number, stage, "selector", "evaluation", self.test)
        yield Passes(number, stage, target, "evaluation", self.pool + self.test)
        if has_selector:
            yield Passes(number, stage, "selector", "evaluation", self.test + (0 if is_selector else self.pool))
