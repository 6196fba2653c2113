"""The harnesses of ``make fuzz`` without a fuzzer: seeds, some mutations of them, and proof that they can fail."""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from fuzz import HARNESSES, __main__, guard
from fuzz.choices import Choices
from fuzz.guard import Finding, guarded, outcome
from fuzz.mutating import mutations
from prunefuse_bench.data import quantisation
from prunefuse_bench.errors import BadInput

MUTATIONS = {"configuration": 250, "archives": 250, "tables": 600, "submissions": 60}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a name is twice in an archive, and the like
        yield


@pytest.mark.parametrize("name", HARNESSES)
def test_seeds_and_mutations_of_them_give_a_result_or_bad_input(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    harness = importlib.import_module(f"fuzz.{name}")
    ended = []
    monkeypatch.setattr(harness, "outcome", lambda read: ended.append(outcome(read)) or ended[-1])
    seeds = list(harness.seeds())
    assert seeds == list(harness.seeds()), "the same every time"
    for data in [*seeds, *mutations(seeds, MUTATIONS[name], seed=0)]:
        try:
            harness.test_one(data)
        except Exception as error:
            raise AssertionError(f"{name}: {data!r}") from error
    assert ended.count(True) > 10, "seeds are read"
    assert name == "submissions" or ended.count(False) > 10, "and some are refused"


def test_submissions_are_accepted_and_refused(tmp_path: Path) -> None:
    from fuzz import submissions
    from prunefuse_bench.publishing import Refused, verify

    accepted = []
    for data in mutations(list(submissions.seeds()), 150, seed=1):
        choices = Choices(data)
        if choices.number(0, 3) != submissions.EDITED:
            continue
        (tmp_path / "a.zip").write_bytes(submissions._zip(submissions._edited(choices)))
        try:
            verify(tmp_path / "a.zip")
            accepted.append(True)
        except Refused:
            accepted.append(False)
    assert min(accepted.count(True), accepted.count(False)) > 10


# --- they can fail -------------------------------------------------------------------------------------------------


def fails(name: str, count: int = 400) -> BaseException | None:
    """What the first input that fails raises."""
    harness = importlib.import_module(f"fuzz.{name}")
    seeds = list(harness.seeds())
    for data in [*seeds, *mutations(seeds, count, seed=0)]:
        try:
            harness.test_one(data)
        except Exception as error:
            return error
    return None


def test_a_reader_that_raises_another_error_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(content: bytes) -> object:
        return {b"1": 0}[content[:1]]

    monkeypatch.setattr(
        quantisation._Rows, "labels", lambda self, _: raises(self.content), raising=True
    )  # a class that is none, and it is looked up in a dictionary
    assert isinstance(fails("tables"), KeyError)


def test_a_reader_that_depends_on_the_size_of_its_blocks_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = quantisation._Rows.symbols

    def symbols(rows: quantisation._Rows, length: int) -> quantisation.Bytes:
        found = whole(rows, length)
        found[0, 0] = len(found)
        return found

    monkeypatch.setattr(quantisation._Rows, "symbols", symbols)
    assert "the rows are others" in str(fails("tables"))


def test_a_loader_that_starts_a_program_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    from prunefuse_bench.data import decoding

    Image.init()
    monkeypatch.setattr(decoding, "_formats", lambda: tuple(Image.OPEN))  # EPS among them
    assert "subprocess.Popen('gs'" in str(fails("archives", 0))


def test_yaml_that_is_not_measured_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    import yaml

    from prunefuse_bench import config

    monkeypatch.setattr(config, "load_plain_yaml", yaml.safe_load)
    assert isinstance(fails("configuration"), ValueError | RecursionError | AttributeError | KeyError)


def test_a_report_that_trusts_what_is_claimed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from fuzz import submissions

    monkeypatch.setattr(submissions, "load_results", lambda runs: {}["missing"])
    assert isinstance(fails("submissions", 0), KeyError)


@pytest.mark.parametrize(
    "act",
    [
        lambda outside: (outside / "x").write_text("x"),
        lambda outside: (outside / "new").mkdir(),
        lambda outside: os.symlink("a", outside / "b"),
        lambda outside: (outside / "there").rename(outside / "gone"),
        lambda outside: (outside / "there").unlink(),
        lambda outside: subprocess.run([sys.executable, "--version"], check=False),
        lambda outside: os.system("true"),
        lambda outside: pickle.loads(pickle.dumps(Path)),
        lambda outside: __import__("socket").create_connection(("localhost", 9)),
    ],
)
def test_what_no_reader_may_do_is_found_even_if_it_is_swallowed(tmp_path: Path, act: object) -> None:
    (tmp_path / "there").write_text("x")
    with pytest.raises(Finding), guarded(), contextlib.suppress(Exception):
        act(tmp_path)  # type: ignore[operator]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there"]
    (tmp_path / "after").mkdir()  # outside of the block nothing is heard


def test_what_is_written_through_a_link_is_found(tmp_path: Path) -> None:
    def act(folder: Path) -> None:
        (folder / "link").symlink_to(tmp_path)
        (folder / "link" / "x").write_text("x")

    with pytest.raises(Finding), guarded() as folder:
        act(folder)
    assert not list(tmp_path.iterdir())


def test_within_its_folder_a_reader_may_write() -> None:
    with guarded() as folder:
        (folder / "a").mkdir()
        (folder / "a" / "b").write_text("x")
        (folder / "a" / "b").rename(folder / "c")
        assert Path(os.environ["PRUNEFUSE_BENCH_CACHE"]).parent == folder


def test_what_takes_long_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "LONGEST_SECONDS", 0.0)
    with pytest.raises(Finding, match="it took"), guarded():
        sum(range(100_000))


