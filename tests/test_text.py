from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from prunefuse_bench.data import DATASETS, DatasetRequest, ImageDataset, SymbolInputs, load_dataset, subset
from prunefuse_bench.data import text as text_module
from prunefuse_bench.data.quantisation import ALPHABET, LENGTH, PADDING, SPACE, SYMBOLS, UNKNOWN, TextBlock, read_texts
from prunefuse_bench.data.text import PUBLISHED_TEXTS, PublishedTexts
from prunefuse_bench.errors import BadInput
from prunefuse_bench.models import MODELS, ModelEntry

REAL_TEXTS = "PRUNEFUSE_BENCH_TEXTS"
"""Environment variable that names folders with train.csv and test.csv, apart by colons."""

GOOD = "good fruit, love it"
BAD = "bad fruit, hate it"


def row(label: object, title: str, text: str) -> str:
    """As Zhang et al. write it: every field in quotes, quotes doubled."""
    return ",".join('"' + str(field).replace('"', '""') + '"' for field in (label, title, text)) + "\n"


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str | bytes], Path]:
    def write(content: str | bytes) -> Path:
        file = tmp_path / "rows.csv"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    return write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """60 texts to train and 20 to test, of two classes that a network can tell apart."""
    folder = tmp_path / "reviews"
    folder.mkdir()
    for split, count in (("train", 30), ("test", 10)):
        rows = [row(1, "no", f"{BAD} {i}") + row(2, "yes", f"{GOOD} {i}") for i in range(count)]
        (folder / f"{split}.csv").write_text("".join(rows))
    return folder


def read(file: Path, **settings: Any) -> TextBlock:
    blocks = list(read_texts(file, **settings))
    return TextBlock(
        numpy.concatenate([block.labels for block in blocks]),
        numpy.concatenate([block.symbols for block in blocks]),
        sum(block.size for block in blocks),
    )


def as_text(symbols: numpy.ndarray | Tensor) -> str:
    """What the network reads, with ~ for what it does not know; the tests' texts have no tilde of their own."""
    letters = {PADDING: "", SPACE: " ", UNKNOWN: "~", **{i + 1: letter for i, letter in enumerate(ALPHABET)}}
    return "".join(letters[int(symbol)] for symbol in symbols)


def character_by_character(file: Path, length: int) -> numpy.ndarray:
    """The same by Python's CSV reader and a loop."""
    number = {letter: i + 1 for i, letter in enumerate(ALPHABET)}
    texts = []
    for _, title, text in csv.reader(io.StringIO(file.read_bytes().decode("utf-8-sig"), newline="")):
        joined = " ".join(part for part in (title, text) if part).replace("\\n", "\n")[:length]
        symbols = [
            SPACE if c in " \t\n\r\v\f" else number.get(c.lower() if c.isascii() else c, UNKNOWN) for c in joined
        ]
        texts.append(symbols + [PADDING] * (length - len(symbols)))
    return numpy.array(texts, dtype=numpy.uint8)


def test_the_alphabet_is_that_of_vdcnn() -> None:
    assert len(set(ALPHABET)) == 66
    assert SYMBOLS == 69
    assert sorted([PADDING, SPACE, UNKNOWN, *range(1, 67)]) == list(range(69))
    assert LENGTH == 1014


def test_a_text_is_its_title_and_its_text_in_lower_case(write: Callable[[str], Path]) -> None:
    block = read(write(row(2, "Great", "I LOVE it!") + row(1, "", "so-so (50%)") + row(3, "Only a title", "")))
    assert [as_text(text) for text in block.symbols] == ["great i love it!", "so-so (50%)", "only a title"]
    assert block.labels.tolist() == [1, 0, 2]
    assert block.symbols.shape == (3, LENGTH)
    assert block.symbols.dtype == numpy.uint8
    assert block.symbols[0, 16] == PADDING


