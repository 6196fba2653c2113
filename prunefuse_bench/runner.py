"""From a suite to records: resolve, check everything, then run cell after cell."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from prunefuse_bench.atomic import make_folder
from prunefuse_bench.cell import Cell, selector_settings
from prunefuse_bench.config import DatasetSpec, Suite, TaskSpec, content_hash
from prunefuse_bench.data import (
    Augmentation,
    DatasetRequest,
    ImageDataset,
    Normalisation,
    SymbolInputs,
    load_dataset,
    subset,
)
from prunefuse_bench.data.corruptions import find_corruptions
from prunefuse_bench.distributed import current
from prunefuse_bench.distributed.shelf import shelf_for_all
from prunefuse_bench.errors import BadInput, CellFailed, is_out_of_memory
from prunefuse_bench.inference import SCREENED_FROM, can_screen
from prunefuse_bench.loop import PROTOCOL_LOOPS
from prunefuse_bench.models import MODELS, build_model
from prunefuse_bench.pruning import PrunedNetwork
from prunefuse_bench.recipe import ProtocolName, Recipe, check_training, resolve_recipe, training_of
from prunefuse_bench.records import (
    SCHEMA,
    CellStore,
    RunFolder,
    Shelf,
    describe_environment,
    task_hash,
    where_bits_come_from,
)
from prunefuse_bench.rounds import Task
from prunefuse_bench.sharing import shared_rounds
from prunefuse_bench.training import TrainingRecipe, resolve_precision

__all__ = [
    "Observer",
    "PlannedCell",
    "check_folder",
    "check_kind",
    "check_protocol",
    "describe_run",
    "deterministic",
    "load_images",
    "plan",
    "resolve_device",
    "resolve_recipes",
    "run_cell",
    "run_cells",
    "task_training",
]


class Observer(Protocol):
    """Told what a run is doing, for a person to see."""

    def cell_started(self, cell: PlannedCell, position: int, total: int) -> None:
        """Cell ``position`` (from 0) of ``total`` begins."""

    def stage(self, stage: str, done: int, total: int) -> None:
        """So much of a stage is done."""

    def cell_ended(self, cell: PlannedCell, outcome: str) -> None:
        """The cell is ``finished``, ``failed``, or was ``found finished``."""

    def recovered(self, what: str) -> None:
        """Something was damaged, and was set aside."""


@dataclass(frozen=True)
class PlannedCell:
    """One cell of a suite, ready to run."""

    task: Task
    protocol: ProtocolName
    recipe: Recipe
    seed: int
    settings: dict[str, Any]
    shared_rounds: frozenset[int] = frozenset()
    """Rounds whose selector another cell of the plan trains too, see :mod:`prunefuse_bench.sharing`."""

    @property
    def identity(self) -> str:
        """The hash of the settings."""
        return content_hash(self.settings)


def plan(
    suite: Suite,
    decode_progress: Callable[[int, int], None] = lambda done, total: None,
    device: torch.device | None = None,
) -> list[PlannedCell]:
    """The cells of a suite, seed by seed, with everything checked that can be checked before training.

    Args:
        decode_progress: told how many of how many images are decoded.
        device: that the cells are going to run on, if that is not this machine's.

    Raises:
        BadInput: an unknown name, parts that do not fit, data that cannot be used, or budgets the pool cannot fill.
    """
    recipes = resolve_recipes(suite)
    MODELS[suite.task.model.name]
    device = device or resolve_device(suite.device)
    dataset = _load(suite.task, decode_progress)
    check_kind(suite.task, is_text=bool(dataset.symbols))
    task = _resolve_task(suite, dataset, device)
    _check_recipes(recipes, task)
    shared = {
        "schema": SCHEMA,
        "protocol": suite.protocol,
        "task": _task_settings(suite.task, task),
        "device": device.type,
    }
    rounds = [frozenset[int]()] * len(recipes)
    if suite.protocol == "active_learning":
        rounds = shared_rounds(recipes, task.training, len(task.label_counts))
    return [
        PlannedCell(
            task, suite.protocol, recipe, seed, {**shared, "recipe": recipe.settings(), "seed": seed}, of_recipe
        )
        for seed in suite.seeds
        for recipe, of_recipe in zip(recipes, rounds, strict=True)
    ]


def run_cells(
    suite: Suite, cells: list[PlannedCell], out: Path, *, resume: bool, observer: Observer
) -> list[CellStore]:
    """Run every cell that is not finished, and store each round when it is whole.

    A cell that fails is recorded as failed, with the reason, and the others go on.

    Args:
        out: the run's folder.
        resume: go on with cells that were stopped or failed, from their last whole round.

    Raises:
        BadInput: a cell was stopped half-way and ``resume`` is false, the folder holds a run of another task, or it
            cannot be made.
        CellLocked: another process is at work on a cell.
        CannotWrite: records cannot be written.
    """
    run, world = RunFolder(out), current()
    stores = world.from_first(lambda: _begin(suite, cells, run, resume=resume))
    with deterministic():
        for position, (cell, store) in enumerate(zip(cells, stores, strict=True)):
            observer.cell_started(cell, position, len(cells))
            observer.cell_ended(cell, _run_cell(cell, store, run.shelf, observer, resume=resume))
            if world.is_first:
                _tidy(run.shelf, cell, cells, stores)
    return stores


def _begin(suite: Suite, cells: list[PlannedCell], run: RunFolder, *, resume: bool) -> list[CellStore]:
    check_folder(cells, run.folder, resume=resume)
    make_folder(run.folder)
    run.remove_litter()
    run.add_cells(*describe_run(suite, cells))
    return [run.create_cell(cell.settings) for cell in cells]


def run_cell(cell: PlannedCell, out: Path, observer: Observer) -> str:
    """Run one cell of a run that has been begun, from its last whole round.

    Returns:
        ``finished``, ``failed`` or ``found finished``.

    Raises:
        CellLocked: another process is at work on it.
        CannotWrite: records cannot be written.
        MemoryError, RuntimeError: out of memory. It is not recorded as failed, as another machine may have more.
    """
    run = RunFolder(out)
    with deterministic():
        return _run_cell(cell, run.create_cell(cell.settings), run.shelf, observer, resume=True, only_here=False)


def check_folder(cells: list[PlannedCell], out: Path, *, resume: bool) -> None:
    """Refuse a folder in which these cells cannot be run; nothing is written.

    Raises:
        BadInput: a cell was stopped half-way and ``resume`` is false, a record of one is damaged, or the folder holds a
            run of another task.
    """
    run = RunFolder(out)
    if (out / "suite.json").exists():
        run.check_task(task_hash(cells[0].settings))
    for cell in cells:
        store = run.open_cell(cell.identity)
        if store is None:
            continue
        store.read_rounds()
        if not resume and store.rounds_done and not store.finished and not store.failure:
            raise BadInput(
                f"{out} holds a run that was stopped (cell {cell.identity} has {store.rounds_done} of "
                f"{store.rounds_expected} rounds): add --resume to go on with it, or give another folder with --out"
            )


def _tidy(shelf: Shelf, cell: PlannedCell, cells: list[PlannedCell], stores: list[CellStore]) -> None:
    """Remove the selectors that this cell shared, once all cells of the plan that could take them are finished."""
    if cell.shared_rounds:
        settings = selector_settings(cell.recipe, cell.task.training, cell.seed)
        if all(
            store.finished
            for other, store in zip(cells, stores, strict=True)
            if other.seed == cell.seed and selector_settings(other.recipe, other.task.training, other.seed) == settings
        ):
            shelf.within(settings).clear()


def describe_run(suite: Suite, cells: list[PlannedCell]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What :meth:`prunefuse_bench.records.RunFolder.add_cells` asks for: of the suite, and of each cell."""
    width = f", width {suite.task.model.width:g}" if suite.task.model.width != 1 else ""
    description = {
        "suite": suite.model_dump(mode="json"),
        "dataset": cells[0].task.dataset.title,
        "model": f"{suite.task.model.name}{width}",
        "task": task_hash(cells[0].settings),
    }
    return description, [_describe_cell(cell) for cell in cells]


