from __future__ import annotations

import io
import json
import random
import shutil
import stat
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest
from tiny_runs import tiny_run

from prunefuse_bench import load_results
from prunefuse_bench.config import content_hash
from prunefuse_bench.errors import BadInput, CannotWrite, CellFailed
from prunefuse_bench.publishing import Refused, archives, merge, pack, verify
from prunefuse_bench.publishing.layout import MANIFEST, describe_file
from prunefuse_bench.records import RunFolder, grid_hash
from prunefuse_bench.records.checksums import sealed


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def good(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(run, tmp_path_factory.mktemp("submissions") / "good.zip")


class Files(dict[str, bytes]):
    """The records of a submission, to be damaged and packed again with a manifest that fits."""

    @classmethod
    def of(cls, file: Path) -> Files:
        with zipfile.ZipFile(file) as archive:
            return cls({name: archive.read(name) for name in archive.namelist() if name != MANIFEST})

    @property
    def suite(self) -> dict[str, Any]:
        suite: dict[str, Any] = json.loads(self["suite.json"])
        return suite

    def edit(self, name: str, change: Callable[[Any], object], *, seal: bool = True) -> None:
        data = json.loads(self[name])
        data.pop("sha256", None)
        change(data)
        self[name] = json.dumps(sealed(data) if seal else data).encode()

    def cell(self, method: str = "al", seed: int = 0) -> str:
        """Folder of a cell."""
        return next(f"cells/{c['id']}" for c in self.suite["cells"] if (c["method"], c["seed"]) == (method, seed))

    def round(self, number: int, method: str = "al", seed: int = 0) -> str:
        return f"{self.cell(method, seed)}/round-{number:03d}.json"

    def resettle(self, change: Callable[[Any], object], method: str = "al", seed: int = 0) -> None:
        """Change the settings of a cell, and name it after them everywhere."""
        before = self.cell(method, seed)
        data = json.loads(self[f"{before}/cell.json"])
        del data["sha256"]
        change(data["settings"])
        identity = content_hash(data["settings"])
        for name in [name for name in self if name.startswith(before)]:
            content = self.pop(name)
            record = json.loads(content)
            if "cell" in record:
                del record["sha256"]
                content = json.dumps(sealed({**record, "cell": identity})).encode()
            self[name.replace(before, f"cells/{identity}")] = content
        self[f"cells/{identity}/cell.json"] = json.dumps(sealed(data)).encode()

        def rename(suite: Any) -> None:
            for cell in suite["cells"]:
                if f"cells/{cell['id']}" == before:
                    cell["id"] = identity

        self.edit("suite.json", rename)

    def resettle_all(self, change: Callable[[Any], object]) -> None:
        """Change the settings of every cell, and the task's hash with them."""
        for cell in self.suite["cells"]:
            self.resettle(change, cell["method"], cell["seed"])
        settings = json.loads(self[f"{self.cell()}/cell.json"])["settings"]
        task = content_hash({key: value for key, value in settings.items() if key not in ("recipe", "seed")})
        self.edit("suite.json", lambda suite: suite.update(task=task))

    def manifest(self) -> dict[str, Any]:
        try:
            grid = grid_hash(self.suite)
        except (KeyError, ValueError):
            grid = "0" * 64
        files = {name: describe_file(content) for name, content in self.items()}
        return {"format": "prunefuse-bench submission", "version": 1, "schema": 3, "grid": grid, "files": files}

    def pack(self, file: Path, manifest: dict[str, Any] | None = None) -> Path:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(MANIFEST, json.dumps(manifest or self.manifest()))
            for name, content in self.items():
                archive.writestr(name, content)
        return file


@pytest.fixture
def files(good: Path) -> Files:
    return Files.of(good)


def same_numbers(one: Path, other: Path) -> None:
    left, right = (load_results(run).drop(columns="run").sort_values(["cell", "labels"]) for run in (one, other))
    pandas.testing.assert_frame_equal(left.reset_index(drop=True), right.reset_index(drop=True))


# --- what is published -------------------------------------------------------------------------------------------


def test_what_was_packed_is_verified_and_merged_to_the_same_results(run: Path, good: Path, tmp_path: Path) -> None:
    summary = verify(good).summary
    assert (summary.cells, summary.begun, summary.rounds, summary.unverified) == (6, 6, 18, 0)
    assert summary.seeds == (0, 1)
    assert summary.title == "digits, resnet8, width 0.25"
    assert summary.grid == grid_hash(RunFolder(run).read_suite())
    merged = merge([good], tmp_path)
    assert not merged.refused
    assert not merged.duplicates
    assert merged.runs == (tmp_path / "runs" / summary.grid[:16] / summary.hash[:16],)
    same_numbers(run, merged.runs[0])
    assert RunFolder(merged.runs[0]).unverified == ()


def test_the_same_records_give_the_same_bytes(run: Path, good: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(run, copy)
    assert pack(copy, tmp_path / "again.zip").read_bytes() == good.read_bytes()


def test_no_data_no_weights_no_paths_are_published(tmp_path: Path, image_files: dict[str, bytes]) -> None:
    images = tmp_path / "private-folder" / "images.zip"
    images.parent.mkdir()
    with zipfile.ZipFile(images, "w") as archive:
        for name, content in image_files.items():
            archive.writestr(name, content)
    overrides = (f"task.dataset={{name: image-archive, path: '{images}'}}", "task.budgets=[4, 8]", "recipes=[random]")
    run = tiny_run(tmp_path / "run", *overrides)
    for cell in RunFolder(run).read_suite()["cells"]:
        store = RunFolder(run).open_cell(cell["id"])
        assert store is not None
        (store.folder / "round-001.json").unlink()
        try:
            raise CellFailed(f"cannot read {images} or '{images}', 1/2 of it")
        except CellFailed as error:
            store.write_failure(error)
    file = pack(run, tmp_path / "file.zip")
    with zipfile.ZipFile(file) as archive:
        names, text = archive.namelist(), b"".join(archive.read(name) for name in archive.namelist()).decode()
    assert {name.rpartition("/")[2] for name in names} == {
        MANIFEST, "suite.json", "cell.json", "round-000.json", "failure.json",
    }  # fmt: skip
    assert "private-folder" not in text
    assert "Traceback" not in text
    assert "test_publishing" not in text
    reasons = {json.loads(content)["reason"] for name, content in Files.of(file).items() if "failure" in name}
    assert reasons == {"cannot read …/images.zip or '…/images.zip', 1/2 of it"}
    assert verify(file).summary.rounds == 2
    results = load_results(merge([file], tmp_path / "out").runs)
    assert (results["status"] == "failed").all()


def test_the_coreset_protocol_can_be_published(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", "protocol=coreset", "recipes=[random, prunefuse]", "seeds=[0]")
    file = pack(run, tmp_path / "file.zip")
    same_numbers(run, merge([file], tmp_path / "out").runs[0])
    files = Files.of(file)
    files.edit(files.round(1, "prunefuse"), lambda record: record.update(unaccounted_seconds=-50.0))
    with pytest.raises(Refused, match="in all, but its parts come to"):
        verify(files.pack(tmp_path / "damaged.zip"))


def test_a_run_that_is_not_finished_is_published_as_such(run: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    shutil.copytree(run, part)
    cells = [cell["id"] for cell in RunFolder(part).read_suite()["cells"]]
    shutil.rmtree(part / "cells" / cells[0])
    (part / "cells" / cells[1] / "round-002.json").unlink()
    merged = merge([pack(part, tmp_path / "part.zip")], tmp_path / "out")
    same_numbers(part, merged.runs[0])
    assert load_results(merged.runs[0])["status"].value_counts()[["missing", "unfinished"]].tolist() == [1, 2]


def test_records_from_before_there_were_checksums_are_published_and_said_to_be(run: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(run, old)
    for file in old.rglob("*.json"):
        data = json.loads(file.read_text())
        del data["sha256"]
        file.write_text(json.dumps(data))
    merged = merge([pack(old, tmp_path / "old.zip")], tmp_path / "out")
    assert merged.accepted[0].summary.unverified == 1 + 6 + 18
    assert "25 records were written before records had checksums" in merged.notes[0]
    assert len(RunFolder(merged.runs[0]).unverified) == 25


def test_what_cannot_be_read_is_not_published(run: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(run, broken)
    file = next(broken.glob("cells/*/round-001.json"))
    file.write_text(file.read_text().replace('"labels": 57', '"labels": 58'))
    with pytest.raises(BadInput, match=r"round-001\.json: not readable or damaged"):
        pack(broken, tmp_path / "broken.zip")
    for file in broken.glob("cells/*/round-*.json"):
        file.unlink()
    with pytest.raises(BadInput, match="nothing to publish"):
        pack(broken, tmp_path / "broken.zip")
    with pytest.raises(BadInput, match="expected the folder of a run"):
        pack(tmp_path / "none", tmp_path / "broken.zip")
    assert not (tmp_path / "broken.zip").exists()


def test_names_of_methods_may_be_anything_that_can_be_shown(run: Path, tmp_path: Path) -> None:
    named = tmp_path / "named"
    shutil.copytree(run, named)
    names = ["<script>alert(1)</script>", '"' + "ü🐟" * 149, "a|b `c` & d"]
    suite = json.loads((named / "suite.json").read_text())
    del suite["sha256"]
    for cell in suite["cells"]:
        cell["method"] = names[["random", "al", "prunefuse"].index(cell["method"])]
    (named / "suite.json").write_text(json.dumps(sealed(suite)))
    merged = merge([pack(named, tmp_path / "named.zip")], tmp_path / "out")
    assert set(load_results(merged.runs[0])["method"]) == set(names)


# --- what is merged ----------------------------------------------------------------------------------------------


def test_two_submitters_of_one_grid_stay_side_by_side(files: Files, good: Path, tmp_path: Path) -> None:
    for name in [name for name in files if "/round-" in name]:
        files.edit(name, lambda record: record["environment"].update(cpu="Another Processor"))
    other = files.pack(tmp_path / "other.zip")
    alike = Path(shutil.copy(good, tmp_path / "alike.zip"))
    files.edit(files.round(2), lambda record: record.update(peak_memory_bytes=1))
    nearly = files.pack(tmp_path / "nearly.zip")
    merged = merge([good, other, alike, nearly], tmp_path / "out")
    assert [one.file for one in merged.accepted] == [good, other, nearly]
    assert merged.duplicates == ((alike, good),)
    assert len({run.parent for run in merged.runs}) == 1
    assert len(set(merged.runs)) == 3
    for run, cpus in zip(merged.runs, (False, True, True), strict=True):
        records = [json.loads(file.read_text()) for file in run.glob("cells/*/round-*.json")]
        assert {record["environment"]["cpu"] == "Another Processor" for record in records} == {cpus}
    assert any("3 submissions, side by side. They have the same seeds (0, 1)" in note for note in merged.notes)
    assert any(
        "'nearly.zip': 17 of its 18 rounds are those of 'other.zip' to the byte" in note for note in merged.notes
    )
    assert not any("'other.zip': " in note for note in merged.notes)


def test_merging_again_keeps_what_is_there_and_says_if_it_was_changed(good: Path, tmp_path: Path) -> None:
    first = merge([good], tmp_path)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.json")}
    assert merge([good], tmp_path).runs == first.runs
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.json")} == before
    next(iter(before)).write_text("{}")
    with pytest.raises(BadInput, match=r"expected the records of this submission, but .*json differs"):
        merge([good], tmp_path)


def test_a_file_that_is_refused_leaves_nothing_and_the_others_are_merged(
    files: Files, good: Path, tmp_path: Path
) -> None:
    files.edit(files.round(2), lambda record: record["target"].update(accuracy=0.123))
    bad = files.pack(tmp_path / "bad.zip")
    merged = merge([bad, tmp_path / "absent.zip", good], tmp_path / "out")
    assert [file for file, _ in merged.refused] == [bad, tmp_path / "absent.zip"]
    assert "round 2): target: accuracy: 0.123 is no whole number of 360 test samples" in merged.refused[0][1]
    assert merged.refused[1][1] == "cannot be read (No such file or directory)"
    assert [path.name for path in (tmp_path / "out" / "runs").iterdir()] == [verify(good).summary.grid[:16]]
    assert merge([bad], tmp_path / "none").runs == ()


def test_a_run_is_merged_whole_or_not_at_all(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("os.fsync", full)
        with pytest.raises(CannotWrite, match="No space left"):
            merge([good], tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert merge([good], tmp_path).runs


# --- what is refused ---------------------------------------------------------------------------------------------


def refused(file: Path) -> str:
    """Why it is refused; the reason names no path of this machine and can be printed anywhere."""
    with pytest.raises(Refused) as error:
        verify(file)
    reason = str(error.value)
    assert all(character.isprintable() for character in reason), reason
    assert len(reason) < 1_000
    return reason


def with_member(good: Path, file: Path, name: str, content: bytes = b"{}", **attributes: Any) -> Path:
    """The good submission with one more member."""
    shutil.copy(good, file)
    with zipfile.ZipFile(file, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a name is there twice
        member = zipfile.ZipInfo("placeholder")
        member.filename = name
        member.compress_type = zipfile.ZIP_DEFLATED
        for key, value in attributes.items():
            setattr(member, key, value)
        archive.writestr(member, content)
    return file


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../suite.json", "member '../suite.json' points outside the file"),
        ("cells/../../../x.json", "points outside the file"),
        ("/etc/passwd", "member '/etc/passwd' points outside"),
        ("\\\\server\\share", "points outside"),
        ("..\\..\\x", "points outside"),
        ("C:/x", "points outside"),
        ("c:x.json", "points outside"),
        ("weights.safetensors", "member 'weights.safetensors' is none of a submission's"),
        ("cells/", "is none of a submission's"),
        ("cells/0123456789ABCDEF/cell.json", "is none of a submission's"),
        ("cells/0123456789abcdef/cell.json\0.exe", "is none of a submission's"),
        ("cells/0123456789abcdef/cell.json\n", "is none of a submission's"),
        ("cells/0123456789abcdef/round-0001.json", "is none of a submission's"),
        ("cells/0123456789abcdef/round-１２３.json", "is none of a submission's"),
        ("cells/0123456789abcdef/cell.pkl", "is none of a submission's"),
        ("\x1b[2J" * 300, "is none of a submission's"),
    ],
)
def test_a_member_that_no_submission_has_is_refused(good: Path, tmp_path: Path, name: str, reason: str) -> None:
    assert reason in refused(with_member(good, tmp_path / "file.zip", name))
    assert merge([tmp_path / "file.zip"], tmp_path / "out").runs == ()
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["runs"]


NEW = "cells/0123456789abcdef/cell.json"


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"name": "suite.json"}, "suite.json is in it twice"),
        ({"name": NEW}, f"{NEW} is not in the manifest"),
        ({"name": NEW, "external_attr": (stat.S_IFLNK | 0o777) << 16}, f"{NEW} is a symbolic link"),
        ({"name": NEW, "external_attr": (stat.S_IFIFO | 0o777) << 16}, f"{NEW} is no plain file"),
        ({"name": NEW, "compress_type": zipfile.ZIP_LZMA}, "expected it stored or deflated, got method 14"),
        ({"name": NEW, "compress_type": zipfile.ZIP_BZIP2}, "expected it stored or deflated, got method 12"),
        ({"name": NEW, "content": bytes(900_000)}, "900,000, more than 100 times as many"),
        ({"name": NEW, "content": b" " * (1 + (1 << 20))}, "expected at most 1,048,576 bytes, got 1,048,577"),
    ],
)
def test_a_member_of_another_kind_or_size_is_refused(
    good: Path, tmp_path: Path, attributes: dict[str, Any], reason: str
) -> None:
    assert reason in refused(with_member(good, tmp_path / "file.zip", **attributes))


def patched(good: Path, file: Path, member: str, offset: int, value: bytes) -> Path:
    """Other bytes in the central directory's entry of a member."""
    data = bytearray(good.read_bytes())
    with zipfile.ZipFile(good) as archive:
        position = archive.start_dir
    while data[position + 46 : position + 46 + len(member)] != member.encode():
        position = data.index(b"PK\1\2", position + 1)
    data[position + offset : position + offset + len(value)] = value
    file.write_bytes(data)
    return file


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (8, b"\1\0", "suite.json is encrypted"),
        (24, (10).to_bytes(4, "little"), "suite.json: cannot be unpacked (Bad CRC-32"),
        (16, b"\0\0\0\0", "suite.json: cannot be unpacked (Bad CRC-32"),
        (42, (2**31).to_bytes(4, "little"), "suite.json: cannot be unpacked"),
        (46, b"S", "member 'Suite.json' is none of a submission's"),
    ],
)
def test_an_archive_that_lies_is_refused(good: Path, tmp_path: Path, offset: int, value: bytes, reason: str) -> None:
    assert reason in refused(patched(good, tmp_path / "file.zip", "suite.json", offset, value))


@pytest.mark.parametrize(
    ("limit", "value", "reason"),
    [
        ("LARGEST_FILE", 1_000, "expected at most 1,000 bytes, got more"),
        ("MOST_MEMBERS", 20, "expected at most 20 members, got more"),
        ("LARGEST_TOTAL", 10_000, "expected at most 10,000 bytes unpacked, got "),
        ("LARGEST_ROUND", 100, "round-000.json: expected at most 100 bytes, got "),
    ],
)
def test_a_submission_beyond_the_limits_is_refused(
    good: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, reason: str
) -> None:
    monkeypatch.setattr(archives, limit, value)
    assert reason in refused(good)


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\5\6" + bytes(18), b"\x80\4N.", b"x" * 100_000])
def test_what_is_no_submission_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.zip").write_bytes(content)
    reason = refused(tmp_path / "file.zip")
    assert "'prunefuse-bench submit' wrote" in reason


def test_any_damage_to_the_file_is_noticed_or_changes_nothing(good: Path, tmp_path: Path) -> None:
    content, wanted = good.read_bytes(), dict(verify(good).files())
    draws = random.Random(0)
    found = 0
    for _ in range(60):
        data = bytearray(content)
        data[draws.randrange(len(data))] ^= 1 << draws.randrange(8)
        (tmp_path / "file.zip").write_bytes(data[: draws.choice([len(data), len(data), draws.randrange(len(data))])])
        try:
            submission = verify(tmp_path / "file.zip")
        except Refused:
            found += 1
        else:
            assert dict(submission.files()) == wanted
    assert found > 40


MANIFESTS: list[tuple[Callable[[Any], object], str]] = [
    (lambda m: m.update(format="other"), "manifest.json: 'format'"),
    (lambda m: m.update(version=2), "manifest.json: 'version': Input should be less than or equal to 1, got '2'"),
    (lambda m: m.update(schema=2), "manifest.json: 'schema': Input should be greater than or equal to 3, got '2'"),
    (lambda m: m.update(more=1), "manifest.json: 'more': Extra inputs are not permitted"),
    (lambda m: m.update(grid="0" * 64), "suite.json: the manifest lists the grid 0000000000000000, its cells are"),
    (lambda m: m["files"]["suite.json"].update(sha256="0" * 64), "suite.json: the manifest lists SHA-256 '0000"),
    (lambda m: m["files"].update({"no.json": describe_file(b"")}), "manifest.json lists 'no.json', which is not"),
    (lambda m: m["files"].pop("suite.json"), "suite.json is not in the manifest"),
]


@pytest.mark.parametrize(("change", "reason"), MANIFESTS, ids=[reason[:60] for _, reason in MANIFESTS])
def test_a_manifest_that_does_not_fit_is_refused(
    files: Files, tmp_path: Path, change: Callable[[Any], object], reason: str
) -> None:
    manifest = files.manifest()
    change(manifest)
    assert reason in refused(files.pack(tmp_path / "file.zip", manifest))


def test_a_manifest_or_suite_that_is_missing_is_refused(files: Files, good: Path, tmp_path: Path) -> None:
    del files["suite.json"]
    assert refused(files.pack(tmp_path / "file.zip")) == "suite.json is missing"
    with zipfile.ZipFile(tmp_path / "none.zip", "w") as archive:
        archive.writestr("suite.json", "{}")
    assert "manifest.json is missing" in refused(tmp_path / "none.zip")


def raw(name: Callable[[Files], str], old: bytes, new: bytes) -> Callable[[Files], object]:
    """Replace bytes of a record; the manifest fits them, the record's own checksum does not."""

    def change(files: Files) -> None:
        where = name(files)
        assert old in files[where]
        files[where] = files[where].replace(old, new, 1)

    return change


def second_round(change: Callable[[Any], object], *, seal: bool = True) -> Callable[[Files], object]:
    return lambda files: files.edit(files.round(1), change, seal=seal)


def suite_of(change: Callable[[Any], object]) -> Callable[[Files], object]:
    return lambda files: files.edit("suite.json", change)


def task_asked(**values: Any) -> Callable[[Files], object]:
    return suite_of(lambda suite: suite["suite"]["task"].update(values))


def swap_start(files: Files) -> None:
    """Other initial labels than the other methods of the seed, unlike those that follow."""

    def change(record: Any) -> None:
        later = {i for n in (1, 2) for i in json.loads(files[files.round(n)])["query"]} | set(record["query"])
        record["query"][0] = next(index for index in range(1437) if index not in later)

    files.edit(files.round(0), change)


def without_rounds(files: Files) -> None:
    for name in [name for name in files if "/round-" in name]:
        del files[name]


def failure(**values: Any) -> Callable[[Files], object]:
    def change(files: Files) -> None:
        del files[files.round(2)]
        content = {"round": 2, "error": "CellFailed", "reason": "diverged", **values}
        files[f"{files.cell()}/failure.json"] = json.dumps(sealed(content)).encode()

    return change


def first_cell(files: Files) -> str:
    return f"{files.cell()}/cell.json"


def round_name(files: Files) -> str:
    return files.round(1)


DAMAGES: list[tuple[Callable[[Files], object], str]] = [
    # JSON
    (raw(round_name, b'"labels": 57', b'"labels": 58'), "it was changed"),
    (raw(round_name, b'"labels": 57', b'"labels": 57, "labels": 57'), "the key 'labels' is there twice"),
    (raw(round_name, b'"labels": 57', b'"labels": NaN'), "NaN is no number of JSON"),
    (raw(round_name, b'"labels": 57', b'"labels": 1e999'), "Out of range float values are not JSON compliant"),
    (raw(round_name, b'"labels": 57', b'"labels": ' + b"9" * 5000), "limit"),
    (raw(round_name, b'"labels": 57', b'"labels": ' + b"[" * 30 + b"]" * 30), "at most 20 levels"),
    (raw(round_name, b'"labels": 57', b'"labels": ' + b"[" * 9_000 + b"]" * 9_000), "nested too deeply"),
    (raw(round_name, b'"labels": 57', b'"labels": "\xff"'), "'utf-8' codec can't decode"),
    (lambda files: files.update({files.round(1): b"[]"}), "expected an object, got list"),
    (second_round(lambda r: r.update(labels="57")), "'labels': Input should be a valid integer, got '57'"),
    (second_round(lambda r: r.update(labels=True)), "'labels': Input should be a valid integer, got 'True'"),
    (second_round(lambda r: r.update(weights="AAAA")), "'weights': Extra inputs are not permitted"),
    (second_round(lambda r: r.pop("seconds")), "'seconds': Field required"),
    (second_round(lambda r: None, seal=False), "expected a checksum, as its cell.json has one, got none"),
    # the grid
    (suite_of(lambda s: s.update(schema=2)), "suite.json: 'schema': Input should be greater than or equal to 3"),
    (suite_of(lambda s: s["cells"].append(s["cells"][0])), "is in the grid twice"),
    (suite_of(lambda s: s["cells"].append({**s["cells"][0], "id": "0" * 16})), "is in the grid twice"),
    (suite_of(lambda s: s["cells"].pop(1)), "cell.json: the grid lists no such cell"),
    (suite_of(lambda s: s["cells"].clear()), "'cells': List should have at least 1 item"),
    (suite_of(lambda s: s["cells"][1].update(id="../../../../x")), "'cells.1.id': String should match pattern"),
    (suite_of(lambda s: s["cells"][1].update(method="x" * 301)), "at most 300 characters"),
    (suite_of(lambda s: s["cells"][1].update(method="\x1b[2Jal")), r"control character '\x1b'"),
    (suite_of(lambda s: s["cells"][1].update(method="a\u202el")), "bidirectional control character"),
    (suite_of(lambda s: s["cells"][1].update(seed=1)), "is in the grid twice"),
    (suite_of(lambda s: s["cells"][1].update(seed=2)), "the grid says seed 2, the settings say 0"),
    (suite_of(lambda s: s["cells"][1].update(notes=["n"])), "the grid describes the same method otherwise"),
    (suite_of(lambda s: [c.update(target_needs_selector=True) for c in s["cells"]]), "its recipe says False"),
    (suite_of(lambda s: s["cells"][1].update(method="al2")), "the same recipe has another name, 'al2', with"),
    # what was asked for
    (suite_of(lambda s: s["suite"].update(x=1)), "suite.json: no suite: \"unknown key in the suite 'x'"),
    (suite_of(lambda s: s["suite"].update(seeds="no")), "suite.json: no suite"),
    (suite_of(lambda s: s["suite"].update(description="x" * 10_001)), "a text of 10,001 characters"),
    (suite_of(lambda s: s["suite"]["task"]["dataset"].update(path="/etc")), "expected none, got a path of the"),
    (suite_of(lambda s: s["suite"]["task"]["dataset"].update(name="cifar10")), "task.dataset.name: 'cifar10' was"),
    (suite_of(lambda s: s["suite"]["task"]["dataset"].update(train_size=1400)), "task.dataset.train_size: '1400' was"),
    (suite_of(lambda s: s["suite"].update(protocol="coreset")), "protocol: 'coreset' was asked for"),
    (suite_of(lambda s: s["suite"].update(precision="bf16")), "precision: 'bf16' was asked for"),
    (suite_of(lambda s: s["suite"].update(device="cuda")), "device: 'cuda' was asked for"),
    (suite_of(lambda s: s.update(model="resnet56")), "the model's name: 'resnet56' was asked for"),
    (task_asked(budgets=[0.02, 0.04, 0.07]), "task.budgets: '[29, 57, 101]' was asked for"),
    (task_asked(report=[0.02, 0.06]), "task.report: '[0, 2]' was asked for"),
    (task_asked(model={"name": "resnet8", "width": 1}), "task.model: "),
    (task_asked(augmentation={"flip": True}), "task.augmentation.flip: 'True' was asked for"),
    (task_asked(accuracy_by_epoch=False), "task.accuracy_by_epoch: 'False' was asked for"),
    *(
        (suite_of(lambda s, key=key, value=value: s["suite"]["task"]["training"].update({key: value})),
         f"task.training.{key}: ")
        for key, value in {"epochs": 181, "min_steps": 90, "batch_size": 64, "momentum": 0.5, "weight_decay": 0,
                           "segments": [[1, 0.1]]}.items()
    ),
    # settings of cells
    (lambda f: f.edit(first_cell(f), lambda c: c["settings"].update(seed=1)), "expected settings with hash"),
    (lambda f: f.edit(first_cell(f), lambda c: c.update(schema=2)), "'schema': Input should be greater"),
    (lambda f: f.resettle(lambda s: s["task"]["training"].update(momentum=0.5)), "expected the task "),
    (lambda f: f.resettle(lambda s: s.update(seed=5)), "the grid says seed 0, the settings say 5"),
    (lambda f: f.resettle(lambda s: s["recipe"].update(sync_every=1)), "the same method has another recipe with"),
    (lambda f: f.resettle(lambda s: s["recipe"].update(acquisition=None)), "'recipe.acquisition': Input should be"),
    (lambda f: f.resettle(lambda s: s["recipe"]["options"].update(a="\x07")), r"control character '\x07'"),
    (lambda f: f.resettle(lambda s: s["recipe"]["options"].update(a=2**64)), "more than 63 bits"),
    (lambda f: f.resettle_all(lambda s: s["task"].pop("label_counts")), "'task.label_counts': Field required"),
    # rounds
    (lambda f: f.pop(f.round(1)), "round-002.json: a round before it is missing"),
    (without_rounds, "no cell has a whole round"),
    (second_round(lambda r: r.update(round=2)), "round: expected 1, got 2"),
    (second_round(lambda r: r.update(cell="0" * 16)), "got 0000000000000000"),
    (second_round(lambda r: r.update(labels=58)), "labels: expected 57, got 58"),
    (second_round(lambda r: r["query"].pop()), "length of the query: expected 28, got 27"),
    (second_round(lambda r: r["query"].__setitem__(0, -1)), "'query.0': Input should be greater than or equal to 0"),
    (second_round(lambda r: r["query"].__setitem__(0, 1437)), "index 1437 is outside the pool of 1437"),
    (second_round(lambda r: r["query"].__setitem__(0, 1.0)), "'query.0': Input should be a valid integer"),
    (second_round(lambda r: r["query"].__setitem__(0, True)), "'query.0': Input should be a valid integer"),
    (second_round(lambda r: r["query"].__setitem__(0, r["query"][1])), "is there twice"),
    (lambda f: f.edit(f.round(2), lambda r: r["query"].__setitem__(0, json.loads(f[f.round(1)])["query"][0])),
     "was chosen in a round before"),
    (swap_start, "expected the initial labels of 'random', seed 0, got others"),
    (second_round(lambda r: r.update(target=None)), "expected a target, as this budget is reported"),
    (second_round(lambda r: r["target"].update(accuracy=1.5)), "'target.accuracy': Input should be less than"),
    (second_round(lambda r: r["target"].update(accuracy=-0.5)), "'target.accuracy': Input should be greater"),
    (second_round(lambda r: r["target"].update(accuracy=0.1234)), "0.1234 is no whole number of 360 test samples"),
    (second_round(lambda r: r["selector"].update(accuracy=0.1234)), "selector: accuracy: 0.1234 is no whole"),
    (second_round(lambda r: r["target"]["accuracy_by_epoch"].append(0.1234)), "0.1234 is no whole number"),
    (second_round(lambda r: r["target"]["fit"].update(steps=-1)), "'target.fit.steps'"),
    (second_round(lambda r: r.update(seconds=-1.0)), "'seconds': Input should be greater"),
    (second_round(lambda r: r.update(seconds=10_000.0)), "10000 in all, but its parts come to"),
    (second_round(lambda r: r["stages"]["selector/train"].update(seconds=-1)), "'stages.selector/train.seconds'"),
    (second_round(lambda r: r["stages"]["selector/train"].update(flops_forward=0.5)), "flops_forward"),
    (second_round(lambda r: r["stages"].update({"x" * 301: {}})), "at most 300 characters"),
    (second_round(lambda r: r.update(tied=29)), "tied: expected at most the 28 samples chosen, got 29"),
    (second_round(lambda r: r["environment"].update(cpu="x" * 301)), "'environment.cpu': String should have at most"),
    (second_round(lambda r: r["environment"].update(data=["x"])), "'environment.data"),
    (second_round(lambda r: r["environment"].update({"x\x07": 1})), r"control character '\x07'"),
    (second_round(lambda r: r["environment"].update({f"x{i}": 1 for i in range(101)})), "at most 100 further keys"),
    (second_round(lambda r: r["environment"]["packages"].pop("torch")), "the version of torch is missing"),
    (second_round(lambda r: r["environment"].update(gpu={"name": 5})), "'environment.gpu.name'"),
    # failures
    (failure(round=1), "it failed in round 1, but has 2 whole rounds"),
    (failure(traceback="File /home/x"), "'traceback': Extra inputs are not permitted"),
    (failure(reason="x" * 2_001), "'reason': String should have at most 2000 characters"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("damage", "reason"), DAMAGES, ids=[f"{number}-{reason[:50]}" for number, (_, reason) in enumerate(DAMAGES)]
)
def test_records_that_do_not_fit_are_refused(
    files: Files, tmp_path: Path, damage: Callable[[Files], object], reason: str
) -> None:
    damage(files)
    assert reason in refused(files.pack(tmp_path / "file.zip"))


def test_a_failure_that_fits_is_accepted(files: Files, tmp_path: Path) -> None:
    failure()(files)
    assert verify(files.pack(tmp_path / "file.zip")).summary.rounds == 17


def test_a_budget_that_is_not_reported_has_no_target(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", "task.report=[0.06]", "recipes=[random]", "seeds=[0]")
    files = Files.of(pack(run, tmp_path / "file.zip"))
    target = json.loads(files[files.round(2, "random")])["target"]
    files.edit(files.round(1, "random"), lambda record: record.update(target=target))
    assert "expected no target, as this budget is not reported" in refused(files.pack(tmp_path / "damaged.zip"))


def test_a_reason_is_one_line_however_much_the_error_quotes(good: Path, tmp_path: Path) -> None:
    """A member whose own header states a name of 60,000 bytes: zipfile quotes all of them."""
    data = bytearray(good.read_bytes())
    position = data.index(b"PK\3\4")
    data[position + 26 : position + 28] = (60_000).to_bytes(2, "little")
    (tmp_path / "file.zip").write_bytes(data)
    reason = refused(tmp_path / "file.zip")
    assert "cannot be unpacked (File name in directory" in reason
    assert len(reason) < 500


def test_nothing_is_unpacked_beyond_the_size_that_a_member_states(files: Files, tmp_path: Path) -> None:
    """A member that unpacks to gigabytes but says to be small: what is read is what it says, and then it is refused."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MANIFEST, bytes(50 << 20))
    data = bytearray(stream.getvalue())
    position = data.index(b"PK\1\2")
    data[position + 24 : position + 28] = (1_000).to_bytes(4, "little")
    (tmp_path / "bomb.zip").write_bytes(data)
    assert "manifest.json: cannot be unpacked (Bad CRC-32" in refused(tmp_path / "bomb.zip")
