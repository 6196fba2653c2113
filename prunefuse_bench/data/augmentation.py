"""Augmentation and normalisation as batched tensor work on uint8 images, on whatever device they are."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from prunefuse_bench import ops
from prunefuse_bench.data.stored import Images, StoredImages

__all__ = ["Augmentation", "AugmentationDraws", "Normalisation", "SymbolInputs"]

SAMPLE = 2000
"""Images whose statistics stand for those of a pool that does not fit in memory."""


@dataclass(frozen=True)
class Augmentation:
    """Random crop after zero padding, and random horizontal flip.

    Attributes:
        crop_padding: pixels of zero padding on each side before a crop of the original size; 0 for no crop.
        flip: flip each image left to right with probability one half.
    """

    crop_padding: int = 4
    flip: bool = True

    def draw(self, count: int, generator: torch.Generator, device: torch.device) -> AugmentationDraws:
        """The random choices for ``count`` images, drawn on the CPU and moved to ``device`` at once."""
        offsets = torch.randint(0, 2 * self.crop_padding + 1, (2, count), generator=generator)
        flips = torch.rand(count, generator=generator) < 0.5
        return AugmentationDraws(offsets[0].to(device), offsets[1].to(device), flips.to(device))


@dataclass(frozen=True)
class AugmentationDraws:
    """Random choices for N images: crop offsets int64 [N] from 0 to twice the padding, flips bool [N]."""

    tops: Tensor
    lefts: Tensor
    flips: Tensor

    def __getitem__(self, rows: slice) -> AugmentationDraws:
        return AugmentationDraws(self.tops[rows], self.lefts[rows], self.flips[rows])


@dataclass(frozen=True)
class Normalisation:
    """Per-channel mean and standard deviation of the pool, in units of one grey level (0 to 255)."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, images: Images) -> Normalisation:
        """Over all pixels of uint8 [N, C, H, W]. Uses the images alone, which active learning may see unlabeled.

        Of images that do not fit in memory, over at most 2,000 that are spread evenly. Sums are exact: the numbers are
        part of what a cell is named by, on every machine.
        """
        if isinstance(images, StoredImages):
            size = min(len(images), SAMPLE)
            images = images.read(torch.arange(size) * (len(images) - 1) // max(1, size - 1))
        means, deviations = [], []
        for channel in images.unbind(1):
            histogram = torch.bincount(channel.reshape(-1), minlength=256).tolist()
            count, total = sum(histogram), sum(level * n for level, n in enumerate(histogram))
            squares = sum(level * level * n for level, n in enumerate(histogram))
            means.append(total / count)
            deviations.append(max(1.0, math.sqrt((count * squares - total * total) / (count * count))))
        return cls(tuple(means), tuple(deviations))

    def apply(self, images: Images, dtype: torch.dtype = torch.float32) -> Tensor:
        """uint8 [N, C, H, W] -> float [N, C, H, W] in channels-last memory, rounded to ``dtype`` at the end."""
        return self.gather(images, torch.arange(len(images), device=images.device), dtype=dtype)

    def gather(
        self,
        images: Images,
        rows: Tensor,
        augmentation: Augmentation | None = None,
        draws: AugmentationDraws | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """The images of these rows, int64 [B], augmented if there are draws, and normalised: [B, C, H, W]."""
        if isinstance(images, StoredImages):
            images, rows = images.read(rows), torch.arange(len(rows), device=images.device)
        levels = _levels(self, dtype, images.device)
        if augmentation is None or draws is None:
            return ops.gather_images(images, rows, levels)
        crop = (draws.tops, draws.lefts) if augmentation.crop_padding else (None, None)
        return ops.gather_images(
            images,
            rows,
            levels,
            padding=augmentation.crop_padding,
            tops=crop[0],
            lefts=crop[1],
            flips=draws.flips if augmentation.flip else None,
        )


@dataclass(frozen=True)
class SymbolInputs(Normalisation):
    """Texts: the network's embedding takes the symbols as they are, so nothing is normalised or augmented."""

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def gather(
        self,
        images: Images,
        rows: Tensor,
        augmentation: Augmentation | None = None,
        draws: AugmentationDraws | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Texts in memory: uint8 [N, L], int64 [B] -> int64 [B, L], whatever ``dtype`` is."""
        assert isinstance(images, Tensor)
        return images[rows].long()


@functools.lru_cache(maxsize=64)
def _levels(normalisation: Normalisation, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What each grey level of a channel becomes, [C, 256]."""
    mean = torch.tensor(normalisation.mean, device=device)[:, None]
    std = torch.tensor(normalisation.std, device=device)[:, None]
    return ((torch.arange(256, dtype=torch.float32, device=device) - mean) / std).to(dtype)
