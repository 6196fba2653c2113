"""Augmentation and normalisation as batched tensor work on uint8 images, on whatever device they are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Augmentation", "AugmentationDraws", "Normalisation"]


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

    def apply(self, images: Tensor, draws: AugmentationDraws) -> Tensor:
        """Augmented copies: uint8 [N, C, H, W] -> uint8 [N, C, H, W]."""
        if self.crop_padding:
            height, width = images.shape[-2:]
            padded = F.pad(images, (self.crop_padding,) * 4)
            windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: [N, C, top, left, H, W]
            images = windows[torch.arange(len(images), device=images.device), :, draws.tops, draws.lefts]
        if self.flip:
            images = torch.where(draws.flips[:, None, None, None], images.flip(-1), images)
        return images


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
    def of(cls, images: Tensor) -> Normalisation:
        """Over all pixels of uint8 [N, C, H, W]. Uses the images alone, which active learning may see unlabeled."""
        histogram = torch.stack([torch.bincount(channel.reshape(-1), minlength=256) for channel in images.unbind(1)])
        levels = torch.arange(256, dtype=torch.float64, device=images.device)
        share = histogram.double() / histogram.sum(1, keepdim=True)
        mean = share @ levels
        variance = (share * (levels - mean[:, None]).square()).sum(1)
        return cls(tuple(mean.tolist()), tuple(variance.sqrt().clamp_min(1.0).tolist()))

    def apply(self, images: Tensor) -> Tensor:
        """uint8 [N, C, H, W] -> float32 [N, C, H, W] in channels-last memory."""
        values = images.to(torch.float32, memory_format=torch.channels_last)
        mean = torch.tensor(self.mean, device=images.device)[:, None, None]
        std = torch.tensor(self.std, device=images.device)[:, None, None]
        return values.sub_(mean).div_(std)
