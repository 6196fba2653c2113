"""Test images that are corrupted, in five severities: CIFAR-10-C as published, and corruptions that are computed here.

The two are never mixed: what is computed is named ``computed:...``, is made by torchvision's transforms with settings
of this package, and its accuracies are not those of CIFAR-10-C, also where the names are alike.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from prunefuse_bench.data.dataset import ImageDataset
from prunefuse_bench.data.limits import expect_file
from prunefuse_bench.data.stored import Images, StoredImages
from prunefuse_bench.errors import BadInput, unknown_name
from prunefuse_bench.randomness import seeded

__all__ = [
    "CIFAR10_C",
    "COMPUTED",
    "COMPUTED_PREFIX",
    "SEVERITIES",
    "TEST_IMAGES",
    "Corruption",
    "check_corruptions",
    "cifar10_c",
    "computed_corruptions",
    "corruption_names",
    "describe_corruptions",
    "find_corruptions",
]

SEVERITIES = 5
COMPUTED_PREFIX = "computed:"
"""Begins the names of those that are not published."""
CIFAR10_C = (
    "brightness",
    "contrast",
    "defocus_blur",
    "elastic_transform",
    "fog",
    "frost",
    "gaussian_blur",
    "gaussian_noise",
    "glass_blur",
    "impulse_noise",
    "jpeg_compression",
    "motion_blur",
    "pixelate",
    "saturate",
    "shot_noise",
    "snow",
    "spatter",
    "speckle_noise",
    "zoom_blur",
)
"""The 19 files of Hendrycks and Dietterich 2019; ``gaussian_blur``, ``saturate``, ``spatter`` and ``speckle_noise`` are
their four extra ones."""
CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
TEST_IMAGES = 10_000
"""Of CIFAR-10, and so of every severity of every corruption."""
BLOCK = 1000
"""Images that are corrupted at a time."""


@dataclass(frozen=True)
class Corruption:
    """One way to corrupt the test images.

    Attributes:
        name: as published, or beginning with ``computed:``.
        apply: severity from 1 to 5 -> images uint8 [N, C, H, W] and labels int64 [N], the same at every call.
        describe: what determines the images besides the data set: the SHA-256 of the files, which are read for it, or
            the settings at severities 1 to 5.
    """

    name: str
    apply: Callable[[int], tuple[Tensor, Tensor]] = field(repr=False)
    describe: Callable[[], str] = field(repr=False, default=str)


def corruption_names(asked: Sequence[str], channels: int) -> tuple[str, ...]:
    """The corruptions that these names stand for, each once.

    Args:
        asked: names of corruptions; ``published`` is all of CIFAR-10-C, ``computed`` all computed ones that change
            images of so many channels.
        channels: of an image.

    Raises:
        BadInput: an unknown name (the nearest are suggested), published and computed ones together, or one of colours
            for grey images.
    """
    computed = {f"{COMPUTED_PREFIX}{name}": name for name in COMPUTED}
    all_of = {
        "published": list(CIFAR10_C),
        "computed": [name for name in computed if channels == 3 or computed[name] not in OF_COLOURS],
    }
    names: dict[str, None] = {}
    for name in asked:
        if name not in all_of and name not in CIFAR10_C and name not in computed:
            raise unknown_name("corruption", name, [*CIFAR10_C, *computed, *all_of])
        if channels != 3 and computed.get(name) in OF_COLOURS:
            raise BadInput(
                f"corruption {name!r} changes colours, and these images have {channels} channel; leave it out"
            )
        names |= dict.fromkeys(all_of.get(name, [name]))
    if len({name.startswith(COMPUTED_PREFIX) for name in names}) > 1:
        raise BadInput(
            "task.corruptions.names: expected published corruptions or computed ones, got both, and a mean over both "
            "would be of neither; run the suite twice"
        )
    return tuple(names)


def describe_corruptions(names: Sequence[str]) -> str:
    """In words, so that nobody takes the one kind for the other."""
    kind, known = ("computed", COMPUTED) if names[0].startswith(COMPUTED_PREFIX) else ("CIFAR-10-C", CIFAR10_C)
    return f"{kind}, {len(names)} of {len(known)} corruptions"


def check_corruptions(
    asked: Sequence[str], title: str, shape: tuple[int, ...], channels: int, folder: Path | None
) -> tuple[str, ...]:
    """The corruptions that a task names, with all checked that needs neither images nor files.

    Args:
        asked: as for :func:`corruption_names`; none is allowed.
        title: of the data set.
        shape: [C, H, W] of an image, [L] of a text.
        channels: of an image.
        folder: with the files of the published ones, if it is known.

    Raises:
        BadInput: the data set is text, a name cannot be used, images are not of the size of the published ones, or the
            folder is given in vain.
    """
    if not asked:
        return ()
    if len(shape) == 1:
        raise BadInput(f"{title}: corruptions are of images, and this data set is text")
    names = corruption_names(asked, channels)
    if names[0].startswith(COMPUTED_PREFIX):
        if folder is not None:
            raise BadInput("task.corruptions.path: expected none, as computed corruptions are read from no folder")
    elif shape != (3, 32, 32):
        raise BadInput(
            f"CIFAR-10-C: expected a task of images [3, 32, 32], got {list(shape)}; take computed corruptions"
        )
    return names


def find_corruptions(asked: Sequence[str], dataset: ImageDataset, folder: Path | None) -> tuple[Corruption, ...]:
    """The corruptions that a task names, with all checked that can be checked before any training.

    Args:
        asked: as for :func:`corruption_names`; none is allowed.
        dataset: that the task is about. Computed ones are of its test images, drawn by a seed that is always the same.
        folder: with the files of the published ones.

    Raises:
        BadInput: as for :func:`check_corruptions`, the folder is missing, its files are not those of CIFAR-10-C, or the
            data set is not CIFAR-10.
    """
    shape = tuple(dataset.train_images.shape[1:])
    names = check_corruptions(asked, dataset.title, shape, dataset.in_channels, folder)
    if not names:
        return ()
    if names[0].startswith(COMPUTED_PREFIX):
        known = {corruption.name: corruption for corruption in computed_corruptions(dataset)}
        return tuple(known[name] for name in names)
    if folder is None:
        raise BadInput(
            "task.corruptions.path: expected the folder that CIFAR-10-C.tar unpacks to, got none; "
            "corruptions named computed:... need no files"
        )
    return tuple(cifar10_c(folder, dataset.classes, names))


def cifar10_c(
    folder: Path, classes: tuple[str, ...] = CIFAR10_CLASSES, names: Sequence[str] = CIFAR10_C
) -> list[Corruption]:
    """The published corruptions, from the folder that CIFAR-10-C.tar unpacks to: 19 .npy files and labels.npy.

    Every file holds the 10,000 test images of CIFAR-10 five times, from severity 1 to 5. It is read when it is needed.

    Args:
        folder: where the files are.
        classes: of the data set that a network was trained on, in the order of its outputs.
        names: which of them; the files of others may be missing.

    Raises:
        BadInput: a file that is missing or holds something else, or other classes than those of CIFAR-10.
    """
    if classes != CIFAR10_CLASSES:
        raise BadInput(
            f"CIFAR-10-C: expected a network of the classes {', '.join(CIFAR10_CLASSES)} in this order, "
            f"got {', '.join(classes)}"
        )
    labels = _read(folder / "labels.npy", (SEVERITIES * TEST_IMAGES,))
    if int(labels.max()) >= len(classes):
        raise BadInput(f"{folder / 'labels.npy'}: expected labels from 0 to 9, got {int(labels.max())}")
    hidden_labels = torch.from_numpy(labels.astype(numpy.int64))
    for name in names:
        _read(folder / f"{name}.npy", (SEVERITIES * TEST_IMAGES, 32, 32, 3))

    def apply(name: str, severity: int) -> tuple[Tensor, Tensor]:
        rows = slice((severity - 1) * TEST_IMAGES, severity * TEST_IMAGES)
        images = _read(folder / f"{name}.npy", (SEVERITIES * TEST_IMAGES, 32, 32, 3))[rows]
        pixels = torch.from_numpy(numpy.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        return pixels, hidden_labels[rows]

    def describe(name: str) -> str:
        digest = hashlib.sha256()
        for file in (folder / f"{name}.npy", folder / "labels.npy"):
            with file.open("rb") as stream:
                while block := stream.read(2**20):
                    digest.update(block)
        return digest.hexdigest()

    return [Corruption(name, functools.partial(apply, name), functools.partial(describe, name)) for name in names]


def _read(file: Path, shape: tuple[int, ...]) -> NDArray[numpy.uint8]:
    """The array of a .npy file, mapped and not read."""
    try:
        expect_file(file)
        array = numpy.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged file can make a reader raise anything
        raise BadInput(
            f"{file}: expected a file of CIFAR-10-C, but it cannot be read ({error}); unpack CIFAR-10-C.tar anew"
        ) from None
    if array.shape != shape or array.dtype != numpy.uint8:
        raise BadInput(f"{file}: expected uint8 {list(shape)}, got {array.dtype} {list(array.shape)}")
    return array


def computed_corruptions(dataset: ImageDataset, seed: int = 0) -> list[Corruption]:
    """Corruptions of the data set's own test images, by torchvision's transforms; the same images for the same seed.

    Those of colours alone are left out for grey images.

    Raises:
        BadInput: the data set is text.
    """
    if dataset.symbols:
        raise BadInput(f"{dataset.title}: corruptions are of images, and this data set is text")
    images, labels = dataset.test_images, dataset.test_labels

    def apply(name: str, severity: int) -> tuple[Tensor, Tensor]:
        corrupt, settings = COMPUTED[name]
        with seeded(seed, "corruption", name, severity):
            parts = [corrupt(block, settings[severity - 1]) for block in _blocks(images)]
        return torch.cat(parts), labels

    names = [name for name in COMPUTED if images.shape[1] == 3 or name not in OF_COLOURS]
    return [
        Corruption(
            f"{COMPUTED_PREFIX}{name}",
            functools.partial(apply, name),
            functools.partial(_describe_strengths, name, seed),
        )
        for name in names
    ]


def _describe_strengths(name: str, seed: int) -> str:
    return f"{', '.join(f'{strength:g}' for strength in COMPUTED[name][1])}; seed {seed}"


def _blocks(images: Images) -> Iterator[Tensor]:
    for start in range(0, len(images), BLOCK):
        block = images[start : start + BLOCK]
        yield block.read() if isinstance(block, StoredImages) else block


def _gaussian_noise(images: Tensor, sigma: float) -> Tensor:
    """Normal noise of its own in every value, ``sigma`` as a share of white."""
    from torchvision.transforms.v2 import functional

    return _as_levels(functional.gaussian_noise(images.float() / 255, mean=0.0, sigma=sigma, clip=True) * 255)


def _gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """``sigma`` in pixels of an image 32 pixels wide."""
    from torchvision.transforms.v2 import functional

    sigma *= images.shape[-1] / 32
    size = 2 * round(3 * sigma) + 1
    size = min(size, 2 * ((min(images.shape[-2:]) - 1) // 2) + 1)
    return functional.gaussian_blur(images, [size, size], [sigma, sigma])


def _pixelate(images: Tensor, share: float) -> Tensor:
    """Down to a share of the width and height, and up again in squares."""
    from torchvision.transforms.v2 import InterpolationMode, functional

    height, width = images.shape[-2:]
    small = [max(1, round(share * height)), max(1, round(share * width))]
    less = functional.resize(images, small, InterpolationMode.BILINEAR, antialias=True)
    return functional.resize(less, [height, width], InterpolationMode.NEAREST)


def _rotation(images: Tensor, degrees: float) -> Tensor:
    """All to the left; what comes in from outside is black."""
    from torchvision.transforms.v2 import InterpolationMode, functional

    return functional.rotate(images, degrees, InterpolationMode.BILINEAR)


def _translation(images: Tensor, share: float) -> Tensor:
    """Down and to the right by a share of the width; what comes in from outside is black."""
    from torchvision.transforms.v2 import functional

    pixels = round(share * images.shape[-1])
    return functional.affine(images, angle=0.0, translate=[pixels, pixels], scale=1.0, shear=[0.0, 0.0])


def _zoom(images: Tensor, scale: float) -> Tensor:
    """Smaller, in a black frame."""
    from torchvision.transforms.v2 import InterpolationMode, functional

    return functional.affine(
        images, 0.0, [0, 0], scale=scale, shear=[0.0, 0.0], interpolation=InterpolationMode.BILINEAR
    )


def _adjusted(kind: str) -> Callable[[Tensor, float], Tensor]:
    """One of torchvision's functions of images and one number."""

    def corrupt(images: Tensor, setting: float) -> Tensor:
        from torchvision.transforms.v2 import functional

        return getattr(functional, kind)(images, setting)

    return corrupt


