"""Data from strangers: archives, folders, images, arrays and tables that are made to harm."""

from __future__ import annotations

import gzip
import io
import os
import struct
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy
import pytest
from PIL import Image

from prunefuse_bench.data import DatasetRequest, decoding, limits, load_dataset, stored
from prunefuse_bench.data import archive as archive_module
from prunefuse_bench.data import sources as sources_module
from prunefuse_bench.data.corruptions import cifar10_c
from prunefuse_bench.data.decoding import decode_image
from prunefuse_bench.data.published import read_idx
from prunefuse_bench.data.quantisation import read_texts
from prunefuse_bench.data.sources import Folder, Zip, open_source
from prunefuse_bench.errors import BadInput
from prunefuse_bench.streaming.shards import LinesShard, image_folder_shards

MakeZip = Callable[[dict[str, bytes]], Path]


def refused(path: Path, name: str = "image-archive") -> str:
    """Why the data set is refused; within seconds, in few words."""
    start = time.process_time()
    with pytest.raises(BadInput) as error:
        load_dataset(name, DatasetRequest(path))
    assert time.process_time() - start < 5
    return str(error.value)


# --- folders -------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(image_files: dict[str, bytes], tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for name, content in image_files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_links_within_a_folder_are_followed_and_others_refused(folder: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.symlink_to(folder)  # the folder itself may be a link
    (folder / "train/dog/99.png").symlink_to(folder / "train/dog/07.png")
    assert len(load_dataset("image-archive", DatasetRequest(linked)).train_images) == 41
    private = tmp_path / "private.png"
    private.write_bytes((folder / "train/dog/07.png").read_bytes())
    (folder / "train/dog/private.png").symlink_to(private)
    assert "train/dog/private.png is a link that leads out of the folder" in refused(folder)
    (folder / "train/dog/private.png").unlink()
    (folder / "train/dog/up.png").symlink_to("../../../private.png")
    assert "leads out of the folder" in refused(folder)
    (folder / "train/dog/up.png").unlink()
    (folder / "train/away").symlink_to(tmp_path)
    assert "train/away/ is a link that leads out" in refused(folder)
    (folder / "train/away").unlink()
    (folder / ".git").mkdir()
    (folder / ".git/link").symlink_to("/etc/hostname")  # what is hidden is not read
    load_dataset("image-archive", DatasetRequest(folder))


def test_links_to_nowhere_in_a_circle_or_to_what_has_no_end_are_refused(folder: Path) -> None:
    (folder / "train/dog/a.png").symlink_to("b.png")
    (folder / "train/dog/b.png").symlink_to("a.png")
    assert "cannot be read" in refused(folder)
    for name in "a", "b":
        (folder / f"train/dog/{name}.png").unlink()
    (folder / "train/dog/zero.png").symlink_to("/dev/zero")
    assert "leads out of the folder" in refused(folder)
    (folder / "train/dog/zero.png").unlink()
    os.mkfifo(folder / "train/dog/pipe.png")
    assert "train/dog/pipe.png is neither a file nor a folder" in refused(folder)
    (folder / "train/dog/link.png").symlink_to("pipe.png")
    (folder / "train/dog/pipe.png").rename(folder / ".pipe")
    (folder / "train/dog/link.png").unlink()
    (folder / "train/dog/link.png").symlink_to("../../.pipe")
    assert "train/dog/link.png cannot be read (it is no plain file)" in refused(folder)


@pytest.mark.parametrize("name", [b"train/dog/\xff.png", b"train/\x1b[2J/x.png", "train/\u202e/x.png".encode()])
def test_names_that_are_no_text_are_refused(folder: Path, name: bytes) -> None:
    path = os.fsencode(folder) + b"/" + name
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Path(os.fsdecode(path)).write_bytes(b"")
    assert "rename the file" in refused(folder)