@pytest.mark.parametrize(
    ("text", "read_as"),
    [
        ('the "best" one', 'the "best" one'),
        ('"quoted"', '"quoted"'),
        ("a, b, c", "a, b, c"),
        ("two\nlines\ttab", "two lines tab"),
        (r"two\nlines\n\nfour", "two lines  four"),
        (r"a \new tale\back", "a  ew tale~back"),
        ("caf\u00e9 \u4e2d\u6587 \U0001f600!", "caf~ ~~ ~!"),
        ("me@home", "me~home"),
        ("x" * 30, "x" * 20),
    ],
)
def test_texts_are_read_as_the_originals_are_written(write: Callable[[str], Path], text: str, read_as: str) -> None:
    assert as_text(read(write(row(1, "", text)), length=20).symbols[0]) == read_as


@pytest.mark.parametrize("text", ['1,"a","b"\n', '"1",a,b\r\n', '\ufeff"1","a","b"', '"1","a","b"\r\n'])
def test_other_ways_to_write_a_row(write: Callable[[str], Path], text: str) -> None:
    block = read(write(text))
    assert as_text(block.symbols[0]) == "a b"
    assert block.labels.tolist() == [0]


FIELDS = st.text(st.sampled_from('aZ5 ",\n\\n@\u00e9\u4e2d\r'), max_size=40)


@given(rows=st.lists(st.tuples(st.integers(1, 9), FIELDS, FIELDS), min_size=1, max_size=12), block=st.integers(1, 60))
def test_blocks_of_any_size_give_what_a_loop_over_characters_gives(
    rows: list[tuple[int, str, str]], block: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = [(label, title, text + "x") for label, title, text in rows]
    file = tmp_path_factory.mktemp("texts") / "rows.csv"
    file.write_bytes("".join(row(*one) for one in rows).encode())
    found = read(file, length=24, block=block)
    assert found.labels.tolist() == [label - 1 for label, _, _ in rows]
    assert numpy.array_equal(found.symbols, character_by_character(file, 24))
    assert found.size == file.stat().st_size


@pytest.mark.parametrize(
    ("third_row", "message"),
    [
        ('"1","a"\n', r"row 3: expected 3 columns \(class, title, text\), got 2"),
        ('"1","a","b","c"\n', "row 3: expected 3 columns .* got 4"),
        ("\n", "row 3: expected 3 columns .* got 1"),
        ('"","a","b"\n', "row 3: the class is missing"),
        ('"0","a","b"\n', "row 3: expected a class from 1 to 5, got '0'"),
        ('"6","a","b"\n', "row 3: expected a class from 1 to 5, got '6'"),
        ('"-1","a","b"\n', "row 3: expected a class from 1 to 5, got '-1'"),
        ('"good","a","b"\n', "row 3: expected a class from 1 to 5, got 'good'"),
        ('"12345","a","b"\n', "row 3: expected a class from 1 to 5, got '12345'"),
        ('"1","",""\n', "row 3: neither title nor text has a character"),
        ('"1"," "," \\n\t"\n', "row 3: neither title nor text has a character"),
        (b'"1","caf\xe9","b"\n', r"row 3: not UTF-8 \(byte 0xe9\); convert the file to UTF-8"),
        ('"1","a "bad" one","b"\n', "row 3: expected quotes around a whole field"),
        ('"1","a"b,"c"\n', "row 3: expected quotes around a whole field"),
        ('"1",a "b" c,"d"\n', "row 3: expected quotes around a whole field"),
        ('"1","a","never closed\n', "row 3: a quote is opened and never closed"),
    ],
)
@pytest.mark.parametrize("block", [1, 1 << 20])
def test_bad_rows_are_named(write: Callable[[bytes], Path], third_row: str | bytes, message: str, block: int) -> None:
    third = third_row if isinstance(third_row, bytes) else third_row.encode()
    file = write((row(1, "a", "b") + row(5, "two\nlines", "c")).encode() + third)
    with pytest.raises(BadInput, match=f"rows.csv: {message}"):
        read(file, classes=5, block=block)


def test_a_file_with_nothing_but_an_empty_text(write: Callable[[str], Path]) -> None:
    with pytest.raises(BadInput, match="row 1: neither title nor text has a character"):
        read(write(row(1, "", "")))
    with pytest.raises(BadInput, match="row 2: neither title nor text has a character"):
        read(write(row(1, "", " x") + row(1, "", "")))


def test_files_without_rows(write: Callable[[str], Path], tmp_path: Path) -> None:
    for nothing in ("", "\n", "\ufeff"):
        with pytest.raises(BadInput, match="got an empty file"):
            read(write(nothing))
    with pytest.raises(BadInput, match=r"it cannot be read: .*No such file"):
        read(tmp_path / "nowhere.csv")


def test_a_folder_of_texts(folder: Path) -> None:
    dataset = load_dataset("text-csv", DatasetRequest(folder))
    assert dataset.title == "reviews"
    assert dataset.classes == ("1", "2")
    assert dataset.train_images.shape == (60, LENGTH)
    assert dataset.test_labels.tolist() == [0, 1] * 10
    assert as_text(dataset.train_images[1]) == f"yes {GOOD} 0"
    assert dataset.in_channels == dataset.symbols == SYMBOLS
    assert isinstance(dataset.normalisation, SymbolInputs)
    inputs = dataset.normalisation.apply(dataset.train_images[:2])
    assert inputs.dtype == torch.int64
    assert torch.equal(inputs, dataset.train_images[:2].long())
    assert len(subset(dataset, 10).train_images) == 10
    assert load_dataset("text-csv", DatasetRequest(folder, length=16)).train_images.shape == (60, 16)


def test_texts_are_quantised_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    request = DatasetRequest(folder, progress=lambda done, total: told.append((done, total)))
    first = load_dataset("text-csv", request)
    size = (folder / "train.csv").stat().st_size
    assert (size, size) in told
    monkeypatch.setattr(text_module, "read_texts", lambda *_: pytest.fail("quantised again"))
    assert load_dataset("text-csv", request).sha256() == first.sha256()
    monkeypatch.undo()
    (folder / "train.csv").write_text(row(1, "", "x") + row(2, "", "y"))
    assert load_dataset("text-csv", request).sha256() != first.sha256()


def test_bad_rows_leave_nothing_half_written(folder: Path, tmp_path: Path) -> None:
    with (folder / "train.csv").open("a") as file:
        file.write('"1","",""\n')
    with pytest.raises(BadInput, match="row 61: neither title nor text"):
        load_dataset("text-csv", DatasetRequest(folder))
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]


