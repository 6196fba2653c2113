"""A trained network and what its training left behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from prunefuse_bench.pruning import Network
from prunefuse_bench.training import Fit, History

__all__ = ["Trained"]


@dataclass(frozen=True)
class Trained:
    """A network and the training run that made it.

    Attributes:
        network: in evaluation mode.
        fit: the training run.
        snapshots: parameters and buffers by name, kept on the way if the committee asks for them.
        history: how each sample of the training set fared, if the protocol records it.
        accuracy_by_epoch: on the test set, before the first step and after every epoch, if the task asks for it.
    """

    network: Network
    fit: Fit
    snapshots: tuple[Mapping[str, Tensor], ...] = ()
    history: History | None = None
    accuracy_by_epoch: tuple[float, ...] | None = None
