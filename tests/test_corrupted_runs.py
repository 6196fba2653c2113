"""Runs that judge their targets on corrupted test images: recorded, charged, shown, and without any influence."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from flat_images import png
from tiny_runs import tiny_run
from torchvision.transforms.v2 import InterpolationMode, functional

from prunefuse_bench import load_results
from prunefuse_bench.cell import Cell
from prunefuse_bench.config import load_suite
from prunefuse_bench.data import ImageDataset, corruptions
from prunefuse_bench.data.corruptions import CIFAR10_C, CIFAR10_CLASSES, COMPUTED, corruption_names, find_corruptions
from prunefuse_bench.errors import BadInput
from prunefuse_bench.publishing import pack, verification, verify
from prunefuse_bench.records import load_corruptions
from prunefuse_bench.records.checksums import sealed
from prunefuse_bench.report import write_leaderboard, write_page, write_tables
from prunefuse_bench.runner import plan

RunCli = Callable[..., tuple[int, str, str]]
SMALL = ("task.budgets=[0.02, 0.04]", "task.accuracy_by_epoch=false", "recipes=[random, al, prunefuse]")
TWO = "task.corruptions.names=['computed:rotation', 'computed:posterize']"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNEFUSE_BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        return tiny_run(tmp_path_factory.mktemp("runs") / "run", *SMALL, TWO)


def records(run: Path) -> list[dict]:
    return [json.loads(file.read_text()) for file in sorted(run.glob("cells/*/round-*.json"))]


def test_every_reported_target_has_every_corruption_and_severity(run: Path) -> None:
    found, results = load_corruptions(run), load_results(run)
    assert set(found["network"]) == {"target"}
    assert len(found) == len(results) * 2 * 5
    for row in results.to_dict(orient="records"):
        own = found[(found["cell"] == row["cell"]) & (found["labels"] == row["labels"])]
        assert own["severity"].tolist() == [1, 2, 3, 4, 5] * 2
        assert own["corruption"].unique().tolist() == ["computed:rotation", "computed:posterize"]
        assert row["corrupted_accuracy"] == pytest.approx(float(own["accuracy"].mean()))
        assert row["corruptions"] == "computed, 2 of 13 corruptions"


def test_the_accuracies_are_those_of_the_trained_target_on_corrupted_images(run: Path) -> None:
    cell = plan(load_suite("quick", ["task.model.width=0.25", "task.training.epochs=1", "task.training.min_steps=2",
                                     "seeds=[0]", *SMALL, TWO]))[0]  # fmt: skip
    work = Cell(cell.task, cell.recipe, 0)
    trained = work.train_target(work.new_target(), None, work.pool.label(work.random_start()), 0)
    expected = []
    for degrees in (5, 10, 20, 30, 45):
        images = functional.rotate(work.test_images, degrees, InterpolationMode.BILINEAR)
        with torch.no_grad():
            said = trained.network.model(cell.task.training.normalisation.apply(images)).argmax(1)
        expected.append(float((said == work.test_labels).double().mean()))
    found = load_corruptions(run)
    own = found[(found["method"] == "random") & (found["seed"] == 0) & (found["labels"] == 29)]
    assert own.loc[own["corruption"] == "computed:rotation", "accuracy"].tolist() == pytest.approx(expected)


def test_rounds_record_accuracies_means_and_what_judging_took(run: Path) -> None:
    for record in records(run):
        found = record["target"]["corruptions"]
        assert found["means"] == {k: pytest.approx(numpy.mean(v)) for k, v in found["accuracies"].items()}
        assert found["mean"] == pytest.approx(numpy.mean(list(found["accuracies"].values())))
        assert record["stages"]["target/corruptions"]["samples"] == 2 * 5 * 360
        assert record["stages"]["target/corruptions"]["flops_forward"] > 0
        assert "selector/corruptions" not in record["stages"]
        if record["selector"] is not None:
            assert "corruptions" not in record["selector"]


def test_judging_changes_no_result_and_no_cost_of_selection(run: Path, tmp_path: Path) -> None:
    columns = ["method", "seed", "labels", "accuracy", "loss", "selector_accuracy", "tied", "selector_flops",
               "target_flops"]  # fmt: skip
    plain = tiny_run(tmp_path / "plain", *SMALL, "seeds=[0]")
    results = load_results(run)
    assert load_results(plain)[columns].equals(results[results["seed"] == 0][columns].reset_index(drop=True))
    assert load_corruptions(plain).empty
    assert load_results(plain)["corrupted_accuracy"].isna().all()


def test_selectors_are_judged_only_if_asked(tmp_path: Path) -> None:
    asked = tiny_run(tmp_path / "run", *SMALL, TWO, "task.corruptions.selector=true", "seeds=[0]")
    found = load_corruptions(asked)
    assert set(found.loc[found["network"] == "selector", "method"]) == {"al", "prunefuse"}
    al = found[found["method"] == "al"]
    own, target = (al.loc[al["network"] == name, "accuracy"].tolist() for name in ("selector", "target"))
    assert own == target, "it is the target"
    stages = [record["stages"] for record in records(asked)]
    assert sum("selector/corruptions" in stage for stage in stages) == 2, "only prunefuse's is another network"


def test_reports_show_clean_beside_corrupted_and_say_what_the_corruptions_are(run: Path, tmp_path: Path) -> None:
    write_leaderboard([run], tmp_path)
    write_page([run], tmp_path)
    files = write_tables([run], tmp_path)
    for name in ("leaderboard.md", "leaderboard.html"):
        text = (tmp_path / name).read_text()
        assert "computed, 2 of 13 corruptions" in text
        assert "They are not CIFAR-10-C" in text
        assert "computed:posterize" in text
    results = load_results(run)
    first = results[(results["method"] == "random") & (results["labels"] == 29)]
    mean = f"{100 * first['corrupted_accuracy'].mean():.2f} ± "
    assert mean in (tmp_path / "leaderboard.md").read_text()
    assert mean in (tmp_path / "leaderboard.html").read_text()
    csv = tmp_path / "leaderboard-corruptions.csv"
    assert csv in files
    assert len(csv.read_text().splitlines()) == len(load_corruptions(run)) + 1
    assert not (tmp_path / "leaderboard-decomposition.csv").exists()


def test_such_a_run_can_be_published_and_a_changed_mean_is_refused(run: Path, tmp_path: Path) -> None:
    assert verify(pack(run, tmp_path / "run.zip")).summary.cells == 6
    file = next(run.glob("cells/*/round-001.json"))
    before = file.read_text()
    for change, message in (
        (lambda found: found.update(mean=0.5), "expected the mean"),
        (lambda found: found["means"].update({"computed:rotation": 0.5}), "the means are not those"),
        (lambda found: found["accuracies"].pop("computed:rotation"), "corruptions: expected"),
        (lambda found: found["accuracies"]["computed:rotation"].__setitem__(2, 0.1234), "no whole number of 360"),
        (lambda found: found["accuracies"]["computed:rotation"].pop(), "accuracies"),
    ):
        record = json.loads(before)
        del record["sha256"]
        change(record["target"]["corruptions"])
        file.write_text(json.dumps(sealed(record)))
        try:
            with pytest.raises(BadInput, match=message):
                pack(run, tmp_path / "changed.zip")
        finally:
            file.write_text(before)


@pytest.fixture
def like_cifar10(tmp_path: Path, make_zip: Callable[[dict[str, bytes]], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with images.zip, of ten classes, and with two files of a CIFAR-10-C of two images."""
    make_zip({
        f"{split}/{name}/{number}.png": png(20 * label + number, size=32)
        for split, count in (("train", 4), ("test", 1))
        for label, name in enumerate(CIFAR10_CLASSES)
        for number in range(count)
    })  # fmt: skip
    for module in (corruptions, verification):
        monkeypatch.setattr(module, "TEST_IMAGES", 2)
    numpy.save(tmp_path / "labels.npy", numpy.tile(numpy.array([3, 7], numpy.uint8), 5))
    for name in ("fog", "snow"):
        numpy.save(tmp_path / f"{name}.npy", numpy.full((10, 32, 32, 3), len(name), numpy.uint8))
    return tmp_path


