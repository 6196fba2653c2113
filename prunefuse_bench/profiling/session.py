"""One profile from request to result: what is asked is checked before anything is measured."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from prunefuse_bench.atomic import make_folder
from prunefuse_bench.data import DATASETS, DatasetRequest, ImageDataset, load_dataset
from prunefuse_bench.errors import BadInput
from prunefuse_bench.models import MODELS
from prunefuse_bench.profiling.agreement import Agreement, briefly_trained, measure_agreement
from prunefuse_bench.profiling.alternation import Spread, ratios
from prunefuse_bench.profiling.ceilings import NUMBER_BYTES, Ceilings, RooflinePoint, measure_ceilings
from prunefuse_bench.profiling.networks import Subject, subjects
from prunefuse_bench.profiling.operators import OperatorTime, profile_operators
from prunefuse_bench.profiling.realised import Realised
from prunefuse_bench.profiling.throughput import (
    Preparation,
    Screening,
    Throughput,
    Way,
    contenders,
    measure_preparation,
    measure_screening,
    measure_throughput,
)
from prunefuse_bench.records import describe_environment
from prunefuse_bench.training import Precision, resolve_precision

__all__ = ["Profile", "ProfileRequest", "numbers_of", "run_profile"]

Number = TypeVar("Number", int, float)
OPERATOR_BATCHES = 2
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ProfileRequest:
    """What is asked of ``prunefuse-bench profile``.

    Attributes:
        network: name of the dense network.
        ratios: shares of the channels to remove, each from 0 to below 1.
        batch_sizes: of training and of the plain scoring loop; the first is the one of the main table.
        device: ``auto``, ``cpu`` or ``cuda``.
        seconds: of one block of one contender.
        rounds: how often each contender is measured.
        data: name of a data set, or folder or .zip of images: for the test of agreement.
    """

    network: str = "resnet56"
    ratios: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8)
    batch_sizes: tuple[int, ...] = (128,)
    device: str = "auto"
    seconds: float = 1.0
    rounds: int = 5
    data: str = "digits"

    def check(self) -> None:
        """Refuse what cannot be measured.

        Raises:
            BadInput: with the option that is wrong.
        """
        MODELS[self.network]
        for ratio in self.ratios:
            if not 0 <= ratio < 1:
                raise BadInput(f"--ratios: expected shares of the channels from 0 to below 1, got {ratio:g}")
        for batch_size in self.batch_sizes:
            if batch_size < 2:
                raise BadInput(f"--batch-sizes: expected whole numbers of at least 2, got {batch_size}")
        for option, values in (("--ratios", self.ratios), ("--batch-sizes", self.batch_sizes)):
            if not values or len(set(values)) != len(values):
                raise BadInput(f"{option}: expected at least one value, and none twice, got {list(values)}")
        if not 0 < self.seconds <= 3600:
            raise BadInput(f"--seconds: expected a length from above 0 to 3600, got {self.seconds:g}")
        if self.rounds < 1:
            raise BadInput(f"--rounds: expected at least 1, got {self.rounds}")
        if self.device not in ("auto", "cpu", "cuda"):
            raise BadInput(f"--device: expected auto, cpu or cuda, got {self.device!r}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise BadInput("--device: expected a CUDA device, but torch finds none; use --device cpu or --device auto")

    def resolve_device(self) -> torch.device:
        """Where ``auto`` means the GPU if there is one."""
        return torch.device("cuda" if self.device != "cpu" and torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Profile:
    """Everything that was measured.

    Attributes:
        request: what was asked.
        device, environment: where.
        precision: number format of training and of the package's scoring.
        subjects: dense, pruned and smaller networks; ``preparations`` and ``screenings`` have one entry for each.
        throughputs: images per second of all of them, in all ways.
        ceilings: of the hardware.
        operators: per (network, way), the operator that takes longest first.
        agreements: per network's name.
        agreement_data: what images that was tried on.
        traces: files for a trace viewer.
    """

    request: ProfileRequest
    device: torch.device
    environment: dict[str, Any]
    precision: Precision
    subjects: tuple[Subject, ...]
    preparations: tuple[Preparation, ...]
    screenings: tuple[Screening | None, ...]
    throughputs: tuple[Throughput, ...]
    ceilings: Ceilings
    operators: dict[tuple[str, Way], list[OperatorTime]]
    agreements: dict[str, list[Agreement]]
    agreement_data: str
    traces: tuple[Path, ...]

    @property
    def dense(self) -> Subject:
        """The network that the others are compared with."""
        return self.subjects[0]

    def find(self, network: str, way: Way, batch_size: int | None = None) -> Throughput:
        """One measurement; without a batch size the fastest of its batch sizes."""
        found = [
            one
            for one in self.throughputs
            if (one.network, one.way) == (network, way) and batch_size in (None, one.batch_size)
        ]
        return max(found, key=lambda one: one.images.spread.median)

    def ratio_to_dense(self, subject: Subject, way: Way) -> Spread:
        """Images per second, smaller / dense: training and the plain loop at the first batch size."""
        batch_size = None if way in ("scoring", "screening") else self.request.batch_sizes[0]
        own, dense = (self.find(one.name, way, batch_size) for one in (subject, self.dense))
        return ratios(own.images, dense.images)

    def realised(self, subject: Subject, way: Way) -> Realised:
        """How much of the saved FLOPs is saved time."""
        flops = [one.training_flops if way == "training" else one.scoring_flops for one in (self.dense, subject)]
        return Realised(flops[0] / flops[1], self.ratio_to_dense(subject, way).median)

    @property
    def is_screened(self) -> bool:
        """Whether a look in 8 bits was measured with all networks."""
        return None not in self.screenings

    def scoring_speedup(self, subject: Subject, way: Way = "scoring") -> Spread:
        """The package's scoring against the plain loop at the batch size that suits the plain loop best."""
        return ratios(self.find(subject.name, way).images, self.find(subject.name, "plain scoring").images)

    def speedup_over_dense(self, subject: Subject, way: Way = "scoring") -> Spread:
        """The package's scoring against the plain loop with the dense network."""
        return ratios(self.find(subject.name, way).images, self.find(self.dense.name, "plain scoring").images)

    def roofline(self) -> list[RooflinePoint]:
        """Every network on both ways of scoring."""
        points = []
        formats: tuple[tuple[Way, Precision], ...] = (
            ("plain scoring", "fp32"),
            ("scoring", self.precision),
        )
        for subject in self.subjects:
            for way, precision in formats:
                measured = self.find(subject.name, way)
                moved = subject.traffic.bytes_per_image(measured.batch_size, NUMBER_BYTES[precision])
                points.append(
                    RooflinePoint(
                        network=subject.name,
                        way=way,
                        flops_per_image=subject.scoring_flops,
                        bytes_per_image=moved,
                        images_per_second=measured.images.spread.median,
                        peak_flops=self.ceilings.flops_per_second[precision],
                        peak_bytes=self.ceilings.bytes_per_second,
                    )
                )
        return points


