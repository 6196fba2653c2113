"""What a dry run says a suite will cost, held against what the same suite did cost."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from prunefuse_bench.config import load_suite
from prunefuse_bench.data import Augmentation, Normalisation
from prunefuse_bench.errors import BadInput
from prunefuse_bench.forecast import PartForecast, as_data, forecast_part, networks, part_sheet, total_sheet
from prunefuse_bench.forecast.sizes import PUBLISHED, sizes_of
from prunefuse_bench.forecast.work import Length, training_length
from prunefuse_bench.loop import active_learning
from prunefuse_bench.paper.recompute import DENSE_PARAMETERS
from prunefuse_bench.records import RunFolder, load_results
from prunefuse_bench.runner import plan, run_cells
from prunefuse_bench.training import EarlyStopping, StepSchedule, TrainingRecipe

RunCli = Callable[..., tuple[int, str, str]]


class Silent:
    def cell_started(self, *_: Any) -> None: ...
    def stage(self, *_: Any) -> None: ...
    def cell_ended(self, *_: Any) -> None: ...


@pytest.fixture(autouse=True)
def quick_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Speeds are not what is tested here."""
    monkeypatch.setattr(networks, "ENOUGH", 0.0)
    monkeypatch.setattr(networks, "MOST", 64)


@pytest.fixture
def imagined_speeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "_measure", lambda *_: networks.Seconds(3.0, 1.0, 2.0, "imagined"))


def spent(folder: Path) -> dict[str, dict[str, list[float]]]:
    """By method and stage: samples, forward, backward and paper FLOPs, summed over the rounds on record."""
    found: dict[str, dict[str, list[float]]] = {}
    run = RunFolder(folder)
    for cell in run.read_suite()["cells"]:
        store = run.open_cell(cell["id"])
        assert store is not None
        assert store.finished, store.failure
        stages = found.setdefault(cell["method"], {})
        for record in store.read_rounds():
            for name, cost in record["stages"].items():
                sums = stages.setdefault(name, [0.0] * 4)
                for i, key in enumerate(("samples", "flops_forward", "flops_backward", "paper_flops")):
                    sums[i] += cost[key]
    return found


def foretold(part: PartForecast) -> dict[str, dict[str, list[float]]]:
    return {
        cell.recipe.label: {
            name: [cost.samples, cost.flops_forward, cost.flops_backward, cost.paper_flops]
            for name, cost in cell.stages.items()
        }
        for cell in part.cells
    }


@pytest.mark.parametrize(
    "overrides",
    [
        ["recipes=[random, al, bald]", "task.accuracy_by_epoch=true", "task.report=[0.05]"],
        [
            "recipes=[{method: prunefuse, sync_every: 2}, alse,"
            " {method: prunefuse, distil: false, acquisition: random}]",
            "task.report=[0.05, 0.1]",
        ],
        [
            "protocol=coreset",
            "recipes=[random, css, {method: prunefuse, acquisition: moderate}]",
            "task.budgets=[0.02, 0.04]",
            "task.dataset.train_size=225",  # seven batches of 32, and one sample that joins the last
        ],
        [
            "recipes=[random, al, {method: prunefuse, sync_every: 1}]",
            "task.training={epochs: 3, stop_after: 2, min_steps: 10, batch_size: 32}",
            "task.accuracy_by_epoch=true",
        ],
        [
            "recipes=[al, prunefuse]",
            "task.training={epochs: 3, stop_after: 2, stop_selectors: true, batch_size: 16}",
        ],
        [
            "recipes=[al, {method: prunefuse, sync_every: 2}]",
            "task.training={epochs: 3, batch_size: 16, stop_after: 2, plateau: {patience: 9, holdout: 0.25}}",
        ],
        [
            "recipes=[{method: prunefuse, pruning: dynamic, pruning_steps: 2, pruning_epochs: 3, sync_every: 2}]",
            "task.training={epochs: 5, stop_after: 4, stop_selectors: true, batch_size: 32}",
        ],
        [
            "protocol=coreset",
            "recipes=[random, {method: prunefuse, pruning: dynamic, pruning_steps: 2, pruning_epochs: 3}]",
            "task.training={epochs: 4, batch_size: 32}",
            "task.budgets=[0.02, 0.04]",
            "task.report=[0.04]",
            "task.corruptions={names: ['computed:rotation'], selector: true}",
        ],
        [
            "recipes=[random, al, {method: prunefuse, sync_every: 2}]",
            "task.report=[0.02, 0.1]",
            "task.corruptions={names: ['computed:rotation', 'computed:posterize'], selector: true}",
            "task.decomposition=true",
        ],
        [
            "recipes=[al, {method: prunefuse, sync_every: 1, pruning: dynamic, pruning_steps: 1, pruning_epochs: 1}]",
            "task.training={epochs: 2, batch_size: 32}",
            "task.report=[0.1]",
            "task.accuracy_by_epoch=true",
            "task.decomposition=true",
        ],
    ],
    ids=[
        "rivals", "prunefuse", "coreset", "stopped", "selectors stopped too", "plateau not reached", "dynamic pruning",
        "coreset, dynamic and corrupted", "corruptions and decomposition", "decomposition of dynamic pruning",
    ],
)  # fmt: skip
def test_counts_are_those_of_the_run(overrides: list[str], tiny: Path, tmp_path: Path) -> None:
    small = ["task.training.min_steps=2", "task.model.width=0.125", "task.dataset.train_size=400"]
    suite = load_suite(str(tiny), [*small, *overrides])
    part = forecast_part(None, suite)
    run_cells(suite, plan(suite), tmp_path / "run", resume=False, observer=Silent())
    real, told = spent(tmp_path / "run"), foretold(part)
    assert real.keys() == told.keys()
    for method, stages in real.items():
        costly = {name: sums for name, sums in stages.items() if any(sums)}
        assert told[method].keys() == costly.keys(), method
        for name, sums in costly.items():
            assert told[method][name] == pytest.approx(sums, rel=1e-12), (method, name)
    results = load_results(tmp_path / "run")
    for cell in part.cells:
        last = results[results["method"] == cell.recipe.label].iloc[-1]
        told_of = {"selector": cell.choosing, "target": cell.target}
        if last["labels"] == part.label_counts[-1]:
            told_of["total"] = cell.total
        for who, cost in told_of.items():
            assert cost.flops_forward + cost.flops_backward == last[f"{who}_flops"], (cell.recipe.label, who)
            assert cost.paper_flops == pytest.approx(last[f"{who}_paper_flops"], rel=1e-12), (cell.recipe.label, who)


