"""The cells of a suite with what each will cost. Nothing is trained but a few batches, to see how fast that is."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from prunefuse_bench.config import Suite
from prunefuse_bench.cost import SELECTOR_STAGES, StageCost
from prunefuse_bench.data import Augmentation, Normalisation, SymbolInputs
from prunefuse_bench.data.corruptions import COMPUTED_PREFIX, SEVERITIES, TEST_IMAGES, check_corruptions
from prunefuse_bench.errors import BadInput
from prunefuse_bench.forecast.networks import KnownNetwork, NetworkQuestion, build_target, know
from prunefuse_bench.forecast.sizes import DataSizes, sizes_of
from prunefuse_bench.forecast.work import Choosing, Work, cell_work
from prunefuse_bench.models import MODELS
from prunefuse_bench.recipe import ProtocolName, Proxy, Recipe, Target, check_training, training_of
from prunefuse_bench.runner import check_kind, check_protocol, resolve_device, resolve_recipes, task_training
from prunefuse_bench.sharing import selector_names
from prunefuse_bench.training import TrainingRecipe

__all__ = ["CellForecast", "PartForecast", "TrainedSelector", "forecast_part"]

CHOOSING_STAGES = ("selector/infer", "selector/rank")
TARGET_STAGES = ("fuse", "target/train")


@dataclass(frozen=True)
class TrainedSelector:
    """A selector that cells of a run share, see :mod:`prunefuse_bench.sharing`.

    Attributes:
        name: equal for cells of one seed that share it.
        curve: whether its accuracy by epoch is recorded; a selector without cannot stand in for one with it.
        seconds: of its training, and of the curve.
    """

    name: str
    curve: bool
    seconds: float


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
        at_most: whether trainings may stop early where that cannot be known; all figures are those of whole ones.
        selectors: those that it trains and other cells could take.
    """

    recipe: Recipe
    seed: int
    selector: str | None
    parameters: int | None
    stages: dict[str, StageCost]
    choosing: StageCost
    target: StageCost
    uncounted_choice: bool
    at_most: bool
    selectors: tuple[TrainedSelector, ...]

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
        corruptions: of the test images, by name.
        how: how the seconds of each network were found, by its description.
    """

    name: str | None
    suite: Suite
    sizes: DataSizes
    training: TrainingRecipe
    label_counts: tuple[int, ...]
    cells: tuple[CellForecast, ...]
    corruptions: tuple[str, ...]
    how: dict[str, str]

    @property
    def seconds(self) -> float:
        """Of all cells in their order, a selector that several share counted once."""
        return sum(cell.total.seconds - taken for cell, taken in zip(self.cells, self.taken, strict=True))

    @property
    def taken(self) -> list[float]:
        """For each cell, the seconds of selectors that a cell before has trained."""
        found = []
        has_curve: dict[tuple[int, str], bool] = {}
        for cell in self.cells:
            seconds = 0.0
            for selector in cell.selectors:
                key = cell.seed, selector.name
                if key in has_curve and has_curve[key] >= selector.curve:
                    seconds += selector.seconds
                else:
                    has_curve[key] = selector.curve
            found.append(seconds)
        return found

    @property
    def at_most(self) -> bool:
        """Whether some cells may take less, because trainings may stop early."""
        return any(cell.at_most for cell in self.cells)


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
    check_protocol(suite)
    counts = tuple(suite.task.label_counts(sizes.train))
    spec = suite.task
    # Costs do not depend on augmentation and normalisation.
    normalisation = SymbolInputs() if sizes.is_text else Normalisation((0.0,), (1.0,))
    training = task_training(suite, device, Augmentation(), normalisation, sizes.train)
    for recipe in recipes:
        check_training(recipe, training_of(recipe, training), min(counts))
    corruptions = check_corruptions(
        spec.corruptions.names, sizes.title, sizes.shape, sizes.in_channels, spec.corruptions.path
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
        own = training_of(recipe, training)
        try:
            networks = _networks(recipe, functools.partial(known, own=own))
        except BadInput as error:
            raise BadInput(f"method {recipe.label!r}: {error}") from error
        work = cell_work(
            recipe,
            suite.protocol,
            own,
            counts,
            spec.report_rounds,
            sizes.train,
            sizes.test,
            accuracy_by_epoch=spec.accuracy_by_epoch,
            corrupted=_corrupted_images(corruptions, sizes.test),
            corrupted_selector=spec.corruptions.selector,
            decomposition=spec.decomposition,
        )
        rounds, uncounted = _costs(recipe, work, networks, sizes.classes, len(counts))
        choosing, target = _to_budget(rounds[: max(spec.report_rounds) + 1], recipe, suite.protocol)
        selector = networks.get(("selector", None))
        cell = CellForecast(
            recipe=recipe,
            seed=0,
            selector=describe_network(spec.model.name, recipe.proxy) if selector else None,
            parameters=selector.rates.parameters if selector else None,
            stages=_merged(rounds),
            choosing=choosing,
            target=target,
            uncounted_choice=uncounted,
            at_most=own.stopping is not None and own.stopping.patience is not None,
            selectors=tuple(_shareable(suite, recipe, training, rounds)),
        )
        cells.append(cell)
    return PartForecast(
        name=name,
        suite=suite,
        sizes=sizes,
        training=training,
        label_counts=counts,
        cells=tuple(dataclasses.replace(cell, seed=seed) for seed in suite.seeds for cell in cells),
        corruptions=corruptions,
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


def _corrupted_images(names: tuple[str, ...], test: int) -> int:
    """How many corrupted test images a network is judged on, all corruptions and severities together."""
    published = bool(names) and not names[0].startswith(COMPUTED_PREFIX)
    return len(names) * SEVERITIES * (TEST_IMAGES if published else test)


Networks = dict[tuple[str, int | None], KnownNetwork]
"""By what :class:`prunefuse_bench.forecast.work.Passes` says: which network, and which of its structures."""


def _networks(recipe: Recipe, known: Callable[[Proxy], KnownNetwork]) -> Networks:
    """All that the method trains."""
    dense = known(Target())
    networks: Networks = {("target", None): dense}
    if not recipe.uses_selector:
        return networks
    steps = recipe.proxy.pruning_steps_to_come
    if not steps:
        return {**networks, ("selector", None): known(recipe.proxy)}
    for position, (_, ratio) in enumerate(steps):
        after: int | None = position + 1 if position + 1 < len(steps) else None
        networks["selector", after] = known(recipe.proxy.pruned_at_once(ratio))
    return {**networks, ("selector", 0): dense}


Stages = dict[str, StageCost]


def _shareable(
    suite: Suite, recipe: Recipe, training: TrainingRecipe, rounds: list[Stages]
) -> Iterator[TrainedSelector]:
    names = selector_names(recipe, training, len(rounds), suite.protocol)
    for number, (name, stages) in enumerate(zip(names, rounds, strict=True)):
        if name is not None:
            curve = (
                suite.task.accuracy_by_epoch and recipe.target_start.is_selector and number in suite.task.report_rounds
            )
            of_curve = stages["target/eval"].seconds if curve else 0.0
            yield TrainedSelector(name, curve, stages["selector/train"].seconds + of_curve)


def _costs(
    recipe: Recipe, work: list[Work], networks: Networks, classes: int, rounds: int
) -> tuple[list[Stages], bool]:
    """Costs by stage of each round, and whether an acquisition's FLOPs are missing."""
    found: list[Stages] = [{} for _ in range(rounds)]
    uncounted = False
    acquisition = recipe.find_acquisition()
    for one in work:
        if isinstance(one, Choosing):
            features = networks["selector", None].features if recipe.uses_selector else 0
            flops = acquisition.count_flops(one.counts(recipe, classes, features), dict(recipe.options))
            uncounted |= flops is None
            cost = found[one.round].setdefault("selector/rank", StageCost())
            cost.samples += one.candidates
            cost.flops_forward += flops or 0
            continue
        network = networks[one.network, one.structure]
        cost = found[one.round].setdefault(one.stage, StageCost())
        if one.way == "training":
            network.rates.charge_training(cost, one.samples)
            cost.seconds += one.samples * network.seconds.training
        else:
            network.rates.charge_forward(cost, one.samples)
            by_way = network.seconds.scoring if one.way == "scoring" else network.seconds.evaluation
            cost.seconds += one.samples * by_way
        cost.samples += one.samples if one.counted else 0
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