def test_a_message_that_is_too_long_is_found() -> None:
    def refuse() -> None:
        raise BadInput("x" * 20_001)

    with pytest.raises(Finding, match="a message of 20,001 characters"):
        outcome(refuse)


def test_choices_end_with_the_first_of_everything() -> None:
    choices = Choices(bytes([3, 1, 200]))
    assert choices.number(0, 9) == 3
    assert choices.pick("ab") == "b"
    assert choices.text(100) == ""
    assert not choices
    assert (choices.number(5, 70_000), choices.pick("ab"), choices.chance(2), choices.rest()) == (5, "a", False, b"")
    assert Choices(bytes(40)).edited(b"content") == b"content"
    assert Choices(bytes([4] + [2, 0, 2, 9] * 9)).edited(b"some content") != b"some content"


# --- the runner ----------------------------------------------------------------------------------------------------

LOG = """
#2      INITED cov: 12 ft: 34 corp: 5/67b exec/s: 0 rss: 100Mb
#99     DONE   cov: 179 ft: 552 corp: 51/4096b lim: 68 exec/s: 373 rss: 916Mb
stat::number_of_executed_units: 7844
stat::average_exec_per_sec:     373
stat::peak_rss_mb:              916
"""


@pytest.mark.parametrize("crashes", [False, True])
def test_the_runner_counts_and_fails_if_something_is_found(
    crashes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    times = []

    def start(command: list[str], stdout: object, **_: object) -> SimpleNamespace:
        assert command[2:4] == ["fuzz.guided", "tables"]
        times.extend(option for option in command if option.startswith("-max_total_time"))
        stdout.write(LOG)  # type: ignore[attr-defined]
        if crashes:
            (tmp_path / "tables" / "crash-0123").write_bytes(b"x")
        return SimpleNamespace(returncode=77 * crashes)

    monkeypatch.setattr(subprocess, "run", start)
    monkeypatch.setattr(sys, "argv", ["fuzz", "tables", "--seconds", "130", "--folder", str(tmp_path)])
    assert __main__.main() == crashes
    printed = capsys.readouterr().out
    assert times == (["-max_total_time=120"] if crashes else ["-max_total_time=120", "-max_total_time=10"])
    counted = "7,844 executions, 65 a second" if crashes else "15,688 executions, 120 a second"
    assert f"tables: {counted}, 179 edges, 552 features, 51 inputs kept, 916 MB" in printed
    assert ("crash-0123" in printed) == crashes
    monkeypatch.setattr(sys, "argv", ["fuzz", "no-harness"])
    with pytest.raises(SystemExit):
        __main__.main()