def test_published_corruptions_are_read_from_the_users_folder_whose_path_is_not_published(like_cifar10: Path) -> None:
    run = tiny_run(
        like_cifar10 / "run",
        "task.dataset={name: image-archive, path: " + str(like_cifar10 / "images.zip") + "}",
        "task.corruptions={names: [fog, snow], path: " + str(like_cifar10) + "}",
        "task.budgets=[10, 20]",
        "recipes=[random]",
        "seeds=[0]",
    )
    found = load_corruptions(run)
    assert found["corruption"].unique().tolist() == ["fog", "snow"]
    assert set(found["accuracy"]) <= {0.0, 0.5, 1.0}
    assert set(load_results(run)["corruptions"]) == {"CIFAR-10-C, 2 of 19 corruptions"}
    assert "from its published files" in write_leaderboard([run], like_cifar10)[0].markdown()
    submission = verify(pack(run, like_cifar10 / "run.zip"))
    assert submission.summary.cells == 1
    with zipfile.ZipFile(like_cifar10 / "run.zip") as packed:
        assert all(str(like_cifar10).encode() not in packed.read(name) for name in packed.namelist())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["names=[rotatoin]"], "unknown corruption 'rotatoin'"),
        (["names=['computed:fog']"], "unknown corruption 'computed:fog'"),
        (["names=[fog, 'computed:zoom']"], "expected published corruptions or computed ones, got both"),
        (["names=[published]", "path=."], r"expected a task of images [3, 32, 32], got [1, 8, 8]"),
        (["names=[computed]", "path=."], "task.corruptions.path: expected none"),
        (["names=['computed:hue']"], "'computed:hue' changes colours, and these images have 1 channel"),
        (["selector=true"], "task.corruptions.names: expected names of corruptions, got none"),
        (["name=[computed]"], "unknown key in task.corruptions 'name': did you mean 'names'"),
    ],
)
def test_bad_input_is_refused_before_any_training(
    tiny: Path, tmp_path: Path, run_cli: RunCli, settings: list[str], message: str
) -> None:
    options = [part for setting in settings for part in ("--set", f"task.corruptions.{setting}")]
    code, _, errors = run_cli("run", tiny, "--out", tmp_path / "run", *options)
    assert code == 2
    assert message in errors
    assert not (tmp_path / "run").exists()


