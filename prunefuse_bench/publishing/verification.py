"""Is a file that claims to hold the records of a run one, and do its records fit each other?

What is verified is that the records are whole, belong together and could have been written by a run: hashes, the grid,
the settings of every cell, what was chosen, and that no number is impossible. That the numbers are true cannot be seen
from them: a run has to be repeated for that, which its seeds allow.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy
import pydantic
from numpy.typing import NDArray

from prunefuse_bench.atomic import write_atomically
from prunefuse_bench.config import Suite, content_hash
from prunefuse_bench.data.corruptions import COMPUTED_PREFIX, TEST_IMAGES, corruption_names
from prunefuse_bench.errors import BadInput
from prunefuse_bench.publishing.archives import Archive, Refused, shown
from prunefuse_bench.publishing.layout import MANIFEST, submission_hash
from prunefuse_bench.publishing.shapes import (
    CellShape,
    CorruptionsShape,
    FailureShape,
    GridCellShape,
    ManifestShape,
    OutcomeShape,
    RobustnessShape,
    RoundShape,
    SettingsShape,
    SuiteShape,
    parse,
    shaped,
)
from prunefuse_bench.records import grid_hash
from prunefuse_bench.training import EarlyStopping

__all__ = ["Submission", "Summary", "verify", "verify_bytes"]


@dataclass(frozen=True)
class Summary:
    """What a submission holds.

    Attributes:
        hash: of its content, 64 hexadecimal digits.
        grid: see :func:`prunefuse_bench.records.grid_hash`.
        title: data set and target network, as the submitter's tables name them.
        cells: of the grid.
        begun: cells that have records.
        rounds: whole rounds.
        seeds: of the grid.
        round_hashes: SHA-256 of the round files.
        unverified: records without a checksum of their own, written before there were any.
    """

    hash: str
    grid: str
    title: str
    cells: int
    begun: int
    rounds: int
    seeds: tuple[int, ...]
    round_hashes: frozenset[str]
    unverified: int


@dataclass(frozen=True)
class Submission:
    """A submission that was verified."""

    summary: Summary
    _archive: Archive
    _manifest: ManifestShape

    def write(self, folder: Path) -> None:
        """Write its records as the folder of a run; what is written is what was verified.

        Raises:
            CannotWrite: the disk is full or the folder cannot be written.
        """
        for name, content in self.files():
            file = folder / name  # the name is one of a few known patterns
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, operator.methodcaller("write", content))

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Name and content of every record."""
        for name, entry in self._manifest.files.items():
            yield name, self._archive.read(name, entry.sha256)


def verify(file: Path) -> Submission:
    """Read a submission from a stranger.

    Raises:
        Refused: it is none, or its records do not fit; the message names the file in it, the cell and the round.
    """
    return _verify(Archive.open(file))


def verify_bytes(data: bytes) -> Submission:
    """As :func:`verify`, of a file's content."""
    return _verify(Archive(data))


@dataclass(frozen=True)
class _Cell:
    """A cell of the grid whose records are at hand."""

    grid: GridCellShape
    settings: SettingsShape
    plain: Mapping[str, Any]
    sealed: bool

    @property
    def title(self) -> str:
        return f"{shown(self.grid.method)}, seed {self.grid.seed}"


