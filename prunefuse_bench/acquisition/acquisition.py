"""What an acquisition is: a value per sample, or a choice of a batch, with what it needs and where it comes from.

Ranking, ties, checks and timing are the harness's business, so a new acquisition is one function.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from prunefuse_bench import ops
from prunefuse_bench.errors import CellFailed
from prunefuse_bench.registry import Registry

__all__ = ["ACQUISITIONS", "Acquisition", "Needs", "Opinions", "acquisition", "batch_acquisition"]


class Needs(enum.Flag):
    """What an acquisition asks of the selector. NOTHING: the selector need not even be trained."""

    NOTHING = 0
    LOGITS = enum.auto()
    FEATURES = enum.auto()


@dataclass(frozen=True)
class Opinions:
    """What the committee says about the unlabeled pool; only what the acquisition needs is there.

    Attributes:
        indices: int64 [N], the unlabeled samples' positions in the pool.
        generator: a CPU generator for acquisitions that draw.
        logits: float32 [N, C], or None.
        features: float32 [N, D], or None.
        labeled_features: float32 [M, D] of the labeled samples, or None.
    """

    indices: Tensor
    generator: torch.Generator
    logits: Tensor | None = None
    features: Tensor | None = None
    labeled_features: Tensor | None = None

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True)
class Acquisition:
    """A named acquisition.

    Attributes:
        name: as recipes name it.
        needs: what the committee must provide.
        source: where it is defined.
        choose_positions: (k, opinions) -> int64 [k], positions among the unlabeled samples, first choice first.
    """

    name: str
    needs: Needs
    source: str
    summary: str
    choose_positions: Callable[[int, Opinions], Tensor]

    def choose(self, k: int, opinions: Opinions) -> Tensor:
        """Indices of the k samples to label, int64 [k] on the CPU, first choice first (Algorithm 1, line 6).

        Raises:
            CellFailed: something could not be ranked (the sample is named), or the acquisition did not return k
                different positions.
        """
        try:
            positions = self.choose_positions(k, opinions).cpu()
        except ops.NotRankable as error:
            raise CellFailed(
                f"acquisition {self.name!r}: {error}, which is sample {int(opinions.indices[error.row])} of the pool"
            ) from error
        if positions.shape != (k,) or len(positions.unique()) != k:
            raise CellFailed(
                f"acquisition {self.name!r}: expected {k} different positions, "
                f"got {len(positions.unique())} different ones in {tuple(positions.shape)}"
            )
        if k and (int(positions.min()) < 0 or int(positions.max()) >= len(opinions)):
            raise CellFailed(
                f"acquisition {self.name!r}: expected positions from 0 to {len(opinions) - 1}, "
                f"got {int(positions.min())} to {int(positions.max())}"
            )
        return opinions.indices[positions]


ACQUISITIONS: Registry[Acquisition] = Registry("acquisition")
"""All acquisitions by name; an unknown name is a BadInput that suggests the nearest ones."""

Score = Callable[[Opinions], Tensor]
Choice = Callable[[int, Opinions], Tensor]


def acquisition(name: str, *, needs: Needs, source: str) -> Callable[[Score], Score]:
    """Register a score: opinions -> float [N], higher = choose first; equal scores in the order of the pool.

    The first line of the function's docstring is its summary.
    """

    def register(score: Score) -> Score:
        def choose_positions(k: int, opinions: Opinions) -> Tensor:
            return ops.top_k(score(opinions), k)

        ACQUISITIONS.add(name, Acquisition(name, needs, source, _summary(score), choose_positions))
        return score

    return register


def batch_acquisition(name: str, *, needs: Needs, source: str) -> Callable[[Choice], Choice]:
    """Register a choice that looks at the whole batch: (k, opinions) -> int64 [k] positions, first choice first."""

    def register(choose_positions: Choice) -> Choice:
        ACQUISITIONS.add(name, Acquisition(name, needs, source, _summary(choose_positions), choose_positions))
        return choose_positions

    return register


def _summary(function: Callable[..., object]) -> str:
    return (function.__doc__ or "").strip().splitlines()[0] if function.__doc__ else ""
