from __future__ import annotations

from pathlib import Path

import pytest

from prunefuse_bench.config import Suite, TaskSpec, content_hash, load_suite, parse_seeds, presets
from prunefuse_bench.errors import BadInput
from prunefuse_bench.groups import load_group
from prunefuse_bench.recipe import Fresh, Fused, Pruned, Recipe, Target, TrainedSelector, methods, resolve_recipe
from prunefuse_bench.training import Distillation


@pytest.mark.parametrize("name", list(presets()))
def test_presets_are_valid(name: str) -> None:
    group = load_group(name)
    assert group.name == name
    assert group.description
    for part in group.parts if not name.startswith("paper-") else ():
        suite = part.suite
        labels = [resolve_recipe(entry, suite.protocol).label for entry in suite.recipes]
        assert (labels[0] == "random") == (name != "fused-start-small"), "that one compares starts of the target alone"
        assert len(set(labels)) == len(labels) >= 3


def test_defaults_are_the_papers() -> None:
    suite = Suite(name="x", recipes=("al",))
    training = suite.task.training
    assert (training.epochs, training.batch_size, training.momentum, training.weight_decay) == (181, 128, 0.9, 5e-4)
    assert training.segments == ((1, 0.01), (90, 0.1), (45, 0.01), (45, 0.001))
    assert suite.task.label_counts(50_000) == [1000, 5000, 10_000, 15_000, 20_000, 25_000]
    assert len(suite.seeds) == 3


