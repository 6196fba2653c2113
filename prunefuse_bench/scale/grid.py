"""From suites to orders: every part is planned and checked before the first cell is sent anywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prunefuse_bench import __version__
from prunefuse_bench.atomic import make_folder
from prunefuse_bench.cell import selector_settings
from prunefuse_bench.config import Suite
from prunefuse_bench.errors import BadInput
from prunefuse_bench.groups import SuiteGroup, SuitePart
from prunefuse_bench.records import CellStore, RunFolder, Shelf
from prunefuse_bench.runner import PlannedCell, check_folder, describe_run, plan
from prunefuse_bench.scale.order import Order, Resources, as_sent
from prunefuse_bench.sharing import selector_names

__all__ = ["Job", "make_jobs"]


@dataclass(frozen=True)
class Job:
    """A cell to be run somewhere.

    Attributes:
        name: for people.
        order: what a worker is told.
        store: its records.
        waits_for: of other jobs, by their position, the last round whose selector both train: until that is on the
            shelf, or the other has ended, this one is held back.
        shelf: where it shares selectors in rounds that can be tidied up afterwards, if it does.
    """

    name: str
    order: Order
    store: CellStore
    waits_for: Mapping[int, int]
    shelf: Shelf | None


@dataclass(frozen=True)
class _Part:
    """A planned part without its data."""

    folder: Path
    description: dict[str, Any]
    cells: list[dict[str, Any]]
    orders: list[Order]
    names: list[str]
    waits_for: list[dict[int, int]]
    shelves: list[Mapping[str, Any] | None]


def make_jobs(
    group: SuiteGroup,
    out: Path,
    resources: Resources,
    *,
    resume: bool,
    methods_from: Sequence[Path] = (),
    decode_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Job]:
    """The cells of all parts, in order, and the folders of their runs, begun.

    The data must be on this machine, too: a cell is named after them.

    Args:
        out: as for :func:`prunefuse_bench.group_runner.run_group`; a folder that all machines have under this name.

    Raises:
        BadInput: as for ``run_group``, or the suite and what cells get of a machine do not fit.
    """
    if not group.stands_alone and (out / "suite.json").exists():
        raise BadInput(f"{out} holds the run of one suite, and {group.name} has parts: give another folder with --out")
    files = tuple((str(file.resolve()), hashlib.sha256(file.read_bytes()).hexdigest()) for file in methods_from)
    parts = []
    for part in group.parts:
        try:
            parts.append(_plan_part(part, part.folder(out.resolve()), resources, files, resume, decode_progress))
        except BadInput as error:
            raise part.explain(error) from error
    jobs: list[Job] = []
    for planned in parts:
        run, first = RunFolder(planned.folder), len(jobs)
        make_folder(planned.folder)
        run.remove_litter()
        run.add_cells(planned.description, planned.cells)
        jobs += [
            Job(
                name,
                order,
                run.create_cell(order.settings),
                {first + position: number for position, number in waits_for.items()},
                None if shared is None else run.shelf.within(shared),
            )
            for name, order, waits_for, shared in zip(
                planned.names, planned.orders, planned.waits_for, planned.shelves, strict=True
            )
        ]
    return jobs


def _plan_part(
    part: SuitePart,
    folder: Path,
    resources: Resources,
    methods_from: tuple[tuple[str, str], ...],
    resume: bool,
    decode_progress: Callable[[int, int], None],
) -> _Part:
    suite, device = _for_workers(part.suite, resources)
    cells = plan(suite, decode_progress, device)
    check_folder(cells, folder, resume=resume)
    description, described = describe_run(part.suite, cells)
    plain = suite.model_dump(mode="json")
    before = f"{part.name}: " if part.name else ""
    return _Part(
        folder,
        description,
        described,
        [
            Order(cell.identity, as_sent(cell.settings), plain, str(folder), resources.cpus, methods_from, __version__)
            for cell in cells
        ],
        [f"{before}{cell.recipe.label}, seed {cell.seed}" for cell in cells],
        _waits(cells),
        [selector_settings(c.recipe, c.task.training, c.seed) if c.shared_rounds else None for c in cells],
    )


def _for_workers(suite: Suite, resources: Resources) -> tuple[Suite, torch.device]:
    """The suite with nothing in it that depends on where it is read: kind of device and paths are stated.

    Raises:
        BadInput: the suite asks for a GPU and the cells get none, or the other way round.
    """
    kind = "cuda" if resources.gpus else "cpu"
    if suite.device not in ("auto", kind):
        raise BadInput(
            f"--gpus-per-cell {resources.gpus:g}: expected {'none' if resources.gpus else 'some'} with "
            f"device={suite.device}; change one of them"
        )
    if kind == "cuda" and suite.precision == "auto" and not torch.cuda.is_available():
        raise BadInput("precision: expected fp32 or bf16, got auto: this machine has no GPU to say what theirs can do")
    task = suite.task
    dataset, corruptions = task.dataset, task.corruptions
    if dataset.path is not None:
        dataset = dataset.model_copy(update={"path": dataset.path.resolve()})
    if corruptions.path is not None:
        corruptions = corruptions.model_copy(update={"path": corruptions.path.resolve()})
    task = task.model_copy(update={"dataset": dataset, "corruptions": corruptions})
    return suite.model_copy(update={"device": kind, "task": task}), torch.device(kind)


def _waits(cells: list[PlannedCell]) -> list[dict[int, int]]:
    """For each cell, the earlier ones that train selectors it can take, and the last round in which they do.

    The first cell that trains a selector leaves it on the shelf; those that wait for it take it from there, so it is
    trained once, as if the cells were run one after another.
    """
    first_with: dict[tuple[int, str], int] = {}
    waits: list[dict[int, int]] = []
    for position, cell in enumerate(cells):
        rounds = len(cell.task.label_counts)
        waits_for: dict[int, int] = {}
        for number, name in enumerate(selector_names(cell.recipe, cell.task.training, rounds, cell.protocol)):
            if name is not None and (leader := first_with.setdefault((cell.seed, name), position)) != position:
                waits_for[leader] = number
        waits.append(waits_for)
    return waits
