"""Which network looks at the pool?"""

from __future__ import annotations

import copy
import functools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

import torch
from pydantic import Field
from torch import Tensor, nn

from prunefuse_bench.errors import BadInput
from prunefuse_bench.models import MODELS, build_model, count_parameters, find_classifier
from prunefuse_bench.pruning import (
    DYNAMIC_EPOCHS,
    DYNAMIC_STEPS,
    Network,
    PrunedNetwork,
    Sparsity,
    dynamic_schedule,
    prune,
    prune_further,
    replay_pruning,
)
from prunefuse_bench.randomness import seeded
from prunefuse_bench.recipe.parts import UNLESS_DEFAULT, part_decorator
from prunefuse_bench.registry import Registry

__all__ = ["PROXIES", "Proxy", "Pruned", "PruningMode", "Smaller", "Target", "proxy"]

PruningMode = Literal["static", "dynamic"]
"""Whether a selector is pruned at once before its training, or in steps while it trains."""

Ratio = Annotated[float, Field(gt=0, lt=1)]
Width = Annotated[float, Field(gt=0, le=64)]


@dataclass(frozen=True)
class Proxy(ABC):
    """Makes an untrained selector from a target network."""

    @abstractmethod
    def start(self, target: nn.Module, example_input: Tensor, seed: int) -> Network:
        """The selector before its training; ``target`` is not changed.

        Args:
            target: the dense network, initial (Algorithm 1, line 2) or trained (line 13).
            example_input: a batch of one to trace it with, float [1, C, H, W] or int64 [1, L].
            seed: determines any draw.

        Raises:
            BadInput: there is no such selector for this target.
        """

    @property
    @abstractmethod
    def parameters(self) -> str:
        """The selector's number of parameters as cost formulas name it: P is the target's."""

    @property
    def pruning_steps_to_come(self) -> tuple[tuple[int, float], ...]:
        """When the selector is pruned in the midst of its training: (epochs trained before it, ratio); () for never."""
        return ()

    def prune_step(
        self, dense: nn.Module, selector: PrunedNetwork, example_input: Tensor, ratio: float, seed: int
    ) -> PrunedNetwork:
        """The selector in training, pruned further, for each of :attr:`pruning_steps_to_come`.

        Args:
            dense: what the selector was at its start; not changed.
            selector: not changed.
            example_input: as for :meth:`start`.
            ratio: share of the dense network's channels that is to be gone.
            seed: determines any draw.
        """
        raise NotImplementedError(f"{type(self).__name__} is not pruned while it trains")

    def pruned_at_once(self, ratio: float) -> Proxy:
        """What makes at its start the structure that :meth:`prune_step` makes at this ratio, to foretell its cost."""
        raise NotImplementedError(f"{type(self).__name__} is not pruned while it trains")

    @property
    def structure_depends_on_weights(self) -> bool:
        """Whether two selectors of one target may differ in their numbers of channels, and so in what they cost."""
        return False

    @property
    def fusible(self) -> bool:
        """Whether ``start`` gives a :class:`prunefuse_bench.PrunedNetwork`, which can be fused into the target."""
        return False

    @property
    def is_target(self) -> bool:
        """Whether the trained selector can be the target."""
        return False


PROXIES: Registry[type[Proxy]] = Registry("proxy")
"""Proxies by name."""
proxy = part_decorator(PROXIES)
"""``@proxy("name")`` registers a dataclass that derives from Proxy."""


@proxy("target")
@dataclass(frozen=True)
class Target(Proxy):
    """The target network itself: plain active learning."""

    def start(self, target: nn.Module, example_input: Tensor, seed: int) -> Network:
        """A copy of it."""
        return Network(copy.deepcopy(target))

    @property
    def parameters(self) -> str:
        """All of them."""
        return "P"

    @property
    def is_target(self) -> bool:
        """It is."""
        return True