def _verify(archive: Archive) -> Submission:
    manifest = _manifest(archive)
    contents = _Contents(archive, manifest)
    suite = shaped("suite.json", SuiteShape, contents.record("suite.json"))
    if (found := grid_hash(suite.model_dump())) != manifest.grid:
        raise Refused(f"suite.json: the manifest lists the grid {manifest.grid[:16]}, its cells are grid {found[:16]}")
    _check_grid(suite)
    cells = _cells(suite, contents)
    _check_settings(suite, cells)
    rounds, starts = 0, dict[int, tuple[str, list[int]]]()
    for cell in cells:
        queries = _check_rounds(cell, contents)
        rounds += len(queries)
        if queries and cell.settings.protocol == "active_learning":
            title, start = starts.setdefault(cell.grid.seed, (cell.title, queries[0]))
            if queries[0] != start:
                raise Refused(
                    f"cells/{cell.grid.id}/round-000.json ({cell.title}): expected the initial labels of {title}, "
                    "got others: all methods of a seed start alike"
                )
        _check_failure(cell, len(queries), contents)
    contents.expect_nothing_left()
    if not rounds:
        raise Refused("no cell has a whole round: there is nothing to publish")
    summary = Summary(
        hash=submission_hash({name: entry.model_dump() for name, entry in manifest.files.items()}),
        grid=manifest.grid,
        title=f"{suite.dataset}, {suite.model}",
        cells=len(suite.cells),
        begun=len(cells),
        rounds=rounds,
        seeds=tuple(sorted({cell.seed for cell in suite.cells})),
        round_hashes=frozenset(entry.sha256 for name, entry in manifest.files.items() if "/round-" in name),
        unverified=contents.unsealed,
    )
    return Submission(summary, archive, manifest)


def _manifest(archive: Archive) -> ManifestShape:
    if MANIFEST not in archive.names:
        raise Refused(f"{MANIFEST} is missing: expected a file that 'prunefuse-bench submit' wrote")
    manifest = shaped(MANIFEST, ManifestShape, parse(MANIFEST, archive.read(MANIFEST)).content)
    there, listed = set(archive.names) - {MANIFEST}, set(manifest.files)
    if missing := sorted(listed - there):
        raise Refused(f"{MANIFEST} lists {shown(missing[0])}, which is not in the file")
    if extra := sorted(there - listed):
        raise Refused(f"{extra[0]} is not in the manifest")
    if "suite.json" not in there:
        raise Refused("suite.json is missing")
    return manifest


class _Contents:
    """The records of a submission, each to be asked for once."""

    def __init__(self, archive: Archive, manifest: ManifestShape) -> None:
        self._archive, self._files = archive, dict(manifest.files)
        self.unsealed = 0
        self.sealed = False
        """Whether the record that was asked for last carried a checksum of its own."""

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def record(self, name: str) -> dict[str, Any]:
        content = self._archive.read(name, self._files.pop(name).sha256)
        record = parse(name, content)
        self.sealed = record.verified
        self.unsealed += not record.verified
        return record.content

    def expect_nothing_left(self) -> None:
        for name in sorted(self._files):
            folder = name.rpartition("/")[0]
            why = "a round before it is missing" if "/round-" in name else "the grid lists no such cell"
            raise Refused(f"{name}: {why}" if folder else f"{name} is not expected")


def _check_grid(suite: SuiteShape) -> None:
    """Every cell once, every method once for each seed."""
    ids, names = set[str](), set[tuple[str, int]]()
    for cell in suite.cells:
        name = cell.method, cell.seed
        if cell.id in ids or name in names:
            raise Refused(f"suite.json: {shown(cell.method)}, seed {cell.seed} is in the grid twice ({cell.id})")
        ids.add(cell.id)
        names.add(name)


def _cells(suite: SuiteShape, contents: _Contents) -> list[_Cell]:
    """The cells that were begun, each with the settings that it is named after."""
    cells = []
    for grid in suite.cells:
        name = f"cells/{grid.id}/cell.json"
        if name not in contents:
            continue
        where = f"{name} ({shown(grid.method)}, seed {grid.seed})"
        plain = shaped(where, CellShape, contents.record(name)).settings
        settings = shaped(where, SettingsShape, plain)
        if (found := content_hash(plain)) != grid.id:
            raise Refused(f"{where}: expected settings with hash {grid.id}, got {found}")
        if settings.seed != grid.seed:
            raise Refused(f"{where}: the grid says seed {grid.seed}, the settings say {settings.seed}")
        shared = content_hash({key: value for key, value in plain.items() if key not in ("recipe", "seed")})
        if shared != suite.task:
            raise Refused(f"{where}: expected the task {suite.task} of the grid, got {shared}")
        cells.append(_Cell(grid, settings, plain, contents.sealed))
    _check_methods(cells)
    return cells


