"""Suites: YAML of one or of several parts, and what ``--set`` says."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import yaml

from fuzz.choices import Choices
from fuzz.guard import Finding, guarded, outcome
from prunefuse_bench.config import Suite, content_hash, presets, validate_suite
from prunefuse_bench.data import DATASETS
from prunefuse_bench.data.corruptions import corruption_names
from prunefuse_bench.errors import BadInput
from prunefuse_bench.groups import load_group
from prunefuse_bench.models import MODELS
from prunefuse_bench.runner import resolve_recipes

__all__ = ["seeds", "test_one"]

RAW, BUILT = 0, 1
END = b"\0"
"""Between the file, and each override; one that begins with ``@`` names a part."""

KEYS = (
    "name", "description", "protocol", "task", "recipes", "seeds", "precision", "device", "parts", "methods_from",
    "dataset", "model", "training", "augmentation", "budgets", "report", "accuracy_by_epoch", "corruptions",
    "decomposition", "path", "title", "resize", "train_size", "channels", "length", "keep_decoded", "width", "epochs",
    "segments", "min_steps", "batch_size", "momentum", "weight_decay", "stop_after", "plateau", "patience", "holdout",
    "stop_selectors", "crop_padding", "flip", "names", "selector", "method", "label", "ratio", "proxy", "committee",
    "acquisition", "options", "target_start", "sync_every", "preset", "distil", "rest", "criterion", "rate", "<<", "a",
)  # fmt: skip
VALUES = (
    "1", "0", "-1", "0.5", "2", "1e999", ".inf", ".nan", "1e-300", "true", "~", "''", "x", "random", "al", "prunefuse",
    "combine", "svp", "bald", "alse", "digits", "hf:x", "image-archive", "resnet8", "torchvision:resnet18?x=[[1]]",
    "timm:resnet18?checkpoint_path=x", "vdcnn9", "active_learning", "coreset", "fp32", "auto", "0-2", "0-99999999",
    "0,1,1", "published", "computed", "computed:rotation", "mc_dropout", "pruned", "fused", "fresh", "target", "small",
    "least_confidence", "badge", "k_centers", "faithful", "[0.02, 0.1]", "[2, 4, 8]", "[[1, 0.1]]", "[random, al]",
    "{method: prunefuse, ratio: 0.5}", "{method: combine, proxy: {name: pruned, ratio: 0.5}}", "&a [1]", "*a", "*b",
    "&b {a: 1}", "!!binary YQ==", "!!python/name:os.system", "!x 1", "2020-01-01", "0x_", "'\\x1b'", '"\\e[2J"',
    '"\\ud800"', "99999999999999999999", "0xffffffffffffffffffff", "1_000", "190:20:30", "[]", "{}", "? [a]", "|\n  x",
    "{name: cosine}", "[{}]", "[1, [2, [3]]]", "/dev/zero", "../../x",
)  # fmt: skip
"""Values as YAML writes them; some are none."""


def seeds() -> Iterator[bytes]:
    """The presets, a suite with parts, and overrides; then choices."""
    for file in presets().values():
        yield bytes([RAW]) + file.read_bytes()
    suite = {
        "task": {"dataset": {"name": "digits"}, "model": {"name": "resnet8", "width": 0.5}, "budgets": [2, 0.1, 0.5]},
        "recipes": ["random", {"method": "prunefuse", "ratio": 0.5, "label": "ours"}, {"method": "bald"}],
        "seeds": "0-2",
    }
    text = yaml.safe_dump(suite).encode()
    yield bytes([RAW]) + END.join([text, b"task.training.epochs=3", b"recipes=[al]", b"seeds=1,2"])
    parts = {**suite, "parts": {"small": {"task": {"budgets": [2]}}, "large": None}}
    text = yaml.safe_dump(parts).encode()
    yield bytes([RAW]) + END.join([text, b"parts.small.task.training.epochs=3", b"@small", b"@large"])
    combine = {
        "method": "combine",
        "proxy": {"name": "pruned", "ratio": 0.5},
        "committee": {"name": "mc_dropout", "rate": 0.2},
        "acquisition": "bald",
        "target_start": {"name": "fused"},
        "options": {},
    }
    yield bytes([RAW]) + yaml.safe_dump({"recipes": [combine], "protocol": "coreset"}).encode()
    yield bytes([RAW]) + b"recipes: &r [random, &m {method: svp}, *m]\nname: x\ntask: {model: &a {name: resnet8}}\n"
    for number in range(8):
        yield bytes([BUILT]) + bytes((7 * number + 31 * place) % 256 for place in range(60))


def test_one(data: bytes) -> None:
    """Read a suite and resolve all that can be resolved without data."""
    choices = Choices(data)
    if choices.number(0, 1) == RAW:
        text, *others = choices.rest().split(END)
    else:
        text = "\n".join(_block(choices, 0)).encode("utf-8", "surrogateescape")
        others = [_override(choices).encode() for _ in range(choices.number(0, 3))]
    overrides = [one.decode("utf-8", "surrogateescape") for one in others if not one.startswith(b"@")]
    only = [one[1:].decode("utf-8", "surrogateescape") for one in others if one.startswith(b"@")]
    with guarded() as folder:
        file = folder / "suite.yaml"
        file.write_bytes(text)
        outcome(lambda: _read(str(file), overrides, only))


def _read(file: str, overrides: list[str], only: list[str]) -> None:
    group = load_group(file, overrides, only)
    for part in group.parts:
        outcome(lambda: _resolve(part.suite))  # noqa: B023  called at once


def _resolve(suite: Suite) -> None:
    plain = json.dumps(suite.model_dump(mode="json"), allow_nan=False)
    if validate_suite(json.loads(plain)) != suite:
        raise Finding("a suite is another one when it has been written down")
    for look_up in (
        lambda: suite.task.label_counts(1437),
        lambda: MODELS[suite.task.model.name],
        lambda: DATASETS[suite.task.dataset.name],
        lambda: corruption_names(suite.task.corruptions.names, 3),
        lambda: suite.task.report_rounds,
        lambda: _schedule(suite),
    ):
        outcome(look_up)
    for recipe in resolve_recipes(suite):
        content_hash(recipe.settings())


def _schedule(suite: Suite) -> None:
    schedule = suite.task.training.schedule
    rates = [schedule.learning_rate(step, 10) for step in range(10)]
    if not all(math.isfinite(rate) for rate in rates):
        raise BadInput("a learning rate that is no number")


def _block(choices: Choices, depth: int) -> Iterator[str]:
    """Lines of a mapping."""
    indent = "  " * depth
    for _ in range(choices.number(1, 8)):
        key = choices.pick(KEYS)
        kind = choices.number(0, 5)
        if kind == 0 and depth < 6:
            yield f"{indent}{key}:"
            yield from _block(choices, depth + 1)
        elif kind == 1:
            yield f"{indent}{key}:"
            for _ in range(choices.number(1, 4)):
                yield f"{indent}- {choices.pick(VALUES)}"
        elif kind == 2:
            yield f"{indent}{key}: {choices.text(20)}"
        else:
            yield f"{indent}{key}: {choices.pick(VALUES)}"
        if not choices:
            return


def _override(choices: Choices) -> str:
    key = ".".join(choices.pick(KEYS) for _ in range(choices.number(1, 4)))
    return f"{'@' if choices.chance(8) else ''}{key}={choices.pick(VALUES)}"
