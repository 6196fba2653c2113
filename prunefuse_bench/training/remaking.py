"""A network that gets another structure while it trains, as in dynamic pruning (paper, section 9.14)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

__all__ = ["Remade", "Remaking", "carry_over"]


@dataclass(frozen=True)
class Remade:
    """A network that takes the place of the one that was trained so far.

    Attributes:
        network: with the values of the entries that are left; its tensors have the same names.
        kept: for every parameter, int64 of its shape: flat indices of its entries in the parameter of that name before.
    """

    network: nn.Module
    kept: Mapping[str, Tensor]


class Remaking(Protocol):
    """Makes the network anew after certain epochs of its training."""

    @property
    def epochs(self) -> tuple[int, ...]:
        """After how many epochs, ascending, from 1."""

    def __call__(self, network: nn.Module, epochs: int) -> Remade:
        """What goes on in the place of ``network`` after so many epochs; ``network`` is in evaluation mode."""


@torch.no_grad()
def carry_over(
    optimizer: torch.optim.Optimizer, before: nn.Module, fresh: torch.optim.Optimizer, remade: Remade
) -> None:
    """Give the optimizer of a remade network what the one before knew of the entries that are left.

    Momentum, and the moments of Adam, are gathered like the parameters themselves; counts of steps are taken as they
    are.

    Args:
        optimizer: of the network ``before``.
        fresh: of the remade network, without a state yet; changed.
    """
    old = dict(before.named_parameters())
    for name, parameter in remade.network.named_parameters():
        kept = remade.kept[name].to(parameter.device)
        for key, value in optimizer.state[old[name]].items():
            of_entries = isinstance(value, Tensor) and value.shape == old[name].shape and value.ndim
            fresh.state[parameter][key] = (
                torch.empty_like(parameter).copy_(value.reshape(-1)[kept.reshape(-1)].view(parameter.shape))
                if of_entries
                else value
            )