def test_folders_that_hold_no_texts(folder: Path) -> None:
    with pytest.raises(BadInput, match=r"dataset 'text-csv' needs the path .* --set task\.dataset\.path=PATH"):
        load_dataset("text-csv")
    (folder / "test.csv").write_text(row(1, "", "x") + row(3, "", "y"))
    with pytest.raises(BadInput, match=r"test\.csv: row 2: expected a class from 1 to 2, got '3'"):
        load_dataset("text-csv", DatasetRequest(folder))
    (folder / "test.csv").write_text(row(1, "", "x"))
    with pytest.raises(BadInput, match=r"test\.csv: no row has class 2"):
        load_dataset("text-csv", DatasetRequest(folder))
    (folder / "test.csv").unlink()
    with pytest.raises(BadInput, match=r"there is no test\.csv"):
        load_dataset("text-csv", DatasetRequest(folder))


def test_settings_of_images_mean_nothing_to_texts_and_the_other_way_round(folder: Path) -> None:
    with pytest.raises(BadInput, match=r"task\.dataset\.resize: dataset 'text-csv' has no such setting"):
        load_dataset("text-csv", DatasetRequest(folder, resize=8))
    with pytest.raises(BadInput, match=r"task\.dataset\.length: dataset 'digits' has no such setting"):
        load_dataset("digits", DatasetRequest(length=8))


