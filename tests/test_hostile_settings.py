"""Suites that a stranger wrote: they are data, of a bounded size, and run no code."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import yaml

from prunefuse_bench.config import load_suite, parse_seeds, validate_suite
from prunefuse_bench.errors import BadInput
from prunefuse_bench.groups import load_group
from prunefuse_bench.models import MODELS, build_model
from prunefuse_bench.plain_text import UNPLAIN, expect_plain, printable, shown_value
from prunefuse_bench.plain_yaml import load_plain_yaml

LAUGHS = "\n".join(
    ["a0: &a0 [1, 2]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)), "budgets: *a9"]
)
MERGES = "\n".join(
    ["m0: &m0 {k: 1}", *(f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 10)}]}}" for n in range(1, 10)), "recipes: 1"]
)

HOSTILE = [
    (LAUGHS, "20,000 keys and values, aliases written out"),
    (MERGES, "20,000 keys and values, aliases written out"),
    ("recipes: &a [*a]", "an alias within what it names"),
    ("parts: &a {b: {c: *a}}", "an alias within what it names"),
    ("a: " + "[" * 3_000 + "]" * 3_000, "at most 40 levels"),
    ("a: " + "[" * 45 + "]" * 45, "at most 40 levels"),
    ("recipes: !!python/object/apply:os.system ['true']", "tag 'tag:yaml.org,2002:python/object/apply:os.system' is"),
    ("recipes: !!python/name:os.system", "is not allowed"),
    ("recipes: [!local x]", "the tag '!local' is not allowed"),
    ("name: !!binary YQ==", "is not allowed"),
    ("recipes: !!set {random}", "is not allowed"),
    ("recipes: !!omap [a: b]", "is not allowed"),
    ("name: !!timestamp x", "is not allowed"),
    ("name: !!bool maybe", "does not fit its tag"),
    ("name: !!int x", "does not fit its tag"),
    ("seeds: 0x_", "does not fit its tag"),
    ("seeds: " + "1" * 5_000, "at most 40 characters in one value, got 5,000"),
    ("seeds: 0x" + "f" * 30, "less than 64 bits"),
    ("task: {training: {weight_decay: .inf}}", "expected a finite number"),
    ("task: {training: {weight_decay: .NaN}}", "expected a finite number"),
    ("task: {training: {weight_decay: 1.0e+999}}", "expected a finite number"),
    ("recipes: [random]\nrecipes: [al]", "the key 'recipes' is there twice"),
    ("task: {model: {name: a, name: b}}", "the key 'name' is there twice"),
    ('description: "\\e[2J"', r"control character '\x1b'"),
    ('description: "\\ud800"', r"control character '\ud800'"),
    ('description: "a\\u202eb"', r"bidirectional control character '\u202e'"),
    ("description: " + "x" * 10_001, "at most 10,000 characters in one value"),
    ("# " + "x" * (256 << 10), "at most 262,144 characters"),
    ("a: [" + "1, " * 20_001 + "]", "20,000 keys and values"),
    ("a: b: c", "mapping values are not allowed"),
    ("methods_from: [evil.py]", "unknown key in the suite 'methods_from'"),
    ("task: {methods_from: evil.py}", "unknown key in task 'methods_from'"),
    ("parts: {a: {methods_from: [evil.py]}}", "unknown key in the suite 'methods_from'"),
    ("seeds: 0-99999999", "at most 10,000"),
    ("seeds: 0-9999,10000", "at most 10,000"),
    ("seeds: '²'", "expected numbers and ranges"),
    ("seeds: '" + "9" * 5_000 + "'", "expected numbers and ranges"),
    ("task: {dataset: {path: " + "x" * 300 + "}}", "path: expected the name of a file or folder"),
    ("task: {dataset: {path: " + "x/" * 2_100 + "}}", "path: expected the name of a file or folder"),
    ("task: {corruptions: {names: [fog], path: " + "x" * 300 + "}}", "path: expected the name of a file or folder"),
    ("task: {training: {segments: []}}", "at least 1"),
    ("parts: []", "parts: expected names with the settings of a suite each, got []"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "reason"), HOSTILE, ids=[f"{n}-{text[:30]}" for n, (text, _) in enumerate(HOSTILE)])
def test_a_hostile_suite_is_bad_input_at_once(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "suite.yaml"
    file.write_text(text if "recipes" in text else f"{text}\nrecipes: [random]")
    start = time.process_time()
    with pytest.raises(BadInput) as error:
        load_group(str(file))
    assert reason in str(error.value)
    assert len(str(error.value)) < 3_000
    assert time.process_time() - start < 5


@pytest.mark.parametrize("value", ["[" * 3_000, ".inf", "!!python/name:os.system", "{a: 1, a: 2}", "1" * 5_000])
def test_a_hostile_override_is_bad_input(tiny: Path, value: str) -> None:
    with pytest.raises(BadInput, match="the value is not readable as YAML"):
        load_suite(str(tiny), [f"task.model.width={value}"])


def test_an_override_cannot_nest_without_end(tiny: Path) -> None:
    with pytest.raises(BadInput, match="unknown key"):
        load_suite(str(tiny), [f"{'a.' * 50_000}b=1"])
    with pytest.raises(BadInput, match="unknown key in the suite 'methods_from'"):
        load_suite(str(tiny), ["methods_from=[evil.py]"])


def test_files_that_are_no_suites_are_bad_input(tmp_path: Path) -> None:
    for name in ("x" * 300, "absent", "x" * 5_000):
        with pytest.raises(BadInput):
            load_group(f"{name}.yaml")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "endless.yaml").symlink_to("/dev/zero")
    for name in ("folder", "endless"):
        with pytest.raises(BadInput, match="there is no such file"):
            load_group(str(tmp_path / f"{name}.yaml"))


def test_plain_yaml_is_read_as_the_safe_loader_reads_it() -> None:
    """Everything that suites may say, against PyYAML itself; a date is a text."""
    draws = random.Random(0)
    scalars = ["1", "-2.5", "1e-3", "true", "no", "~", "text", "'1'", "0x1f", "1_000", "'é'", ".5", "1:30", "''"]

    def write(depth: int) -> str:
        kind = draws.randrange(3) if depth else 2
        if kind == 0:
            return f"[{', '.join(write(depth - 1) for _ in range(draws.randrange(4)))}]"
        if kind == 1:
            return f"{{{', '.join(f'k{n}: {write(depth - 1)}' for n in range(draws.randrange(4)))}}}"
        return draws.choice(scalars)

    for _ in range(200):
        text = write(4)
        assert load_plain_yaml(text) == yaml.safe_load(text)
    shared = "a: &x {k: [1]}\nb: {<<: *x, l: 2}\nc: *x"
    assert load_plain_yaml(shared) == yaml.safe_load(shared)
    assert load_plain_yaml("2020-01-01") == "2020-01-01"
    assert load_plain_yaml("2020-99-99") == "2020-99-99"
    assert load_plain_yaml("") is None


def test_what_an_alias_repeats_can_be_changed_in_one_place(tmp_path: Path) -> None:
    file = tmp_path / "suite.yaml"
    file.write_text("recipes: [{method: combine, proxy: &p {name: pruned}, committee: *p}]\nname: a")
    data = load_plain_yaml(file.read_text())
    data["recipes"][0]["proxy"]["ratio"] = 0.5
    assert data["recipes"][0]["committee"] == {"name": "pruned"}


def test_many_problems_are_told_in_few_words() -> None:
    with pytest.raises(BadInput, match=r"and 1,98\d more") as error:
        validate_suite({"name": "a", "recipes": ["al"], "task": {"budgets": [-n for n in range(1, 1_002)]}})
    assert len(str(error.value)) < 5_000
    with pytest.raises(BadInput, match="got a value of type int"):
        validate_suite({"name": "a", "recipes": ["al"], "precision": 10**5_000})
    with pytest.raises(BadInput, match=r"weight_decay: .*finite"):
        validate_suite({"name": "a", "recipes": ["al"], "task": {"training": {"weight_decay": float("inf")}}})


def test_seeds_are_as_many_as_they_may_be() -> None:
    assert parse_seeds("0-9998,7") == (*range(9_999), 7)
    with pytest.raises(BadInput, match="at most 10,000"):
        parse_seeds("0-10000")


@pytest.mark.parametrize("argument", ["checkpoint_path=evil.pth", "pretrained=True", "pretrained_cfg={}",
                                      "weights=x", "weights_backbone=x", "cache_dir=x"])  # fmt: skip
def test_a_network_of_a_library_loads_no_file(argument: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    timm = ModuleType("timm")
    timm.list_models = lambda: ["resnet18"]  # type: ignore[attr-defined]
    timm.get_pretrained_cfg = lambda name: SimpleNamespace(input_size=(3, 8, 8))  # type: ignore[attr-defined]
    timm.create_model = lambda *_, **arguments: called.append(arguments)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", timm)
    for library in ("timm", "torchvision"):
        with pytest.raises(BadInput, match=f"expected no weights and no files, got {argument.partition('=')[0]}"):
            build_model(f"{library}:resnet18?{argument}", num_classes=2, in_channels=3)
    assert not called


@pytest.mark.parametrize("value", ["-" * 50_000 + "1", "(" * 500, "{[]: 1}", "9" * 5_000, "__import__('os')"])
def test_arguments_of_a_network_are_literals_or_text(value: str) -> None:
    assert MODELS[f"torchvision:resnet18?x={value}"].summary == "resnet18 of torchvision"


def test_control_characters_are_refused_and_printed_as_escapes() -> None:
    assert expect_plain("Zürich 🐟\n\t") == "Zürich 🐟\n\t"
    assert printable("a\x1b[2Jb\u202e\ud800\n") == "a\\x1b[2Jb\\u202e\\ud800\n"
    assert not UNPLAIN.search("".join(map(chr, range(0x20, 0x7F))))
    with pytest.raises(ValueError, match="control character"):
        expect_plain("\x9b")


def test_a_value_is_shown_shortly_whatever_it_is() -> None:
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    assert shown_value("x" * 500, 10) == "'xxxxxxxxx…"
    assert shown_value(10**5_000) == "a value of type int"
    assert shown_value(nested).startswith("a value of type list")
