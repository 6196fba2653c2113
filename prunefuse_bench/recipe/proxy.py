"""Which network looks at the pool?"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from prunefuse_bench.pruning import Network, prune

__all__ = ["Proxy", "Pruned", "Target"]


@dataclass(frozen=True)
class Proxy(ABC):
    """Makes an untrained selector from a target network."""

    @abstractmethod
    def start(self, target: nn.Module, example_input: Tensor) -> Network:
        """The selector before its training; ``target`` is not changed.

        Args:
            target: the dense network, initial (Algorithm 1, line 2) or trained (line 13).
            example_input: float [1, C, H, W] to trace it with.
        """


@dataclass(frozen=True)
class Target(Proxy):
    """The target network itself: plain active learning."""

    def start(self, target: nn.Module, example_input: Tensor) -> Network:
        """A copy of it."""
        return Network(copy.deepcopy(target))


@dataclass(frozen=True)
class Pruned(Proxy):
    """The target network, structurally pruned: PruneFuse.

    Attributes:
        ratio: share of the channels that is removed, p of the paper.
        criterion: which channels go, see :func:`prunefuse_bench.prune`.
    """

    ratio: float = 0.5
    criterion: str = "magnitude"

    def start(self, target: nn.Module, example_input: Tensor) -> Network:
        """A pruned copy of it."""
        return prune(target, example_input, self.ratio, criterion=self.criterion)
