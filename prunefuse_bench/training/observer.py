"""What can be watched while a network trains, without training it differently."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

__all__ = ["EpochRecorder", "History", "HistoryRecorder", "SnapshotRecorder", "TrainingObserver"]


class TrainingObserver:
    """Told by :func:`prunefuse_bench.training.fit` what happens; does nothing by itself."""

    def begin(self, samples: int, epochs: int, device: torch.device) -> None:
        """Training of so many samples and epochs begins."""

    def saw(self, epoch: int, batch: Tensor, logits: Tensor, labels: Tensor) -> None:
        """A batch went through the network in training mode.

        Args:
            epoch: from 0.
            batch: int64 [B], rows of the training set.
            logits: float32 [B, C], detached.
            labels: int64 [B].
        """

    def stepped(self, network: nn.Module, step: int, total_steps: int) -> None:
        """``step`` optimisation steps of ``total_steps`` are done."""

    def passed(self, network: nn.Module, epochs: int) -> None:
        """So many epochs are done; 0 before the first step."""


@dataclass(frozen=True)
class History:
    """How each sample fared, epoch by epoch, as the network saw it while training: augmented, in training mode.

    Attributes:
        correct: bool [E, N], whether the prediction was right.
        margin: float32 [E, N], probability of the label less that of the most likely other class, -1 to 1.
        error: float32 [E, N], Euclidean norm of (probabilities - one-hot label), 0 to sqrt 2.
    """

    correct: Tensor
    margin: Tensor
    error: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """By name, to be stored."""
        return {"correct": self.correct, "margin": self.margin, "error": self.error}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> History:
        """What :meth:`tensors` gave."""
        return cls(tensors["correct"], tensors["margin"], tensors["error"])


class HistoryRecorder(TrainingObserver):
    """Collects a :class:`History` in the passes that training makes anyway; 9 bytes per sample and epoch."""

    def __init__(self) -> None:
        self._correct = self._margin = self._error = torch.empty(0, 0)

    def begin(self, samples: int, epochs: int, device: torch.device) -> None:
        """Make room."""
        self._correct = torch.zeros(epochs, samples, dtype=torch.bool, device=device)
        self._margin = torch.zeros(epochs, samples, device=device)
        self._error = torch.zeros(epochs, samples, device=device)

    @torch.no_grad()
    def saw(self, epoch: int, batch: Tensor, logits: Tensor, labels: Tensor) -> None:
        """One softmax over the batch."""
        probabilities = logits.softmax(1)
        column = labels[:, None]
        own = probabilities.gather(1, column)[:, 0]
        # |p - y|^2 = |p|^2 - p_y^2 + (1 - p_y)^2, with the label's entry set to zero meanwhile.
        others = probabilities.scatter(1, column, 0.0)
        other = others.amax(1) if others.shape[1] > 1 else torch.zeros_like(own)
        self._correct[epoch, batch] = logits.argmax(1) == labels
        self._margin[epoch, batch] = own - other
        self._error[epoch, batch] = (others.square().sum(1) + (1 - own).square()).sqrt()

    def history(self) -> History:
        """What was collected, on the CPU."""
        return History(self._correct.cpu(), self._margin.cpu(), self._error.cpu())


@dataclass
class SnapshotRecorder(TrainingObserver):
    """Keeps copies of the network on its way.

    Attributes:
        times: shares of the training (0 to 1) after which a copy is kept; 1 is the trained network.
        snapshots: parameters and buffers by name, one mapping per time, once training is over.
    """

    times: Sequence[float]
    snapshots: list[dict[str, Tensor]] = field(default_factory=list)

    def stepped(self, network: nn.Module, step: int, total_steps: int) -> None:
        """Copy the network if this is one of the times."""
        for time in self.times:
            if step == max(1, round(time * total_steps)):
                self.snapshots.append({name: tensor.detach().clone() for name, tensor in network.state_dict().items()})


@dataclass
class EpochRecorder(TrainingObserver):
    """Judges the network before the first step and after every epoch.

    Attributes:
        judge: called with the network; may leave it in evaluation mode, must not train it or draw from its generator.
        values: what it said, one for the start and one for each epoch.
    """

    judge: Callable[[nn.Module], float]
    values: list[float] = field(default_factory=list)

    def passed(self, network: nn.Module, epochs: int) -> None:
        """Judge, and go on training."""
        self.values.append(self.judge(network))
        network.train()
