"""What the paper's bound on selection by a proxy is made of, measured (sections 5 and 9.2, Table 8).

Equation 4 bounds the representativeness gap of a choice under the target by the gap under the proxy that chose (delta)
and the distance of the two networks (rho). A mean over the pool takes the labels of all of its samples, those that no
method has asked for included: this is a diagnosis after the fact. No method is told of it, and nothing is chosen by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunefuse_bench.data.stored import Images
from prunefuse_bench.errors import CellFailed
from prunefuse_bench.inference.precision import autocast
from prunefuse_bench.pruning import Network, PrunedNetwork
from prunefuse_bench.training import TrainingRecipe

__all__ = ["Decomposition", "Distance", "Gaps", "PoolLosses", "parameter_distance", "sample_losses"]

BATCH = 1000
"""Samples that losses are computed of at a time."""


@dataclass(frozen=True)
class Gaps:
    """|mean loss over a choice - mean loss over the pool|, in nats, of a target and of its selector.

    Attributes:
        target: the representativeness gap under the target (equation 5, the left side of 4).
        selector: the same under the selector (equation 7): the least delta that this choice allows, and so the estimate
            of the intrinsic acquisition error; None if there is no selector.
    """

    target: float
    selector: float | None


@dataclass(frozen=True)
class PoolLosses:
    """Cross entropy of every sample of the pool D, float64 [N] on the CPU, under a target and under its selector.

    ``selector`` is None if the recipe has none.
    """

    target: Tensor
    selector: Tensor | None

    def gaps(self, chosen: Tensor) -> Gaps:
        """For the samples ``chosen``, int64 [m], positions in the pool; means are over m and over all N samples."""
        return Gaps(_gap(self.target, chosen), None if self.selector is None else _gap(self.selector, chosen))

    def tensors(self) -> dict[str, Tensor]:
        """By name, to be stored."""
        # Cloned, as a selector that is the target has the very same tensor, and files hold every tensor once.
        return {"target": self.target} | ({} if self.selector is None else {"selector": self.selector.clone()})

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> PoolLosses:
        """What :meth:`tensors` gave."""
        return cls(tensors["target"], tensors.get("selector"))


@dataclass(frozen=True)
class Distance:
    """Euclidean distance of two networks' parameters in the coordinates of the dense one, reckoned in float64.

    Attributes:
        rho: over all coordinates, those that were pruned being zero in the selector, as the paper has it (equation 8
            and the sentence after it).
        kept: over the coordinates that the selector has. The square of ``rho`` is that of ``kept`` and the sum of the
            squares of all that the target holds in the coordinates that were pruned.
        target_norm: of the target's parameters, to judge the others by.
    """

    rho: float
    kept: float
    target_norm: float


@dataclass(frozen=True)
class Decomposition:
    """The networks of one round, a target theta and a selector theta_p, measured against each other.

    Attributes:
        target: which dense network theta is. ``synchronised``: the one that was fused and fine-tuned in this round
            (Algorithm 1, line 12), from which theta_p was pruned (line 13). ``reported``: in a round without
            synchronisation, the target of lines 14 and 15, which began from theta_p.
        target_accuracy: of theta on the test set, which stands for the paper's validation set V (0 to 1).
        selector_accuracy: of theta_p, the selector that the next round asks; None if there is none.
        fresh_accuracy: in a synchronised round, of a selector that was pruned from the initial network and trained from
            scratch on the same labels (theta_p with a tilde in section 9.2.1), as line 10 would have it; else None.
        labeled: gaps of all that is labeled by now, on which both networks were trained.
        distance: of theta_p from theta; None if there is no selector, or one of another architecture.
    """

    target: Literal["synchronised", "reported"]
    target_accuracy: float
    selector_accuracy: float | None
    fresh_accuracy: float | None
    labeled: Gaps
    distance: Distance | None

    @property
    def sync_gap(self) -> float | None:
        """Delta_sync of section 9.2.1: |accuracy of theta - that of the synchronised selector|."""
        return self._behind(self.selector_accuracy) if self.target == "synchronised" else None

    @property
    def fresh_gap(self) -> float | None:
        """Delta_fresh: |accuracy of theta - that of a selector trained from scratch|, which may be theta_p itself."""
        return self._behind(self.fresh_accuracy if self.target == "synchronised" else self.selector_accuracy)

    def _behind(self, accuracy: float | None) -> float | None:
        return None if accuracy is None else abs(self.target_accuracy - accuracy)


@torch.no_grad()
def sample_losses(
    network: nn.Module,
    images: Images,
    labels: Tensor,
    training: TrainingRecipe,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """Cross entropy of every sample in nats, float64 [N] on the CPU: clean images, evaluation mode.

    Args:
        images: uint8 [N, C, H, W], or texts uint8 [N, L].
        labels: int64 [N].
        progress: told of (samples done, in all).

    Raises:
        CellFailed: a loss is not finite.
    """
    network.eval()
    parts = []
    for start in range(0, len(images), BATCH):
        rows = slice(start, start + BATCH)
        with autocast(images.device, training.precision):
            logits = network(training.normalisation.apply(images[rows])).double()
        parts.append(F.cross_entropy(logits, labels[rows], reduction="none").cpu())
        progress(min(start + BATCH, len(images)), len(images))
    losses = torch.cat(parts)
    if not losses.isfinite().all():
        first = int((~losses.isfinite()).nonzero()[0])
        raise CellFailed(f"decomposition: the loss of sample {first} of the pool is {float(losses[first])}")
    return losses


@torch.no_grad()
def parameter_distance(target: nn.Module, selector: Network) -> Distance | None:
    """How far a selector is from a target (rho_t of equation 8), the selector put into the target's coordinates.

    A pruned selector's parameters go to where its index map says; the coordinates that were pruned are zero. Weights
    and biases of all layers count, running statistics of batch norm do not: they are no parameters.

    Returns:
        None if the selector is neither pruned nor of the target's own architecture.
    """
    dense = dict(target.named_parameters())
    small = dict(selector.model.named_parameters())
    if selector.model is target:
        selector = Network(target)
    if not isinstance(selector, PrunedNetwork) and _shapes(dense) != _shapes(small):
        return None
    squares = kept = norm = 0.0
    for name, values in dense.items():
        theta = values.double().reshape(-1)
        embedded = torch.zeros_like(theta)
        if isinstance(selector, PrunedNetwork):
            index = selector.index_map[name].to(theta.device).reshape(-1)
        else:
            index = torch.arange(len(theta), device=theta.device)
        embedded[index] = small[name].double().reshape(-1)
        differences = (embedded - theta).square()
        squares += float(differences.sum())
        kept += float(differences[index].sum())
        norm += float(theta.square().sum())
    return Distance(math.sqrt(squares), math.sqrt(kept), math.sqrt(norm))


def _shapes(parameters: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: values.shape for name, values in parameters.items()}


def _gap(losses: Tensor, chosen: Tensor) -> float:
    return abs(float(losses[chosen].mean()) - float(losses.mean()))