def test_samples_of_a_training_are_those_of_the_schedule() -> None:
    training = recipe_of(32, StepSchedule(4, min_steps=90))
    assert training_length(training, 29) == Length(90, 29, 0)
    assert training_length(training, 33) == Length(90, 33, 0)  # one batch of 33
    assert training_length(training, 34) == Length(45, 34, 0)
    stopped = dataclasses.replace(training, stopping=EarlyStopping(3, patience=5, holdout=0.1))
    assert training_length(stopped, 37) == Length(68, 33, 4)  # three quarters of 90 epochs, with one batch of 33


def recipe_of(batch_size: int, schedule: StepSchedule) -> TrainingRecipe:
    return TrainingRecipe(schedule, batch_size, 0.9, 5e-4, Augmentation(), Normalisation((0.0,), (1.0,)), "fp32")


def test_what_was_measured_is_remembered(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = load_suite(str(tiny))
    said: list[str] = []
    first = forecast_part(None, suite, said.append)
    assert len(said) == 2
    assert all(cell.total.seconds > 0 for cell in first.cells)
    monkeypatch.setattr(networks, "build_model", None)
    assert forecast_part(None, suite, said.append) == first
    assert len(said) == 2


def test_another_machine_or_version_is_measured_anew(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = load_suite(str(tiny), ["recipes=[random]"])
    said: list[str] = []
    forecast_part(None, suite, said.append)
    before = networks.describe_environment
    for change in ({"cpu": "another"}, {"packages": {"torch": "9"}}, {"threads": 99}):
        monkeypatch.setattr(networks, "describe_environment", lambda device, new=change: {**before(device), **new})
        forecast_part(None, suite, said.append)
    assert len(said) == 4


def test_a_network_too_large_to_measure_is_scaled_from_smaller_images(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = load_suite("reproduce-resnet20", ["task.dataset={name: cifar10}", "recipes=[random]"])
    monkeypatch.setattr(networks, "AFFORDABLE", 0.25e9)  # a batch of one, and of four at 16x16
    part = forecast_part(None, suite)
    assert part.how == {"resnet20": "scaled by FLOPs from the same network on images of 16x16, in batches of 4"}
    assert part.cells[0].total.seconds > 0


def test_smaller_batches_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = load_suite("reproduce-resnet20", ["task.dataset={name: cifar10}", "recipes=[random]"])
    monkeypatch.setattr(networks, "AFFORDABLE", 2e9)
    assert set(forecast_part(None, suite).how.values()) == {"measured in batches of 8 instead of 128"}


@pytest.mark.usefixtures("imagined_speeds")
def test_cells_that_share_a_selector_take_its_time_once(tiny: Path) -> None:
    suite = load_suite(str(tiny), ["protocol=coreset", "recipes=[entropy, margin]", "task.budgets=[0.02]"])
    part = forecast_part(None, suite)
    one, other = part.cells
    assert part.taken == [0, one.stages["selector/train"].seconds]
    assert part.seconds == pytest.approx(one.total.seconds + other.total.seconds - part.taken[1])


@pytest.mark.usefixtures("imagined_speeds")
def test_rounds_of_active_learning_that_share_a_selector_take_its_time_once(tiny: Path) -> None:
    zero = "{method: prunefuse, rest: zero, label: zero}"
    recipes = f"recipes=[random, prunefuse, {zero}, al, {{method: prunefuse, acquisition: entropy, label: entropy}}]"
    part = forecast_part(None, load_suite(str(tiny), [recipes, "seeds=[0, 1]"]))
    random, fused, zero_rest, al, entropy = part.taken[:5]
    trained = {cell.recipe.label: cell.stages["selector/train"].seconds for cell in part.cells if cell.selector}
    assert (random, fused, al) == (0, 0, 0)
    assert zero_rest == pytest.approx(trained["zero"])  # every round
    samples = [training_length(part.training, count).epochs * count for count in part.label_counts]
    assert entropy == pytest.approx(trained["entropy"] * samples[0] / sum(samples))  # that of the random start
    assert part.taken[5:] == part.taken[:5]  # no seed takes from another


@pytest.mark.usefixtures("imagined_speeds")
def test_what_is_shared_is_what_the_run_shares(tiny: Path) -> None:
    recipes = (
        "recipes=[al, {method: combine, label: apart}, prunefuse, {method: prunefuse, rest: zero, label: zero},"
        " {method: prunefuse, sync_every: 2, label: synced}]"
    )
    suite = load_suite(str(tiny), [recipes])
    part = forecast_part(None, suite)
    names = Counter(selector.name for cell in part.cells for selector in cell.selectors)
    shared = [sum(names[selector.name] > 1 for selector in cell.selectors) for cell in part.cells]
    assert shared == [len(cell.shared_rounds) for cell in plan(suite)]
    assert sum(shared) > 5


@pytest.mark.usefixtures("imagined_speeds")
def test_a_selector_without_its_curve_is_not_taken_for_one_with_it(tiny: Path) -> None:
    both = ["{method: combine, label: apart}", "al"]
    taken = []
    for recipes in (both, both[::-1]):
        changes = [f"recipes=[{', '.join(recipes)}]", "task.accuracy_by_epoch=true"]
        taken.append(forecast_part(None, load_suite(str(tiny), changes)).taken)
    assert taken[0] == [0, 0]
    assert taken[1][0] == 0 < taken[1][1]


@pytest.mark.usefixtures("imagined_speeds")
def test_a_plateau_makes_it_at_most(tiny: Path, run_cli: RunCli, tmp_path: Path) -> None:
    plateau = "task.training.plateau={patience: 2, holdout: 0.1}"
    file = tmp_path / "forecast.json"
    code, printed, errors = run_cli("run", tiny, "--dry-run", "--set", plateau, "--json", file)
    assert code == 0, errors
    assert "at most" in printed
    assert "no longer rises" in printed
    assert json.loads(file.read_text())["at_most"] is True
    _, printed, _ = run_cli("run", tiny, "--dry-run", "--json", file)
    assert "at most" not in printed
    assert json.loads(file.read_text())["at_most"] is False


@pytest.mark.usefixtures("imagined_speeds")
def test_published_corruptions_are_counted_without_their_files(run_cli: RunCli) -> None:
    changes = ["task.dataset={name: cifar10}", "task.model={name: resnet8, width: 0.25}", "recipes=[random]"]
    published = "task.corruptions.names=[published]"
    part = forecast_part(None, load_suite("quick", [*changes, published]))
    reported = len(part.suite.task.report_rounds)
    assert part.cells[0].stages["target/corruptions"].samples == reported * 19 * 5 * 10_000
    asked = [word for change in (*changes, published) for word in ("--set", change)]
    code, printed, errors = run_cli("run", "quick", "--dry-run", *asked)
    assert code == 0, errors
    assert "--set task.corruptions.path=PATH" in printed


# Sizes


def test_published_sizes_need_no_data_and_no_network() -> None:
    spec = load_suite("reproduce-resnet20", ["task.dataset={name: imagenet}"]).task.dataset
    sizes = sizes_of(spec)
    assert (sizes.train, sizes.test, sizes.shape, sizes.classes) == (1_281_167, 50_000, (3, 224, 224), 1000)
    assert sizes.published


@pytest.mark.parametrize(
    ("settings", "train", "shape"),
    [
        ("{name: cifar100, train_size: 10000}", 10_000, (3, 32, 32)),
        ("{name: tiny-imagenet-200, resize: 224}", 100_000, (3, 224, 224)),
        ("{name: amazon-full, length: 256}", 3_000_000, (256,)),
        ("{name: amazon-polarity}", 3_600_000, (1014,)),
    ],
)
def test_sizes_are_those_that_the_task_asks_for(settings: str, train: int, shape: tuple[int, ...]) -> None:
    sizes = sizes_of(load_suite("quick", [f"task.dataset={settings}"]).task.dataset)
    assert (sizes.train, sizes.shape) == (train, shape)


def test_data_of_ones_own_needs_its_path() -> None:
    with pytest.raises(BadInput, match=r"--set task\.dataset\.path=PATH"):
        sizes_of(load_suite("table3-small").task.dataset)
    with pytest.raises(BadInput, match="expected at most the 50000"):
        sizes_of(load_suite("quick", ["task.dataset={name: cifar10, train_size: 60000}"]).task.dataset)


def test_published_sizes_are_those_of_the_recomputed_tables() -> None:
    from prunefuse_bench.paper.names import DATASETS
    from prunefuse_bench.paper.recompute import _POOLS

    for title, pool in _POOLS.items():
        assert PUBLISHED[DATASETS[title]].train == pool.size
    assert {title for _, title in DENSE_PARAMETERS} == set(_POOLS)


# The command


def test_a_dry_run_trains_nothing_and_writes_no_record(
    tiny: Path, tmp_path: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prunefuse_bench import loop

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(loop.PROTOCOL_LOOPS, "active_learning", None)
    file = tmp_path / "forecast.json"
    code, printed, errors = run_cli("run", tiny, "--seeds", "0-1", "--dry-run", "--json", file)
    assert code == 0, errors
    assert not (tmp_path / "runs").exists()
    for word in ("random", "prunefuse", "resnet8 pruned by 0.5", "29, 72, 144", "Not included"):
        assert word in printed
    data = json.loads(file.read_text())
    (part,) = data["parts"]
    assert [(cell["method"], cell["seed"]) for cell in part["cells"]] == [
        (method, seed) for seed in (0, 1) for method in ("random", "al", "prunefuse")
    ]
    assert data["seconds"] == pytest.approx(sum(cell["seconds"] for cell in part["cells"]))
    assert loop.active_learning is active_learning


def test_sheets_have_a_line_for_each_method_and_part(tiny: Path) -> None:
    part = forecast_part("one", load_suite(str(tiny), ["seeds=0-4"]))
    assert [row[0] for row in part_sheet(part).rows] == ["random", "al", "prunefuse"]
    totals = total_sheet([part, part])
    assert [row[:2] for row in totals.rows] == [("one", "15"), ("one", "15"), ("all", "30")]
    assert yaml.safe_load(json.dumps(as_data("x", [part])))["parts"][0]["name"] == "one"


@pytest.mark.parametrize(("sparsity", "said"), [("local", False), ("global", True)])
def test_it_is_said_that_global_sparsity_depends_on_the_weights(sparsity: str, said: bool, tiny: Path) -> None:
    part = forecast_part("one", load_suite(str(tiny), [f"recipes=[{{method: prunefuse, sparsity: {sparsity}}}]"]))
    assert any("depends on the weights" in note for note in part_sheet(part).notes) is said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table3-small", "--dry-run"], "--set task.dataset.path=PATH"),
        (["quick", "--json", "x.json"], "only --dry-run writes it"),
        (["quick", "--dry-run", "--set", "task.model.name=vdcnn9"], "reads texts, but dataset 'digits' holds images"),
        (["quick", "--dry-run", "--set", "task.budgets=[0.2, 0.1]"], "expected increasing budgets"),
        (["quick", "--dry-run", "--part", "a"], "quick is one suite, it has no parts"),
        (["quick", "--dry-run", "--set", "task.corruptions.names=[fog]"], "expected a task of images [3, 32, 32]"),
        (
            [
                "quick",
                "--dry-run",
                "--set",
                "protocol=coreset",
                "--set",
                "task.decomposition=true",
                "--set",
                "recipes=[random]",
            ],
            "task.decomposition: expected the protocol active_learning",
        ),
        (
            ["quick", "--dry-run", "--set", "recipes=[{method: prunefuse, pruning: dynamic, pruning_epochs: 500}]"],
            "pruning_epochs: the selector is pruned until epoch 500",
        ),
    ],
)
def test_bad_input_is_found_by_a_dry_run_too(arguments: list[str], message: str, run_cli: RunCli) -> None:
    code, _, errors = run_cli("run", *arguments)
    assert code == 2
    assert message in errors