def numbers_of(text: str, option: str, kind: Callable[[str], Number]) -> tuple[Number, ...]:
    """``0.5,0.6`` -> (0.5, 0.6), with ``kind`` float or int.

    Raises:
        BadInput: something in it is not such a number.
    """
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        example = ",".join(map(str, (kind("1"), kind("2"))))
        raise BadInput(f"{option}: expected numbers with commas between them, as in {example}, got {text!r}") from None


def run_profile(
    request: ProfileRequest,
    out: Path,
    *,
    trace: bool = False,
    progress: Progress = lambda what, done, total: None,
) -> Profile:
    """Measure everything.

    Args:
        out: folder for traces; it is made.
        trace: write one trace per profiled network and way.
        progress: told of (what is done, blocks done, blocks in all).

    Raises:
        BadInput: something asked for cannot be measured; nothing has been measured then.
    """
    request.check()
    device = request.resolve_device()
    dataset = _dataset(request.data)
    make_folder(out)
    networks = subjects(request.network, request.ratios)
    looked_at = networks[:2]
    agreements = {}
    pool = _in_memory(dataset)
    for position, subject in enumerate(looked_at):
        progress("agreement of the choices", position, len(looked_at))
        network, training = briefly_trained(request.network, subject.ratio, dataset, device)
        agreements[subject.name] = measure_agreement(network, pool.to(device), training)
    again = _looked_at_again(agreements[networks[0].name])
    preparations, screenings = [], []
    for position, subject in enumerate(networks):
        progress("preparing for scoring", position, len(networks))
        preparations.append(measure_preparation(subject, device))
        screenings.append(None if again is None else measure_screening(subject, device, again))
    ceilings = measure_ceilings(
        device,
        seconds=request.seconds,
        rounds=request.rounds,
        progress=lambda done, total: progress("ceilings", done, total),
    )
    throughputs = measure_throughput(
        networks,
        preparations,
        screenings,
        device,
        request.batch_sizes,
        seconds=request.seconds,
        rounds=request.rounds,
        progress=lambda done, total: progress("images per second", done, total),
    )
    operators, traces = _operators(
        list(zip(looked_at, preparations, screenings, strict=False)),
        device,
        request.batch_sizes[0],
        out if trace else None,
        progress,
    )
    return Profile(
        request=request,
        device=device,
        environment=describe_environment(device),
        precision=resolve_precision("auto", device),
        subjects=tuple(networks),
        preparations=tuple(preparations),
        screenings=tuple(screenings),
        throughputs=tuple(throughputs),
        ceilings=ceilings,
        operators=operators,
        agreements=agreements,
        agreement_data=dataset.title,
        traces=traces,
    )