def _check_methods(cells: Sequence[_Cell]) -> None:
    """A name stands for one recipe, and a recipe has one name, whatever the seed."""
    firsts: dict[str, _Cell] = {}
    names: dict[str, str] = {}
    for cell in cells:
        first = firsts.setdefault(cell.grid.method, cell)
        where = f"cells/{cell.grid.id}/cell.json ({cell.title})"
        if cell.plain["recipe"] != first.plain["recipe"]:
            raise Refused(f"{where}: the same method has another recipe with seed {first.grid.seed}")
        name = names.setdefault(content_hash(cell.plain["recipe"]), cell.grid.method)
        if name != cell.grid.method:
            raise Refused(f"{where}: the same recipe has another name, {shown(name)}, with another seed")
        if cell.grid.target_needs_selector != first.grid.target_needs_selector or cell.grid.notes != first.grid.notes:
            raise Refused(f"suite.json: {cell.title}: the grid describes the same method otherwise with another seed")
        needs = _needs_selector(cell.settings)
        if needs is not None and needs != cell.grid.target_needs_selector:
            raise Refused(f"{where}: the grid says target_needs_selector {not needs}, its recipe says {needs}")


def _needs_selector(settings: SettingsShape) -> bool | None:
    """Whether a trained selector takes part in a target's start; None for parts that are not of this package."""
    start = settings.recipe.target_start
    known = {"Fresh": start.distillation is not None, "Fused": True, "TrainedSelector": True}
    return known.get(start.type)


def _check_settings(suite: SuiteShape, cells: Sequence[_Cell]) -> None:
    """What the suite asked for is what its cells were run with."""
    if not cells:
        return
    try:
        asked = Suite.model_validate(suite.suite)
        counts = asked.task.label_counts(cells[0].settings.task.dataset.train_size)
        corruptions = corruption_names(asked.task.corruptions.names, cells[0].settings.task.dataset.image[0])
    except (pydantic.ValidationError, BadInput) as error:
        raise Refused(f"suite.json: no suite: {shown(error, 300)}") from None
    for key, path in (("dataset", asked.task.dataset.path), ("corruptions", asked.task.corruptions.path)):
        if path is not None:
            raise Refused(f"suite.json: suite.task.{key}.path: expected none, got a path of the submitter's machine")
    settings = cells[0].settings  # of all cells: the task's hash is the same
    task, training = settings.task, settings.task.training
    report = asked.task.budgets if asked.task.report is None else asked.task.report
    width = f", width {task.model.width:g}" if task.model.width != 1 else ""
    recorded = task.corruptions
    pairs: list[tuple[str, object, object]] = [
        ("protocol", asked.protocol, settings.protocol),
        ("task.dataset.name", asked.task.dataset.name, task.dataset.name),
        ("task.dataset.train_size", asked.task.dataset.train_size or task.dataset.train_size, task.dataset.train_size),
        ("task.model", asked.task.model.model_dump(), task.model.model_dump()),
        ("task.training.batch_size", asked.task.training.batch_size, training.batch_size),
        ("task.training.momentum", asked.task.training.momentum, training.momentum),
        ("task.training.weight_decay", asked.task.training.weight_decay, training.weight_decay),
        ("task.training.epochs", asked.task.training.epochs, training.schedule.epochs),
        ("task.training.min_steps", asked.task.training.min_steps, training.schedule.min_steps),
        ("task.training.segments", [list(s) for s in asked.task.training.segments], training.schedule.segments),
        ("early stopping", _plain(asked.task.training.stopping), training.stopping and training.stopping.model_dump()),
        ("task.budgets", counts, task.label_counts),
        ("task.report", sorted({asked.task.budgets.index(budget) for budget in report}), task.report_rounds),
        ("task.accuracy_by_epoch", asked.task.accuracy_by_epoch, task.accuracy_by_epoch),
        ("task.corruptions.names", sorted(corruptions), sorted(recorded.names) if recorded else []),
        ("task.corruptions.selector", asked.task.corruptions.selector, bool(recorded and recorded.selector)),
        ("task.decomposition", asked.task.decomposition, task.decomposition),
        ("the model's name", suite.model, f"{task.model.name}{width}"),
    ]
    chosen = {"crop_padding": training.augmentation.crop_padding, "flip": training.augmentation.flip}
    asked_augmentation = asked.task.augmentation.model_dump()
    pairs += [(f"task.augmentation.{k}", v, chosen[k]) for k, v in asked_augmentation.items() if v is not None]
    pairs += [("precision", asked.precision, training.precision)] if asked.precision != "auto" else []
    pairs += [("screening", False, training.screening)] if asked.screening == "never" else []
    pairs += [("device", asked.device, settings.device)] if asked.device != "auto" else []
    for key, wanted, got in pairs:
        if wanted != got:
            raise Refused(f"suite.json: {key}: {shown(wanted, 60)} was asked for, the cells have {shown(got, 60)}")


