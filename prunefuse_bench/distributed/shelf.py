"""The shelf of shared selectors on several processes: the first reads and writes, all get the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from prunefuse_bench.distributed.world import World

if TYPE_CHECKING:
    from prunefuse_bench.cost import StageCost
    from prunefuse_bench.recipe import Trained
    from prunefuse_bench.rounds import SavedSelector, SelectorShelf

__all__ = ["shelf_for_all"]


def shelf_for_all(shelf: SelectorShelf, world: World) -> SelectorShelf:
    """The same shelf, asked by every process of a world at once."""
    return _Shelf(shelf, world) if world.size > 1 else shelf


class _Shelf:
    def __init__(self, shelf: SelectorShelf, world: World) -> None:
        self._shelf, self._world = shelf, world

    def within(self, settings: Mapping[str, Any]) -> SelectorShelf:
        return _Shelf(self._shelf.within(settings), self._world)

    def get(self, settings: Mapping[str, Any]) -> tuple[SavedSelector, dict[str, StageCost]] | None:
        return self._world.from_first(lambda: self._shelf.get(settings))

    def put(self, settings: Mapping[str, Any], selector: Trained, costs: Mapping[str, StageCost]) -> None:
        self._world.from_first(lambda: self._shelf.put(settings, selector, costs))