def _describe_cell(cell: PlannedCell) -> dict[str, Any]:
    return {
        "id": cell.identity,
        "method": cell.recipe.label,
        "seed": cell.seed,
        "target_needs_selector": cell.recipe.target_start.needs_selector,
        "notes": list(cell.recipe.notes),
    }


def _run_cell(
    cell: PlannedCell, store: CellStore, shelf: Shelf, observer: Observer, *, resume: bool, only_here: bool = True
) -> str:
    """Returns what became of it: ``finished``, ``failed`` or ``found finished``.

    Args:
        only_here: whether a lack of memory is the cell's failure, since no other machine can try.
    """
    world = current()
    if world.from_first(lambda: store.finished):
        return "found finished"
    with store.lock() if world.is_first else contextlib.nullcontext():
        if world.from_first(lambda: store.failure) and not resume:
            return "failed"
        environment = describe_environment(cell.task.device)
        shared = shelf_for_all(shelf.of(where_bits_come_from(environment)), world)
        work = Cell(cell.task, cell.recipe, cell.seed, observer.stage, shared, cell.shared_rounds)
        try:
            for round_ in PROTOCOL_LOOPS[cell.protocol](work, world.from_first(store.checkpoint)):
                if world.is_first:
                    with work.ledger.stage("records"):  # charged to the round that follows
                        store.write_round(round_, environment)
        except (CellFailed, MemoryError, RuntimeError) as error:
            failure = _failure(error, only_here)
            if failure is None:
                raise
            world.agree_on_failure(str(failure))
            if world.is_first:
                store.write_failure(failure)
            return "failed"
    return "finished"


