"""A selector that loses its channels while it trains (paper, section 9.14)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager

from torch import Tensor, nn

from prunefuse_bench.pruning import PrunedNetwork, entries_kept
from prunefuse_bench.recipe import Proxy
from prunefuse_bench.training import Remade

__all__ = ["DynamicPruning"]


class DynamicPruning:
    """Prunes a selector between the epochs of its training; see :class:`prunefuse_bench.training.Remaking`.

    Args:
        proxy: when to prune, to which ratio, and how.
        start: the selector before its training, with all its channels; not changed.
        example_input: a batch of one to trace it with.
        seed: determines any draw.
        measured: a context in which every step is taken, so that it is charged as pruning.
        remade: told of the network and the epochs done after every step.

    Attributes:
        network: the selector as it was pruned last; its map leads back to the dense network.
    """

    def __init__(
        self,
        proxy: Proxy,
        start: PrunedNetwork,
        example_input: Tensor,
        seed: int,
        measured: Callable[[], AbstractContextManager[object]],
        remade: Callable[[nn.Module, int], None],
    ) -> None:
        self.network = start
        self._proxy, self._start, self._example_input, self._seed = proxy, start, example_input, seed
        self._measured, self._remade = measured, remade
        self._ratios = dict(proxy.pruning_steps_to_come)

    @property
    def epochs(self) -> tuple[int, ...]:
        """After how many epochs there is a step."""
        return tuple(self._ratios)

    def __call__(self, network: nn.Module, epochs: int) -> Remade:
        """One step of pruning the network that was trained so far."""
        before = dataclasses.replace(self.network, model=network)
        with self._measured():
            self.network = self._proxy.prune_step(
                self._start.model, before, self._example_input, self._ratios[epochs], self._seed
            )
            kept = entries_kept(before, self.network)
        self._remade(self.network.model, epochs)
        return Remade(self.network.model, kept)
