"""The combination of the four parts that makes a method."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from prunefuse_bench.acquisition import Acquisition, Needs, acquisitions
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
        return acquisitions()[self.acquisition]

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
        if isinstance(self.target_start, Fused) and not isinstance(self.proxy, Pruned):
            raise BadInput(f"method {self.label!r}: only a pruned proxy can be fused into the target, got {self.proxy}")
        if isinstance(self.target_start, TrainedSelector) and not isinstance(self.proxy, Target):
            raise BadInput(
                f"method {self.label!r}: only the target itself as proxy can be the target, got {self.proxy}"
            )
        if self.sync_every < 0:
            raise BadInput(
                f"method {self.label!r}: sync_every: expected 0 (never) or more rounds, got {self.sync_every}"
            )
        if self.sync_every and not isinstance(self.target_start, Fused):
            raise BadInput(f"method {self.label!r}: sync_every: only a fused target start can be synchronised")

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