def test_what_is_no_file_or_folder_is_no_data_set(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("image-archive", "imagenet", "tiny-imagenet-200"):
        assert "there is no such file or folder" in refused(tmp_path / "pipe", name)
    assert "it is no plain file" in refused(tmp_path / "pipe", "npz")
    (tmp_path / "labels.npy").symlink_to(tmp_path / "pipe")
    with pytest.raises(BadInput, match="it is no plain file"):
        cifar10_c(tmp_path)
    (tmp_path / "train.csv").symlink_to("/dev/zero")
    assert "there is no train.csv" in refused(tmp_path, "text-csv")


def test_shards_are_of_the_folder_alone(folder: Path, tmp_path: Path) -> None:
    assert len(image_folder_shards(folder, 8)[0].names) == 48
    (tmp_path / "private.png").write_bytes(b"")
    (folder / "x.png").symlink_to(tmp_path / "private.png")
    with pytest.raises(BadInput, match="leads out of the folder"):
        image_folder_shards(folder, 8)


def test_a_file_larger_than_the_limit_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LARGEST_FILE", 1_000)
    load_dataset("image-archive", DatasetRequest(folder))
    with (folder / "test/cat/00.png").open("ab") as stream:
        stream.write(bytes(1_000))
    assert "test/cat/00.png cannot be read (it has more than 1,000 bytes)" in refused(folder)


def test_more_files_than_the_limit_are_refused(
    folder: Path, make_zip: MakeZip, image_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources_module, "MOST_FILES", 47)
    assert "expected at most 47 files and folders, got 54" in refused(folder)
    assert "expected at most 47 files and folders, got 48" in refused(make_zip(image_files))


# --- archives ------------------------------------------------------------------------------------------------------


def test_an_entry_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(
    make_zip: MakeZip, image_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_zip(image_files)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train/cat/bomb.png", bytes(20 << 20))
    monkeypatch.setattr(sources_module, "LARGEST_FILE", 1 << 20)
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("it was unpacked"))
    with pytest.raises(ValueError, match=r"unpacks to 20,971,520 bytes, more than 1,048,576"):
        Zip(path).read("train/cat/bomb.png")


def test_nothing_is_unpacked_beyond_the_size_that_an_entry_states(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(50 << 20))
    data = bytearray(stream.getvalue())
    position = data.index(b"PK\1\2")
    data[position + 24 : position + 28] = (1_000).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(zipfile.BadZipFile):
        Zip(tmp_path / "a.zip").read("a.png")


def test_a_name_twice_in_an_archive_is_refused(make_zip: MakeZip, image_files: dict[str, bytes]) -> None:
    path = make_zip(image_files)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("train/cat/00.png", image_files["train/dog/00.png"])
    assert "entry 'train/cat/00.png' is in it twice" in refused(path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("train/cat/\x1b]0;x\x07.png", "has a control character '\\x1b'"),
        ("train/a\nb/x.png\r", "has a control character '\\r'"),
        ("train/\u2066x/x.png", "has a bidirectional control character"),
        ("../train/cat/x.png", "points outside the archive"),
        ("/train/cat/x.png", "points outside the archive"),
        ("train/../../x.png", "points outside the archive"),
        ("..\\x.png", "points outside the archive"),
        ("C:/x.png", "points outside the archive"),
    ],
)
def test_hostile_names_in_an_archive_are_refused(
    make_zip: MakeZip, image_files: dict[str, bytes], name: str, reason: str
) -> None:
    assert reason in refused(make_zip({**image_files, name: b""}))


def test_an_archive_whose_names_lie_about_their_encoding_is_refused(
    make_zip: MakeZip, image_files: dict[str, bytes]
) -> None:
    path = make_zip({**image_files, "train/cat/é.png": b""})
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xff\xfe"))
    assert "it cannot be opened" in refused(path)