def _failure(error: Exception, only_here: bool) -> CellFailed | None:
    """Why a cell failed, if it is the cell that did."""
    if isinstance(error, CellFailed):
        return error
    if only_here and is_out_of_memory(error):
        return CellFailed(f"out of memory: {' '.join(str(error).split())[:500] or 'no reason given'}")
    return None


def resolve_recipes(suite: Suite) -> list[Recipe]:
    """The methods of a suite.

    Raises:
        BadInput: an unknown method or setting, parts that do not fit, or two methods of one label.
    """
    recipes = [resolve_recipe(entry, suite.protocol) for entry in suite.recipes]
    labels = [recipe.label for recipe in recipes]
    if len(set(labels)) != len(labels):
        raise BadInput(f"recipes: expected each method once, got {', '.join(labels)}; tell variants apart with label")
    return recipes


def resolve_device(asked: str) -> torch.device:
    """The device of ``auto``, ``cpu`` or ``cuda``; BadInput if there is none."""
    if asked == "cuda" and not torch.cuda.is_available():
        raise BadInput("device: expected a CUDA device, but torch finds none; use device=cpu or device=auto")
    return torch.device("cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu")


def load_images(
    spec: DatasetSpec, progress: Callable[[int, int], None] = lambda done, total: None, *, download: bool = True
) -> ImageDataset:
    """The data set that a task names, of the size of pool that it asks for.

    Args:
        progress: told how many of how many images are decoded.
        download: fetch what is not on this machine.

    Raises:
        BadInput: an unknown name, or data that cannot be used.
    """
    request = DatasetRequest(
        spec.path, spec.title, spec.resize, spec.channels, spec.length, spec.keep_decoded, progress, download
    )
    dataset = load_dataset(spec.name, request)
    return dataset if spec.train_size is None else subset(dataset, spec.train_size)


def _load(task: TaskSpec, progress: Callable[[int, int], None]) -> ImageDataset:
    dataset = load_images(task.dataset, progress)
    chosen = {key: value for key, value in task.augmentation.model_dump().items() if value is not None}
    if chosen and dataset.symbols:
        raise BadInput(
            f"task.augmentation.{min(chosen)}: dataset {task.dataset.name!r} is text, which is not augmented"
        )
    return dataclasses.replace(dataset, augmentation=dataclasses.replace(dataset.augmentation, **chosen))


def check_kind(task: TaskSpec, *, is_text: bool) -> None:
    """BadInput if the network reads texts and the data are images, or the other way round."""
    reads_text = MODELS[task.model.name].reads_text
    if reads_text != is_text:
        reads, holds = ("texts", "images") if reads_text else ("images", "texts")
        raise BadInput(
            f"task.model: {task.model.name!r} reads {reads}, but dataset {task.dataset.name!r} holds {holds}; "
            "prunefuse-bench models lists what there is"
        )


def check_protocol(suite: Suite) -> None:
    """BadInput if the task asks for what the protocol does not have."""
    if suite.task.decomposition and suite.protocol != "active_learning":
        raise BadInput(
            f"task.decomposition: expected the protocol active_learning, whose rounds it is about, got {suite.protocol}"
        )


