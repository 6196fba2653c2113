"""How does the target network begin?"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import nn

from prunefuse_bench.fusion import Rest, fuse
from prunefuse_bench.pruning import Network, PrunedNetwork
from prunefuse_bench.recipe.parts import part_decorator
from prunefuse_bench.registry import Registry
from prunefuse_bench.training import Distillation

__all__ = ["TARGET_STARTS", "Fresh", "Fused", "Start", "TargetStart", "TrainedSelector", "target_start"]


@dataclass(frozen=True)
class Start:
    """A target network about to be trained.

    Attributes:
        network: the dense network.
        teacher: what it is distilled from, if it is.
        distillation: how.
        trained: it is trained already; nothing is left to do.
    """

    network: nn.Module
    teacher: nn.Module | None = None
    distillation: Distillation | None = None
    trained: bool = False


@dataclass(frozen=True)
class TargetStart(ABC):
    """Makes the start of the target from its initial weights and the trained selector."""

    @property
    @abstractmethod
    def needs_selector(self) -> bool:
        """Whether a trained selector takes part."""

    @property
    def is_selector(self) -> bool:
        """Whether the trained selector is itself the target, with nothing left to train."""
        return False

    @abstractmethod
    def begin(self, target: nn.Module, selector: Network | None, seed: int) -> Start:
        """``target`` holds the initial weights and is not changed; ``seed`` determines any draw."""


TARGET_STARTS: Registry[type[TargetStart]] = Registry("target start")
"""Target starts by name."""
target_start = part_decorator(TARGET_STARTS)
"""``@target_start("name")`` registers a dataclass that derives from TargetStart."""


@target_start("fresh")
@dataclass(frozen=True)
class Fresh(TargetStart):
    """The initial weights, with or without distillation from the selector.

    Attributes:
        distillation: None to train on the labels alone.
    """

    distillation: Distillation | None = None

    @property
    def needs_selector(self) -> bool:
        """Only as a teacher."""
        return self.distillation is not None

    def begin(self, target: nn.Module, selector: Network | None, seed: int) -> Start:
        """A copy of the initial network."""
        teacher = selector.model if self.distillation is not None and selector is not None else None
        return Start(copy.deepcopy(target), teacher, self.distillation)


@target_start("fused")
@dataclass(frozen=True)
class Fused(TargetStart):
    """The trained pruned selector, fused into the dense network (Algorithm 1, lines 12 and 14).

    Attributes:
        rest: what the other coordinates hold, see :func:`prunefuse_bench.fuse`.
        distillation: from the selector; None to train on the labels alone.
    """

    rest: Rest = "reinit"
    distillation: Distillation | None = Distillation()

    @property
    def needs_selector(self) -> bool:
        """Always."""
        return True

    def begin(self, target: nn.Module, selector: Network | None, seed: int) -> Start:
        """The fused network; TypeError if the selector is not a pruned one."""
        if not isinstance(selector, PrunedNetwork):
            raise TypeError("only a pruned selector can be fused into the target")
        fused = fuse(target, selector, rest=self.rest, seed=seed)
        return Start(fused, selector.model if self.distillation else None, self.distillation)


@target_start("trained_selector")
@dataclass(frozen=True)
class TrainedSelector(TargetStart):
    """The trained selector is the target (active learning): trained on the same labels, it is not trained twice."""

    @property
    def needs_selector(self) -> bool:
        """Always."""
        return True

    @property
    def is_selector(self) -> bool:
        """Always."""
        return True

    def begin(self, target: nn.Module, selector: Network | None, seed: int) -> Start:
        """The selector itself; TypeError if there is none."""
        if selector is None:
            raise TypeError("there is no selector that could be the target")
        return Start(selector.model, trained=True)