def _plain(stopping: EarlyStopping | None) -> dict[str, Any] | None:
    return None if stopping is None else dataclasses.asdict(stopping)


def _check_rounds(cell: _Cell, contents: _Contents) -> list[list[int]]:
    """Every round that is there; returns what was chosen in each."""
    queries: list[list[int]] = []
    bought = numpy.zeros(0, dtype=numpy.int64)
    for number, labels in enumerate(cell.settings.task.label_counts):
        name = f"cells/{cell.grid.id}/round-{number:03d}.json"
        if name not in contents:
            break
        where = f"{name} ({cell.title}, round {number})"
        record = shaped(where, RoundShape, contents.record(name))
        if cell.sealed and not contents.sealed:
            raise Refused(f"{where}: expected a checksum, as its cell.json has one, got none")
        before = len(bought)
        if cell.settings.protocol == "coreset":
            before, bought = 0, bought[:0]
        _check_round(where, record, cell, number, labels - before)
        bought = _check_query(where, record, cell.settings.task.dataset.train_size, bought)
        queries.append(record.query)
    return queries


def _check_round(where: str, record: RoundShape, cell: _Cell, number: int, asked: int) -> None:
    """One round against the settings of its cell."""
    task = cell.settings.task
    for key, got, expected in (
        ("cell", record.cell or cell.grid.id, cell.grid.id),
        ("round", record.round, number),
        ("labels", record.labels, task.label_counts[number]),
        ("length of the query", len(record.query), asked),
    ):
        if got != expected:
            raise Refused(f"{where}: {key}: expected {expected}, got {got}")
    reported = number in task.report_rounds
    if (record.target is not None) != reported:
        wanted = "a target, as this budget is reported" if reported else "no target, as this budget is not reported"
        raise Refused(f"{where}: target: expected {wanted}")
    if record.tied is not None and record.tied > len(record.query):
        raise Refused(f"{where}: tied: expected at most the {len(record.query)} samples chosen, got {record.tied}")
    for who, outcome in (("selector", record.selector), ("target", record.target)):
        if outcome is not None:
            _check_outcome(f"{where}: {who}", outcome, cell)
            judged = who == "target" or (reported and task.corruptions is not None and task.corruptions.selector)
            corruptions = task.corruptions if judged else None
            _check_robustness(f"{where}: {who}", outcome.corruptions, corruptions, task.dataset.test_size)
    _check_decomposition(where, record, cell)
    accounted = sum(stage.seconds for stage in record.stages.values()) + record.unaccounted_seconds
    # What another cell has trained is charged on top of the wall-clock. Records of the coreset protocol did not always
    # say how much that is.
    least = record.seconds + record.borrowed_seconds
    most = math.inf if cell.settings.protocol == "coreset" and not record.borrowed_seconds else least
    tolerance = 1e-6 * (1 + record.seconds)
    if not least - tolerance <= accounted <= most + tolerance:
        raise Refused(f"{where}: seconds: {record.seconds:g} in all, but its parts come to {accounted:g}")


