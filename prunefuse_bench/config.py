"""What a user asks for: a suite of cells, as typed and checked data.

A suite names a task (data set, target, training, budgets), recipes and seeds; a cell is one (task, protocol, recipe,
seed). Suites are YAML: presets of this package, or a user's own file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pydantic
import yaml
from pydantic import AfterValidator, Field

from prunefuse_bench.errors import BadInput, unknown_name
from prunefuse_bench.plain_text import shown_value
from prunefuse_bench.plain_yaml import DEEPEST, LONGEST, load_plain_yaml
from prunefuse_bench.training.schedule import PAPER_SEGMENTS, StepSchedule
from prunefuse_bench.training.stopping import EarlyStopping

__all__ = [
    "AugmentationSpec",
    "CorruptionsSpec",
    "DatasetSpec",
    "ModelSpec",
    "PlateauSpec",
    "Suite",
    "TaskSpec",
    "TrainingSpec",
    "content_hash",
    "load_suite",
    "override_setting",
    "parse_seeds",
    "presets",
    "read_settings",
    "validate_suite",
]

Budget = Annotated[float, Field(gt=0, le=1)] | Annotated[int, Field(gt=1)]
"""A share of the pool (0 to 1) or, as a whole number above 1, a count of labels."""
MOST_SEEDS = 10_000
MOST_PROBLEMS = 20
"""Of a suite that are told at once."""
LONGEST_PATH, LONGEST_NAME = 4096, 255
"""Bytes of a path and of each name in it; no usual file system has longer ones."""
SEEDS = re.compile(r"([0-9]{1,10})(?:-([0-9]{1,10}))?", re.ASCII)


def _expect_path(path: Path) -> Path:
    name = os.fsencode(path)
    if b"\0" in name or len(name) > LONGEST_PATH or max(map(len, name.split(b"/"))) > LONGEST_NAME:
        raise BadInput(f"path: expected the name of a file or folder, got {shown_value(str(path), 60)}")
    return path


FilePath = Annotated[Path, AfterValidator(_expect_path)]


class _Spec(pydantic.BaseModel):
    """Frozen; an unknown key is an error that suggests the nearest ones."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    where: ClassVar[str]

    @pydantic.model_validator(mode="before")
    @classmethod
    def _know_all_keys(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            for key in data:
                if key not in cls.model_fields:
                    raise unknown_name(f"key in {cls.where}", str(key), cls.model_fields)
        return data


class DatasetSpec(_Spec):
    """Which images or texts; which settings mean something depends on the data set. ``title`` is how tables name it.

    ``train_size``: a pool of so many of the training samples, the same share of every class, always the same ones.
    ``length``: characters of a text that the network reads. ``keep_decoded``: whether images that are too large for
    memory are decoded once and kept on the disk, or decoded whenever they are needed.
    """

    where = "task.dataset"
    name: str = "digits"
    path: FilePath | None = None
    title: str | None = None
    resize: Annotated[int, Field(ge=4, le=4096)] | None = None
    train_size: Annotated[int, Field(ge=2)] | None = None
    channels: Literal[1, 3] = 3
    length: Annotated[int, Field(ge=8, le=65535)] | None = None
    keep_decoded: bool = True


class ModelSpec(_Spec):
    """Which target network; ``width`` is a factor on its channels."""

    where = "task.model"
    name: str = "resnet20"
    width: Annotated[float, Field(gt=0, le=64)] = 1.0


class PlateauSpec(_Spec):
    """Stop when the accuracy on held-out labeled samples has not risen for ``patience`` epochs; None for never."""

    where = "task.training.plateau"
    patience: Annotated[int, Field(ge=1)] | None = None
    holdout: Annotated[float, Field(gt=0, le=0.5)] = 0.1


class TrainingSpec(_Spec):
    """How networks are trained; defaults as in section 9.3 of the paper.

    Early stopping is that of section 9.10: of targets, and of selectors too with ``stop_selectors``.
    """

    where = "task.training"
    epochs: Annotated[int, Field(ge=1)] = 181
    segments: Annotated[
        tuple[tuple[Annotated[float, Field(gt=0, le=1e9)], Annotated[float, Field(ge=0)]], ...], Field(min_length=1)
    ] = PAPER_SEGMENTS
    min_steps: Annotated[int, Field(ge=0)] = 0
    batch_size: Annotated[int, Field(ge=2)] = 128
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    stop_after: Annotated[int, Field(ge=1)] | None = None
    plateau: PlateauSpec = PlateauSpec()
    stop_selectors: bool = False

    @pydantic.model_validator(mode="after")
    def _stop_early(self) -> TrainingSpec:
        if self.stop_after is not None and self.stop_after >= self.epochs:
            raise BadInput(
                f"task.training.stop_after: expected fewer than the {self.epochs} epochs of the schedule, "
                f"got {self.stop_after}; leave it out to run the whole schedule"
            )
        if self.plateau.patience is None and self.plateau.holdout != PlateauSpec().holdout:
            raise BadInput("task.training.plateau.holdout: expected a patience with it, got none; nothing is held out")
        if self.stop_selectors and self.stopping is None:
            raise BadInput("task.training.stop_selectors: expected stop_after or plateau.patience with it, got neither")
        return self

    @property
    def stopping(self) -> EarlyStopping | None:
        """When to stop before the schedule ends."""
        if self.stop_after is None and self.plateau.patience is None:
            return None
        return EarlyStopping(self.stop_after, self.plateau.patience, self.plateau.holdout, self.stop_selectors)

    @property
    def schedule(self) -> StepSchedule:
        """Length and learning rates."""
        return StepSchedule(self.epochs, self.segments, self.min_steps)


class AugmentationSpec(_Spec):
    """Random crop and flip; what is not given is the data set's own choice."""

    where = "task.augmentation"
    crop_padding: Annotated[int, Field(ge=0, le=64)] | None = None
    flip: bool | None = None


class CorruptionsSpec(_Spec):
    """Corrupted test images that reported targets are judged on as well (paper, Table 17); nothing is chosen by them.

    ``names``: see ``prunefuse-bench corruptions``; all published or all computed, ``published`` or ``computed`` for all
    of a kind, none by default. ``path``: the folder with the files of the published ones. ``selector``: judge the
    selectors of the same rounds too.
    """

    where = "task.corruptions"
    names: tuple[str, ...] = ()
    path: FilePath | None = None
    selector: bool = False

    @pydantic.model_validator(mode="after")
    def _settings_need_names(self) -> CorruptionsSpec:
        if not self.names and (self.path is not None or self.selector):
            raise BadInput(
                "task.corruptions.names: expected names of corruptions, got none; "
                "prunefuse-bench corruptions lists what there is"
            )
        return self


class TaskSpec(_Spec):
    """Data set, target, training and label budgets.

    The first budget is the random start; every later one is reached by one round of selection. Accuracy by epoch is
    recorded for curves of convergence, corruptions and the decomposition of errors (sections 5 and 9.2) as diagnoses;
    nothing is chosen by them.
    """

    where = "task"
    dataset: DatasetSpec = DatasetSpec()
    model: ModelSpec = ModelSpec()
    training: TrainingSpec = TrainingSpec()
    augmentation: AugmentationSpec = AugmentationSpec()
    budgets: Annotated[tuple[Budget, ...], Field(min_length=1)] = (0.02, 0.1, 0.2, 0.3, 0.4, 0.5)
    report: tuple[Budget, ...] | None = None
    accuracy_by_epoch: bool = False
    corruptions: CorruptionsSpec = CorruptionsSpec()
    decomposition: bool = False

    @pydantic.model_validator(mode="after")
    def _report_known_budgets(self) -> TaskSpec:
        for budget in self.report or ():
            if budget not in self.budgets:
                raise BadInput(f"task.report: expected some of the budgets {list(self.budgets)}, got {budget}")
        return self

    @property
    def report_rounds(self) -> frozenset[int]:
        """Rounds, 0 for the random start, whose target is trained and evaluated."""
        report = self.budgets if self.report is None else self.report
        return frozenset(self.budgets.index(budget) for budget in report)

    def label_counts(self, pool_size: int) -> list[int]:
        """Budgets as counts of labels.

        Raises:
            BadInput: more than the pool holds, or not increasing.
        """
        counts = [b if isinstance(b, int) else round(b * pool_size) for b in self.budgets]
        for budget, count in zip(self.budgets, counts, strict=True):
            if count > pool_size:
                raise BadInput(f"task.budgets: {budget} asks for {count} labels, but the pool has {pool_size}")
            if count < 2:
                raise BadInput(
                    f"task.budgets: expected at least 2 labels, got {count} ({budget} of {pool_size} images)"
                )
        for (first, before), (second, after) in zip(
            zip(self.budgets, counts, strict=True), zip(self.budgets[1:], counts[1:], strict=True), strict=False
        ):
            if after <= before:
                raise BadInput(
                    f"task.budgets: expected increasing budgets, "
                    f"got {first} ({before} labels) before {second} ({after} labels)"
                )
        return counts


class Suite(_Spec):
    """A grid of cells: one task, several recipes, several seeds."""

    where = "the suite"
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    description: str = ""
    protocol: Literal["active_learning", "coreset"] = "active_learning"
    task: TaskSpec = TaskSpec()
    recipes: Annotated[tuple[str | dict[str, Any], ...], Field(min_length=1)]
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Field(min_length=1)] = (0, 1, 2)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    screening: Literal["auto", "never"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @pydantic.field_validator("seeds", mode="before")
    @classmethod
    def _read_seeds(cls, value: Any) -> Any:
        return parse_seeds(value) if isinstance(value, str) else (value,) if isinstance(value, int) else value

    @pydantic.field_validator("seeds")
    @classmethod
    def _distinct_seeds(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) != len(value):
            raise BadInput(f"seeds: expected distinct numbers, got {list(value)}")
        return value


def presets() -> dict[str, Path]:
    """The suites that come with the package as files; those of the paper's tables are derived from its tables."""
    folder = Path(str(resources.files("prunefuse_bench") / "presets"))
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def load_suite(preset_or_file: str, overrides: Sequence[str] = ()) -> Suite:
    """A suite by preset name or YAML file, with ``key=value`` overrides.

    Args:
        overrides: dotted keys, values in YAML: ``task.training.epochs=30``, ``recipes=[random, al]``, ``seeds=0-4``.

    Raises:
        BadInput: unknown preset or key (the nearest are suggested), or a value that is not allowed.
    """
    settings = read_settings(preset_or_file)
    for override in overrides:
        override_setting(settings, override)
    return validate_suite(settings)


def read_settings(preset_or_file: str, known: Iterable[str] = ()) -> dict[str, Any]:
    """What the YAML of a preset or a file says, its name filled in; nothing is validated yet.

    Args:
        known: names of presets that are no files; they are suggested, too, if the name is unknown.

    Raises:
        BadInput: there is no such preset or file, or it is not readable as keys and values.
    """
    files = presets()
    if preset_or_file in files:
        file = files[preset_or_file]
    elif preset_or_file.endswith((".yaml", ".yml")):
        file = Path(preset_or_file)
    else:
        raise unknown_name("preset", preset_or_file, {*files, *known})
    try:
        if not file.is_file():
            raise BadInput(f"suite {preset_or_file}: there is no such file")
        with file.open(encoding="utf-8") as stream:
            data = load_plain_yaml(stream.read(LONGEST + 1))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"suite {file.name}: not readable as YAML: {error}") from None
    except OSError as error:
        raise BadInput(f"suite {shown_value(file.name, 60)}: cannot be read ({error.strerror})") from None
    if not isinstance(data, dict):
        raise BadInput(f"suite {file.name}: expected keys and values, got {type(data).__name__}")
    data.setdefault("name", file.stem)
    return data


