"""Other forward passes for some layers of a network, for a while."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from torch import Tensor, nn

__all__ = ["forward_by"]

Layer = TypeVar("Layer", bound=nn.Module)


@contextlib.contextmanager
def forward_by(forward: Callable[[Layer, Tensor], Tensor], layers: Iterable[Layer]) -> Iterator[None]:
    """Within the block, ``forward(layer, x)`` is the forward pass of these layers.

    The network's structure, its hooks and its tensors stay what they are. Of blocks within each other the innermost
    holds.
    """
    changed = list(layers)
    before = [vars(layer).get("forward") for layer in changed]
    for layer in changed:
        layer.forward = functools.partial(forward, layer)
    try:
        yield
    finally:
        for layer, outer in zip(changed, before, strict=True):
            del layer.forward
            if outer is not None:
                layer.forward = outer
