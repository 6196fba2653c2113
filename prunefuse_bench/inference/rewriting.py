"""Rewriting a traced network: batch norm into weights, channels to a friendly number, number format.

A *chain* is a network of convolutions, batch norms, ReLUs, additions and poolings that ends in a linear layer.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.utils.fusion import fuse_conv_bn_eval

__all__ = ["NotAChain", "fold_batch_norms", "is_relu", "pad_channels", "rewrite", "trace_chain"]

FRIENDLY_CHANNELS = 8
"""Convolutions whose channels are a multiple of this run at full speed, others at a fraction of it."""

DROPPED = (nn.Identity, nn.Dropout, nn.Dropout2d)
"""Layers that do nothing in evaluation mode."""
POOLS = (nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.MaxPool2d)
RELUS: tuple[Callable[..., Tensor], ...] = (F.relu, F.relu_, torch.relu, torch.relu_)
ADDITIONS: tuple[Callable[..., Tensor], ...] = (operator.add, operator.iadd, torch.add)


class NotAChain(Exception):
    """The network has something that the rewriting does not know; the message says what."""


def trace_chain(network: nn.Module, example_input: Tensor) -> fx.GraphModule:
    """A traced copy of ``network`` that returns (logits, features); every node has its tensor's shape.

    Raises:
        NotAChain: it cannot be traced, or is made of other parts.
    """
    try:
        chain = fx.symbolic_trace(copy.deepcopy(network).eval())
    except Exception as error:
        raise NotAChain(f"it cannot be traced ({type(error).__name__})") from error
    for node in list(chain.graph.nodes):
        if isinstance(_layer(chain, node), DROPPED):
            node.replace_all_uses_with(node.args[0])
            chain.graph.erase_node(node)
    _check_nodes(chain)
    output = next(node for node in chain.graph.nodes if node.op == "output")
    classifier = output.args[0]
    output.args = ((classifier, classifier.args[0]),)
    ShapeProp(chain).propagate(example_input)
    return _recompiled(chain)


def _check_nodes(chain: fx.GraphModule) -> None:
    classifier = next(node for node in chain.graph.nodes if node.op == "output").args[0]
    if not isinstance(classifier, fx.Node) or not isinstance(_layer(chain, classifier), nn.Linear):
        raise NotAChain("it does not end in a linear layer")
    if sum(node.op == "placeholder" for node in chain.graph.nodes) != 1:
        raise NotAChain("it has more than one input")
    for node in chain.graph.nodes:
        layer = _layer(chain, node)
        known = (
            node.op in ("placeholder", "output")
            or node is classifier
            or isinstance(layer, (nn.BatchNorm2d, *POOLS))
            or (isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros" and not isinstance(layer.padding, str))
            or is_relu(chain, node)
            or _is_flatten(chain, node)
            or (node.op == "call_function" and node.target in ADDITIONS and _adds_tensors(node))
        )
        if not known:
            raise NotAChain(f"it has a {type(layer).__name__ if layer else node.target}")


def fold_batch_norms(chain: fx.GraphModule) -> int:
    """Batch norm after a convolution becomes part of its weights and bias; how many."""
    count = 0
    for node in list(chain.graph.nodes):
        norm = _layer(chain, node)
        before = node.args[0] if node.args else None
        if not isinstance(norm, nn.BatchNorm2d) or not isinstance(before, fx.Node):
            continue
        convolution = _layer(chain, before)
        if isinstance(convolution, nn.Conv2d) and len(before.users) == 1 and norm.running_mean is not None:
            chain.set_submodule(str(before.target), fuse_conv_bn_eval(convolution, norm))
            node.replace_all_uses_with(before)
            chain.graph.erase_node(node)
            count += 1
    _recompiled(chain)
    return count


def pad_channels(chain: fx.GraphModule, example_input: Tensor) -> int:
    """Give convolutions zero channels, up to a multiple of :data:`FRIENDLY_CHANNELS`; how many were given some.

    The function stays the same: zeros go through ReLU, addition and pooling as zeros, and meet zero weights.
    """
    groups = _shared_channels(chain)
    padded = 0
    for node in list(chain.graph.nodes):
        layer = _layer(chain, node)
        if isinstance(layer, nn.Conv2d):
            wide = _padded(groups, node, layer.out_channels)
            padded += wide > layer.out_channels
            chain.set_submodule(str(node.target), _wider(layer, _padded(groups, node.args[0], layer.in_channels), wide))
        elif isinstance(layer, nn.Linear):
            features = _padded(groups, node.args[0], layer.in_features)
            if features > layer.in_features:
                wider = nn.Linear(features, layer.out_features, layer.bias is not None)
                wider.weight = nn.Parameter(F.pad(layer.weight.detach(), (0, features - layer.in_features)))
                wider.bias = layer.bias
                chain.set_submodule(str(node.target), wider)
                _cut_features(chain, node, layer.in_features)
    _recompiled(chain)
    if padded:
        ShapeProp(chain).propagate(example_input)
    return padded


def rewrite(chain: fx.GraphModule, dtype: torch.dtype) -> None:
    """Convolutions to ``dtype`` and channels_last; the classifier sees float32."""
    for node in list(chain.graph.nodes):
        layer = _layer(chain, node)
        if isinstance(layer, nn.Linear):
            features = node.args[0]
            with chain.graph.inserting_before(node):
                wide = chain.graph.call_method("float", (features,))
            features.replace_all_uses_with(wide, delete_user_cb=lambda user, wide=wide: user is not wide)
            layer.float()
        elif layer is not None:
            layer.to(dtype).to(memory_format=torch.channels_last)
    _recompiled(chain)


def is_relu(chain: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node is a ReLU, as a layer, function or method."""
    return (
        isinstance(_layer(chain, node), nn.ReLU)
        or (node.op == "call_function" and node.target in RELUS)
        or (node.op == "call_method" and node.target in ("relu", "relu_"))
    )


