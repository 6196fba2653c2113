"""The combination of the four parts that makes a method."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from prunefuse_bench.acquisition import ACQUISITIONS, Acquisition, Needs
from prunefuse_bench.errors import BadInput
from prunefuse_bench.recipe.committee import Committee, OnePass
from prunefuse_bench.recipe.proxy import Proxy, Pruned, Target
from prunefuse_bench.recipe.target_start import Fresh, Fused, TargetStart, TrainedSelector

__all__ = ["Recipe"]


@dataclass(frozen=True)
class Recipe:
    """Four independent parts and the synchronisation interval.

    Attributes:
        label: how tables name it.
        proxy: which network looks at the pool.
        committee: how many opinions it gives per sample.
        acquisition: name; how opinions become a choice.
        target_start: how the target network begins.
        sync_every: T_sync of Algorithm 1; 0 for never.
    """

    label: str
    proxy: Proxy = Target()
    committee: Committee = OnePass()
    acquisition: str = "least_confidence"
    target_start: TargetStart = Fresh()
    sync_every: int = 0

    def find_acquisition(self) -> Acquisition:
        """The acquisition by its name; BadInput if there is none."""
        return ACQUISITIONS[self.acquisition]

    @property
    def uses_selector(self) -> bool:
        """Whether a selector has to be trained at all."""
        return self.find_acquisition().needs != Needs.NOTHING or self.target_start.needs_selector

    def check(self) -> None:
        """Refuse parts that do not fit together.

        Raises:
            BadInput: which parts, and why.
        """
        self.find_acquisition()
        for wrong, why in (
            (
                isinstance(self.target_start, Fused) and not isinstance(self.proxy, Pruned),
                f"only a pruned proxy can be fused into the target, got {self.proxy}",
            ),
            (
                isinstance(self.target_start, TrainedSelector) and not isinstance(self.proxy, Target),
                f"only the target itself as proxy can become the target, got {self.proxy}",
            ),
            (self.sync_every < 0, f"sync_every: expected 0 (never) or a number of rounds, got {self.sync_every}"),
            (
                self.sync_every > 0 and not isinstance(self.target_start, Fused),
                f"sync_every: only a fused target start can be synchronised, got {self.target_start}",
            ),
        ):
            if wrong:
                raise BadInput(f"method {self.label!r}: {why}")

    def settings(self) -> dict[str, Any]:
        """All that determines what the method does (not its label), as plain data."""
        settings = _plain(self)
        del settings["label"]
        return settings


def _plain(value: Any) -> Any:
    """Nested dataclasses as dictionaries that name their type."""
    if dataclasses.is_dataclass(value):
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    return value
