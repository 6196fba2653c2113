"""Rates of several contenders, measured in turn so that the machine's moods meet all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch

__all__ = ["Contender", "Rates", "Spread", "measure_in_turn", "ratios", "spread", "synchronise"]

Key = TypeVar("Key", bound=Hashable)

Contender = Callable[[int], float]
"""Does so many units of work (a unit is what it likes, a batch say) and returns the amount of work that this was:
images, floating-point operations, bytes."""


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of one value per round."""

    lower: float
    median: float
    upper: float


@dataclass(frozen=True)
class Rates:
    """What one contender did in each round.

    Attributes:
        per_second: work per second of wall-clock.
        processors: seconds of all threads of this process per second of wall-clock: below the number of threads if the
            machine was shared, or if a device did the work.
    """

    per_second: tuple[float, ...]
    processors: tuple[float, ...]

    @property
    def spread(self) -> Spread:
        """Of the rates."""
        return spread(self.per_second)


def spread(values: tuple[float, ...]) -> Spread:
    """Median and quartiles; of a single value, that value."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    return Spread(*statistics.quantiles(values, n=4, method="inclusive"))


def ratios(contender: Rates, reference: Rates) -> Spread:
    """How many times the reference's rate, round by round: what lasts longer than a round cancels."""
    return spread(tuple(a / b for a, b in zip(contender.per_second, reference.per_second, strict=True)))


def measure_in_turn(
    contenders: Mapping[Key, Contender],
    device: torch.device,
    *,
    seconds: float,
    rounds: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[Key, Rates]:
    """Let every contender work for about ``seconds`` in each of so many rounds.

    All are warmed up first, and the size of a contender's block is found by trial; nothing of that counts. Every other
    round goes through the contenders backwards, so that a machine that slows down slows all of them. The device is
    synchronised at both ends of a block.

    Args:
        seconds: wall-clock of a block; a contender whose smallest unit takes longer takes longer.
        progress: told of (blocks done, blocks in all), the trials of a contender counted as one.
    """
    keys = list(contenders)
    total = len(keys) * (rounds + 1)
    units = {}
    for done, key in enumerate(keys):
        progress(done, total)
        units[key] = _units_of_a_block(contenders[key], device, seconds)
    measured: dict[Key, list[tuple[float, float]]] = {key: [] for key in keys}
    for round_ in range(rounds):
        for position, key in enumerate(keys if round_ % 2 == 0 else reversed(keys)):
            progress((round_ + 1) * len(keys) + position, total)
            work, wall, processor = _timed(contenders[key], device, units[key])
            measured[key].append((work / wall, processor / wall))
    progress(total, total)
    return {key: Rates(*zip(*blocks, strict=True)) for key, blocks in measured.items()}


def _units_of_a_block(contender: Contender, device: torch.device, seconds: float) -> int:
    units = 1
    contender(units)
    while True:
        _, wall, _ = _timed(contender, device, units)
        if wall >= seconds / 4:
            return max(1, round(units * seconds / wall))
        units *= max(2, min(16, round(seconds / 2 / wall)))


def _timed(contender: Contender, device: torch.device, units: int) -> tuple[float, float, float]:
    """(work, wall-clock, seconds of all threads of this process)."""
    synchronise(device)
    wall, processor = time.perf_counter(), time.process_time()
    work = contender(units)
    synchronise(device)
    return work, time.perf_counter() - wall, time.process_time() - processor


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
