"""Data sets of images: a .zip or folder of class folders, image files in it, arrays, and files of published data."""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import os
import stat
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy
import torch
from PIL import Image

from fuzz.choices import Choices
from fuzz.guard import Finding, InProcess, guarded, outcome
from prunefuse_bench.data import DatasetRequest, archive, load_dataset, stored
from prunefuse_bench.data.corruptions import cifar10_c
from prunefuse_bench.data.decoding import decode_image
from prunefuse_bench.data.published import read_idx

__all__ = ["seeds", "test_one"]

RAW_ZIP, RAW_IMAGE, BUILT_ZIP, BUILT_IMAGE, FOLDER, RAW_ARRAYS, BUILT_ARRAYS, PUBLISHED = range(8)
LOADERS = "image-archive", "imagenet", "tiny-imagenet-200"
FORMATS = "PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO", "TGA", "PCX", "SGI", "JPEG2000"
NAMES = (
    "train/cat/a.png", "train/dog/a.png", "test/cat/a.png", "test/dog/a.png", "val/cat/a.png", "val/dog/a.png",
    "train/cat/b.png", "train/", "train/cat/", "train/emu/", "x/train/cat/a.png", "train/a.png", "readme.txt",
    "../x.png", "/x.png", "C:/x.png", "train/../../x.png", "..\\x.png", "train\\cat\\a.png", "__MACOSX/train/x.png",
    ".hidden", "train/cat/.x", "", "/", "train//a.png", "train/\x1b[2J/a.png", "train/cat/\n.png", "train/é/a.png",
    "test/é/a.png", "train/" + "x" * 300 + "/a.png", "t/train/n1/images/a.JPEG", "t/train/n2/images/a.JPEG",
    "t/val/images/v.JPEG", "t/val/val_annotations.txt", "val/val_annotations.txt", "train/n1/images/a.JPEG",
    "val/images/v.JPEG", "train/cat/\u202ex.png", "train/cat/Icon\r",
)  # fmt: skip
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n8 8 scale\n%%EOF\n"
ANNOTATIONS = b"v.JPEG\tn1\t0\t0\t1\t1\nv.JPEG\tn2\t0\t0\t1\t1\n"
HEADERS = (
    "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 4, 4)}",
    "{'descr': '<i8', 'fortran_order': False, 'shape': (2,)}",
    "{'descr': '<i8', 'fortran_order': True, 'shape': (2, 1)}",
    "{'descr': '<U1', 'fortran_order': False, 'shape': (2,)}",
    "{'descr': '<U0', 'fortran_order': False, 'shape': (1000000000,)}",
    "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000,)}",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (-1,)}",
    "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}",
    "{'descr': '|u1', 'fortran_order': False, 'shape': ()}",
    "{'descr': '>u8', 'fortran_order': False, 'shape': (2,)}",
    "{'descr': '|b1', 'fortran_order': False, 'shape': (16,)}",
)
ARRAYS = "x_train", "y_train", "x_test", "y_test", "classes"


@functools.cache
def _image(format_: str, side: int = 8, mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    noise = numpy.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=numpy.uint8)
    with contextlib.suppress(KeyError, OSError):  # not every Pillow writes every format
        Image.fromarray(noise).convert(mode).save(stream, format_)
    return stream.getvalue()


@functools.cache
def _arrays() -> dict[str, bytes]:
    def saved(array: numpy.ndarray) -> bytes:
        stream = io.BytesIO()
        numpy.save(stream, array)
        return stream.getvalue()

    images, labels = saved(numpy.arange(32, dtype=numpy.uint8).reshape(2, 4, 4)), saved(numpy.array([0, 1]))
    return dict(zip(ARRAYS, (images, labels, images, labels, saved(numpy.array(["cat", "dog"]))), strict=True))


