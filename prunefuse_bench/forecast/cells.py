"""The cells of a suite with what each will cost. Nothing is trained but a few batches, to see how fast that is."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from prunefuse_bench.config import Suite
from prunefuse_bench.cost import SELECTOR_STAGES, StageCost
from prunefuse_bench.data import Augmentation, Normalisation, SymbolInputs
from prunefuse_bench.errors import BadInput
from prunefuse_bench.forecast.networks import KnownNetwork, NetworkQuestion, build_target, know
from prunefuse_bench.forecast.sizes import DataSizes, sizes_of
from prunefuse_bench.forecast.work import Choosing, Work, cell_work
from prunefuse_bench.models import MODELS
from prunefuse_bench.recipe import ProtocolName, Recipe, Target
from prunefuse_bench.runner import check_kind, resolve_device, resolve_recipes
from prunefuse_bench.training import TrainingRecipe, resolve_precision

__all__ = ["CellForecast", "PartForecast", "forecast_part"]

CHOOSING_STAGES = ("selector/infer", "selector/rank")
TARGET_STAGES = ("fuse", "target/train")


@dataclass(frozen=True)
class CellForecast:
    """One cell.

    Attributes:
        recipe: its method.
        selector: the network that chooses, None if none is trained.
        parameters: of it.
        stages: FLOPs, samples and seconds by stage, the latter estimated.
        choosing: what it takes to choose the labels of the last budget that is reported, those before included.
        target: all else that the target of this budget needs; both as :func:`prunefuse_bench.load_results` has them.
        uncounted_choice: whether the acquisition's own FLOPs depend on the data, and are not in it.
        shared: what tells its selector from others, if cells of a run share those that are equal; else None.
    """

    recipe: Recipe
    seed: int
    selector: str | None
    parameters: int | None
    stages: dict[str, StageCost]
    choosing: StageCost
    target: StageCost
    uncounted_choice: bool
    shared: str | None

    @property
    def total(self) -> StageCost:
        """Of all stages: every target that is reported, and evaluation."""
        return _sum(self.stages.values())


@dataclass(frozen=True)
class PartForecast:
    """The cells of one suite.

    Attributes:
        name: of the part; None for a suite that stands alone.
        label_counts: labels after each round.
        how: how the seconds of each network were found, by its description.
    """

    name: str | None
    suite: Suite
    sizes: DataSizes
    training: TrainingRecipe
    label_counts: tuple[int, ...]
    cells: tuple[CellForecast, ...]
    how: dict[str, str]

    @property
    def seconds(self) -> float:
        """Of all cells, a selector that several share counted once."""
        total, seen = 0.0, set()
        for cell in self.cells:
            total += cell.total.seconds
            if cell.shared is not None:
                if cell.shared in seen:
                    total -= cell.stages["selector/train"].seconds
                seen.add(cell.shared)
        return total


def forecast_part(name: str | None, suite: Suite, progress: Callable[[str], None] = lambda what: None) -> PartForecast:
    """What the cells of a suite will cost.

    Args:
        progress: told which network is being measured.

    Raises:
        BadInput: as for :func:`prunefuse_bench.runner.plan`; data that has one size only need not be there.
    """
    recipes = resolve_recipes(suite)
    MODELS[suite.task.model.name]
    device, sizes = resolve_device(suite.device), sizes_of(suite.task.dataset)
    check_kind(suite.task, is_text=sizes.is_text)
    counts = tuple(suite.task.label_counts(sizes.train))
    spec = suite.task
    report = spec.budgets if spec.report is None else spec.report
    training = TrainingRecipe(
        schedule=spec.training.schedule,
        batch_size=spec.training.batch_size,
        momentum=spec.training.momentum,
        weight_decay=spec.training.weight_decay,
        augmentation=Augmentation(),
        normalisation=SymbolInputs() if sizes.is_text else Normalisation((0.0,), (1.0,)),  # costs do not depend on it
        precision=resolve_precision(suite.precision, device),
    )
    how: dict[str, str] = {}
    built: dict[tuple[Any, ...], nn.Module] = {}

    def known(proxy: Any, own: TrainingRecipe) -> KnownNetwork:
        question = NetworkQuestion(spec.model.name, spec.model.width, proxy, sizes, own, device)
        found = know(question, functools.partial(_once, built, question), progress)
        how[describe_network(spec.model.name, proxy)] = found.seconds.how
        return found

    cells = []
    for recipe in recipes:
        own = recipe.own_training.apply(training) if recipe.own_training else training
        networks: dict[str, KnownNetwork] = {"target": known(Target(), own)}
        if recipe.uses_selector:
            try:
                networks["selector"] = known(recipe.proxy, own)
            except BadInput as error:
                raise BadInput(f"method {recipe.label!r}: {error}") from error
        work = cell_work(
            recipe,
            suite.protocol,
            own,
            counts,
            frozenset(spec.budgets.index(budget) for budget in report),
            sizes.train,
            sizes.test,
            accuracy_by_epoch=spec.accuracy_by_epoch,
        )
        rounds, uncounted = _costs(recipe, work, networks, sizes.classes, len(counts))
        last = max(spec.budgets.index(budget) for budget in report)
        choosing, target = _to_budget(rounds[: last + 1], recipe, suite.protocol)
        selector = networks.get("selector")
        cell = CellForecast(
            recipe=recipe,
            seed=0,
            selector=describe_network(spec.model.name, recipe.proxy) if selector else None,
            parameters=selector.rates.parameters if selector else None,
            stages=_merged(rounds),
            choosing=choosing,
            target=target,
            uncounted_choice=uncounted,
            shared=None,
        )
        cells.append((cell, own))
    return PartForecast(
        name=name,
        suite=suite,
        sizes=sizes,
        training=training,
        label_counts=counts,
        cells=tuple(
            dataclasses.replace(cell, seed=seed, shared=_shared(suite, cell.recipe, own, seed))
            for seed in suite.seeds
            for cell, own in cells
        ),
        how=how,
    )


def describe_network(model: str, proxy: Any) -> str:
    """A selector in a few words: ``resnet56``, ``resnet56 pruned by 0.5``, ``resnet20``."""
    name = type(proxy).__name__
    if name == "Pruned":
        return f"{model} pruned by {proxy.ratio:g}"
    if name == "Smaller":
        chosen = proxy.model or "a smaller network"
        return chosen if proxy.width == 1 else f"{chosen}, width {proxy.width:g}"
    return model if name == "Target" else f"{model}, {proxy}"


def _once(built: dict[tuple[Any, ...], nn.Module], question: NetworkQuestion) -> nn.Module:
    """The dense network, built when it is first asked for."""
    key = (question.model, question.width)
    if key not in built:
        built[key] = build_target(question)
    return built[key]


def _shared(suite: Suite, recipe: Recipe, training: TrainingRecipe, seed: int) -> str | None:
    """As the loop tells selectors of the coreset protocol from one another."""
    if suite.protocol != "coreset" or not recipe.uses_selector:
        return None
    return repr((recipe.proxy, recipe.committee.head_dropout, recipe.committee.snapshot_times, training, seed))


Stages = dict[str, StageCost]


def _costs(
    recipe: Recipe, work: list[Work], networks: dict[str, KnownNetwork], classes: int, rounds: int
) -> tuple[list[Stages], bool]:
    """Costs by stage of each round, and whether an acquisition's FLOPs are missing."""
    found: list[Stages] = [{} for _ in range(rounds)]
    uncounted = False
    acquisition = recipe.find_acquisition()
    for one in work:
        if isinstance(one, Choosing):
            features = networks["selector"].features if "selector" in networks else 0
            flops = acquisition.count_flops(one.counts(recipe, classes, features), dict(recipe.options))
            uncounted |= flops is None
            cost = found[one.round].setdefault("selector/rank", StageCost())
            cost.samples += one.candidates
            cost.flops_forward += flops or 0
            continue
        network = networks[one.network]
        cost = found[one.round].setdefault(one.stage, StageCost())
        if one.way == "training":
            network.rates.charge_training(cost, one.samples)
            cost.seconds += one.samples * network.seconds.training
        else:
            network.rates.charge_forward(cost, one.samples)
            by_way = network.seconds.scoring if one.way == "scoring" else network.seconds.evaluation
            cost.seconds += one.samples * by_way
        teaches = one.way == "evaluation" and one.stage.endswith("/train")
        cost.samples += 0 if teaches else one.samples
        cost.flops_forward += 2 * one.times_through_head * network.features * classes
    return found, uncounted