def _as_levels(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).to(torch.uint8)


OF_COLOURS = ("saturation", "hue")

COMPUTED: Mapping[str, tuple[Callable[[Tensor, float], Tensor], tuple[float, ...]]] = {
    "gaussian_noise": (_gaussian_noise, (0.04, 0.06, 0.08, 0.12, 0.18)),
    "gaussian_blur": (_gaussian_blur, (0.5, 0.75, 1.0, 1.25, 1.75)),
    "brightness": (_adjusted("adjust_brightness"), (1.2, 1.4, 1.7, 2.0, 2.5)),
    "darkness": (_adjusted("adjust_brightness"), (0.8, 0.65, 0.5, 0.35, 0.2)),
    "contrast": (_adjusted("adjust_contrast"), (0.75, 0.6, 0.45, 0.3, 0.15)),
    "saturation": (_adjusted("adjust_saturation"), (0.6, 0.3, 0.0, 2.5, 5.0)),
    "hue": (_adjusted("adjust_hue"), (0.05, 0.1, 0.2, 0.3, 0.5)),
    "posterize": (lambda images, bits: _adjusted("posterize")(images, int(bits)), (5, 4, 3, 2, 1)),
    "solarize": (_adjusted("solarize"), (224, 192, 160, 128, 96)),
    "pixelate": (_pixelate, (0.75, 0.6, 0.5, 0.35, 0.25)),
    "rotation": (_rotation, (5, 10, 20, 30, 45)),
    "translation": (_translation, (0.06, 0.12, 0.18, 0.25, 0.35)),
    "zoom": (_zoom, (0.9, 0.8, 0.7, 0.6, 0.5)),
}
"""Function and its setting at severities 1 to 5, by name. Settings of this package, chosen by eye for 32x32 images."""
