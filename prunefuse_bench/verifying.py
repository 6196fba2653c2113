"""Does a run still come out as it was recorded? The last whole round of a cell, run again and compared bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from prunefuse_bench.cell import Cell
from prunefuse_bench.config import override_setting, validate_suite
from prunefuse_bench.errors import BadInput
from prunefuse_bench.loop import PROTOCOL_LOOPS
from prunefuse_bench.records import CellStore, RunFolder, describe_environment, describe_results, where_bits_come_from
from prunefuse_bench.records.selectors import pack_selector
from prunefuse_bench.records.tensors import read_tensors
from prunefuse_bench.rounds import Checkpoint, Progress, Round
from prunefuse_bench.runner import PlannedCell, deterministic, plan

__all__ = ["Verification", "verify_run"]


@dataclass(frozen=True)
class Verification:
    """What came of one cell.

    Attributes:
        cell: its hash.
        title: its method and seed.
        number: the round that was run again.
        agreed: what is the same to the bit.
        differing: what is not, with what is on record and what came out now.
        unchecked: what could not be compared, with the reason.
        environment: what differs between the machine and software of the record and those of now.
    """

    cell: str
    title: str
    number: int
    agreed: tuple[str, ...]
    differing: tuple[str, ...]
    unchecked: tuple[str, ...]
    environment: tuple[str, ...]


def verify_run(
    folder: Path,
    *,
    cell: str | None = None,
    every: bool = False,
    overrides: Sequence[str] = (),
    progress: Callable[[str], Progress] = lambda title: lambda stage, done, total: None,
) -> list[Verification]:
    """Run the last whole round of a cell again, from the labels of the rounds before, and compare it with its record.

    The selector that chose the round's query is not kept, so it is trained again first, and, for a method that
    synchronises, the networks that it was made from. Nothing is written.

    Args:
        folder: of the run.
        cell: the hash of one cell, or how it begins; the first with a whole round if None.
        every: all cells that have a whole round instead.
        overrides: ``key=value``, for settings that change no result, such as the path of the data.
        progress: given the title of a cell, who is told how far it is.

    Raises:
        BadInput: no run, a damaged record, no such cell, none with a whole round, or the suite with these overrides is
            not the one of the records (because the data is another, for example).
        CellFailed: it fails now.
    """
    run = RunFolder(folder)
    content = run.read_suite()
    chosen = _choose(run, content["cells"], cell, every=every)
    settings = dict(content["suite"])
    for override in overrides:
        override_setting(settings, override)
    seeds = sorted({entry["seed"] for entry, _ in chosen})
    planned = plan(validate_suite({**settings, "seeds": seeds}))
    pairs = [(_find(planned, entry, store, folder), store) for entry, store in chosen]  # before the first is trained
    with deterministic():
        return [_verify(one, store, progress(_title(one))) for one, store in pairs]


def _title(cell: PlannedCell) -> str:
    return f"{cell.recipe.label}, seed {cell.seed}"


def _choose(
    run: RunFolder, cells: Sequence[Mapping[str, Any]], wanted: str | None, *, every: bool
) -> list[tuple[Mapping[str, Any], CellStore]]:
    """The cells to verify: their entries of the grid and their records."""
    named = [entry for entry in cells if wanted is None or str(entry["id"]).startswith(wanted)]
    if not named:
        known = ", ".join(f"{entry['id']} ({entry['method']}, seed {entry['seed']})" for entry in cells[:20])
        raise BadInput(f"--cell {wanted}: {run.folder} has no such cell; it has {known}")
    if wanted is not None and len(named) > 1:
        raise BadInput(
            f"--cell {wanted}: expected the beginning of one cell, got that of {len(named)}; give more of it"
        )
    opened = [(entry, run.open_cell(entry["id"])) for entry in named]
    begun = [(entry, store) for entry, store in opened if store is not None and store.rounds_done]
    if not begun:
        raise BadInput(f"{run.folder}: expected a cell with a whole round, but there is none yet")
    return begun if every else begun[:1]


def _find(planned: Sequence[PlannedCell], entry: Mapping[str, Any], store: CellStore, folder: Path) -> PlannedCell:
    """The cell of the plan with these records; BadInput says what is different if there is none."""
    for one in planned:
        if one.identity == entry["id"]:
            return one
    for one in planned:
        if one.recipe.label == entry["method"] and one.seed == entry["seed"]:
            found = "; ".join(_differences("", store.settings, json.loads(json.dumps(one.settings))))
            hint = "the data is not what it was: " if "task.dataset.sha256" in found else ""
            raise BadInput(
                f"{folder}: {hint}the settings of {_title(one)} are others than those on record: {found[:500]}; "
                "put it right with --set"
            )
    raise BadInput(
        f"{folder}: the suite that was run there last has no method {entry['method']!r} any more: "
        "name it with --set 'recipes=[...]', as when it was run"
    )


def _verify(cell: PlannedCell, store: CellStore, progress: Progress) -> Verification:
    rounds = store.read_rounds()
    record, last = rounds[-1], len(rounds) - 1
    queries = tuple(torch.tensor(row["query"], dtype=torch.int64) for row in rounds[:-1])
    before = Checkpoint(last - 1, queries, None, is_lost=True) if last else None
    work = Cell(cell.task, cell.recipe, cell.seed, progress)
    round_ = next(PROTOCOL_LOOPS[cell.protocol](work, before))
    agreed, differing, unchecked = _compare_results(record, json.loads(json.dumps(describe_results(round_))))
    name, found, why_not = _compare_selector(store, round_)
    if why_not:
        unchecked.append(f"{name}: {why_not}")
    elif found:
        differing += found
    elif name:
        agreed.append(name)
    here = describe_environment(cell.task.device)
    then, now = (where_bits_come_from(one) for one in (record["environment"], here))
    environment = _differences("", then, json.loads(json.dumps(now)))
    return Verification(
        cell.identity, _title(cell), last, tuple(agreed), tuple(differing), tuple(unchecked), tuple(environment)
    )


def _compare_results(record: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[list[str], list[str], list[str]]:
    """(what agrees, what differs, what is not on record) of a round."""
    agreed, differing, unchecked = [], list[str](), []
    for key, value in now.items():
        if key not in record:
            unchecked.append(f"{key}: not on record")
        elif found := list(_differences(key, record[key], value)):
            differing += found
        elif value is not None:
            agreed.append(f"query, {len(value)} indices" if key == "query" else key)
    differing += [
        f"{key}: on record, but not now" for key in ("decomposition", "query_gaps") if key in {*record} - {*now}
    ]
    return agreed, differing, unchecked


def _compare_selector(store: CellStore, round_: Round) -> tuple[str, list[str], str]:
    """(what it is, what differs, why it cannot be compared) of the trained selector; all empty if there is none."""
    file = store.selector_file(round_.number)
    if round_.selector is None:
        return "", [], ""
    try:
        then, metadata = read_tensors(file)
    except ValueError as error:
        return "selector's weights", [], f"{file.name} is missing" if not file.exists() else str(error)
    now = safetensors.torch.load(pack_selector(round_.selector))
    steps = json.dumps(getattr(round_.selector.network, "history", None))
    differing = [] if metadata.get("pruning_history") == steps else ["the channels that were pruned from the selector"]
    for name in sorted({*then, *now}):
        one, other = then.get(name), now.get(name)
        if one is None or other is None or one.shape != other.shape or one.dtype != other.dtype:
            differing.append(f"{name}: another shape, or only one of them has it")
        elif not torch.equal(*(tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other))):
            apart = (one.double() - other.double()).abs().max()
            differing.append(f"{name}: apart by up to {apart:.3g}")
    if len(differing) > 3:
        differing = [*differing[:3], f"and {len(differing) - 3} more tensors of the selector's {len(then)}"]
    return f"selector's weights, {len(now)} tensors", differing, ""


def _differences(name: str, then: Any, now: Any) -> Iterator[str]:
    """What of plain data is not equal, key by key."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys((*then, *now)):
            yield from _differences(f"{name}.{key}" if name else str(key), then.get(key), now.get(key))
    elif then != now:
        if isinstance(then, list) and isinstance(now, list) and max(len(then), len(now)) > 5:
            same = sum(one == other for one, other in zip(then, now, strict=False))
            yield f"{name}: {same} of {len(then)} entries are the same"
        else:
            yield f"{name}: {then!r} on record, {now!r} now"
