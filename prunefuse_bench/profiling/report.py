"""A profile as Markdown, CSV, JSON and figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas

from prunefuse_bench.atomic import write_atomically, write_json
from prunefuse_bench.profiling.alternation import Spread
from prunefuse_bench.profiling.figures import write_figures
from prunefuse_bench.profiling.networks import Subject
from prunefuse_bench.profiling.session import Profile
from prunefuse_bench.training import Precision, finer_precisions

__all__ = ["markdown", "measurements", "realised_table", "scoring_table", "screening_table", "write_report"]

TOP_OPERATORS = 6


def write_report(profile: Profile, out: Path) -> list[Path]:
    """Write ``profile.md``, ``.csv`` and ``.json`` into ``out``, and figures; what was written.

    Raises:
        CannotWrite: the disk is full or the folder cannot be written.
    """
    files = [out / f"profile.{ending}" for ending in ("md", "csv", "json")]
    text, table = markdown(profile), measurements(profile).to_csv(index=False)
    write_atomically(files[0], lambda stream: stream.write(text.encode()))
    write_atomically(files[1], lambda stream: stream.write(table.encode()))
    write_json(files[2], as_data(profile))
    return files + write_figures(profile, out)


def markdown(profile: Profile) -> str:
    """All tables, for docs/performance.md."""
    return (
        "\n".join(
            [
                f"## What scoring with {profile.request.network} costs",
                "",
                *_facts(profile),
                "",
                "### FLOPs saved and time saved",
                "",
                table(realised_table(profile)),
                "",
                "FLOPs are those of scoring, per image (of training in brackets where the ratio differs); realised = "
                "throughput ratio / FLOPs ratio: 1 if all of the saving is realised. Ratios are medians over rounds.",
                "",
                "### Scoring against the plain loop",
                "",
                table(scoring_table(profile)),
                "",
                "Plain: float32, eager, NCHW, evaluation mode, inference_mode, images in memory, the fastest of the "
                f"batch sizes {', '.join(map(str, profile.request.batch_sizes))}. Quartiles over rounds in brackets. "
                "Preparation comes before, once for a pool.",
                *_screening(profile),
                "",
                *(f"- {line}" for line in _how(profile)),
                "",
                "### Against the ceilings of this machine",
                "",
                *_ceilings(profile),
                "",
                table(roofline_table(profile)),
                "",
                "Bytes are an estimate: each activation read and written once, batch norm and what works number by "
                "number on the way, weights once per batch. More than 100% of the copy: activations stay in a cache.",
                "",
                "### Where the time goes",
                "",
                table(operator_table(profile)),
                "",
                "### Agreement with the plain loop",
                "",
                table(agreement_table(profile)),
                "",
                f"Networks trained briefly on {profile.agreement_data}. Overlap of scores: of the k highest, "
                "with those of the plain loop. Overlap of choices: the same for what a selection chooses; it computes "
                "scores near the k-th highest again, for the shares of the pool that are given. Rank "
                "correlations: of all scores, before that.",
            ]
        )
        + "\n"
    )


def measurements(profile: Profile) -> pandas.DataFrame:
    """One row per network, way and batch size: images per second, median and quartiles."""
    rows = []
    subjects = {subject.name: subject for subject in profile.subjects}
    for one in profile.throughputs:
        subject, images = subjects[one.network], one.images.spread
        flops = subject.training_flops if one.way == "training" else subject.scoring_flops
        rows.append(
            {
                "network": one.network,
                "role": subject.role,
                "ratio": subject.ratio,
                "parameters": subject.parameters,
                "way": one.way,
                "batch_size": one.batch_size,
                "flops_per_image": flops,
                "images_per_second": images.median,
                "images_per_second_lower_quartile": images.lower,
                "images_per_second_upper_quartile": images.upper,
                "flops_per_second": flops * images.median,
            }
        )
    return pandas.DataFrame(rows)


def realised_table(profile: Profile) -> pandas.DataFrame:
    """The main table, strings ready to print."""
    rows = []
    batch_size = profile.request.batch_sizes[0]
    for subject in profile.subjects:
        training, scoring = profile.realised(subject, "training"), profile.realised(subject, "scoring")
        is_dense = subject is profile.dense
        flops_ratio = f"{scoring.flops_ratio:.2f}"
        if f"{training.flops_ratio:.2f}" != flops_ratio:
            flops_ratio += f" ({training.flops_ratio:.2f})"
        rows.append(
            {
                "network": _network(profile, subject),
                "p": _ratio(subject),
                "parameters": f"{subject.parameters:,}",
                "MFLOPs": f"{subject.scoring_flops / 1e6:.1f}",
                "FLOPs ratio": "1" if is_dense else flops_ratio,
                "training images/s": rate(profile.find(subject.name, "training", batch_size).images.spread.median),
                "training ratio": "1" if is_dense else f"{training.throughput_ratio:.2f}",
                "realised in training": "" if is_dense else percent(training.share),
                "scoring images/s": rate(profile.find(subject.name, "scoring").images.spread.median),
                "scoring ratio": "1" if is_dense else f"{scoring.throughput_ratio:.2f}",
                "realised in scoring": "" if is_dense else percent(scoring.share),
            }
        )
    return pandas.DataFrame(rows)


def screening_table(profile: Profile) -> pandas.DataFrame:
    """The package's scoring where scores alone decide: all in 8 bits, and a share of them again."""
    rows = []
    for subject, screening in zip(profile.subjects, profile.screenings, strict=True):
        assert screening is not None
        own, dense = profile.find(subject.name, "screening"), subject is profile.dense
        realised = profile.realised(subject, "screening")
        rows.append(
            {
                "network": _network(profile, subject),
                "p": _ratio(subject),
                "prunefuse-bench, images/s": with_quartiles(own.images.spread),
                "its batch": own.batch_size,
                "times the plain loop": f"{profile.scoring_speedup(subject, 'screening').median:.2f}",
                "times the dense plain loop": f"{profile.speedup_over_dense(subject, 'screening').median:.2f}",
                "FLOPs ratio": "1" if dense else f"{realised.flops_ratio:.2f}",
                "ratio to dense": "1" if dense else f"{realised.throughput_ratio:.2f}",
                "realised": "" if dense else percent(realised.share),
                "error of logits": f"{100 * screening.error:.1f}%",
                "preparation": f"{1e3 * screening.preparation.seconds:.0f} ms",
            }
        )
    return pandas.DataFrame(rows)