def _to_budget(rounds: list[Stages], recipe: Recipe, protocol: ProtocolName) -> tuple[StageCost, StageCost]:
    """What choosing the labels of the last of these rounds takes, and what its target takes besides."""
    updating = [name for name in SELECTOR_STAGES if name not in CHOOSING_STAGES]
    *before, last = rounds
    finishing = _of([last], TARGET_STAGES)
    if protocol == "coreset":
        # One selector and one scoring for all budgets, and a ranking for each.
        shared = [name for name in SELECTOR_STAGES if name != "selector/rank"]
        return _sum([_of(rounds[:1], shared), _of([last], ["selector/rank"])]), finishing
    choosing = _sum([_of(rounds, CHOOSING_STAGES), _of(before, updating)])
    return choosing, _sum([finishing, _of([last], updating)]) if recipe.target_start.needs_selector else finishing


def _of(rounds: Iterable[Stages], names: Collection[str]) -> StageCost:
    return _sum(cost for stages in rounds for name, cost in stages.items() if name in names)


def _merged(rounds: list[Stages]) -> Stages:
    """By stage, all rounds together."""
    names = dict.fromkeys(name for stages in rounds for name in stages)
    return {name: _of(rounds, (name,)) for name in names}


def _sum(costs: Iterable[StageCost]) -> StageCost:
    total = StageCost()
    for cost in costs:
        total.add(cost)
    return total
