"""Submissions: the .zip files that others send, and what a report makes of those that are accepted.

Beside them the other record that people send each other, the JSON of pytest-benchmark.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import json
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fuzz.choices import Choices
from fuzz.guard import Finding, guarded, outcome
from prunefuse_bench.config import Suite, content_hash
from prunefuse_bench.publishing import merge, verify
from prunefuse_bench.publishing.layout import MANIFEST, describe_file
from prunefuse_bench.records import SCHEMA, grid_hash, load_corruptions, load_curves, load_decomposition, load_results
from prunefuse_bench.records.checksums import KEY, sealed
from prunefuse_bench.report import compare_benchmark_files, write_leaderboard, write_page, write_tables

__all__ = ["assembled", "made", "seeds", "test_one"]

RAW, EDITED, ZIPPED, BENCHMARKS = range(4)
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 2**31, 2**40 - 1, 2**62, 2**63, 2**99, 10**400, 0.0, 0.5, -0.5, 1.0, 1e-300,
    1e30, 1e308, float("nan"), float("inf"), "", "x", "=1+1", "<script>alert(1)</script>", "[red]x[/]", "[/]",
    "$\\foo$", "\x1b[2J", "a\nb", "\ud800", "\u202e", "x" * 301, "x" * 10_001, "../../x", "/etc/passwd",
    "hf:evil/code", "digits",
    "image-archive", "npz", "0-99999999", "coreset", "Fresh", "Fused", "computed:rotation", "fog", [], {}, [0], [[]],
    [0.5, 0.6], {"a": 1}, ["x"], [1, 8, 8], [3, 32, 32], [2**62], [1], {"x": [0.5] * 5}, "a|b`c&d", "-x", "@x",
    "\u2028",
)  # fmt: skip
NAMES = (
    MANIFEST, "suite.json", "cells/0123456789abcdef/cell.json", "cells/0123456789abcdef/round-000.json", "../x.json",
    "/x", "cells/../x", "C:/x", "weights.safetensors", "x.pkl", "cells/", "", "suite.json\0.exe", "\x1b[2J",
    "cells/0123456789abcdef/cell.json\n", "x" * 300,
)  # fmt: skip


@functools.cache
def _made() -> dict[str, Any]:
    suite = Suite.model_validate(
        {
            "name": "made",
            "task": {
                "dataset": {"name": "digits"},
                "model": {"name": "resnet8", "width": 0.25},
                "training": {"epochs": 2, "min_steps": 4, "batch_size": 32},
                "budgets": [4, 8, 12],
                "accuracy_by_epoch": True,
            },
            "recipes": ["random", "prunefuse"],
            "seeds": [0, 1],
        }
    ).model_dump(mode="json")
    training = suite["task"]["training"]
    task = {
        "dataset": {"name": "digits", "sha256": "5d" * 32, "train_size": 40, "test_size": 20, "image": [1, 8, 8],
                    "classes": 10},
        "model": suite["task"]["model"],
        "training": {
            "schedule": {"epochs": 2, "segments": [list(one) for one in training["segments"]], "min_steps": 4},
            "batch_size": 32, "momentum": training["momentum"], "weight_decay": training["weight_decay"],
            "augmentation": {"crop_padding": 1, "flip": False}, "precision": "fp32",
        },
        "label_counts": [4, 8, 12],
        "report_rounds": [0, 1, 2],
        "accuracy_by_epoch": True,
    }  # fmt: skip
    shared = {"schema": SCHEMA, "protocol": "active_learning", "task": task, "device": "cpu"}
    cells = [_cell(method, seed) for seed in (0, 1) for method in ("random", "prunefuse")]
    return {
        "suite": {"schema": SCHEMA, "suite": suite, "dataset": "digits", "model": "resnet8, width 0.25"},
        "shared": shared,
        "cells": cells,
    }


def _cell(method: str, seed: int) -> dict[str, Any]:
    pruned = method != "random"
    recipe = {
        "proxy": {"type": "Pruned", "ratio": 0.5} if pruned else {"type": "Target"},
        "committee": {"type": "OnePass"},
        "acquisition": "least_confidence" if pruned else "random",
        "target_start": {"type": "Fused" if pruned else "Fresh", "distillation": None},
        "sync_every": 0, "own_training": None, "options": {},
    }  # fmt: skip
    grid = {"method": method, "seed": seed, "target_needs_selector": pruned, "notes": ["a note"] if pruned else []}
    rounds = [_round(number, pruned, seed) for number in range(3)]
    return {"grid": grid, "recipe": recipe, "rounds": rounds, "failure": None}


def _round(number: int, pruned: bool, seed: int) -> dict[str, Any]:
    def stage(seconds: float) -> dict[str, Any]:
        return {
            "seconds": seconds, "cpu_seconds": seconds, "samples": 4, "flops_forward": 100, "flops_backward": 200,
            "paper_flops": 300.0, "uncounted": ["aten.add"], "peak_memory_bytes": None, "peak_device_bytes": None,
            "joules": 1.0,
        }  # fmt: skip

    fit = {"epochs": 2, "steps": 4, "samples": 8, "loss": 0.5}
    target = {"accuracy": (4 + number + pruned + seed) / 20, "loss": 1.0, "parameters": 1_000, "fit": fit,
              "accuracy_by_epoch": [0.1, 0.2, 0.3]}  # fmt: skip
    start = 4 * (number + (2 * pruned if number else 0)) + 20 * (seed if not number else 0)
    return {
        "round": number, "labels": 4 * (number + 1),
        "selector": {"accuracy": 0.15, "loss": 1.0, "parameters": 500, "fit": fit} if pruned else None,
        "target": target, "seconds": 2.5, "unaccounted_seconds": 0.5,
        "stages": {"target/train": stage(2.0 - pruned), **({"selector/train": stage(1.0)} if pruned else {})},
        "peak_memory_bytes": 1_000, "tied": 0 if number else None, "query": list(range(start, start + 4)),
        "environment": {
            "prunefuse_bench": "0.1.0", "commit": None, "python": "3.11.7", "packages": {"torch": "2.14.1"},
            "os": "Linux", "cpu": "A Processor", "cpu_capability": "AVX2", "cores": 2, "threads": 1, "device": "cpu",
            "gpu": None, "energy": "absent",
        },
    }  # fmt: skip


def made() -> dict[str, Any]:
    """What a submission is made of: the suite, the settings that all cells share, and the cells; to be changed."""
    return copy.deepcopy(_made())


def assembled(parts: dict[str, Any], *, seal: bool = True) -> dict[str, bytes]:
    """The files of a submission of these parts, with the hashes that fit, whatever is in them."""
    shared, files = parts["shared"], {}
    grid = []
    for cell in parts["cells"]:
        settings = {**shared, "recipe": cell["recipe"], "seed": cell["grid"].get("seed")}
        identity = _hash(settings)
        grid.append({"id": identity, **cell["grid"]})
        files[f"cells/{identity}/cell.json"] = _json({"schema": SCHEMA, "settings": settings}, seal)
        for number, record in enumerate(cell["rounds"]):
            whose = {"cell": identity, **record} if isinstance(record, dict) else record
            files[f"cells/{identity}/round-{number:03d}.json"] = _json(whose, seal)
        if cell["failure"] is not None:
            files[f"cells/{identity}/failure.json"] = _json(cell["failure"], seal)
    suite = {**parts["suite"], "task": _hash(shared), "cells": grid}
    files["suite.json"] = _json(suite, seal)
    manifest = {
        "format": "prunefuse-bench submission", "version": 1, "schema": SCHEMA, "grid": grid_hash(suite),
        "files": {name: describe_file(content) for name, content in files.items()},
    }  # fmt: skip
    return {MANIFEST: json.dumps(manifest).encode(), **files}


def _hash(settings: dict[str, Any]) -> str:
    try:
        return content_hash(settings)
    except ValueError:  # a number that is not finite
        return "0" * 16


def _json(content: Any, seal: bool) -> bytes:
    with contextlib.suppress(ValueError, TypeError):
        content = sealed(content) if seal else {key: value for key, value in content.items() if key != KEY}
    return json.dumps(content).encode()


def _zip(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in files.items():
            opened.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def seeds() -> Iterator[bytes]:
    """A submission that is accepted, benchmarks; then choices."""
    yield bytes([RAW]) + _zip(assembled(made()))
    yield bytes([RAW]) + _zip(assembled(made(), seal=False))
    for number in range(24):
        body = bytes((13 * number + 29 * place) % 256 for place in range(number * 2))
        yield bytes([EDITED, 0, number % 4]) + body
        yield bytes([ZIPPED]) + body
    benchmark = {"fullname": "a", "stats": {"data": [0.1] * 6, "median": 0.1, "rounds": 6}, "params": None}
    whole = {"benchmarks": [benchmark], "machine_info": {"node": "x"}, "commit_info": {"id": "0" * 40}}
    yield bytes([BENCHMARKS]) + json.dumps(whole).encode()


def test_one(data: bytes) -> None:
    """Merge a submission, and write the report if it is accepted."""
    choices = Choices(data)
    kind = choices.number(0, 3)
    with guarded() as folder:
        if kind == BENCHMARKS:
            _benchmarks(choices.rest(), folder)
            return
        file = folder / "theirs.zip"
        report = 1
        if kind == RAW:
            content = choices.rest()
        elif kind == EDITED:
            report = choices.pick((0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 4))
            content = _zip(_edited(choices))
        else:
            content = _built_zip(choices)
        file.write_bytes(content)
        outcome(lambda: _report(file, folder / "out", report))


def _report(file: Path, out: Path, more: int) -> None:
    """Verify it; and then, as each takes longer, merge and load it, write the leaderboard, the tables and the page."""
    if not more:
        verify(file)
        return
    merged = merge([file], out)
    for _, reason in merged.refused:
        if not all(character.isprintable() for character in reason) or len(reason) > 2_000:
            raise Finding(f"a reason that cannot be shown: {reason!r}")
    if not merged.runs:
        return
    for load in (load_results, load_corruptions, load_curves, load_decomposition):
        load(merged.runs)
    for write in (write_leaderboard, write_tables, write_page)[: more - 1]:
        write(merged.runs, out)


def _edited(choices: Choices) -> dict[str, bytes]:
    """The records with some values changed, all hashes right; sometimes a file changed after all."""
    parts = made()
    seal = not choices.chance(4)
    for _ in range(choices.number(0, 4)):
        places = list(_places(parts))
        holder, key = places[choices.number(0, len(places) - 1)]
        kind = choices.number(0, 5)
        value = choices.pick(VALUES) if kind < 3 else choices.text(30) if kind == 3 else _near(holder[key], choices)
        if kind == 5:
            del holder[key]
        elif isinstance(holder, dict) and choices.chance(8):
            holder[choices.text(20)] = value
        else:
            holder[key] = value
    try:
        files = assembled(parts, seal=seal)
    except (TypeError, KeyError, AttributeError, ValueError, OverflowError):  # nothing that could be put together
        return assembled(made())
    if choices.chance(8):
        name = choices.pick(sorted(files))
        files[name] = choices.edited(files[name])
        if name != MANIFEST:
            manifest = json.loads(files[MANIFEST])
            manifest["files"][name] = describe_file(files[name])
            files[MANIFEST] = json.dumps(manifest).encode()
    return files


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    """(holder, key) of every value within."""
    for key in list(data) if isinstance(data, dict) else range(len(data)):
        yield data, key
        if isinstance(data[key], dict | list):
            yield from _places(data[key])


def _near(value: Any, choices: Choices) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + choices.pick((1, -1, 2, 1_000, 2**35))
    if isinstance(value, float):
        return value * choices.pick((1.05, 2.0, 1e20, 0.0, -1.0))
    if isinstance(value, str):
        return value + choices.text(8)
    if isinstance(value, list):
        return value[:-1] if choices.chance(2) else value * 2
    return value


def _built_zip(choices: Choices) -> bytes:
    """Members of any name, kind and size, beside those of a submission; sometimes with bytes changed after all."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as opened:
        for name, content in assembled(made()).items():
            if not choices.chance(16):
                opened.writestr(zipfile.ZipInfo(name), content, choices.pick((8, 0, 8, 12, 14)))
        for _ in range(choices.number(0, 4)):
            member = zipfile.ZipInfo("x")
            member.filename = choices.pick(NAMES) if choices.chance(2) else choices.text(40)
            member.external_attr = choices.pick((0o644, stat.S_IFLNK | 0o777, stat.S_IFIFO, stat.S_IFDIR)) << 16
            member.compress_type = choices.pick((8, 0))
            content = bytes(1 << 21) if choices.chance(8) else choices.content(60)
            with contextlib.suppress(ValueError, UnicodeError):  # names that cannot be written
                opened.writestr(member, content)
        for member in opened.filelist:
            if choices.chance(32):
                member.header_offset = choices.pick((0, 1, 2**31, 2**40, 2**63 - 1, 2**64 - 1))
            if choices.chance(32):
                member.file_size = choices.pick((0, 1, 2**20, 2**32, 2**63))
    data = stream.getvalue()
    return choices.edited(data) if choices.chance(3) else data


def _benchmarks(content: bytes, folder: Path) -> None:
    files = [folder / "before.json", folder / "after.json"]
    for file in files:
        file.write_bytes(content)
    outcome(lambda: compare_benchmark_files(files).sheets)