def task_training(
    suite: Suite,
    device: torch.device,
    augmentation: Augmentation,
    normalisation: Normalisation | SymbolInputs,
    pool_size: int,
) -> TrainingRecipe:
    """How the networks of a suite are trained, with what its data set says of the last three."""
    training = suite.task.training
    may_screen = suite.screening == "auto" and suite.precision != "fp32" and isinstance(normalisation, Normalisation)
    return TrainingRecipe(
        schedule=training.schedule,
        batch_size=training.batch_size,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        augmentation=augmentation,
        normalisation=normalisation,
        precision=resolve_precision(suite.precision, device),
        stopping=training.stopping,
        screening=may_screen and pool_size >= SCREENED_FROM and can_screen(device),
    )


def _resolve_task(suite: Suite, dataset: ImageDataset, device: torch.device) -> Task:
    spec = suite.task
    check_protocol(suite)
    return Task(
        dataset=dataset,
        model=spec.model.name,
        width=spec.model.width,
        training=task_training(suite, device, dataset.augmentation, dataset.normalisation, len(dataset.train_images)),
        label_counts=tuple(spec.label_counts(len(dataset.train_images))),
        report_rounds=spec.report_rounds,
        device=device,
        accuracy_by_epoch=spec.accuracy_by_epoch,
        corruptions=find_corruptions(spec.corruptions.names, dataset, spec.corruptions.path),
        corrupted_selector=spec.corruptions.selector,
        decomposition=spec.decomposition,
    )


def _check_recipes(recipes: list[Recipe], task: Task) -> None:
    """Build every selector once, so that a network that cannot be pruned is found now and not after hours."""
    example = task.training.normalisation.apply(task.dataset.train_images[:1])
    target = build_model(
        task.model,
        num_classes=len(task.dataset.classes),
        in_channels=task.dataset.in_channels,
        width=task.width,
    )
    for recipe in recipes:
        check_training(recipe, training_of(recipe, task.training), min(task.label_counts))
    for recipe in {repr(recipe.proxy): recipe for recipe in recipes}.values():  # each proxy once
        try:
            selector = recipe.proxy.start(target, example, seed=0)
            if recipe.proxy.pruning_steps_to_come and isinstance(selector, PrunedNetwork):
                _, ratio = recipe.proxy.pruning_steps_to_come[-1]
                recipe.proxy.prune_step(target, selector, example, ratio, seed=0)
        except BadInput:
            raise
        except Exception as error:
            raise BadInput(
                f"method {recipe.label!r}: its proxy {recipe.proxy} cannot be made from {task.model}: "
                f"{type(error).__name__}: {error}"
            ) from error


def _task_settings(spec: TaskSpec, task: Task) -> dict[str, Any]:
    """All of the task that determines results, as plain data; nothing that does not (the data's path and title)."""
    return {
        "dataset": {
            "name": spec.dataset.name,
            "sha256": task.dataset.sha256(),
            "train_size": len(task.dataset.train_images),
            "test_size": len(task.dataset.test_images),
            "image": list(task.dataset.train_images.shape[1:]),
            "classes": len(task.dataset.classes),
        },
        "model": spec.model.model_dump(),
        "training": task.training.settings(),
        "label_counts": list(task.label_counts),
        "report_rounds": sorted(task.report_rounds),
        # They change no result, but what is on record: with them or without them are two runs.
        **({"accuracy_by_epoch": True} if task.accuracy_by_epoch else {}),
        **({"corruptions": _corruption_settings(task)} if task.corruptions else {}),
        **({"decomposition": True} if task.decomposition else {}),
    }


def _corruption_settings(task: Task) -> dict[str, Any]:
    return {
        "names": {corruption.name: corruption.describe() for corruption in task.corruptions},
        "selector": task.corrupted_selector,
    }


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Only deterministic algorithms within the block, so that a cell run twice gives the same bits."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    deterministic: Any = torch.utils.deterministic  # its one attribute is set dynamically
    algorithms = torch.are_deterministic_algorithms_enabled()
    fill = deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    deterministic.fill_uninitialized_memory = False  # a check for uninitialised reads that costs time
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(algorithms)
        deterministic.fill_uninitialized_memory = fill
