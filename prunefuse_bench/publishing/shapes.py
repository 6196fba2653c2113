"""What a stranger's records must look like, key by key, before anything is computed from them.

Types are strict (a boolean is no number, a text of digits is no number), numbers are finite, texts short and free of
control characters, and a key that no record has is refused. Settings of a recipe are free, as parts may come from
outside; they are plain data within limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import pydantic
from pydantic import AfterValidator, Field, StringConstraints

from prunefuse_bench.data.corruptions import SEVERITIES
from prunefuse_bench.plain_text import expect_plain
from prunefuse_bench.publishing.archives import Refused, shown
from prunefuse_bench.publishing.layout import FORMAT_VERSION
from prunefuse_bench.records import SCHEMA
from prunefuse_bench.records.checksums import Record, parse_json, unseal

__all__ = [
    "CellShape",
    "CorruptionsShape",
    "FailureShape",
    "GridCellShape",
    "ManifestShape",
    "OutcomeShape",
    "RobustnessShape",
    "RoundShape",
    "SettingsShape",
    "SuiteShape",
    "parse",
    "shaped",
]

DEEPEST = 20
"""Levels of nested objects and lists."""
MOST_KEYS = 500_000
"""Of all objects of a record: each that is wrong is a complaint that takes memory, before the first is told."""
MOST_VALUES = 100_000
"""Of settings, all keys and values."""
LONGEST_TEXT = 10_000


def _plain_data(value: Any) -> Any:
    """Free data: every text plain and short, every whole number of less than 64 bits (:func:`parse` takes no NaN)."""
    waiting, taken = [value], 0
    while waiting:
        item = waiting.pop()
        taken += 1
        if taken > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES:,} keys and values")
        if isinstance(item, str):
            if len(item) > LONGEST_TEXT:
                raise ValueError(f"a text of {len(item):,} characters")
            expect_plain(item)
        elif isinstance(item, Mapping):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            waiting += item
        elif isinstance(item, int) and abs(item) >= 2**63:
            raise ValueError("a whole number of more than 63 bits")
    return value


Name = Annotated[str, StringConstraints(min_length=1, max_length=300), AfterValidator(expect_plain)]
Note = Annotated[str, StringConstraints(max_length=2_000), AfterValidator(expect_plain)]
Free = Annotated[dict[str, Any], AfterValidator(_plain_data)]
CellId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}\z")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}\z")]
Whole = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[int, Field(ge=1, lt=2**63)]
Count = Annotated[int, Field(ge=0, lt=2**100)]
"""FLOPs of long runs pass 63 bits."""
Index = Annotated[int, Field(ge=0, lt=2**40)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Amount = Annotated[float, Field(ge=0, le=1e30)]
Number = Annotated[float, Field(ge=-1e30, le=1e30)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Shape(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class _Open(_Shape):
    """Further keys are allowed, as plain data."""

    model_config = pydantic.ConfigDict(extra="allow")

    @pydantic.model_validator(mode="after")
    def _know_the_rest(self) -> _Open:
        _plain_data(self.model_extra)
        return self


class FileShape(_Shape):
    """Entry of the manifest."""

    bytes: Whole
    sha256: Sha256


class ManifestShape(_Shape):
    """manifest.json."""

    format: Literal["prunefuse-bench submission"]
    version: Annotated[int, Field(ge=FORMAT_VERSION, le=FORMAT_VERSION)]
    schema_: Annotated[int, Field(alias="schema", ge=SCHEMA, le=SCHEMA)]
    grid: Sha256
    files: dict[str, FileShape]


class GridCellShape(_Shape):
    """A cell in suite.json."""

    id: CellId
    method: Name
    seed: Seed
    target_needs_selector: bool
    notes: Annotated[list[Note], Field(max_length=100)]


class SuiteShape(_Shape):
    """suite.json; what was asked for is checked as a suite that a user gives."""

    schema_: Annotated[int, Field(alias="schema", ge=SCHEMA, le=SCHEMA)]
    suite: Free
    dataset: Name
    model: Name
    task: CellId
    cells: Annotated[list[GridCellShape], Field(min_length=1, max_length=50_000, fail_fast=True)]


class DataShape(_Open):
    """``task.dataset`` of a cell's settings."""

    name: Name
    sha256: Sha256
    train_size: Annotated[Index, Field(ge=2)]
    test_size: Annotated[Index, Field(ge=1)]
    image: Annotated[list[Positive], Field(min_length=1, max_length=3)]  # of texts, how many symbols
    classes: Positive