@proxy("pruned")
@dataclass(frozen=True)
class Pruned(Proxy):
    """The target network, structurally pruned: PruneFuse.

    Attributes:
        ratio: share of the channels that is removed, p of the paper.
        criterion: which channels go, see :data:`prunefuse_bench.pruning.CRITERIA`.
        sparsity: whether every group of layers loses that share (local) or all together do (global).
        round_to: numbers of channels that are left are multiples of it.
        pruning: ``static``, at once before the training, or ``dynamic``, in steps while it trains (section 9.14).
        pruning_steps: of dynamic pruning: equal shares of the ratio, after equal numbers of epochs.
        pruning_epochs: after how many epochs of the selector's training the last step comes.
    """

    ratio: Ratio = 0.5
    criterion: str = "magnitude"
    sparsity: Sparsity = "local"
    round_to: Annotated[int, Field(ge=1)] = 1
    pruning: PruningMode = field(default="static", metadata=UNLESS_DEFAULT)
    pruning_steps: Annotated[int, Field(ge=1)] = field(default=DYNAMIC_STEPS, metadata=UNLESS_DEFAULT)
    pruning_epochs: Annotated[int, Field(ge=1)] = field(default=DYNAMIC_EPOCHS, metadata=UNLESS_DEFAULT)

    def __post_init__(self) -> None:
        if self.pruning not in get_args(PruningMode):
            raise BadInput(f"proxy 'pruned': pruning: expected static or dynamic, got {self.pruning!r}")
        paper = (DYNAMIC_STEPS, DYNAMIC_EPOCHS)
        if self.pruning == "static" and (self.pruning_steps, self.pruning_epochs) != paper:
            raise BadInput(
                "proxy 'pruned': pruning_steps and pruning_epochs mean something only with pruning: dynamic, "
                f"got {self.pruning_steps} and {self.pruning_epochs} with pruning: static"
            )
        if self.pruning == "dynamic" and self.pruning_steps > self.pruning_epochs:
            raise BadInput(
                f"proxy 'pruned': pruning_steps: expected at most one step after each of the {self.pruning_epochs} "
                f"pruning_epochs, got {self.pruning_steps}"
            )

    def start(self, target: nn.Module, example_input: Tensor, seed: int) -> Network:
        """A pruned copy of it; with dynamic pruning a copy that has all its channels yet."""
        if self.pruning == "dynamic":
            return replay_pruning(target, example_input, ())
        return prune(
            target,
            example_input,
            self.ratio,
            criterion=self.criterion,
            sparsity=self.sparsity,
            round_to=self.round_to,
            seed=seed,
        )

    @property
    def pruning_steps_to_come(self) -> tuple[tuple[int, float], ...]:
        """The paper's five equal steps in 20 epochs, or what was asked for."""
        if self.pruning == "static":
            return ()
        return dynamic_schedule(self.ratio, self.pruning_steps, self.pruning_epochs)

    def prune_step(
        self, dense: nn.Module, selector: PrunedNetwork, example_input: Tensor, ratio: float, seed: int
    ) -> PrunedNetwork:
        """By the same criterion, of the weights as they are by now."""
        return prune_further(
            dense,
            selector,
            example_input,
            ratio,
            criterion=self.criterion,
            sparsity=self.sparsity,
            round_to=self.round_to,
            seed=seed,
        )

    def pruned_at_once(self, ratio: float) -> Proxy:
        """Static pruning by the same criterion; of local sparsity the structure is the same."""
        return Pruned(ratio, self.criterion, self.sparsity, self.round_to)

    @property
    def structure_depends_on_weights(self) -> bool:
        """With global sparsity, where layers lose as many channels as fall below one threshold."""
        return self.sparsity == "global"

    @property
    def parameters(self) -> str:
        """Nearly (1 - p)^2 P."""
        return "P_pruned"

    @property
    def fusible(self) -> bool:
        """It is."""
        return True


@proxy("smaller")
@dataclass(frozen=True)
class Smaller(Proxy):
    """A smaller architecture, with initial weights of its own: selection via proxy (Coleman et al. 2020).

    Attributes:
        model: its name; None for the largest registered network with at most half of the target's parameters among
            those that are meant for such samples, which gives the paper's pairs: ResNet-20 for ResNet-56, ResNet-8 for
            ResNet-20 and for ResNet-14.
        width: factor on its channels.
    """

    model: str | None = None
    width: Width = 1.0

    def start(self, target: nn.Module, example_input: Tensor, seed: int) -> Network:
        """Drawn anew; BadInput if no registered network is small enough."""
        classes, channels = find_classifier(target, example_input).out_features, example_input.shape[1]
        name = self.model or self._largest_within_half(count_parameters(target), classes, example_input)
        with seeded(seed, "smaller proxy"):
            network = build_model(name, num_classes=classes, in_channels=channels, width=self.width)
        return Network(network.to(example_input.device))

    def _largest_within_half(self, target: int, classes: int, example_input: Tensor) -> str:
        channels = example_input.shape[1]
        sizes = {name: _parameters(name, classes, channels, self.width) for name in _meant_for(example_input)}
        small_enough = {name: size for name, size in sizes.items() if size <= target / 2}
        if not small_enough:
            smallest = min(sizes, key=lambda name: sizes[name])
            raise BadInput(
                f"proxy 'smaller': no registered network has at most half of the target's {target:,} parameters; "
                f"name one and its width, as in {{name: smaller, model: {smallest}, width: 0.5}}"
            )
        return max(small_enough, key=lambda name: small_enough[name])

    @property
    def parameters(self) -> str:
        """Of the smaller architecture."""
        return "P_small"


def _meant_for(example_input: Tensor) -> list[str]:
    """Registered networks that take such samples, and of those the ones made for sides nearest to theirs."""
    shape = example_input.shape[1:]
    distances = {
        name: abs(math.log2(entry.example_shape[-1] / shape[-1]))
        for name, entry in MODELS.items()
        if len(entry.example_shape) == len(shape)
    }
    return [name for name, distance in distances.items() if distance == min(distances.values())]


@functools.cache
def _parameters(name: str, classes: int, channels: int, width: float) -> int:
    with torch.device("meta"):
        return count_parameters(build_model(name, num_classes=classes, in_channels=channels, width=width))