def test_overrides(tiny: Path) -> None:
    suite = load_suite(
        str(tiny), ["task.training.epochs=7", "recipes=[random, {method: prunefuse, ratio: 0.7}]", "seeds=2-4"]
    )
    assert suite.task.training.epochs == 7
    assert suite.seeds == (2, 3, 4)
    assert [resolve_recipe(entry).label for entry in suite.recipes] == ["random", "prunefuse(ratio=0.7)"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.training.epoch=3", "unknown key in task.training 'epoch': did you mean 'epochs'"),
        ("tsk.training.epochs=3", "unknown key in the suite 'tsk': did you mean 'task'"),
        ("task.training.epochs=many", r"task\.training\.epochs: Input should be a valid integer.*got 'many'"),
        ("task.training.epochs=0", r"task\.training\.epochs: Input should be greater than or equal to 1, got 0"),
        ("task.training.segments=[[1, -2]]", "greater than or equal to 0, got -2"),
        ("task.model.width=-1", r"task\.model\.width.*greater than 0"),
        ("precision=fp64", r"precision: Input should be 'auto', 'fp32' or 'bf16', got 'fp64'"),
        ("task.budgets=[0.5, 1.2]", r"task\.budgets\.1.*less than or equal to 1.*got 1\.2"),
        ("task.report=[0.3]", r"task\.report: expected some of the budgets .*, got 0\.3"),
        ("seeds=2-1", "expected numbers and ranges such as 0-2"),
        ("seeds=[1, 1]", "expected distinct numbers"),
        ("recipes=[]", "recipes: .*at least 1"),
        ("name=../up", "name: String should match pattern"),
        ("epochs", "expected key=value"),
        ("task.dataset.name.x=1", "'name' has no keys of its own"),
        ("task=[", "not readable as YAML"),
    ],
)
def test_bad_settings_name_key_value_and_what_is_allowed(tiny: Path, override: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        load_suite(str(tiny), [override])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("quik", "unknown preset 'quik': did you mean 'quick'"),
        ("missing.yaml", "there is no such file"),
    ],
)
def test_unknown_suites(name: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        load_suite(name)


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2", "\x00"])
def test_files_that_are_no_suites(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(BadInput, match=r"bad\.yaml"):
        load_suite(str(file))


@pytest.mark.parametrize(("text", "seeds"), [("0", (0,)), ("0-2", (0, 1, 2)), ("0,3,5-6", (0, 3, 5, 6))])
def test_seeds(text: str, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "x", "1-", "-1", "1..3", "0,,2"])
def test_seeds_that_are_none(text: str) -> None:
    with pytest.raises(BadInput, match="expected numbers and ranges"):
        parse_seeds(text)


@pytest.mark.parametrize(
    ("budgets", "message"),
    [
        ((0.1, 0.1), r"expected increasing budgets, got 0\.1 \(10 labels\) before 0\.1 \(10 labels\)"),
        ((0.5, 20), r"expected increasing budgets, got 0\.5 \(50 labels\) before 20"),
        ((0.1, 101), "101 asks for 101 labels, but the pool has 100"),
        ((0.01, 0.5), "expected at least 2 labels, got 1"),
    ],
)
def test_budgets_that_the_pool_cannot_fill(budgets: tuple[float, ...], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        TaskSpec(budgets=budgets).label_counts(100)


def test_equal_settings_equal_hash() -> None:
    assert content_hash({"a": 1, "b": (1, 2)}) == content_hash({"b": [1, 2], "a": 1})
    assert content_hash({"a": 1}) != content_hash({"a": 2})


def test_methods_are_combinations_of_four_parts() -> None:
    assert {"random", "al", "prunefuse"} <= set(methods())
    al, prunefuse = resolve_recipe("al"), resolve_recipe("prunefuse")
    assert (al.proxy, al.target_start) == (Target(), TrainedSelector())
    assert (prunefuse.proxy, prunefuse.target_start) == (Pruned(0.5), Fused("reinit", Distillation(0.3)))
    assert al.acquisition == prunefuse.acquisition == "least_confidence"
    assert not resolve_recipe("random").uses_selector
    assert al.uses_selector
    assert prunefuse.uses_selector


def test_a_label_is_only_a_name() -> None:
    named = resolve_recipe({"method": "prunefuse", "label": "ours"})
    assert named.label == "ours"
    assert named.settings() == resolve_recipe("prunefuse").settings()
    assert named.settings() != resolve_recipe({"method": "prunefuse", "distil": False}).settings()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("prunfuse", "unknown method 'prunfuse': did you mean 'prunefuse'"),
        (
            {"method": "prunefuse", "ration": 0.5},
            "unknown parameter of method 'prunefuse' 'ration': did you mean 'ratio'",
        ),
        ({"method": "prunefuse", "ratio": 1.5}, r"method 'prunefuse': ratio: Input should be less than 1, got 1\.5"),
        ({"method": "prunefuse", "rest": "ones"}, r"rest: Input should be 'reinit', 'retain' or 'zero', got 'ones'"),
        ({"method": "prunefuse", "sync_every": -1}, "sync_every: .*greater than or equal to 0"),
        ({"method": "al", "acquisition": "entropi"}, "unknown acquisition 'entropi': did you mean 'entropy'"),
        ({"ratio": 0.5}, "expected a method's name or a mapping with 'method'"),
        ({"method": "bald", "preset": "faithful", "passes": 9}, "passes: the faithful preset has 100, got 9; leave it"),
        ({"method": "batchbald", "preset": "faithful", "passes": 9}, "passes: the faithful preset has 5, got 9"),
        (
            {"method": "alse", "preset": "faithful", "acquisition": "bald"},
            "acquisition: the faithful preset has variation_ratio, got bald",
        ),
    ],
)
def test_recipes_that_are_none(entry: object, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        resolve_recipe(entry)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe("r", proxy=Target(), target_start=Fused()), "only a pruned proxy can be fused"),
        (Recipe("r", proxy=Pruned(), target_start=TrainedSelector()), "only the target itself as proxy"),
        (Recipe("r", proxy=Pruned(), target_start=Fresh(), sync_every=1), "only a fused target start can be synchron"),
    ],
)
def test_parts_that_do_not_fit(recipe: Recipe, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        recipe.check()
