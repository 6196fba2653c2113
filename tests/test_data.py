from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from flat_images import png
from PIL import Image

from prunefuse_bench.data import DATASETS, DatasetRequest, load_dataset, subset
from prunefuse_bench.data import archive as archive_module
from prunefuse_bench.data.published import read_idx
from prunefuse_bench.errors import BadInput

MakeZip = Callable[[dict[str, bytes]], Path]


def unpack(files: dict[str, bytes], folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_digits_are_always_split_the_same() -> None:
    digits = load_dataset("digits")
    assert digits.train_images.shape == (1437, 1, 8, 8)
    assert digits.test_images.shape == (360, 1, 8, 8)
    assert digits.train_images.max() == 255
    assert torch.bincount(digits.test_labels).min() >= 34
    assert digits.sha256() == load_dataset("digits").sha256()


def test_all_data_sets_are_registered() -> None:
    assert set(DATASETS) >= {"digits", "fashion-mnist", "cifar10", "cifar100", "image-archive"}


def test_unknown_data_set_suggests_the_nearest() -> None:
    with pytest.raises(BadInput, match="unknown dataset 'cifar-10': did you mean 'cifar10"):
        load_dataset("cifar-10")


def test_zip_and_folder_give_the_same(image_files: dict[str, bytes], make_zip: MakeZip, tmp_path: Path) -> None:
    zipped = load_dataset("image-archive", DatasetRequest(make_zip(image_files)))
    folder = load_dataset("image-archive", DatasetRequest(unpack(image_files, tmp_path / "images")))
    assert zipped.title == folder.title == "images"
    assert zipped.classes == ("cat", "dog")
    assert zipped.train_images.shape == (40, 3, 8, 8)
    assert zipped.test_labels.tolist() == [0] * 4 + [1] * 4
    assert zipped.train_images[:, 0, 4, 4].tolist() == [*range(20, 40), *range(200, 220)]
    assert zipped.sha256() == folder.sha256()


def test_one_folder_around_everything_and_system_files_are_fine(
    image_files: dict[str, bytes], make_zip: MakeZip
) -> None:
    files = {f"my images/{name}": content for name, content in image_files.items()}
    extra = {"my images/.DS_Store": b"x", "__MACOSX/my images/a.png": b"x", "my images/train/cat/Thumbs.db": b"x"}
    assert len(load_dataset("image-archive", DatasetRequest(make_zip({**files, **extra}))).train_images) == 40


def test_every_format_and_mode_becomes_the_channels_asked_for(make_zip: MakeZip) -> None:
    def encoded(mode: str, form: str) -> bytes:
        stream = io.BytesIO()
        Image.new(mode, (8, 8), 1).save(stream, form)
        return stream.getvalue()

    kinds = [
        ("L", "PNG"),
        ("RGB", "JPEG"),
        ("RGBA", "PNG"),
        ("P", "GIF"),
        ("1", "PNG"),
        ("RGB", "BMP"),
        ("CMYK", "JPEG"),
    ]
    files = {
        f"{split}/a/{i}.{form}": encoded(mode, form)
        for split in ("train", "test")
        for i, (mode, form) in enumerate(kinds)
    }
    assert load_dataset("image-archive", DatasetRequest(make_zip(files))).train_images.shape == (7, 3, 8, 8)
    grey = load_dataset("image-archive", DatasetRequest(make_zip(files), channels=1))
    assert grey.train_images.shape == (7, 1, 8, 8)


def test_decoding_happens_once(
    image_files: dict[str, bytes], make_zip: MakeZip, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []
    request = DatasetRequest(make_zip(image_files), progress=lambda done, total: told.append((done, total)))
    first = load_dataset("image-archive", request)
    assert told[-1] == (8, 8)
    assert (40, 40) in told
    monkeypatch.setattr(archive_module, "_decode", lambda *_: pytest.fail("decoded again"))
    assert load_dataset("image-archive", request).sha256() == first.sha256()


def test_changed_content_is_decoded_anew(image_files: dict[str, bytes], tmp_path: Path) -> None:
    folder = unpack(image_files, tmp_path / "images")
    first = load_dataset("image-archive", DatasetRequest(folder))
    (folder / "train/cat/00.png").write_bytes(png(99))
    second = load_dataset("image-archive", DatasetRequest(folder))
    assert first.train_images[0, 0, 4, 4] == 20
    assert second.train_images[0, 0, 4, 4] == 99


def test_sizes_that_differ_need_resize(image_files: dict[str, bytes], make_zip: MakeZip) -> None:
    path = make_zip({**image_files, "train/dog/19.png": png(200, size=9)})
    with pytest.raises(BadInput, match=r"train/cat/00.png is 8x8, train/dog/19.png is 9x9; .*task.dataset.resize"):
        load_dataset("image-archive", DatasetRequest(path))
    assert load_dataset("image-archive", DatasetRequest(path, resize=6)).train_images.shape == (40, 3, 6, 6)


@pytest.mark.parametrize(
    "name", ["../train/cat/evil.png", "/train/cat/evil.png", "train/../../evil.png", "C:/evil.png"]
)
def test_entries_that_point_outside_are_refused(image_files: dict[str, bytes], make_zip: MakeZip, name: str) -> None:
    with pytest.raises(BadInput, match="points outside the archive"):
        load_dataset("image-archive", DatasetRequest(make_zip({**image_files, name: png(1)})))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train/dog/07.png": b"no image"}, r"train/dog/07\.png cannot be read as an image"),
        ({"train/dog/07.png": png(5)[:60]}, r"train/dog/07\.png cannot be read as an image"),
        ({"train/dog/notes.txt": b"hello"}, r"train/dog/notes\.txt cannot be read as an image"),
        ({"train/eel/": b""}, "class 'eel' has no image in train/"),
        ({"train/eel/0.png": png(1)}, "class 'eel' has no image in test/"),
        ({"test/eel/0.png": png(1)}, "class 'eel' has no image in train/"),
        ({"train/stray.png": png(1)}, "expected only class folders in train/, got a file"),
    ],
)
def test_bad_archives(
    image_files: dict[str, bytes], make_zip: MakeZip, changes: dict[str, bytes], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        load_dataset("image-archive", DatasetRequest(make_zip({**image_files, **changes})))


def flip_bits(path: Path, name: str, offset: int, bits: int) -> None:
    """Damage the content of one entry of a zip."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(name)
    content = bytearray(path.read_bytes())
    content[info.header_offset + 30 + len(name) + offset] ^= bits
    path.write_bytes(content)


def test_files_that_cannot_be_unpacked_are_named(
    image_files: dict[str, bytes], make_zip: MakeZip, tmp_path: Path
) -> None:
    path = make_zip(image_files)
    flip_bits(path, "train/dog/07.png", offset=20, bits=0xFF)  # its checksum no longer fits
    with pytest.raises(BadInput, match=r"train/dog/07\.png cannot be read as an image"):
        load_dataset("image-archive", DatasetRequest(path))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in image_files.items():
            archive.writestr(name, data)
    flip_bits(path, "train/dog/07.png", offset=0, bits=0x07)  # no deflate stream any more
    with pytest.raises(BadInput, match=r"train/dog/07\.png cannot be read as an image"):
        load_dataset("image-archive", DatasetRequest(path))
    folder = unpack(image_files, tmp_path / "images")
    (folder / "train/dog/07.png").unlink()
    (folder / "train/dog/07.png").symlink_to("nowhere.png")
    with pytest.raises(BadInput, match=r"train/dog/07\.png cannot be read"):
        load_dataset("image-archive", DatasetRequest(folder))


def test_settings_that_mean_nothing_to_a_data_set_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        BadInput, match=r"task\.dataset\.resize: dataset 'digits' has no such setting \(it knows: none\)"
    ):
        load_dataset("digits", DatasetRequest(resize=16))
    with pytest.raises(BadInput, match=r"task\.dataset\.channels: .*it knows: path"):
        load_dataset("cifar10", DatasetRequest(tmp_path, channels=1))


def test_bad_archives_leave_nothing_half_written(
    image_files: dict[str, bytes], make_zip: MakeZip, tmp_path: Path
) -> None:
    with pytest.raises(BadInput):
        load_dataset("image-archive", DatasetRequest(make_zip({**image_files, "train/dog/07.png": b"x"})))
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]


def test_paths_that_are_no_archives(tmp_path: Path, make_zip: MakeZip) -> None:
    with pytest.raises(BadInput, match=r"--set task\.dataset\.path=PATH"):
        load_dataset("image-archive")
    with pytest.raises(BadInput, match="there is no such file or folder"):
        load_dataset("image-archive", DatasetRequest(tmp_path / "nowhere.zip"))
    (tmp_path / "text.zip").write_text("hello")
    with pytest.raises(BadInput, match=r"expected a folder or a \.zip file"):
        load_dataset("image-archive", DatasetRequest(tmp_path / "text.zip"))
    with pytest.raises(BadInput, match=r"expected train/CLASS/image .* got photos"):
        load_dataset("image-archive", DatasetRequest(make_zip({"photos/1.png": png(1)})))


def test_decompression_bombs_are_refused(
    image_files: dict[str, bytes], make_zip: MakeZip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(BadInput, match=r"cannot be read as an image .*exceeds limit"):
        load_dataset("image-archive", DatasetRequest(make_zip(image_files)))


def idx(values: numpy.ndarray) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
    return gzip.compress(header + values.tobytes(), mtime=0)


def test_idx_files(tmp_path: Path) -> None:
    values = numpy.arange(24, dtype=numpy.uint8).reshape(2, 3, 4)
    file = tmp_path / "values.gz"
    file.write_bytes(idx(values))
    assert torch.equal(read_idx(file), torch.from_numpy(values))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"plain", "cannot be unpacked"),
        (gzip.compress(b"\0\0\x0d\x01\0\0\0\1abcd", mtime=0), "expected an IDX file of unsigned bytes"),
        (gzip.compress(b"\0\0\x08\x01\0\0\0\5abcd", mtime=0), r"expected \(5,\) = 5 values, got 4"),
    ],
    ids=["plain", "signed", "short"],
)
def test_files_that_are_no_idx(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "values.gz"
    file.write_bytes(content)
    with pytest.raises(BadInput, match=message):
        read_idx(file)


def test_fashion_mnist_with_other_content_is_refused(tmp_path: Path) -> None:
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp_path / f"{name}-ubyte.gz").write_bytes(idx(numpy.zeros((2, 2), dtype=numpy.uint8)))
    with pytest.raises(BadInput, match="expected SHA-256 c59f468a"):
        load_dataset("fashion-mnist", DatasetRequest(tmp_path))


def test_a_download_that_fails_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fail)
    with pytest.raises(BadInput, match=r"cannot be downloaded \(no network\); download it where there is a network"):
        load_dataset("cifar10", DatasetRequest(tmp_path))


def test_a_smaller_pool_has_the_same_share_of_every_class_and_is_always_the_same() -> None:
    whole = load_dataset("digits")
    part = subset(whole, 500)
    counts, shares = torch.bincount(part.train_labels), torch.bincount(whole.train_labels) * 500 / 1437
    assert len(part.train_labels) == 500
    assert (counts - shares).abs().max() <= 1
    assert part.title == "digits, 500 of 1,437"
    assert part.sha256() == subset(whole, 500).sha256() != whole.sha256()
    assert part.test_images is whole.test_images
    bigger = {image.numpy().tobytes() for image in subset(whole, 600).train_images}
    assert all(image.numpy().tobytes() in bigger for image in part.train_images)
    assert subset(whole, 1437).sha256() != part.sha256()
    with pytest.raises(BadInput, match="at most the 1437 training images, got 1438"):
        subset(whole, 1438)