def scoring_table(profile: Profile) -> pandas.DataFrame:
    """The package's scoring against the plain loop."""
    rows = []
    for subject, preparation in zip(profile.subjects, profile.preparations, strict=True):
        plain, own = profile.find(subject.name, "plain scoring"), profile.find(subject.name, "scoring")
        rows.append(
            {
                "network": _network(profile, subject),
                "p": _ratio(subject),
                "plain loop, images/s": with_quartiles(plain.images.spread),
                "batch": plain.batch_size,
                "prunefuse-bench, images/s": with_quartiles(own.images.spread),
                "its batch": own.batch_size,
                "times as fast": f"{profile.scoring_speedup(subject).median:.2f}",
                "times the dense plain loop": f"{profile.speedup_over_dense(subject).median:.2f}",
                "preparation": f"{1e3 * preparation.seconds:.0f} ms",
            }
        )
    return pandas.DataFrame(rows)


def roofline_table(profile: Profile) -> pandas.DataFrame:
    """Where each network stands between the ceilings."""
    return pandas.DataFrame(
        {
            "network": point.network,
            "way": point.way,
            "FLOPs per byte": f"{point.intensity:.1f}",
            "bound by": point.bound,
            "GFLOP/s": f"{point.achieved_flops / 1e9:.1f}",
            "of the product": percent(point.achieved_flops / point.peak_flops),
            "GB/s": f"{point.achieved_bytes / 1e9:.2f}",
            "of the copy": percent(point.achieved_bytes / point.peak_bytes),
            "of what is attainable": percent(point.share),
        }
        for point in profile.roofline()
    )


def operator_table(profile: Profile) -> pandas.DataFrame:
    """The operators that take longest."""
    return pandas.DataFrame(
        {
            "network": name,
            "way": way,
            "operators, share of the time": ", ".join(
                f"{one.name} {percent(one.share)}" for one in operators[:TOP_OPERATORS]
            ),
        }
        for (name, way), operators in profile.operators.items()
    )


def agreement_table(profile: Profile) -> pandas.DataFrame:
    """Overlap of the choices."""
    return pandas.DataFrame(
        {
            "network": name,
            "score": one.kind,
            "pool": f"{one.pool:,}",
            "k": f"{one.k:,}",
            "first look": "8 bits" if one.screened else profile.precision,
            "overlap of scores": f"{100 * one.overlap:.1f}%",
            "overlap of choices": "" if one.chosen is None else f"{100 * one.chosen:.1f}%",
            "again": _looked_again(one.again, finer_precisions(profile.precision, look_first=one.screened)),
            "Spearman": "" if one.spearman is None else f"{one.spearman:.5f}",
            "Kendall": "" if one.kendall is None else f"{one.kendall:.4f}",
        }
        for name, agreements in profile.agreements.items()
        for one in agreements
    )


