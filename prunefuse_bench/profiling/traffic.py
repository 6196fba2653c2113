"""How many numbers a network has to move, counted and not measured."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Traffic", "count_traffic"]


@dataclass(frozen=True)
class Traffic:
    """Numbers that a forward pass moves at least.

    Attributes:
        activations: per image: each operator's input read once and its output written once. Batch norm and what works
            number by number (ReLU, addition) is taken as done on the way by the operator before it, but the second
            operand of an addition (the shortcut) is read.
        weights: per batch: each read once.
    """

    activations: float
    weights: int

    def bytes_per_image(self, batch_size: int, bytes_per_number: int) -> float:
        """With weights shared by the images of a batch."""
        return (self.activations + self.weights / batch_size) * bytes_per_number


def count_traffic(network: nn.Module, shape: tuple[int, int, int]) -> Traffic:
    """Of one image of ``shape`` [C, H, W]. Runs the network on tensors without content; it is not changed."""
    without_content = copy.deepcopy(network).to("meta").eval()
    weights = {_storage(tensor) for tensor in (*without_content.parameters(), *without_content.buffers())}
    with torch.no_grad(), _Counter(weights) as counter:
        without_content(torch.empty(1, *shape, device="meta"))
    return Traffic(counter.activations, sum(parameter.numel() for parameter in network.parameters()))


class _Counter(TorchDispatchMode):
    def __init__(self, weights: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.activations = 0
        self._weights = weights

    def __torch_dispatch__(
        self,
        operator: torch._ops.OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        output = operator(*args, **(kwargs or {}))
        read = [tensor.numel() for tensor in _tensors(args) if _storage(tensor) not in self._weights]
        if operator.is_view or "batch_norm" in operator.name() or not read:
            return output
        if torch.Tag.pointwise in operator.tags:
            self.activations += sum(sorted(read)[:-1])
        else:
            self.activations += sum(read) + sum(tensor.numel() for tensor in _tensors([output]))
        return output


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(value)
    return found


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
