"""The combination of the four parts that makes a method."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from prunefuse_bench.acquisition import ACQUISITIONS, Acquisition, Needs
from prunefuse_bench.errors import BadInput
from prunefuse_bench.recipe.committee import Committee, OnePass
from prunefuse_bench.recipe.own_training import OwnTraining
from prunefuse_bench.recipe.parts import UNLESS_DEFAULT
from prunefuse_bench.recipe.proxy import Proxy, Target
from prunefuse_bench.recipe.target_start import Fresh, Fused, TargetStart, TrainedSelector

__all__ = ["PROTOCOLS", "ProtocolName", "Recipe"]

ProtocolName = Literal["active_learning", "coreset"]
"""Name of a protocol, see :data:`PROTOCOLS`."""
PROTOCOLS: tuple[ProtocolName, ...] = ("active_learning", "coreset")
"""``active_learning``: Algorithm 1 of the paper; ``coreset``: train the selector on the whole pool, pick once, 9.13."""

_OF_PROTOCOL = {"active_learning": Needs.LABELED, "coreset": Needs.LABELED | Needs.LABELS | Needs.HISTORY}
"""What a protocol knows beside the committee's opinions; in the coreset protocol no sample is labeled before."""
_WORDS = {
    Needs.LOGITS: "one prediction per sample",
    Needs.FEATURES: "features",
    Needs.MEMBERS: "the predictions of several members (committee mc_dropout or snapshots)",
    Needs.JOINT: "members that are the same networks for every sample (mc_dropout with shared_masks, or snapshots)",
    Needs.LABELS: "the labels of the whole pool, which only the coreset protocol has",
    Needs.HISTORY: "how each sample fared while the selector trained on it, which only the coreset protocol has",
}


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
        options: of the acquisition, (name, value); what is not given has its default.
        own_training: settings of the original that replace the task's; None for the task's own.
        notes: what differs from the original, for the reader of a result.
    """

    label: str
    proxy: Proxy = Target()
    committee: Committee = OnePass()
    acquisition: str = "least_confidence"
    target_start: TargetStart = Fresh()
    sync_every: int = 0
    options: tuple[tuple[str, Any], ...] = ()
    own_training: OwnTraining | None = None
    notes: tuple[str, ...] = ()

    def find_acquisition(self) -> Acquisition:
        """The acquisition by its name; BadInput if there is none."""
        return ACQUISITIONS[self.acquisition]

    @property
    def uses_selector(self) -> bool:
        """Whether a selector has to be trained at all."""
        asks = self.find_acquisition().needs & ~(Needs.LABELS | Needs.LABELED)
        return asks != Needs.NOTHING or self.target_start.needs_selector

    def check(self, protocol: ProtocolName = "active_learning") -> None:
        """Refuse parts that do not fit together, or not into the protocol.

        Raises:
            BadInput: which parts, and why.
        """
        acquisition = self.find_acquisition()
        acquisition.check_options(dict(self.options))
        missing = acquisition.needs & ~(self.committee.provides | _OF_PROTOCOL[protocol])
        for wrong, why in (
            *(
                (need in missing, f"acquisition {self.acquisition!r} needs {words}; {self._what_is_given(protocol)}")
                for need, words in _WORDS.items()
            ),
            (
                isinstance(self.target_start, Fused) and not self.proxy.fusible,
                f"only a pruned proxy can be fused into the target, got {self.proxy}",
            ),
            (
                isinstance(self.target_start, TrainedSelector) and not self.proxy.is_target,
                f"only the target itself as proxy can become the target, got {self.proxy}",
            ),
            (
                isinstance(self.target_start, TrainedSelector) and protocol == "coreset",
                "in the coreset protocol the selector was trained on the whole pool, so it cannot be the target",
            ),
            (self.sync_every < 0, f"sync_every: expected 0 (never) or a number of rounds, got {self.sync_every}"),
            (
                self.sync_every > 0 and not isinstance(self.target_start, Fused),
                f"sync_every: only a fused target start can be synchronised, got {self.target_start}",
            ),
            (
                self.sync_every > 0 and protocol == "coreset",
                "sync_every: the coreset protocol picks once, so there is nothing to synchronise",
            ),
        ):
            if wrong:
                raise BadInput(f"method {self.label!r}: {why}")

    def cost_formula(self, protocol: ProtocolName = "active_learning") -> str:
        """Selector FLOPs by the paper's rule, composed of what the parts cost.

        P: parameters of the target; D: input values of a sample; L: labeled, U: unlabeled, n: all samples; T: epochs;
        F and C: inputs and outputs of the classifier.
        """
        if not self.uses_selector:
            return "0"
        parameters, trained, asked = self.proxy.parameters, "|L|", "|U|"
        if protocol == "coreset":
            trained = asked = "n"
        terms = [f"6·{parameters}·D·{trained}·T"]
        if self.find_acquisition().needs & ~(Needs.LABELS | Needs.LABELED | Needs.HISTORY):
            terms.append(self.committee.cost_formula(parameters, asked))
        if self.sync_every:
            terms.append("6·P·D·|L|·T" + (f" every {self.sync_every} rounds" if self.sync_every > 1 else ""))
        return " + ".join(terms) if protocol == "coreset" else f"Σ over rounds ({' + '.join(terms)})"

    def settings(self) -> dict[str, Any]:
        """All that determines what the method does (not its label and notes), as plain data."""
        settings = _plain(self)
        del settings["label"], settings["notes"]
        settings["options"] = self.find_acquisition().check_options(dict(self.options))
        return settings

    def _what_is_given(self, protocol: ProtocolName) -> str:
        name = type(self.committee).__name__
        return f"committee {name} in the {protocol} protocol gives no such thing"


def _plain(value: Any) -> Any:
    """Nested dataclasses as dictionaries that name their type."""
    if dataclasses.is_dataclass(value):
        fields = {
            field.name: _plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if field.metadata != UNLESS_DEFAULT or getattr(value, field.name) != field.default
        }
        return {"type": type(value).__name__, **fields}
    return value