def test_more_classes_than_the_limit_are_refused(
    make_zip: MakeZip, image_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MOST_CLASSES", 1)
    for name in ("image-archive", "imagenet"):
        assert "expected at most 1 classes, got 2" in refused(make_zip(image_files), name)


def test_images_that_do_not_fit_into_memory_are_refused_before_room_is_made(
    make_zip: MakeZip, image_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "_memory", lambda: 40 * 3 * 64 - 1)
    assert "0.0 GB decoded do not fit into the 0.0 GB of memory" in refused(make_zip(image_files))
    monkeypatch.setattr(limits, "_memory", lambda: 40 * 3 * 64)
    load_dataset("image-archive", DatasetRequest(make_zip(image_files)))


@pytest.mark.parametrize(("name", "module", "decode"), [("image-archive", archive_module, "_decode_one"),
                                                        ("imagenet", stored, "_decode")])  # fmt: skip
def test_a_process_that_is_ended_while_it_decodes_is_bad_input(
    make_zip: MakeZip, image_files: dict[str, bytes], name: str, module: ModuleType, decode: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """As the system does when memory runs out."""
    mine, whole = os.getpid(), getattr(module, decode)
    monkeypatch.setattr(module, decode, lambda *given: whole(*given) if os.getpid() == mine else os._exit(9))
    assert "a process that decoded was ended" in refused(make_zip(image_files), name)


def test_annotations_that_are_damaged_or_many_are_bad_input(make_zip: MakeZip) -> None:
    images = {"t/train/n1/images/a.JPEG": b"", "t/val/images/b.JPEG": b""}
    annotations = "t/val/val_annotations.txt"
    assert "val_annotations.txt cannot be read" in refused(
        make_zip({**images, annotations: b"\xff"}), "tiny-imagenet-200"
    )
    path = make_zip({**images, annotations: b"x"})
    path.write_bytes(path.read_bytes().replace(b"x" + b"PK\1\2", b"y" + b"PK\1\2"))
    assert "val_annotations.txt cannot be read (Bad CRC-32" in refused(path, "tiny-imagenet-200")
    many = {f"t/train/n{number}/images/a.JPEG": b"" for number in range(20_000)}
    lines = "".join(f"b.JPEG\tn{number}\n" for number in reversed(range(20_000)))
    path = make_zip({**many, "t/val/images/b.JPEG": b"", annotations: lines.encode()})
    assert "cannot be read as an image" in refused(path, "tiny-imagenet-200")


# --- images --------------------------------------------------------------------------------------------------------


def png_of(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG file whose header states a size, whatever its data."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def test_an_image_of_too_many_pixels_is_refused_whatever_pillow_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(ValueError, match="30000x30000 pixels are more than"):
        decode_image(png_of(30_000, 30_000))


def test_a_line_of_pixels_does_not_become_a_surface() -> None:
    line = png_of(1, 60_000, bytes(2 * 60_000))
    assert decode_image(line, resize=8).shape == (3, 8, 8)
    with pytest.raises(ValueError, match="256x15360000 pixels are more than"):
        decode_image(line, resize=224, crop=True)


def test_only_formats_that_pillow_decodes_itself_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("another program was started"))
    with pytest.raises(Image.UnidentifiedImageError):
        decode_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n8 8 scale\n%%EOF\n")
    for name in ("BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "SGI", "TGA", "TIFF", "WEBP"):
        stream = io.BytesIO()
        Image.new("RGB", (16, 16), (200, 100, 50)).save(stream, name)
        assert decode_image(stream.getvalue()).shape == (3, 16, 16), name
    Image.init()
    assert set(decoding.FORMATS) - {"AVIF"} <= set(Image.OPEN) | {"MPO"}


def jpeg(side: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (side, side), (200, 100, 50)).save(stream, "JPEG")
    return stream.getvalue()


FRAME = b"\xff\xc0\x00\x11\x08"
HIDDEN = {
    "fill byte": b"\xff\xff",
    "marker without a length": b"\xff\x01\xff\xff",
    "restart marker": b"\xff\xd0\xff\xff",
    "arithmetic frame": b"\xff\xc9\x00\x02",
    "scan": b"\xff\xda\x00\x02",
    "length of nothing": b"\xff\xfe\x00\x00",
}


@pytest.mark.parametrize("before", HIDDEN.values(), ids=list(HIDDEN))
def test_a_jpeg_cannot_show_one_size_and_have_another(before: bytes) -> None:
    """The fast decoder makes room for the frame that it finds, so nothing may stand before ours that it reads anew."""
    content = jpeg(8)
    place = content.index(FRAME)
    assert decoding._jpeg_size(content) == (3, 8, 8)
    assert decoding._jpeg_size(content[:2] + before + content[2:]) is None
    assert decoding._jpeg_size(content[:place] + before + content[place:]) is None
    large = content[place : place + 5] + b"\xff\xff\xff\xff" + content[place + 9 : place + 19]
    # Read as a segment, the fill byte and the large frame are skipped, up to a small one.
    skipped = b"\xff" + large
    length = int.from_bytes(skipped[2:4], "big")
    disguised = content[:2] + skipped + bytes(length + 2 - len(skipped)) + content[2:]
    assert decoding._jpeg_size(disguised) is None


# --- arrays --------------------------------------------------------------------------------------------------------


def npy(header: str, body: bytes = b"") -> bytes:
    """A .npy file that states anything."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode("latin1") + body


def stated(kind: str, shape: str, body: bytes = b"") -> bytes:
    return npy(f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}", body)


def saved(array: numpy.ndarray) -> bytes:
    stream = io.BytesIO()
    numpy.save(stream, array)
    return stream.getvalue()


IMAGES = numpy.zeros((2, 4, 4), dtype=numpy.uint8)
LABELS = numpy.array([0, 1])
GOOD = {"x_train": saved(IMAGES), "y_train": saved(LABELS), "x_test": saved(IMAGES), "y_test": saved(LABELS)}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"x_train": stated("|u1", "(1000000000000, 4, 4)")}, "cannot be read"),
        ({"x_train": stated("|u1", "(99999999999999999999999,)")}, "cannot be read"),
        ({"x_train": stated("|u1", "(True,)")}, "cannot be read"),
        ({"x_train": stated("|u1", "(-1,)")}, "cannot be read"),
        ({"x_train": stated("|O", "(1,)", b"cos\nsystem\n(S'true'\ntR.")}, "Object arrays cannot be loaded"),
        ({"x_train": npy("-" * 9_000 + "1")}, "cannot be read"),
        ({"x_train": npy("'''")}, "cannot be read"),
        ({"x_train": npy("{[1]: 2}")}, "cannot be read"),
        ({"x_train": b"no array"}, "expected an array x_train, got other data"),
        ({"classes": b"no array"}, "expected an array classes, got other data"),
        ({"y_train": saved(numpy.array([0, 2**62]))}, "expected at most 100,000 classes"),
        ({"classes": stated("<U0", "(1000000000,)")}, "expected at most 100,000 classes, got 1,000,000,000"),
        ({"classes": stated("<U1", "(2,)", struct.pack("<II", 0x110000, 0x41))}, "expected strings in classes"),
        ({"classes": stated("<U1", "(2,)", struct.pack("<II", 0xD800, 0x41))}, r"control character '\ud800'"),
        ({"classes": saved(numpy.array(["a", "\x1b[2J"]))}, r"control character '\x1b'"),
    ],
)
def test_hostile_arrays_are_refused(tmp_path: Path, change: dict[str, bytes], reason: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name, content in {**GOOD, **change}.items():
            archive.writestr(f"{name}.npy", content)
    assert reason in refused(tmp_path / "a.npz", "npz")


def test_arrays_that_do_not_fit_into_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numpy.savez(tmp_path / "a.npz", x_train=IMAGES, y_train=LABELS, x_test=IMAGES, y_test=LABELS)
    monkeypatch.setattr(limits, "_memory", lambda: 607)
    assert "do not fit into the 0.0 GB of memory" in refused(tmp_path / "a.npz", "npz")
    monkeypatch.setattr(limits, "_memory", lambda: 608)
    load_dataset("npz", DatasetRequest(tmp_path / "a.npz"))


def test_hostile_files_of_published_data_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "labels.npy").write_bytes(npy("-" * 9_000 + "1"))
    with pytest.raises(BadInput, match="expected a file of CIFAR-10-C, but it cannot be read"):
        cifar10_c(tmp_path)
    file = tmp_path / "a.gz"
    for header in (b"\0\0\x08\xff", b"\0\0\x08\x02" + b"\xff" * 8, b"\0\0\x08\x02" + b"\x80\0\0\0" * 2):
        file.write_bytes(gzip.compress(header))
        with pytest.raises(BadInput, match=r"values, got 0|at most 8 dimensions, got 255"):
            read_idx(file)
    file.write_bytes(gzip.compress(b"\0\0\x08\x03" + b"\xff" * 8 + bytes(4)))
    with pytest.raises(BadInput, match="expected values, got none"):
        read_idx(file)
    monkeypatch.setattr("prunefuse_bench.data.published.LARGEST_IDX", 1_000)
    file.write_bytes(gzip.compress(b"\0\0\x08\x01" + bytes(50 << 20)))
    with pytest.raises(BadInput, match="expected at most 1,000 bytes unpacked, got more"):
        read_idx(file)


# --- texts ---------------------------------------------------------------------------------------------------------


def test_a_long_row_does_not_bring_more_short_ones_than_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read to find the end of a long row is then taken a few rows at a time."""
    monkeypatch.setattr("prunefuse_bench.data.quantisation.MOST_SYMBOLS", 10 * 64)
    file = tmp_path / "a.csv"
    file.write_bytes(b'1,"' + b"x" * 1_000 + b'",y\n' + b"2,,a\n" * 300)
    blocks = list(read_texts(file, length=64, block=16))
    assert max(len(block.labels) for block in blocks) <= 10
    assert numpy.concatenate([block.labels for block in blocks]).tolist() == [0] + [1] * 300
    assert sum(block.size for block in blocks) == file.stat().st_size


def test_more_rows_or_longer_ones_than_the_limit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b"1,,a\n" * 11)
    monkeypatch.setattr("prunefuse_bench.data.quantisation.MOST_ROWS", 11)
    assert sum(len(block.labels) for block in read_texts(file, block=7)) == 11
    monkeypatch.setattr("prunefuse_bench.data.quantisation.MOST_ROWS", 10)
    with pytest.raises(BadInput, match="expected at most 10 rows, got more"):
        list(read_texts(file, block=7))
    file.write_bytes(b'1,,"' + b"x" * 5_000)
    monkeypatch.setattr("prunefuse_bench.data.quantisation.LONGEST_ROW", 1_000)
    with pytest.raises(BadInput, match="row 1: a quote is opened and never closed"):
        list(read_texts(file, block=7))


def test_a_line_without_an_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"short\n" + b"x" * 1_000)
    assert len(LinesShard(file)) == 2
    monkeypatch.setattr("prunefuse_bench.streaming.shards.LONGEST_LINE", 999)
    for read in (len, lambda shard: list(shard.batches(1))):
        with pytest.raises(BadInput, match="expected lines of at most 999 bytes"):
            read(LinesShard(file))


# --- data sets of the hub ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "download", "reason"),
    [
        ("2.19.3", True, "datasets >= 2.20, got 2.19.3, which runs code"),
        ("2.2", True, "which runs code"),
        ("", True, "which runs code"),
        ("4.8.0", False, "nothing is downloaded here"),
    ],
)
def test_no_code_of_a_data_set_is_run_and_nothing_downloaded_for_a_report(
    version: str, download: bool, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("datasets")
    module.__version__ = version  # type: ignore[attr-defined]
    module.load_dataset = lambda *_: pytest.fail("it was asked for")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    with pytest.raises(BadInput, match=reason):
        load_dataset("hf:evil/code", DatasetRequest(download=download))


def test_a_folder_and_an_archive_are_told_apart(folder: Path, make_zip: MakeZip, image_files: dict[str, bytes]) -> None:
    assert isinstance(open_source(folder), Folder)
    assert isinstance(open_source(make_zip(image_files)), Zip)