def is_addition(node: fx.Node) -> bool:
    """Whether the node adds two tensors."""
    return node.op == "call_function" and node.target in ADDITIONS


def _adds_tensors(node: fx.Node) -> bool:
    return len(node.args) == 2 and not node.kwargs and all(isinstance(one, fx.Node) for one in node.args)


def _is_flatten(chain: fx.GraphModule, node: fx.Node) -> bool:
    if isinstance(layer := _layer(chain, node), nn.Flatten):
        return layer.start_dim == 1 and layer.end_dim == -1
    is_call = (node.op, node.target) in (("call_function", torch.flatten), ("call_method", "flatten"))
    return is_call and node.args[1:] == (1,) and not node.kwargs


def _layer(chain: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return chain.get_submodule(str(node.target)) if node.op == "call_module" else None


def _recompiled(chain: fx.GraphModule) -> fx.GraphModule:
    chain.graph.lint()
    chain.recompile()
    return chain


def _shape(node: fx.Node) -> torch.Size:
    return node.meta["tensor_meta"].shape


def _shared_channels(chain: fx.GraphModule) -> dict[fx.Node, fx.Node | None]:
    """For each node, the one that stands for all whose channels are the same; None if they must stay as they are."""
    parent: dict[fx.Node, fx.Node] = {node: node for node in chain.graph.nodes}

    def find(node: fx.Node) -> fx.Node:
        while parent[node] is not node:
            node = parent[node]
        return node

    fixed: set[fx.Node] = set()
    for node in chain.graph.nodes:
        layer = _layer(chain, node)
        if node.op in ("placeholder", "output"):
            fixed.add(node)
        elif isinstance(layer, nn.Conv2d):
            if layer.groups != 1:
                fixed |= {node, node.args[0]}
        elif isinstance(layer, nn.BatchNorm2d):
            fixed |= {node, node.args[0]}
        elif not isinstance(layer, nn.Linear):
            for source in _tensors(node):
                parent[find(node)] = find(source)
            one_pixel = not _is_flatten(chain, node) or _shape(node.args[0])[2:] == (1, 1)
            same_shapes = len({_shape(source) for source in _tensors(node)}) == 1
            if not (one_pixel and same_shapes):
                fixed.add(node)
    shared = {find(node) for node in fixed}
    return {node: None if find(node) in shared else find(node) for node in chain.graph.nodes}


def _tensors(node: fx.Node) -> Iterator[fx.Node]:
    return (one for one in node.args if isinstance(one, fx.Node))


def _padded(groups: dict[fx.Node, fx.Node | None], node: fx.Node, channels: int) -> int:
    return channels if groups[node] is None else -(-channels // FRIENDLY_CHANNELS) * FRIENDLY_CHANNELS


def _wider(layer: nn.Conv2d, channels_in: int, channels_out: int) -> nn.Conv2d:
    """The same convolution with zero channels at the end of its inputs and outputs."""
    more_in, more_out = channels_in - layer.in_channels, channels_out - layer.out_channels
    if not more_in and not more_out:
        return layer
    wide = copy.deepcopy(layer)
    wide.in_channels, wide.out_channels = channels_in, channels_out
    wide.weight = nn.Parameter(F.pad(layer.weight.detach(), (0, 0, 0, 0, 0, more_in, 0, more_out)))
    if layer.bias is not None:
        wide.bias = nn.Parameter(F.pad(layer.bias.detach(), (0, more_out)))
    return wide


def _cut_features(chain: fx.GraphModule, classifier: fx.Node, features: int) -> None:
    """What is returned as features has no padding."""
    output = next(node for node in chain.graph.nodes if node.op == "output")
    with chain.graph.inserting_before(output):
        cut = chain.graph.call_method("narrow", (classifier.args[0], 1, 0, features))
    output.args = ((classifier, cut),)
