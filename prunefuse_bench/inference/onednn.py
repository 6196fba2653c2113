"""Convolutions of oneDNN that carry out the ReLU and the residual addition after them, by torch's own operators."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, fx, nn

from prunefuse_bench.inference.rewriting import is_addition, is_relu

__all__ = ["fuse_activations", "has_fused_convolutions"]


@functools.cache
def has_fused_convolutions() -> bool:
    """Whether this torch has them and they are right: they are not part of the interface that torch promises."""
    if not torch.backends.mkldnn.is_available():
        return False
    layer = nn.Conv2d(8, 8, 3, padding=1)
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(-1, 1, layer.weight.numel()).reshape(layer.weight.shape))
        layer.bias.copy_(torch.linspace(-1, 1, 8))  # type: ignore[union-attr]
        inputs = torch.linspace(-1, 1, 8 * 36).reshape(1, 8, 6, 6).contiguous(memory_format=torch.channels_last)
        try:
            relu = FusedConvolution(layer, relu=True, packed_for=None)(inputs)
            both = FusedConvolution(layer, relu=True, packed_for=None)(inputs, inputs)
            torch.testing.assert_close(relu, layer(inputs).relu())
            torch.testing.assert_close(both, (layer(inputs) + inputs).relu())
        except (RuntimeError, AttributeError, AssertionError):
            return False
    return True


class FusedConvolution(nn.Module):
    """relu(convolution(x) + other), where ReLU and ``other`` may be absent, in one operator.

    Args:
        layer: the convolution, its bias included.
        relu: whether a ReLU ends it.
        packed_for: shape of the input for which the weights are laid out as oneDNN likes best; None leaves them.
    """

    weight: Tensor

    def __init__(self, layer: nn.Conv2d, *, relu: bool, packed_for: tuple[int, ...] | None) -> None:
        super().__init__()
        self._activation = "relu" if relu else "none"
        self._geometry: tuple[Any, ...] = (
            list(map(int, layer.padding)),
            list(layer.stride),
            list(layer.dilation),
            layer.groups,
        )
        weight = layer.weight.detach()
        if packed_for is not None:
            weight = torch.ops.mkldnn._reorder_convolution_weight(weight, *self._geometry, list(packed_for))
        self._weight = weight  # not a buffer: an opaque layout that nothing but the operator may look into
        self._bias = None if layer.bias is None else layer.bias.detach()

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """[N, C, H, W], and ``other`` of the output's shape."""
        operators = torch.ops.mkldnn
        if other is None:
            return operators._convolution_pointwise(
                x, self._weight, self._bias, *self._geometry, self._activation, [], ""
            )
        after = None if self._activation == "none" else self._activation
        return operators._convolution_pointwise(
            x, other, self._weight, self._bias, *self._geometry, "add", 1.0, after, [], ""
        )


def fuse_activations(chain: fx.GraphModule, batch_size: int) -> int:
    """Put ReLUs and additions into the convolutions before them; how many convolutions took something in.

    Grouped convolutions stay as they are: torch takes some of them away from oneDNN, and then knows no such addition.

    Args:
        chain: traced, every node with the shape of its tensor.
        batch_size: how many images the convolutions will mostly see at once.
    """
    convolutions = [
        node for node in chain.graph.nodes if (layer := _convolution(chain, node)) is not None and layer.groups == 1
    ]
    fused = sum(_fuse(chain, node, batch_size) for node in convolutions)
    chain.graph.lint()
    chain.recompile()
    return fused


def _fuse(chain: fx.GraphModule, node: fx.Node, batch_size: int) -> bool:
    """Replace a convolution, and what comes after it if nobody else looks at the values between."""
    layer = _convolution(chain, node)
    assert layer is not None
    last, other, taken_in = node, None, [node]
    after = _only_user(last)
    if after is not None and is_addition(after) and after.args[0] is not after.args[1]:
        other = after.args[1] if after.args[0] is last else after.args[0]
        last = after
        taken_in.append(last)
        after = _only_user(last)
    relu = after is not None and is_relu(chain, after)
    if relu and after is not None:
        last = after
        taken_in.append(last)
    inputs = node.args[0]
    assert isinstance(inputs, fx.Node)
    shape = (batch_size, *inputs.meta["tensor_meta"].shape[1:])
    name = f"fused_{node.name}"
    chain.add_submodule(name, FusedConvolution(layer, relu=relu, packed_for=shape))
    arguments = (inputs,) if other is None else (inputs, other)
    with chain.graph.inserting_before(last):
        replacement = chain.graph.call_module(name, arguments)
    replacement.meta = dict(last.meta)
    last.replace_all_uses_with(replacement)
    for replaced in reversed(taken_in):
        chain.graph.erase_node(replaced)
    return other is not None or relu


def _convolution(chain: fx.GraphModule, node: fx.Node) -> nn.Conv2d | None:
    layer = chain.get_submodule(str(node.target)) if node.op == "call_module" else None
    return layer if isinstance(layer, nn.Conv2d) else None


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None