class NetworkShape(_Open):
    """``task.model`` of a cell's settings."""

    name: Name
    width: Annotated[float, Field(gt=0, le=64)]


class ScheduleShape(_Open):
    """``task.training.schedule`` of a cell's settings."""

    epochs: Positive
    segments: Annotated[
        list[Annotated[list[Amount], Field(min_length=2, max_length=2)]], Field(min_length=1, max_length=1_000)
    ]
    min_steps: Whole


class AugmentationShape(_Open):
    """``task.training.augmentation`` of a cell's settings."""

    crop_padding: Whole
    flip: bool


class StoppingShape(_Open):
    """``task.training.stopping`` of a cell's settings."""

    after: Positive | None
    patience: Positive | None
    holdout: Annotated[float, Field(gt=0, le=0.5)]
    selectors: bool


class TrainingShape(_Open):
    """``task.training`` of a cell's settings."""

    schedule: ScheduleShape
    batch_size: Positive
    momentum: Amount
    weight_decay: Amount
    augmentation: AugmentationShape
    precision: Name
    stopping: StoppingShape | None = None
    screening: bool = False


class CorruptionsShape(_Shape):
    """``task.corruptions`` of a cell's settings: by name what determines the images."""

    names: Annotated[dict[Name, Name], Field(min_length=1, max_length=100)]
    selector: bool


class TaskShape(_Open):
    """``task`` of a cell's settings."""

    dataset: DataShape
    model: NetworkShape
    training: TrainingShape
    label_counts: Annotated[list[Annotated[Index, Field(ge=2)]], Field(min_length=1, max_length=10_000)]
    report_rounds: Annotated[list[Index], Field(min_length=1, max_length=10_000)]
    accuracy_by_epoch: bool = False
    corruptions: CorruptionsShape | None = None
    decomposition: bool = False


class PartShape(_Open):
    """A part of a recipe."""

    type: Name


class DistillationShape(_Open):
    """How a target learns from its selector."""

    temperature: Annotated[float, Field(gt=0, le=1e30)]


class TargetStartShape(PartShape):
    """How targets begin."""

    distillation: DistillationShape | None = None


class RecipeShape(_Open):
    """``recipe`` of a cell's settings."""

    proxy: PartShape
    committee: PartShape
    acquisition: Name
    target_start: TargetStartShape
    sync_every: Whole
    own_training: Free | None


class SettingsShape(_Open):
    """``settings`` of a cell."""

    schema_: Annotated[int, Field(alias="schema", ge=SCHEMA, le=SCHEMA)]
    protocol: Literal["active_learning", "coreset"]
    task: TaskShape
    device: Literal["cpu", "cuda"]
    recipe: RecipeShape
    seed: Seed


class CellShape(_Shape):
    """cell.json; its settings are checked as a shape of their own."""

    schema_: Annotated[int, Field(alias="schema", ge=SCHEMA, le=SCHEMA)]
    settings: Free


class FitShape(_Shape):
    """A training run."""

    epochs: Whole
    steps: Whole
    samples: Whole
    loss: Number
    stopped: Literal["stop_after", "plateau"] | None = None
    judged: Whole = 0


class RemovedShape(_Shape):
    """What pruning took from a selector: before and after."""

    ratio: Annotated[float, Field(ge=0, lt=1)] | None
    channels: Annotated[list[Whole], Field(min_length=2, max_length=2)]
    parameters: Annotated[list[Positive], Field(min_length=2, max_length=2)]
    forward_flops: Annotated[list[Count], Field(min_length=2, max_length=2)]

    @pydantic.model_validator(mode="after")
    def _only_remove(self) -> RemovedShape:
        for name in ("channels", "parameters", "forward_flops"):
            before, after = getattr(self, name)
            if not 0 < after <= before:
                raise ValueError(f"{name}: expected no more after than before and some left, got {before} and {after}")
        return self


class RobustnessShape(_Shape):
    """Accuracies on corrupted test images, at severities 1 to 5."""

    accuracies: Annotated[
        dict[Name, Annotated[list[Share], Field(min_length=SEVERITIES, max_length=SEVERITIES)]],
        Field(min_length=1, max_length=100),
    ]
    means: Annotated[dict[Name, Share], Field(min_length=1, max_length=100)]
    mean: Share


class OutcomeShape(_Shape):
    """A trained network."""

    accuracy: Share
    loss: Number
    parameters: Positive
    fit: FitShape
    accuracy_by_epoch: Annotated[list[Share], Field(max_length=1_000_000, fail_fast=True)] | None = None
    corruptions: RobustnessShape | None = None
    removed: RemovedShape | None = None


