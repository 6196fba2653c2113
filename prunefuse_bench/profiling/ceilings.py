"""What the hardware can do at best, measured here and now, and how near to it a network comes (a roofline)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from prunefuse_bench.profiling.alternation import Contender, measure_in_turn, synchronise
from prunefuse_bench.profiling.throughput import Way
from prunefuse_bench.training import Precision

__all__ = ["Ceilings", "RooflinePoint", "last_cache_bytes", "measure_ceilings"]

NUMBER_BYTES: dict[Precision, int] = {"fp32": 4, "bf16": 2}
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
LARGEST_MATRIX = 8192
STREAM_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Ceilings:
    """The best of all rounds: a ceiling is a maximum.

    Attributes:
        flops_per_second: of a square matrix product, by number format; a multiplication with its addition counts two.
        matrix: rows of that matrix.
        bytes_per_second: of a copy from one array to another; a byte read and a byte written count two.
        array_bytes: size of each array, beyond the last cache.
    """

    flops_per_second: dict[Precision, float]
    matrix: dict[Precision, int]
    bytes_per_second: float
    array_bytes: int


@dataclass(frozen=True)
class RooflinePoint:
    """One network while it scores, between the two ceilings (Williams, Waterman and Patterson 2009).

    Attributes:
        network, way: what was measured.
        flops_per_image: of a forward pass; of the network as it is, without channels that are padded.
        bytes_per_image: that a forward pass moves at least, see :class:`Traffic`: an estimate from the shapes.
        images_per_second: measured.
        peak_flops, peak_bytes: ceilings, per second.
    """

    network: str
    way: Way
    flops_per_image: float
    bytes_per_image: float
    images_per_second: float
    peak_flops: float
    peak_bytes: float

    @property
    def intensity(self) -> float:
        """FLOPs per byte."""
        return self.flops_per_image / self.bytes_per_image

    @property
    def achieved_flops(self) -> float:
        """Per second."""
        return self.flops_per_image * self.images_per_second

    @property
    def achieved_bytes(self) -> float:
        """Per second; can be above the ceiling, which is that of memory, where activations stay in a cache."""
        return self.bytes_per_image * self.images_per_second

    @property
    def bound(self) -> Literal["compute", "memory"]:
        """The ceiling that it would hit first."""
        return "memory" if self.intensity * self.peak_bytes < self.peak_flops else "compute"

    @property
    def share(self) -> float:
        """Achieved / attainable FLOPs per second."""
        return self.achieved_flops / min(self.peak_flops, self.intensity * self.peak_bytes)


def measure_ceilings(
    device: torch.device,
    *,
    seconds: float,
    rounds: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Ceilings:
    """Matrix products in fp32 and bf16, and a copy, in alternation.

    The matrix is the smallest whose product takes a fifth of a block, its rows a power of two, at most 8,192 of them.
    """
    matrix = {precision: _matrix_size(device, dtype, seconds / 5) for precision, dtype in DTYPES.items()}
    array_bytes = max(STREAM_BYTES, 4 * last_cache_bytes(device))
    tasks: dict[str, Contender] = {
        precision: _product(device, DTYPES[precision], size) for precision, size in matrix.items()
    }
    tasks["copy"] = _copy(device, array_bytes)
    rates = measure_in_turn(tasks, device, seconds=seconds, rounds=rounds, progress=progress)
    best = {name: max(rate.per_second) for name, rate in rates.items()}
    return Ceilings({precision: best[precision] for precision in DTYPES}, matrix, best["copy"], array_bytes)


def last_cache_bytes(device: torch.device) -> int:
    """Size of the largest cache; 0 if the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    sizes = [0]
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text().strip()
        if text[:-1].isdigit() and text[-1:] in "KM":
            sizes.append(int(text[:-1]) * {"K": 2**10, "M": 2**20}[text[-1]])
    return max(sizes)


def _matrix_size(device: torch.device, dtype: torch.dtype, seconds: float) -> int:
    size = 256
    while size < LARGEST_MATRIX:
        product = _product(device, dtype, size)
        product(1)
        synchronise(device)
        start = time.perf_counter()
        product(1)
        synchronise(device)
        if time.perf_counter() - start >= seconds:
            break
        size *= 2
    return size


def _product(device: torch.device, dtype: torch.dtype, size: int) -> Contender:
    draw = torch.Generator(device).manual_seed(0)
    left, right = (torch.randn(size, size, generator=draw, device=device).to(dtype) for _ in range(2))
    output = torch.empty(size, size, dtype=dtype, device=device)

    def multiply(times: int) -> float:
        for _ in range(times):
            torch.mm(left, right, out=output)
        return 2.0 * size**3 * times

    return multiply


def _copy(device: torch.device, array_bytes: int) -> Contender:
    arrays: list[Tensor] = [torch.ones(array_bytes // 4, device=device) for _ in range(2)]

    def copy(times: int) -> float:
        for _ in range(times):
            arrays[1].copy_(arrays[0])
        return 2.0 * array_bytes * times

    return copy