def _check_outcome(where: str, outcome: OutcomeShape, cell: _Cell) -> None:
    """An accuracy is a count of test samples over their number."""
    size = cell.settings.task.dataset.test_size
    for accuracy in (outcome.accuracy, *(outcome.accuracy_by_epoch or ())):
        right = accuracy * size
        if abs(right - round(right)) > 1e-6:
            raise Refused(f"{where}: accuracy: {accuracy!r} is no whole number of {size} test samples")


def _check_robustness(
    where: str, found: RobustnessShape | None, asked: CorruptionsShape | None, test_size: int
) -> None:
    """Every corruption that was asked for and no other, counts of images over their number, and the right means."""
    names = sorted(asked.names) if asked else []
    got = sorted(found.accuracies) if found else []
    if got != names:
        raise Refused(f"{where}: corruptions: expected {shown(names, 60)}, got {shown(got, 60)}")
    if found is None:
        return
    size = test_size if got[0].startswith(COMPUTED_PREFIX) else TEST_IMAGES
    for name, accuracies in found.accuracies.items():
        for accuracy in accuracies:
            if abs(accuracy * size - round(accuracy * size)) > 1e-6:
                raise Refused(f"{where}: corruptions: {shown(name)}: {accuracy!r} is no whole number of {size} images")
    means = {name: fmean(accuracies) for name, accuracies in found.accuracies.items()}
    if sorted(found.means) != got or any(abs(found.means[name] - mean) > 1e-9 for name, mean in means.items()):
        raise Refused(f"{where}: corruptions: the means are not those of the accuracies")
    if abs(found.mean - fmean(means.values())) > 1e-9:
        raise Refused(f"{where}: corruptions: expected the mean {fmean(means.values()):g}, got {found.mean:g}")


def _check_decomposition(where: str, record: RoundShape, cell: _Cell) -> None:
    """Only where it was asked for; accuracies are counts of test samples, and a norm is the root of its parts."""
    task, found = cell.settings.task, record.decomposition
    if not task.decomposition and (found or record.query_gaps):
        raise Refused(f"{where}: decomposition: it was not asked for")
    if found is None:
        return
    size = task.dataset.test_size
    for accuracy in (found.target_accuracy, found.selector_accuracy, found.fresh_accuracy):
        if accuracy is not None and abs(accuracy * size - round(accuracy * size)) > 1e-6:
            raise Refused(f"{where}: decomposition: {accuracy!r} is no whole number of {size} test samples")
    if found.distance and found.distance.kept > found.distance.rho * (1 + 1e-9):
        raise Refused(
            f"{where}: decomposition: rho: {found.distance.rho:g} is less than its part {found.distance.kept:g}"
        )


def _check_query(where: str, record: RoundShape, pool: int, bought: NDArray[numpy.int64]) -> NDArray[numpy.int64]:
    """Indices in the pool, none twice, none bought before; returns all that is bought by now."""
    query = numpy.array(record.query, dtype=numpy.int64)
    if len(query) and query.max() >= pool:
        raise Refused(f"{where}: query: index {query.max()} is outside the pool of {pool}")
    values, counts = numpy.unique(query, return_counts=True)
    if len(values) < len(query):
        raise Refused(f"{where}: query: index {values[counts > 1][0]} is there twice")
    again = numpy.intersect1d(values, bought)
    if len(again):
        raise Refused(f"{where}: query: index {again[0]} was chosen in a round before")
    return numpy.concatenate([bought, query])


def _check_failure(cell: _Cell, rounds: int, contents: _Contents) -> None:
    name = f"cells/{cell.grid.id}/failure.json"
    if name not in contents:
        return
    where = f"{name} ({cell.title})"
    failure = shaped(where, FailureShape, contents.record(name))
    if failure.round != rounds or rounds == len(cell.settings.task.label_counts):
        raise Refused(f"{where}: it failed in round {failure.round}, but has {rounds} whole rounds")