class GapsShape(_Shape):
    """Differences of mean losses."""

    target: Amount
    selector: Amount | None


class DistanceShape(_Shape):
    """Of a selector's parameters from a target's."""

    rho: Amount
    kept: Amount
    target_norm: Amount


class DecompositionShape(_Shape):
    """The networks of a round against each other."""

    target: Literal["synchronised", "reported"]
    target_accuracy: Share
    selector_accuracy: Share | None
    fresh_accuracy: Share | None
    labeled: GapsShape
    distance: DistanceShape | None


class StageShape(_Shape):
    """What a stage took."""

    seconds: Amount
    cpu_seconds: Amount
    samples: Whole
    flops_forward: Count
    flops_backward: Count
    paper_flops: Amount
    uncounted: Annotated[list[Note], Field(max_length=1_000)]
    peak_memory_bytes: Whole | None
    peak_device_bytes: Whole | None
    joules: Amount | None
    disagreements: Annotated[list[Note], Field(max_length=1_000)] = []


class GpuShape(_Open):
    """A graphics card."""

    name: Name
    memory_bytes: Whole
    capability: Name
    cuda: Name | None


class EnvironmentShape(_Shape):
    """Where a round was run; further keys are short texts, numbers, truth values or nothing."""

    model_config = pydantic.ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Name | Number | bool | None]

    prunefuse_bench: Name
    commit: Name | None
    python: Name
    packages: Annotated[dict[Name, Name], Field(max_length=100)]
    os: Name
    cpu: Name
    cpu_capability: Name
    cores: Positive | None
    threads: Positive
    device: Name
    gpu: GpuShape | None

    @pydantic.model_validator(mode="after")
    def _know_the_rest(self) -> EnvironmentShape:
        if len(self.__pydantic_extra__) > 100:
            raise ValueError(f"expected at most 100 further keys, got {len(self.__pydantic_extra__)}")
        for key in self.__pydantic_extra__:
            expect_plain(key[:301])
        if "torch" not in self.packages:
            raise ValueError("the version of torch is missing from packages")
        return self


class RoundShape(_Shape):
    """round-NNN.json."""

    cell: CellId | None = None
    round: Whole
    labels: Index
    selector: OutcomeShape | None
    target: OutcomeShape | None
    seconds: Amount
    borrowed_seconds: Amount = 0.0
    unaccounted_seconds: Number
    stages: Annotated[dict[Name, StageShape], Field(max_length=100)]
    peak_memory_bytes: Whole | None
    peak_memory_bytes_by_rank: Annotated[list[Whole | None], Field(min_length=2, max_length=100_000)] | None = None
    tied: Whole | None
    query: Annotated[list[Index], Field(fail_fast=True)]
    environment: EnvironmentShape
    decomposition: DecompositionShape | None = None
    query_gaps: GapsShape | None = None


class FailureShape(_Shape):
    """failure.json, without its traceback."""

    round: Whole
    error: Name
    reason: Note


Shape = TypeVar("Shape", bound=pydantic.BaseModel)


def parse(name: str, content: bytes) -> Record:
    """One record of a submission.

    Raises:
        Refused: no JSON object, nested too deeply, or its own checksum is not that of its content.
    """
    try:
        data = parse_json(content)
        _check_extent(data)
        return unseal(data)
    except ValueError as error:
        raise Refused(f"{name}: {error}") from None


def shaped(where: str, shape: type[Shape], data: Any) -> Shape:
    """The data as this shape.

    Raises:
        Refused: it has another; the message names the first key that is wrong and what is there.
    """
    try:
        return shape.model_validate(data)
    except pydantic.ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(str(part)[:50] for part in problem["loc"])
        got = "" if problem["type"] == "missing" else f", got {shown(problem['input'], 60)}"
        raise Refused(f"{where}: {shown(key)}: {problem['msg']}{got}") from None


def _check_extent(data: Any) -> None:
    """ValueError for too many levels of nested objects and lists, or too many keys of objects."""
    deepest, keys, level = 0, 0, [data]
    while level:
        deepest += 1
        keys += sum(len(item) for item in level if isinstance(item, dict))
        if deepest > DEEPEST or keys > MOST_KEYS:
            raise ValueError(f"expected at most {DEEPEST} levels of objects and lists and {MOST_KEYS:,} keys, got more")
        inner: list[Any] = []
        for item in level:
            values = item.values() if isinstance(item, dict) else item
            inner += [value for value in values if isinstance(value, dict | list)]
        level = inner
