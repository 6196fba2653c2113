"""The steps that the protocols are made of, for one task, one method and one seed."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from prunefuse_bench.acquisition import Choice, Needs, Opinions
from prunefuse_bench.cost import Ledger, NetworkRates, StageCost, network_rates
from prunefuse_bench.data import LabeledSet, Pool
from prunefuse_bench.decomposition import Decomposition, PoolLosses, parameter_distance, sample_losses
from prunefuse_bench.distributed import current
from prunefuse_bench.distributed.bills import bill_of_all
from prunefuse_bench.dynamic_pruning import DynamicPruning
from prunefuse_bench.errors import CellFailed, DataChanged
from prunefuse_bench.models import build_model, count_parameters
from prunefuse_bench.pruning import Network, PrunedNetwork, replay_pruning
from prunefuse_bench.randomness import derive_seed, generator, seeded
from prunefuse_bench.recipe import Question, Recipe, Start, Trained, selector_training, training_of
from prunefuse_bench.rounds import (
    Checkpoint,
    Outcome,
    Progress,
    Removed,
    Round,
    SavedSelector,
    SelectorShelf,
    Task,
)
from prunefuse_bench.training import (
    Diverged,
    EpochRecorder,
    Evaluation,
    HistoryRecorder,
    SnapshotRecorder,
    TrainingObserver,
    TrainingRecipe,
    evaluate,
    fit,
)
from prunefuse_bench.training.robustness import Robustness, evaluate_corruptions

__all__ = ["Cell", "selector_settings"]


def selector_settings(recipe: Recipe, training: TrainingRecipe, seed: int) -> dict[str, Any]:
    """All that tells one selector of a run from another, but for what it is trained on; a run has one task.

    ``training`` is the task's.
    """
    committee = recipe.committee
    return {
        "proxy": recipe.settings()["proxy"],
        "head_dropout": committee.head_dropout,
        "snapshot_times": list(committee.snapshot_times),
        "training": selector_training(recipe, training_of(recipe, training)).settings(),
        "seed": seed,
    }


class Cell:
    """One (task, recipe, seed) at work: the pool, the ledger, and the steps of the protocols.

    Every draw depends on the seed and the purpose alone, so methods of one seed share the initial labels, the initial
    weights of the target and the order of the batches, and a resumed run draws what an uninterrupted one does.
    """

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        seed: int,
        progress: Progress = lambda stage, done, total: None,
        shelf: SelectorShelf | None = None,
        shared_rounds: frozenset[int] = frozenset(),
    ) -> None:
        self.task, self.recipe, self.seed, self.progress, self.shelf = task, recipe, seed, progress, shelf
        self.shared_rounds = shared_rounds
        self.training = training_of(recipe, task.training)
        self.ledger = Ledger(task.device)
        with self.ledger.stage("data"):
            self.pool = Pool(task.dataset.train_images, task.dataset.train_labels, task.device)
            self.test_images = task.dataset.test_images.to(task.device)
            self.test_labels = task.dataset.test_labels.to(task.device)
            self.example_input = task.training.normalisation.apply(self.pool.images[:1])
        self.world = current()
        self._refining = StageCost()
        self._dense_rates: NetworkRates | None = None
        self._evaluated: tuple[Trained, Outcome] | None = None
        self._judged: tuple[Trained, Robustness] | None = None
        self._synchronised: Trained | None = None
        self.losses: PoolLosses | None = None  # of the round before

    def new_target(self) -> nn.Module:
        """The dense network with its initial weights, the same for every method of this seed."""
        with self.ledger.stage("build"), seeded(self.seed, "target"):
            network = build_model(
                self.task.model,
                num_classes=len(self.task.dataset.classes),
                in_channels=self.task.dataset.in_channels,
                width=self.task.width,
            )
            return network.to(self.task.device)

    def new_selector(self, target: nn.Module) -> Network | None:
        """The selector before its training, or None if the recipe needs none."""
        if not self.recipe.uses_selector:
            return None
        self._dense_rates = self._rates(target)
        with self.ledger.stage("prune"):
            return self.recipe.proxy.start(target, self.example_input, derive_seed(self.seed, "proxy"))

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
            if not isinstance(untrained, PrunedNetwork) or saved.history != untrained.history:
                network = replay_pruning(target, self.example_input, saved.history)
            assert isinstance(network, PrunedNetwork)
            network = dataclasses.replace(network, extent=dataclasses.replace(network.extent, ratio=saved.ratio))
        model = copy.deepcopy(network.model)
        model.to(memory_format=torch.channels_last)  # as training leaves it
        model.load_state_dict(dict(saved.state))
        network = dataclasses.replace(network, model=model.eval())
        return Trained(network, saved.fit, saved.snapshots, saved.training_history, saved.accuracy_by_epoch)

    @contextlib.contextmanager
    def recovering(self) -> Iterator[None]:
        """Within the block every cost is charged to the stage ``recovery``: it was spent before, and then lost.

        Nothing is taken from other cells or given to them, as they would be charged for it by that name.
        """
        self.ledger.close_round()  # what it took to get here is on record already
        progress, shelf = self.progress, self.shelf
        self.shelf = None
        self.progress = lambda within, done, total: progress(f"recovery: {within}", done, total)
        try:
            with self.ledger.everything_as("recovery"):
                yield
        finally:
            self.progress, self.shelf = progress, shelf

    def rounds(self, after: Checkpoint | None) -> Iterator[tuple[int, int]]:
        """(r, k): each round still to do, and how many labels it asks for."""
        counts = self.task.label_counts
        for number in range(after.number + 1 if after else 1, len(counts)):
            yield number, counts[number] - counts[number - 1]

    def syncs_at(self, number: int) -> bool:
        """Whether the selector is made anew from the fused network in this round (T_sync)."""
        return self.recipe.sync_every > 0 and number % self.recipe.sync_every == 0

    def needs_selector_after(self, number: int) -> bool:
        """Whether a later round, or the target, asks for the selector that is trained in this round."""
        return number + 1 < len(self.task.label_counts) or self.recipe.target_start.needs_selector

    def ask(self, selector: Trained | None, candidates: Tensor, labeled: LabeledSet | None, number: int) -> Opinions:
        """What the acquisition needs to know about the candidates, int64 [N], positions in the pool.

        ``labeled``: what is labeled already; None in the coreset protocol, which then also tells labels and history.
        """
        acquisition = self.recipe.find_acquisition()
        draws = generator(self.seed, "acquisition", number)
        opinions = Opinions(candidates, draws)
        if selector is not None and acquisition.needs & self.recipe.committee.provides:
            committee, rates = self.recipe.committee, self._rates(selector.network.model)
            with self.ledger.stage("selector/infer") as cost:
                question = Question(
                    indices=candidates,
                    images=self.pool.images[candidates.to(self.pool.images.device)],
                    labeled_images=labeled.images if labeled else self.pool.images[:0],
                    needs=acquisition.needs,
                    training=self.training,
                    generator=draws,
                    seed=derive_seed(self.seed, "committee", number),
                    looked_again=acquisition.screened and acquisition.looks_again,
                    in_shards=acquisition.takes_shards and self.world.size > 1,
                    progress=functools.partial(self.progress, "selector/infer"),
                )
                opinions = self._answer(selector, question)
                cost.samples += committee.passes * len(candidates)
                if labeled is not None and Needs.LABELED in acquisition.needs:
                    cost.samples += len(labeled)
                rates.charge_forward(cost, cost.samples)
                cost.flops_forward += committee.extra_flops(selector, question)
                opinions = self._count_refining(opinions, rates)
        if labeled is None:
            labels = self.pool.everything.labels if Needs.LABELS in acquisition.needs else None
            history = selector.history if selector and Needs.HISTORY in acquisition.needs else None
            opinions = dataclasses.replace(opinions, labels=labels, history=history)
        return opinions

    def _answer(self, selector: Trained, question: Question) -> Opinions:
        """What the committee says; whatever a committee of the user's own does, the other cells go on."""
        committee = f"method {self.recipe.label!r}: committee {type(self.recipe.committee).__name__}"
        try:
            opinions = self.recipe.committee.ask(selector, question)
        except DataChanged:
            raise
        except Exception as error:
            raise CellFailed(f"{committee} raised {type(error).__name__}: {error}") from error
        said = (opinions.indices, opinions.logits, opinions.features, opinions.members)
        if any(one is not None and len(one) != len(question.indices) for one in said):
            raise CellFailed(
                f"{committee}: expected opinions about {len(question.indices)} candidates, "
                f"got {[len(one) for one in said if one is not None]}"
            )
        return opinions

    def _count_refining(self, opinions: Opinions, rates: NetworkRates) -> Opinions:
        """The same opinions; what looking again costs is charged when the choice is made."""

        def counted(refine: Callable[[Tensor], Opinions], positions: Tensor) -> Opinions:
            self._refining.samples += len(positions)
            rates.charge_forward(self._refining, len(positions))
            return refine(positions)

        return dataclasses.replace(
            opinions, refine=tuple(functools.partial(counted, refine) for refine in opinions.refine)
        )

    def draws_for(self, opinions: Opinions, number: int) -> Opinions:
        """The same opinions with the draws of one budget, whatever was drawn for the budgets before."""
        return dataclasses.replace(opinions, generator=generator(self.seed, "acquisition", number))

    def choose(self, k: int, opinions: Opinions) -> Choice:
        """The k candidates to label (Algorithm 1, line 6); CellFailed names the method if it chooses wrongly."""
        with self.ledger.stage("selector/rank") as cost:
            cost.samples += len(opinions)
            acquisition = self.recipe.find_acquisition()
            try:
                choice = acquisition.choose(k, opinions, dict(self.recipe.options))
            except CellFailed as error:
                raise CellFailed(f"method {self.recipe.label!r}: {error}") from error
            cost.add(self._refining)
            self._refining = StageCost()
            besides = acquisition.flops.besides if acquisition.flops else "all of it"
            cost.uncounted = (*cost.uncounted, f"acquisition {acquisition.name}: {besides}")
            cost.flops_forward += choice.flops or 0
            return self.world.from_first(lambda: choice)  # all have made it, but the draws of processors may differ

    def train_selector(self, start: Network | None, labeled: LabeledSet, number: int) -> Trained | None:
        """The selector, trained from ``start`` (not changed).

        Unless, in the rounds that are shared, another cell of the run has trained the very same one on the very same
        samples: then it is that one, and charged as it was measured.
        """
        if start is None:
            return None
        shelf = None
        if self.shelf and number in self.shared_rounds:
            shelf = self.shelf.within(selector_settings(self.recipe, self.task.training, self.seed))
        order = hashlib.sha256(labeled.indices.numpy().tobytes()).hexdigest()
        return self._train_or_take(shelf, {"round": number, "labeled": order}, start, labeled, number)

    def train_shared_selector(self, start: Network | None, labeled: LabeledSet, target: nn.Module) -> Trained | None:
        """As :meth:`train_selector`, on the whole pool; any other cell of the run may have trained it.

        Its training is charged to this cell as it was measured then: on its own the method would have to pay it.
        """
        if start is None:
            return None
        settings = selector_settings(self.recipe, self.task.training, self.seed)
        return self._train_or_take(self.shelf, settings, start, labeled, 0, record_history=True)

    def _train_or_take(
        self,
        shelf: SelectorShelf | None,
        settings: Mapping[str, Any],
        start: Network,
        labeled: LabeledSet,
        number: int,
        *,
        record_history: bool = False,
    ) -> Trained:
        """The selector of these settings from the shelf; trained, and put there, if it does not have it."""
        needs_curve = self.task.accuracy_by_epoch and self._becomes_target("selector/train", number)
        found = shelf.get(settings) if shelf else None
        if found and self._fits(found[0], start) and (found[0].accuracy_by_epoch is not None or not needs_curve):
            saved, costs = found
            for stage, cost in costs.items():
                if stage != "target/eval" or needs_curve:  # the curve, which this cell would not have drawn
                    self.ledger.charge(stage, cost)
            with self.ledger.stage("records"):
                # A start that is pruned while it trains has all channels of the dense network.
                taken = self.restore_selector(saved, start.model, start)
            assert taken is not None
            return taken if needs_curve else dataclasses.replace(taken, accuracy_by_epoch=None)
        with self.ledger.itemised() as costs:
            trained = self._train(start, labeled, number, "selector/train", record_history=record_history)
        if shelf:
            with self.ledger.stage("records"):
                shelf.put(settings, trained, costs)
        return trained

    def _fits(self, saved: SavedSelector, start: Network) -> bool:
        """Whether a selector from the shelf has the structure that training ``start`` would give."""
        if not isinstance(start, PrunedNetwork):
            return saved.history is None
        return saved.history == start.history or bool(self.recipe.proxy.pruning_steps_to_come)

    def train_target(
        self, target: nn.Module, selector: Trained | None, labeled: LabeledSet, number: int, stage: str = "target"
    ) -> Trained:
        """The dense network as the recipe starts it, fine-tuned on the labeled set."""
        with self.ledger.stage("fuse" if stage == "target" else f"{stage}/fuse"):
            start = self.recipe.target_start.begin(
                target, selector.network if selector else None, derive_seed(self.seed, "rest", number)
            )
        if start.trained and selector is not None:
            return selector
        trained = self._train(Network(start.network), labeled, number, f"{stage}/train", start)
        if stage == "sync":
            self._synchronised = trained
        return trained

    def close_round(
        self,
        number: int,
        query: Tensor,
        target: nn.Module,
        selector: Trained | None,
        labeled: LabeledSet,
        tied: int | None = None,
    ) -> Round:
        """Train and evaluate the target if this budget is reported, and evaluate the selector."""
        selector_outcome = self._evaluate(selector, "selector/eval") if selector else None
        reported = target_outcome = None
        if number in self.task.report_rounds:
            reported = self.train_target(target, selector, labeled, number)
            target_outcome = selector_outcome if reported is selector else self._evaluate(reported, "target/eval")
            if self.task.corruptions:
                assert target_outcome is not None
                robustness = self._judge_corrupted(reported, "target/corruptions")
                target_outcome = dataclasses.replace(target_outcome, robustness=robustness)
                if self.task.corrupted_selector and selector and selector_outcome:
                    if reported is not selector:
                        robustness = self._judge_corrupted(selector, "selector/corruptions")
                    selector_outcome = dataclasses.replace(selector_outcome, robustness=robustness)
        query_gaps = decomposition = None
        if self.task.decomposition:
            query_gaps = self.losses.gaps(query) if self.losses else None
            decomposition, self.losses = self._decompose(number, target, reported, selector, labeled)
        self._synchronised = None
        bill = bill_of_all(self.ledger.close_round(), self.world)
        return Round(
            number, query, len(labeled), selector, selector_outcome, target_outcome, bill, tied, decomposition,
            query_gaps, self.losses,
        )  # fmt: skip

    def compare_networks(self, number: int, target: nn.Module, selector: Trained | None, labeled: LabeledSet) -> None:
        """Only the losses of a round, for the next one's query to be judged by, as :meth:`close_round` leaves them."""
        is_reported = number in self.task.report_rounds
        reported = self.train_target(target, selector, labeled, number) if is_reported else None
        _, self.losses = self._decompose(number, target, reported, selector, labeled)
        self._synchronised = None

    def _judge_corrupted(self, trained: Trained, stage: str) -> Robustness:
        """On every corruption and severity; as :meth:`_evaluate`, the coreset protocol's selector once."""
        if self._judged and self._judged[0] is trained:
            return self._judged[1]
        model, sizes = trained.network.model, list[int]()
        rates = self._rates(model)
        with self.ledger.stage(stage) as cost:
            robustness = evaluate_corruptions(
                model,
                self.task.corruptions,
                self.training,
                self.task.device,
                functools.partial(self.progress, stage),
                sizes.append,
            )
            cost.samples += sum(sizes)
            rates.charge_forward(cost, sum(sizes))
        if stage == "selector/corruptions":
            self._judged = (trained, robustness)
        return robustness

    def _decompose(
        self,
        number: int,
        initial: nn.Module,
        reported: Trained | None,
        selector: Trained | None,
        labeled: LabeledSet,
    ) -> tuple[Decomposition | None, PoolLosses | None]:
        """The networks of this round against each other, and the losses of the pool under them; None without a target.

        In a synchronised round the target is the one that the selector was pruned from, and a selector is trained from
        scratch to compare with; in others it is the one that is reported.
        """
        target = self._synchronised or reported
        if target is None:
            return None, None
        model, own = target.network.model, selector.network.model if selector else None
        with self._diagnosing("decomposition"):
            fresh = None
            if self._synchronised:
                start = self.new_selector(initial)
                fresh = self._train(start, labeled, number, "selector/train") if start else None
            losses = self._pool_losses(model)
            own_losses = losses if own is model else self._pool_losses(own) if own else None
            both = PoolLosses(losses, own_losses)
            decomposition = Decomposition(
                target="synchronised" if self._synchronised else "reported",
                target_accuracy=self._accuracy(model),
                selector_accuracy=self._accuracy(own) if own else None,
                fresh_accuracy=self._accuracy(fresh.network.model) if fresh else None,
                labeled=both.gaps(labeled.indices),
                distance=parameter_distance(model, selector.network) if selector else None,
            )
        return decomposition, both

    @contextlib.contextmanager
    def _diagnosing(self, stage: str) -> Iterator[None]:
        """Within the block every cost is charged to this stage, and no draw is taken from what the run draws."""
        progress = self.progress
        devices = [self.task.device] if self.task.device.type == "cuda" else []
        self.progress = lambda within, done, total: progress(f"{stage}: {within}", done, total)
        try:
            with self.ledger.everything_as(stage), torch.random.fork_rng(devices=devices):
                yield
        finally:
            self.progress = progress

    def _pool_losses(self, model: nn.Module) -> Tensor:
        """Of every sample, with labels that no method was given: for the diagnosis alone."""
        rates, everything = self._rates(model), self.pool.everything
        with self.ledger.stage("losses of the pool") as cost:
            losses = sample_losses(
                model,
                everything.images,
                everything.labels,
                self.training,
                functools.partial(self.progress, "losses of the pool"),
            )
            cost.samples += len(everything)
            rates.charge_forward(cost, len(everything))
        return losses

    def _accuracy(self, model: nn.Module) -> float:
        return self._test(model, self._rates(model), "accuracy").accuracy

    def _train(
        self,
        network: Network,
        labeled: LabeledSet,
        number: int,
        stage: str,
        start: Start | None = None,
        *,
        record_history: bool = False,
    ) -> Trained:
        model, is_selector = copy.deepcopy(network.model), stage == "selector/train"
        committee = self.recipe.committee
        training = selector_training(self.recipe, self.training) if is_selector else self.training
        snapshots = SnapshotRecorder(committee.snapshot_times if is_selector else ())
        history = HistoryRecorder()
        observers: list[TrainingObserver] = [snapshots]
        # Of samples that are held out there is none; methods that need it do not hold out any.
        record_history = record_history and (training.stopping is None or training.stopping.patience is None)
        if record_history:
            observers.append(history)
        rates = self._rates(model)
        structures = [(0, rates)]  # after how many epochs the network got it, and what a sample costs in it
        pruning = self._dynamic_pruning(network, structures) if is_selector else None
        teacher_rates = self._rates(start.teacher) if start and start.teacher else None
        curve = EpochRecorder(lambda trained: self._test(trained, rates, "target/eval").accuracy)
        if self.task.accuracy_by_epoch and self._becomes_target(stage, number):
            observers.append(curve)
        with self.ledger.stage(stage) as cost:
            result = fit(
                model,
                labeled.images,
                labeled.labels,
                training,
                generator(self.seed, "training", number),
                teacher=start.teacher if start else None,
                distillation=start.distillation if start else None,
                head_dropout=committee.head_dropout if is_selector else 0.0,
                observers=observers,
                remaking=pruning,
                progress=functools.partial(self.progress, stage),
            )
            cost.samples += result.samples + result.judged
            ends = [*(epochs for epochs, _ in structures[1:]), result.epochs]
            for (begin, of_structure), end in zip(structures, ends, strict=True):
                of_structure.charge_training(cost, result.samples * (end - begin) // result.epochs)
                if result.judged:
                    of_structure.charge_forward(cost, result.judged * (end - begin) // result.epochs)
            if teacher_rates:
                teacher_rates.charge_forward(cost, result.samples)
        return Trained(
            pruning.network if pruning else dataclasses.replace(network, model=model),
            result,
            tuple(snapshots.snapshots),
            history.history() if record_history else None,
            tuple(curve.values) or None,
        )

    def _dynamic_pruning(self, start: Network, structures: list[tuple[int, NetworkRates]]) -> DynamicPruning | None:
        """What prunes the selector while it trains, if anything does; adds the structures that it makes."""
        if not self.recipe.proxy.pruning_steps_to_come or not isinstance(start, PrunedNetwork):
            return None
        return DynamicPruning(
            self.recipe.proxy,
            start,
            self.example_input,
            derive_seed(self.seed, "proxy"),
            measured=lambda: self.ledger.stage("prune"),
            remade=lambda network, epochs: structures.append((epochs, self._rates(network))),
        )

    def _becomes_target(self, stage: str, number: int) -> bool:
        """Whether what is trained in this stage is a target that is reported."""
        own = "selector/train" if self.recipe.target_start.is_selector else "target/train"
        return stage == own and number in self.task.report_rounds

    def _test(self, model: nn.Module, rates: NetworkRates, stage: str) -> Evaluation:
        """On the test set; within a stage of training it is charged as evaluation all the same."""
        with self.ledger.stage(stage) as cost:
            evaluation = evaluate(model, self.test_images, self.test_labels, self.training)
            cost.samples += len(self.test_images)
            rates.charge_forward(cost, len(self.test_images))
        return evaluation

    def _rates(self, model: nn.Module) -> NetworkRates:
        """What a sample costs in this network; the first time, a pass through it is counted."""
        with self.ledger.stage("counting"):
            return network_rates(model, self.example_input)

    def _evaluate(self, trained: Trained, stage: str) -> Outcome:
        if self._evaluated and self._evaluated[0] is trained:  # the coreset protocol has one selector for all rounds
            return self._evaluated[1]
        model = trained.network.model
        evaluation = self._test(model, self._rates(model), stage)
        if not math.isfinite(evaluation.loss):
            raise Diverged(f"training diverged: {stage}: the test loss is {evaluation.loss} after the last epoch")
        removed = self._removed(trained.network) if stage == "selector/eval" else None
        outcome = Outcome(evaluation, trained.fit, count_parameters(model), trained.accuracy_by_epoch, removed=removed)
        if stage == "selector/eval":
            self._evaluated = (trained, outcome)
        return outcome

    def _removed(self, selector: Network) -> Removed | None:
        if not isinstance(selector, PrunedNetwork) or self._dense_rates is None:
            return None
        extent = selector.extent
        flops = self._dense_rates.flops.forward, self._rates(selector.model).flops.forward
        return Removed(extent.ratio, extent.channels, extent.parameters, flops)