def test_published_corruptions_need_their_files_and_the_classes_of_cifar10(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corruptions, "TEST_IMAGES", 2)
    images, labels = torch.zeros(10, 3, 32, 32, dtype=torch.uint8), torch.arange(10)
    dataset = ImageDataset("CIFAR-10", images, labels, images, labels, CIFAR10_CLASSES)
    with pytest.raises(BadInput, match=r"expected the folder that CIFAR-10-C\.tar unpacks to, got none"):
        find_corruptions(["published"], dataset, None)
    with pytest.raises(BadInput, match=r"labels\.npy: expected a file of CIFAR-10-C"):
        find_corruptions(["fog"], dataset, tmp_path)
    numpy.save(tmp_path / "labels.npy", numpy.zeros(10, numpy.uint8))
    numpy.save(tmp_path / "fog.npy", numpy.zeros((10, 32, 32, 3), numpy.uint8))
    (fog,) = find_corruptions(["fog"], dataset, tmp_path)
    before = fog.describe()
    assert len(before) == 64
    with pytest.raises(BadInput, match=r"snow\.npy: expected a file of CIFAR-10-C"):
        find_corruptions(["fog", "snow"], dataset, tmp_path)
    numpy.save(tmp_path / "fog.npy", numpy.ones((10, 32, 32, 3), numpy.uint8))
    assert find_corruptions(["fog"], dataset, tmp_path)[0].describe() != before, "other images are another task"
    other = ImageDataset("mine", images, labels, images, labels, tuple("abcdefghij"))
    with pytest.raises(BadInput, match="CIFAR-10-C: expected a network of the classes airplane"):
        find_corruptions(["fog"], other, tmp_path)
    texts = torch.ones(10, 7, dtype=torch.uint8)
    text = ImageDataset("texts", texts, labels, texts, labels, tuple("abcdefghij"), symbols=69)
    with pytest.raises(BadInput, match="texts: corruptions are of images"):
        find_corruptions(["computed"], text, None)


def test_all_of_a_kind_has_a_name() -> None:
    assert corruption_names(["published"], 3) == CIFAR10_C
    assert corruption_names(["computed", "computed:zoom"], 3) == tuple(f"computed:{name}" for name in COMPUTED)
    assert len(corruption_names(["computed"], 1)) == len(COMPUTED) - 2


def test_the_names_are_listed(run_cli: RunCli) -> None:
    code, printed, _ = run_cli("corruptions")
    assert code == 0
    assert all(name in printed for name in (*CIFAR10_C, *(f"computed:{name}" for name in COMPUTED)))