def as_data(profile: Profile) -> dict[str, Any]:
    """Plain data for JSON: every round is kept, so that any other figure can be computed from it."""
    return {
        "request": dataclasses.asdict(profile.request),
        "environment": profile.environment,
        "precision": profile.precision,
        "networks": [
            {
                "name": subject.name,
                "role": subject.role,
                "ratio": subject.ratio,
                "shape": subject.shape,
                "parameters": subject.parameters,
                "scoring_flops": subject.scoring_flops,
                "training_flops": subject.training_flops,
                "traffic": dataclasses.asdict(subject.traffic),
                "preparation": dataclasses.asdict(preparation),
                "screening": None if screening is None else dataclasses.asdict(screening),
            }
            for subject, preparation, screening in zip(
                profile.subjects, profile.preparations, profile.screenings, strict=True
            )
        ],
        "throughput": [dataclasses.asdict(one) for one in profile.throughputs],
        "realised": [
            {"network": subject.name, "way": way, **dataclasses.asdict(one), "share": one.share}
            for subject in profile.subjects[1:]
            for way in ("training", "plain scoring", "scoring", *(("screening",) if profile.is_screened else ()))
            for one in [profile.realised(subject, way)]
        ],
        "ceilings": dataclasses.asdict(profile.ceilings),
        "roofline": [
            {**dataclasses.asdict(point), "intensity": point.intensity, "bound": point.bound, "share": point.share}
            for point in profile.roofline()
        ],
        "operators": [
            {"network": name, "way": way, "operators": [dataclasses.asdict(one) for one in operators]}
            for (name, way), operators in profile.operators.items()
        ],
        "agreement": {
            "data": profile.agreement_data,
            "networks": {
                name: [dataclasses.asdict(one) for one in agreements] for name, agreements in profile.agreements.items()
            },
        },
        "traces": [file.name for file in profile.traces],
    }


def table(frame: pandas.DataFrame) -> str:
    """A Markdown table of strings and numbers."""
    lines = ["| " + " | ".join(frame.columns) + " |", "|" + "---|" * len(frame.columns)]
    lines += ["| " + " | ".join(str(value) for value in row) + " |" for row in frame.itertuples(index=False)]
    return "\n".join(lines)


def rate(value: float) -> str:
    """Three digits at least, no decimals from 100 on."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def percent(value: float) -> str:
    """A share without decimals."""
    return f"{100 * value:.0f}%"


def with_quartiles(spread: Spread) -> str:
    """Median and quartiles."""
    return f"{rate(spread.median)} ({rate(spread.lower)} to {rate(spread.upper)})"


def _facts(profile: Profile) -> Iterator[str]:
    environment, request = profile.environment, profile.request
    hardware = environment["gpu"]["name"] if environment["gpu"] else environment["cpu"]
    used = [value for one in profile.throughputs for value in one.images.processors]
    channels, height, width = profile.dense.shape
    yield f"- Hardware: {hardware}, {environment['threads']} threads, {environment['cpu_capability']}"
    yield (
        f"- Software: prunefuse-bench {environment['prunefuse_bench']}, Python {environment['python']}, "
        + ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    )
    yield (
        f"- Images of {channels} x {height} x {width}; training in batches of {request.batch_sizes[0]}, "
        f"{profile.precision}"
    )
    yield (
        f"- Contenders in turn, {request.rounds} rounds of blocks of {request.seconds:g} s; each block had "
        f"{min(used):.2f} to {max(used):.2f} processors"
    )
    if profile.device.type == "cpu":
        if min(used) < 0.8 * environment["threads"]:
            yield "- **The machine was shared, or threads were idle: some blocks had fewer processors than threads.**"
        yield "- No GPU has run this yet."


def _how(profile: Profile) -> Iterator[str]:
    """One line for networks that are prepared alike."""
    names: dict[str, list[str]] = {}
    for subject, preparation in zip(profile.subjects, profile.preparations, strict=True):
        names.setdefault(preparation.how, []).append(subject.name)
    for how, prepared in names.items():
        yield f"{'; '.join(prepared)}: {how}"


def _screening(profile: Profile) -> Iterator[str]:
    """The section on looking in 8 bits first, where that was measured."""
    if not profile.is_screened:
        return
    shares = next(one.again for one in profile.screenings if one is not None)
    again = _looked_again(shares, finer_precisions(profile.precision, look_first=True))
    yield from (
        "",
        "### In 8 bits first",
        "",
        table(screening_table(profile)),
        "",
        f"Where scores alone decide: all images in 8 bits, and of them again {again}. So many "
        "near the threshold had to be, in the pool below, with the dense network, by least confidence; what other "
        "scores need stands there, too. Error of logits: of a sample, root mean square, as a share of their deviation; "
        "of networks that are not trained.",
    )


def _looked_again(shares: Sequence[float], precisions: Sequence[Precision]) -> str:
    return ", ".join(f"{100 * share:.1f}% in {precision}" for share, precision in zip(shares, precisions, strict=False))


def _ceilings(profile: Profile) -> Iterator[str]:
    ceilings = profile.ceilings
    for precision, flops in ceilings.flops_per_second.items():
        rows = ceilings.matrix[precision]
        yield f"- Matrix product in {precision}: {flops / 1e9:,.0f} GFLOP/s ({rows:,} x {rows:,})"
    size = ceilings.array_bytes / 2**20
    yield f"- Copy: {ceilings.bytes_per_second / 1e9:.1f} GB/s, read and written (arrays of {size:,.0f} MiB)"


def _network(profile: Profile, subject: Subject) -> str:
    return profile.request.network if subject.role != "smaller" else f"{subject.name} (SVP's proxy)"


def _ratio(subject: Subject) -> str:
    return {"dense": "dense", "pruned": f"{subject.ratio}", "smaller": ""}[subject.role]