def test_published_sets_are_checked_against_their_counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"amazon-polarity", "amazon-full"} <= set(DATASETS)
    assert PUBLISHED_TEXTS["amazon-full"].rows == (3_000_000, 650_000)
    with pytest.raises(BadInput, match=r"train\.csv: Amazon Review Polarity has 3,600,000 rows.* got 60 \(30, 30\)"):
        load_dataset("amazon-polarity", DatasetRequest(folder))
    with pytest.raises(BadInput, match="no row has class 3"):
        load_dataset("amazon-full", DatasetRequest(folder))
    monkeypatch.setitem(PUBLISHED_TEXTS, "amazon-polarity", PublishedTexts("Small", ("negative", "positive"), (60, 20)))
    dataset = load_dataset("amazon-polarity", DatasetRequest(folder))
    assert (dataset.title, dataset.classes) == ("Small", ("negative", "positive"))


class Letters(nn.Module):
    """An embedding, one convolution, the largest value of each channel, a linear layer."""

    def __init__(self, classes: int, symbols: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, 8, padding_idx=PADDING)
        self.convolution = nn.Conv1d(8, 16, 3, padding=1)
        self.norm = nn.BatchNorm1d(16)
        self.classifier = nn.Linear(16, classes)

    def forward(self, symbols: Tensor) -> Tensor:
        features = torch.relu(self.norm(self.convolution(self.embedding(symbols).transpose(1, 2))))
        return self.classifier(features.amax(2))


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(MODELS._entries, "letters", ModelEntry(lambda c, s, w: Letters(c, s), "reads letters", (32,)))
    return "letters"


TEXT_SUITE = """
task:
  dataset: {{name: text-csv, path: {path}, length: 32}}
  model: {{name: {model}}}
  training: {{epochs: 12, batch_size: 8, segments: [[1, 0.1], [1, 0.05]]}}
  budgets: [0.3, 0.7]
recipes: [al, bald]
seeds: [0]
precision: {precision}
"""


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_texts_go_through_the_same_loop_as_images(
    folder: Path, letters: str, tmp_path: Path, run_cli: Callable[..., tuple[int, str, str]], precision: str
) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text(TEXT_SUITE.format(path=folder, model=letters, precision=precision))
    code, out, error = run_cli("run", suite, "--out", tmp_path / "run")
    assert code == 0, error
    assert "100.0" in out  # the classes are easy to tell apart
    board = (tmp_path / "run/leaderboard.md").read_text()
    assert "12 epochs (the paper: 15)" in board
    assert "Weight decay: 0.0005 instead of 0.0001." in board
    assert "Augmentation" not in board
    assert "60 texts in the pool, 20 to test, 32 characters, 2 classes" in board


def test_a_network_that_reads_images_is_refused(
    folder: Path, tmp_path: Path, run_cli: Callable[..., tuple[int, str, str]]
) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text(TEXT_SUITE.format(path=folder, model="resnet8", precision="fp32"))
    code, _, error = run_cli("run", suite, "--out", tmp_path / "run")
    assert code == 2
    assert "task.model: 'resnet8' reads images, but dataset 'text-csv' holds texts" in " ".join(error.split())


def test_augmentation_of_texts_is_refused(
    folder: Path, letters: str, tmp_path: Path, run_cli: Callable[..., tuple[int, str, str]]
) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text(TEXT_SUITE.format(path=folder, model=letters, precision="fp32"))
    code, _, error = run_cli("run", suite, "--out", tmp_path / "run", "--set", "task.augmentation.flip=true")
    assert code == 2
    assert "task.augmentation.flip: dataset 'text-csv' is text, which is not augmented" in " ".join(error.split())


def test_real_texts() -> None:
    folders = os.environ.get(REAL_TEXTS, "")
    if not folders:
        pytest.skip(f"{REAL_TEXTS} names no folders")
    for name in folders.split(":"):
        dataset: ImageDataset = load_dataset("text-csv", DatasetRequest(Path(name)))
        for split, texts in (("train", dataset.train_images), ("test", dataset.test_images)):
            expected = character_by_character(Path(name) / f"{split}.csv", LENGTH)
            assert numpy.array_equal(texts.numpy(), expected)