def _looked_at_again(agreements: Sequence[Agreement]) -> tuple[float, ...] | None:
    """Shares of a pool when the paper's score decides; None if none was looked at in 8 bits."""
    return next((one.again for one in agreements if one.screened and one.kind == "least_confidence"), None)


def _in_memory(dataset: ImageDataset) -> Tensor:
    if dataset.symbols or not isinstance(dataset.train_images, Tensor):
        raise BadInput(f"--data: expected images that fit in memory, got {dataset.title}")
    return dataset.train_images


def _dataset(data: str) -> ImageDataset:
    if data in DATASETS:
        return load_dataset(data)
    path = Path(data)
    if not path.exists():
        raise BadInput(
            f"--data: expected a data set ({', '.join(DATASETS)}), or a folder or .zip of images, got {data!r}"
        )
    return load_dataset("image-archive", DatasetRequest(path))


def _operators(
    networks: Sequence[tuple[Subject, Preparation, Screening | None]],
    device: torch.device,
    batch_size: int,
    out: Path | None,
    progress: Progress,
) -> tuple[dict[tuple[str, Way], list[OperatorTime]], tuple[Path, ...]]:
    """A few batches of each network in each way under the profiler."""
    tasks = {
        key: contender
        for subject, preparation, screening in networks
        for key, contender in contenders(subject, device, [batch_size], preparation.batch_size, screening).items()
    }
    found, traces = {}, []
    for position, ((name, way, _), contender) in enumerate(tasks.items()):
        progress("operators", position, len(tasks))
        trace = None
        if out is not None:
            trace = out / (re.sub(r"[^a-z0-9.]+", "-", f"trace-{name}-{way}".lower()) + ".json")
            traces.append(trace)
        found[name, way] = profile_operators(lambda run=contender: run(OPERATOR_BATCHES), device, trace)  # type: ignore[misc]
    return found, tuple(traces)
