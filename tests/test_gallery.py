from __future__ import annotations

import base64
import io
import itertools
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from tiny_runs import tiny_run

from prunefuse_bench.data import load_dataset
from prunefuse_bench.errors import BadInput
from prunefuse_bench.records import RunFolder
from prunefuse_bench.records.checksums import sealed
from prunefuse_bench.report.gallery import Gallery, NoGallery, Pick, Sprite, gallery, overlaps
from prunefuse_bench.report.overlap import chance_overlap

COUNTS = (29, 57, 86)
"""Labels after each round of a tiny run."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


def edit(file: Path, change: Callable[[Any], object]) -> None:
    data = json.loads(file.read_text())
    del data["sha256"]
    change(data)
    file.write_text(json.dumps(sealed(data)))


def bought(run: Path, method: str, seed: int, labels: int) -> list[list[int]]:
    """Queries up to a budget, without the random start."""
    cells = RunFolder(run).read_suite()["cells"]
    store = RunFolder(run).open_cell(next(c["id"] for c in cells if (c["method"], c["seed"]) == (method, seed)))
    assert store is not None
    return [record["query"] for record in store.read_rounds() if COUNTS[0] < record["labels"] <= labels]


def shown(run: Path, **options: Any) -> Gallery:
    found = gallery(run, **options)
    assert isinstance(found, Gallery), found
    return found


def picture(sprite: Sprite, pick: Pick) -> numpy.ndarray:
    """The pixels of a pick, out of the data URI."""
    kind, _, content = sprite.uri.partition(",")
    assert kind == "data:image/png;base64"
    sheet = Image.open(io.BytesIO(base64.b64decode(content)))
    assert sheet.size == (sprite.columns * sprite.tile_width, sprite.rows * sprite.tile_height)
    left, top = pick.column * sprite.tile_width, pick.row * sprite.tile_height
    box = (left, top, left + sprite.tile_width, top + sprite.tile_height)
    return numpy.asarray(sheet.convert("RGB").crop(box))


def test_pictures_are_those_of_the_samples_that_were_chosen(run: Path) -> None:
    found, dataset = shown(run), load_dataset("digits")
    assert found.seed == 0
    assert found.methods == ("random", "al", "prunefuse")
    expected = [(labels, method) for labels in COUNTS[1:] for method in found.methods]
    assert [(exhibit.labels, exhibit.method) for exhibit in found.exhibits] == expected
    for exhibit in found.exhibits:
        query = bought(run, exhibit.method, 0, exhibit.labels)[-1]
        assert exhibit.bought == len(query)
        assert len(exhibit.picks) == 24
        assert {pick.index for pick in exhibit.picks} <= set(query)
        assert len({pick.index for pick in exhibit.picks}) == 24
        for pick in exhibit.picks:
            assert (
                picture(found.sprites[pick.sprite], pick) == dataset.train_images[pick.index, 0, :, :, None].numpy()
            ).all()
            assert pick.class_name == str(int(dataset.train_labels[pick.index]))


def test_what_no_other_method_has_comes_first_then_in_order_of_choice(run: Path) -> None:
    for exhibit in shown(run, per_method=1000).exhibits:
        query = bought(run, exhibit.method, 0, exhibit.labels)[-1]
        others = [
            {index for part in bought(run, method, 0, exhibit.labels) for index in part}
            for method in ("random", "al", "prunefuse")
            if method != exhibit.method
        ]
        counts = {index: sum(index in other for other in others) for index in query}
        assert [pick.index for pick in exhibit.picks] == sorted(query, key=lambda index: counts[index])
        assert [pick.others for pick in exhibit.picks] == sorted(counts.values())
        assert exhibit.exclusive == list(counts.values()).count(0)
        assert all(pick.compared == 2 for pick in exhibit.picks)


def test_alternative_texts_say_what_is_there() -> None:
    assert Pick(7, "<b>cat</b>", 0, 0, 0, 0, 2).alt == "<b>cat</b>, image 7, chosen by no other method"
    assert Pick(7, "cat", 0, 0, 0, 1, 2).alt == "cat, image 7, chosen by 1 of 2 other methods"
    assert Pick(7, "cat", 0, 0, 0, 0, 0).alt == "cat, image 7"


def test_the_first_seed_that_all_methods_have_is_shown(copy: Path) -> None:
    cells = RunFolder(copy).read_suite()["cells"]
    shutil.rmtree(copy / "cells" / next(c["id"] for c in cells if (c["method"], c["seed"]) == ("al", 0)))
    assert shown(copy).seed == 1
    only = shown(copy, seed=0)
    assert only.methods == ("random", "prunefuse")
    assert {pick.compared for exhibit in only.exhibits for pick in exhibit.picks} == {1}
    with pytest.raises(BadInput, match=r"expected a seed with a whole round \(0, 1\), got 5"):
        gallery(copy, seed=5)


def test_a_method_that_stopped_early_is_compared_as_far_as_it_came(copy: Path) -> None:
    cells = RunFolder(copy).read_suite()["cells"]
    stopped = copy / "cells" / next(c["id"] for c in cells if (c["method"], c["seed"]) == ("al", 0))
    (stopped / "round-002.json").unlink()
    found = shown(copy, seed=0)
    assert [exhibit.method for exhibit in found.exhibits if exhibit.labels == COUNTS[2]] == ["random", "prunefuse"]
    last = shown(
        copy, seed=0, total_bytes=sum(len(sprite.uri) for sprite in shown(copy, seed=0, per_method=6).sprites) - 1
    )
    assert {exhibit.labels for exhibit in last.exhibits} == {COUNTS[2]}
    assert len(last.sprites) == 2


def test_pictures_fit_into_the_bytes_that_they_may_take(run: Path) -> None:
    sizes = {}
    for limit in (400_000, 5_000, 4_000, 2_500, 1_200):
        found = shown(run, total_bytes=limit)
        assert found.size <= limit
        sizes[limit] = min(len(exhibit.picks) for exhibit in found.exhibits), len({e.labels for e in found.exhibits})
    assert sizes[400_000] == (24, 2)
    assert list(sizes.values()) == sorted(sizes.values(), key=lambda size: (size[1], size[0]), reverse=True)
    assert sizes[1_200][1] == 1
    few = shown(run, total_bytes=1_200)
    assert any("Only the last budget is shown" in note for note in few.notes)
    assert gallery(run, total_bytes=100) == NoGallery("The pictures of 3 methods do not fit into 100 bytes.")


def archive(path: Path, size: int, classes: tuple[str, ...] = ("cat", "<i>dog &amp; cat"), seed: int = 0) -> Path:
    """Colourful noise: the worst case for a PNG."""
    draws = numpy.random.default_rng(seed)
    with zipfile.ZipFile(path, "w") as file:
        for split, count in (("train", 20), ("test", 4)):
            for name, i in itertools.product(classes, range(count)):
                stream = io.BytesIO()
                Image.fromarray(draws.integers(0, 256, (size, size, 3), dtype=numpy.uint8)).save(stream, "PNG")
                file.writestr(f"{split}/{name}/{i:02d}.png", stream.getvalue())
    return path


def archive_run(folder: Path, path: Path, *overrides: str) -> Path:
    data = f"task.dataset={{name: image-archive, path: '{path}'}}"
    return tiny_run(folder, data, "task.budgets=[4, 8, 16]", "recipes=[random, al]", "seeds=[0]", *overrides)


def test_ones_own_images_are_shown_smaller_and_with_their_class_names(tmp_path: Path) -> None:
    run = archive_run(tmp_path / "run", archive(tmp_path / "images.zip", 64), "task.model.width=1", "recipes=[random]")
    found = shown(run, total_bytes=10_000_000)
    assert found.notes == ("The images of 64x64 pixels are shown smaller.",)
    assert {(sprite.tile_width, sprite.tile_height) for sprite in found.sprites} == {(48, 48)}
    assert {pick.class_name for exhibit in found.exhibits for pick in exhibit.picks} == {"cat", "<i>dog &amp; cat"}
    reduced = shown(run, total_bytes=found.size // 2)
    assert "Colours are reduced to 256 for each method." in reduced.notes
    assert reduced.size < found.size // 2
    tall = archive_run(tmp_path / "small", archive(tmp_path / "small.zip", 9))
    first = shown(tall).exhibits[0].picks[0]
    assert picture(shown(tall).sprites[0], first).shape == (9, 9, 3)


def test_without_the_images_the_reason_is_given(tmp_path: Path) -> None:
    path = archive(tmp_path / "images.zip", 8)
    run = archive_run(tmp_path / "run", path)
    assert isinstance(gallery(run), Gallery)
    archive(path, 8, seed=1)
    other = gallery(run)
    assert isinstance(other, NoGallery)
    assert "The data set on this machine is not the one of the run: expected content with SHA-256" in other.reason
    path.unlink()
    absent = gallery(run)
    assert isinstance(absent, NoGallery)
    assert "there is no such file or folder" in absent.reason
    edit(run / "suite.json", lambda suite: suite["suite"]["task"]["dataset"].update(path=None))
    published = gallery(run)
    assert isinstance(published, NoGallery)
    assert "results that others publish come without" in published.reason
    assert len(overlaps(run)) == 2


def test_nothing_is_downloaded_for_a_report(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets

    asked: list[object] = []

    def absent(*_: object, download: bool, **__: object) -> None:
        asked.append(download)
        raise RuntimeError("Dataset not found or corrupted.")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", absent)
    edit(copy / "suite.json", lambda suite: suite["suite"]["task"]["dataset"].update(name="cifar10"))
    found = gallery(copy)
    assert isinstance(found, NoGallery)
    assert "is not downloaded here" in found.reason
    assert asked == [False]


def test_a_run_without_a_choice_has_no_gallery(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", "task.budgets=[0.02]", "recipes=[random]", "seeds=[0]")
    found = gallery(run)
    assert isinstance(found, NoGallery)
    assert "No method has chosen anything yet" in found.reason
    assert overlaps(run).empty
    assert list(overlaps(run).columns) == list(overlaps(run).reset_index(drop=True).columns)


def test_a_subset_of_the_pool_is_the_same_subset_again(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", "task.dataset.train_size=200", "task.budgets=[4, 8]", "recipes=[al]", "seeds=[0]")
    found = shown(run)
    assert all(pick.index < 200 for exhibit in found.exhibits for pick in exhibit.picks)
    assert found.exhibits[0].picks[0].alt.endswith(f"image {found.exhibits[0].picks[0].index}")


def test_overlaps_are_those_of_the_sets(run: Path) -> None:
    table = overlaps(run)
    pairs = [("random", "al"), ("random", "prunefuse"), ("al", "prunefuse")]
    assert list(zip(table["one"], table["other"], strict=True)) == pairs * 2
    assert table["labels"].tolist() == [COUNTS[1]] * 3 + [COUNTS[2]] * 3
    for row in table.to_dict(orient="records"):
        values, shared = [], []
        for seed in (0, 1):
            sets = [
                {index for part in bought(run, row[who], seed, row["labels"]) for index in part}
                for who in ("one", "other")
            ]
            values.append(len(sets[0] & sets[1]) / len(sets[0] | sets[1]))
            shared.append(len(sets[0] & sets[1]))
        assert row["overlap"] == pytest.approx(numpy.mean(values))
        assert row["deviation"] == pytest.approx(numpy.std(values, ddof=1))
        assert row["shared"] == pytest.approx(numpy.mean(shared))
        assert row["bought"] == row["labels"] - COUNTS[0]
        assert row["expected"] == pytest.approx(
            chance_overlap(1437 - COUNTS[0], row["labels"] - COUNTS[0], row["labels"] - COUNTS[0])
        )
        assert row["seeds"] == 2


def test_coresets_are_compared_whole(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", "protocol=coreset", "recipes=[random, prunefuse]", "seeds=[0]")
    table = overlaps(run)
    assert table["labels"].tolist() == list(COUNTS)
    assert table["bought"].tolist() == list(COUNTS)
    assert table["expected"].tolist() == pytest.approx([chance_overlap(1437, count, count) for count in COUNTS])
    assert table["deviation"].isna().all()
    assert {exhibit.labels for exhibit in shown(run).exhibits} == set(COUNTS)


@pytest.mark.parametrize(("pool", "one", "other"), [(6, 2, 3), (5, 4, 4), (4, 4, 4), (5, 0, 2), (4, 1, 1)])
def test_overlap_by_chance_is_the_mean_over_all_draws(pool: int, one: int, other: int) -> None:
    fixed = set(range(one))
    draws = [set(draw) for draw in itertools.combinations(range(pool), other)]
    mean = numpy.mean([len(fixed & draw) / len(fixed | draw) for draw in draws])
    assert chance_overlap(pool, one, other) == pytest.approx(mean)


def test_overlap_by_chance_of_a_large_pool() -> None:
    """Half of a pool twice: a third, as half of each is shared and three halves are covered."""
    assert chance_overlap(1_000_000, 500_000, 500_000) == pytest.approx(1 / 3, abs=1e-5)
    assert numpy.isnan(chance_overlap(10, 0, 0))


def test_an_index_outside_the_pool_is_an_error_not_a_wrong_picture(copy: Path) -> None:
    file = next(copy.glob("cells/*/round-001.json"))
    edit(file, lambda record: record["query"].__setitem__(0, 1437))
    with pytest.raises(BadInput, match="round 1: expected indices of a pool of 1437 samples, got "):
        gallery(copy)
    with pytest.raises(BadInput, match="round 1: expected indices"):
        overlaps(copy)


def test_pictures_are_the_same_every_time(run: Path) -> None:
    torch.manual_seed(1)
    assert shown(run) == shown(run)