def _zip(files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as opened:
        for name, content in files.items():
            opened.writestr(zipfile.ZipInfo(name), content, method)
    return stream.getvalue()


def _layout(image: bytes) -> dict[str, bytes]:
    return {f"{split}/{name}/a.png": image for split in ("train", "test") for name in ("cat", "dog")}


def seeds() -> Iterator[bytes]:
    """Whole data sets, single images, arrays; then choices."""
    image = _image("PNG")
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        yield bytes([RAW_ZIP, 0, 0, 0]) + _zip(_layout(image), method)
    tiny = {
        **{f"t/train/{name}/images/a.JPEG": image for name in ("n1", "n2")},
        "t/val/images/v.JPEG": image,
        "t/val/val_annotations.txt": ANNOTATIONS,
    }
    yield bytes([RAW_ZIP, 2, 0, 0]) + _zip(tiny)
    yield bytes([RAW_ZIP, 1, 2, 1]) + _zip(_layout(image))
    for format_ in FORMATS:
        for mode in ("RGB", "L", "CMYK", "P", "1"):
            with contextlib.suppress(ValueError):
                yield bytes([RAW_IMAGE, 0, 0, 0]) + _image(format_, 8, mode)
    yield bytes([RAW_IMAGE, 0, 0, 0]) + EPS
    yield bytes([RAW_IMAGE, 1, 3, 0]) + _png(1, 5_000, bytes(10_000))
    yield bytes([RAW_IMAGE, 0, 0, 0]) + _png(60_000, 60_000, b"")
    for number in range(12):
        body = bytes((13 * number + 29 * place) % 256 for place in range(80))
        yield bytes([BUILT_ZIP, number % 3, 0, 0, 3]) + body
        yield bytes([BUILT_IMAGE, 0, 0, 0]) + body
        yield bytes([FOLDER, 0, 0, 0]) + body
        yield bytes([BUILT_ARRAYS]) + body
    yield bytes([RAW_ARRAYS]) + _zip({f"{name}.npy": content for name, content in _arrays().items()})
    labels = io.BytesIO()
    numpy.save(labels, numpy.zeros(50_000, dtype=numpy.uint8))
    yield bytes([PUBLISHED, 0]) + labels.getvalue()[:200]
    yield bytes([PUBLISHED, 1]) + b"\0\0\x08\x02" + (2).to_bytes(4, "big") * 2 + b"abcd"


def test_one(data: bytes) -> None:
    """Load a data set of what the bytes say."""
    _warm_up()
    choices = Choices(data)
    kind = choices.number(0, 7)
    with guarded() as folder, _in_process(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == PUBLISHED:
            _published(choices, folder)
            return
        if kind in (RAW_ARRAYS, BUILT_ARRAYS):
            file = folder / "arrays.npz"
            file.write_bytes(choices.rest() if kind == RAW_ARRAYS else _built_arrays(choices))
            outcome(lambda: load_dataset("npz", DatasetRequest(file)).sha256())
            return
        name = choices.pick(LOADERS)
        resize = choices.pick((None, 4, 9, 64))
        channels, keep = (3, True) if name != "image-archive" else (choices.pick((3, 1)), True)
        if name == "imagenet":
            keep = choices.pick((True, False))
        path = folder / "images.zip"
        if kind == FOLDER:
            path = folder / "images"
            _built_folder(choices, path)
        elif kind == RAW_ZIP:
            path.write_bytes(choices.rest())
        elif kind == BUILT_ZIP:
            path.write_bytes(_built_zip(choices))
        else:
            image = choices.rest() if kind == RAW_IMAGE else _built_image(choices)
            path.write_bytes(_zip({**_layout(_image("PNG")), "train/cat/b.png": image}))
        request = DatasetRequest(path, resize=resize, channels=channels, keep_decoded=keep)
        outcome(lambda: _load(name, request))


@functools.cache
def _warm_up() -> None:
    """What libraries do the first time, such as making folders of their own, is no reader's doing."""
    decode_image(_image("JPEG"))


def _load(name: str, request: DatasetRequest) -> None:
    dataset = load_dataset(name, request)
    dataset.sha256()
    images = dataset.train_images[:2]
    pixels = images if isinstance(images, torch.Tensor) else images.read()
    if pixels.dtype != torch.uint8 or pixels.shape[1:] != dataset.train_images.shape[1:]:
        raise Finding(f"pixels {pixels.dtype} {list(pixels.shape)} of {list(dataset.train_images.shape)}")


@contextlib.contextmanager
def _in_process() -> Iterator[None]:
    """Decoded here, one after another; what the module keeps of an archive from before is forgotten."""
    before = archive.ProcessPoolExecutor, stored.ProcessPoolExecutor, stored.ThreadPoolExecutor
    archive.ProcessPoolExecutor = stored.ProcessPoolExecutor = stored.ThreadPoolExecutor = InProcess  # type: ignore[misc,assignment]
    archive._source.cache_clear()
    stored._source.cache_clear()
    try:
        yield
    finally:
        archive.ProcessPoolExecutor, stored.ProcessPoolExecutor, stored.ThreadPoolExecutor = before
        archive._source.cache_clear()
        stored._source.cache_clear()


def _content(choices: Choices) -> bytes:
    """Of a file in an archive or folder."""
    kind = choices.number(0, 5)
    if kind < 2:
        return _image(choices.pick(FORMATS), choices.pick((8, 16)))
    if kind == 2:
        return _built_image(choices)
    return ANNOTATIONS if kind == 3 else choices.content(100) if kind == 4 else _image("PNG")


def _built_zip(choices: Choices) -> bytes:
    """Any names, kinds, methods and sizes; sometimes with bytes changed after all."""
    stream = io.BytesIO()
    lies: list[tuple[int, int]] = []
    with zipfile.ZipFile(stream, "w") as opened:
        files = _layout(_image("PNG")) if choices.chance(2) else {}
        for name, content in files.items():
            opened.writestr(zipfile.ZipInfo(name), content)
        for _ in range(choices.number(0, 12)):
            entry = zipfile.ZipInfo("x")
            entry.filename = choices.pick(NAMES) if choices.number(0, 3) else choices.text(40)
            entry.external_attr = choices.pick((0o644, 0, stat.S_IFLNK | 0o777, stat.S_IFIFO, stat.S_IFDIR)) << 16
            entry.compress_type = choices.pick((0, 8, 8, 12, 14))
            content = bytes(choices.pick((1 << 10, 1 << 20))) if choices.chance(20) else _content(choices)
            with contextlib.suppress(ValueError, UnicodeError):  # names that cannot be written
                opened.writestr(entry, content)
                if choices.chance(10):
                    lies.append((len(opened.filelist) - 1, choices.pick((0, 1, 100, 0xFFFFFFFE, 0xFFFFFFFF))))
        for number, size in lies:
            opened.filelist[number].file_size = size
    data = stream.getvalue()
    return choices.edited(data) if choices.chance(4) else data


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(width: int, height: int, data: bytes, more: bytes = b"", kind: bytes = b"\x08\0\0\0\0") -> bytes:
    header = struct.pack(">II", width, height) + kind
    body = _chunk(b"IDAT", zlib.compress(data))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + more + body + _chunk(b"IEND", b"")


def _built_image(choices: Choices) -> bytes:
    """A PNG whose header and chunks state anything, with right checksums; or another format with bytes changed."""
    if choices.number(0, 2):
        return choices.edited(_image(choices.pick(FORMATS), choices.pick((8, 16)), choices.pick(("RGB", "L"))))
    sides = (1, 2, 8, 64, 4_000, 60_000, 0, 0x7FFFFFFF, 0xFFFFFFFF)
    more = b"".join(
        _chunk(choices.pick((b"PLTE", b"tRNS", b"zTXt", b"iCCP", b"tEXt", b"eXIf", b"acTL", b"gAMA")),
               choices.content(40) + (zlib.compress(bytes(1 << 16)) if choices.chance(4) else b""))
        for _ in range(choices.number(0, 3))
    )  # fmt: skip
    kind = bytes([choices.pick((8, 1, 2, 4, 16, 3)), choices.pick((0, 2, 3, 4, 6, 1)), 0, 0, choices.pick((0, 1))])
    return _png(choices.pick(sides), choices.pick(sides), choices.content(200), more, kind)


def _built_folder(choices: Choices, path: Path) -> None:
    """Files, links to anywhere, pipes, and names that the file system takes."""
    path.mkdir()
    for name, content in _layout(_image("PNG")).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    (path.parent / "outside.png").write_bytes(_image("PNG"))
    for _ in range(choices.number(0, 6)):
        name = choices.pick(("train/cat/", "train/dog/", "test/cat/", "", "train/", "new/")) + choices.text(8)
        file = os.fsencode(path) + b"/" + name.encode("utf-8", "surrogateescape")
        if b"\0" in file or b".." in file.split(b"/"):
            continue
        kind = choices.number(0, 4)
        with contextlib.suppress(OSError):  # such a name is taken, or none
            if kind == 0:
                os.mkdir(file)
            elif kind == 1:
                targets = ("/dev/zero", "/etc/hostname", "../../outside.png", "a.png", "..", ".", "nowhere", "/")
                os.symlink(choices.pick(targets), file)
            elif kind == 2:
                os.mkfifo(file)
            else:
                Path(os.fsdecode(file)).write_bytes(_content(choices))


def _built_arrays(choices: Choices) -> bytes:
    files = {}
    for name in ARRAYS:
        kind = choices.number(0, 5)
        if kind == 0:
            header = choices.pick(HEADERS) if choices.number(0, 3) else choices.content(60).decode("latin1")
            body = choices.content(64)
            version = choices.pick((b"\1\0", b"\2\0", b"\3\0", b"\x09\0"))
            size = struct.pack("<H" if version == b"\1\0" else "<I", len(header))
            files[f"{name}.npy"] = b"\x93NUMPY" + version + size + header.encode("latin1") + body
        elif kind == 1:
            files[f"{name}.npy"] = choices.edited(_arrays()[name])
        elif kind == 2:
            labels = numpy.array([choices.pick((0, 1, 2, -1, 2**62, 99_999, 100_000)) for _ in range(2)])
            stream = io.BytesIO()
            numpy.save(stream, labels)
            files[f"{name}.npy"] = stream.getvalue()
        elif kind < 5 or name != "classes":
            files[f"{name}.npy"] = _arrays()[name]
    data = _zip(files, choices.pick((0, 8)))
    return choices.edited(data) if choices.chance(6) else data


def _published(choices: Choices, folder: Path) -> None:
    if choices.number(0, 1) == 0:
        (folder / "labels.npy").write_bytes(choices.rest())
        outcome(lambda: cifar10_c(folder))
        return
    file = folder / "values.gz"
    content = choices.rest()
    file.write_bytes(gzip.compress(content, 1, mtime=0) if content[:2] != b"\x1f\x8b" else content)
    outcome(lambda: read_idx(file))