def override_setting(settings: dict[str, Any], override: str) -> None:
    """Change one setting in place, as ``--set`` states it: ``task.training.epochs=30``.

    Raises:
        BadInput: it is not ``key=value``, the value is not YAML, or the key goes below something that has no keys.
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise BadInput(f"--set {override!r}: expected key=value, as in task.training.epochs=30")
    try:
        value = load_plain_yaml(text)
    except yaml.YAMLError as error:
        raise BadInput(f"--set {shown_value(override)}: the value is not readable as YAML: {error}") from None
    *path, last = key.split(".", DEEPEST)
    node = settings
    for part in path:
        child = node.setdefault(part, {})
        if not isinstance(child, dict):
            raise BadInput(f"--set {override!r}: {part!r} has no keys of its own")
        node = child
    node[last] = value


def validate_suite(settings: Mapping[str, Any]) -> Suite:
    """The suite that these settings describe.

    Raises:
        BadInput: an unknown key (the nearest are suggested), or values that are not allowed, all of them.
    """
    try:
        return Suite.model_validate(settings)
    except pydantic.ValidationError as error:
        problems = []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"] if part not in ("constrained-float", "constrained-int"))
            problems.append(f"{key}: {problem['msg']}, got {shown_value(problem['input'])}")
        different = list(dict.fromkeys(problems))
        more = [f"and {len(different) - MOST_PROBLEMS:,} more"] if len(different) > MOST_PROBLEMS else []
        raise BadInput("; ".join([*different[:MOST_PROBLEMS], *more])) from None


def parse_seeds(text: str) -> tuple[int, ...]:
    """``0-2`` -> (0, 1, 2); ``0,3,5`` -> (0, 3, 5).

    Raises:
        BadInput: anything else, or more than :data:`MOST_SEEDS`.
    """
    seeds: list[int] = []
    for part in text.split(","):
        found = SEEDS.fullmatch(part.strip())
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, -1)
        if last < first:
            raise BadInput(f"seeds: expected numbers and ranges such as 0-2 or 0,3,5, got {shown_value(text)}")
        if len(seeds) + last - first >= MOST_SEEDS:
            raise BadInput(f"seeds: expected at most {MOST_SEEDS:,}, got {shown_value(text)}")
        seeds += range(first, last + 1)
    return tuple(seeds)


def content_hash(settings: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that name these settings: equal settings, equal name."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
