"""Chains for the core's own matrix kernels: a whole network in one call, a few images at a time.

The activations of a few images stay in the processor's caches from the first layer to the last, where calling layer by
layer over a batch moves every one of them through memory. What is computed is what torch computes in bfloat16: products
of bfloat16 numbers summed in float32, one rounding after bias, residual addition and ReLU.

How a network is described to the operator is said in ``csrc/cpu/chain.h``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from prunefuse_bench.inference.rewriting import NotAChain, is_addition, is_relu
from prunefuse_bench.ops.chain import has_chains, pack_weight, run_chain

__all__ = [
    "CoreChain",
    "Layer",
    "compile_chain",
    "find_chain",
    "pad_layer",
    "padded_channels",
    "place_tensors",
    "smallest_channels",
]


@dataclass(frozen=True)
class CoreChain:
    """From a batch to the features that the classifier sees.

    Attributes:
        classifier: the linear layer behind them, float32.
    """

    classifier: nn.Linear
    pictures: Tensor = field(repr=False)
    layers: Tensor = field(repr=False)
    averaged: int
    weights: Tensor = field(repr=False)
    biases: Tensor = field(repr=False)

    def __call__(self, batch: Tensor) -> Tensor:
        """Bfloat16 [N, C, H, W], best in channels_last memory -> float32 [N, D]."""
        images = batch.permute(0, 2, 3, 1).contiguous()
        features = run_chain(images, self.pictures, self.layers, self.averaged, self.weights, self.biases)
        return features[:, : self.classifier.in_features]


@dataclass(frozen=True)
class Layer:
    """relu(convolution(source) + residual), where ReLU and residual may be absent."""

    convolution: nn.Conv2d
    source: fx.Node
    result: fx.Node
    residual: fx.Node | None
    relu: bool


def compile_chain(chain: fx.GraphModule) -> CoreChain:
    """Weights and program for the kernels.

    Args:
        chain: traced, batch norms folded, every node with the shape of its tensor; it is not changed.

    Raises:
        NotAChain: this processor has neither AMX nor AVX512-BF16, or the network has other parts than 3x3 and 1x1
            convolutions, ReLU, additions, and global average pooling before its classifier.
    """
    if not has_chains():
        raise NotAChain("neither AMX nor AVX512-BF16")
    layers, pooled, classifier = find_chain(chain)
    layers.sort(key=lambda layer: _images(layer.source))  # stable: what is needed first stays first
    smallest = smallest_channels(layers)
    pictures, places = place_tensors(layers, pooled, smallest, _images)
    program: list[list[int]] = []
    weights: list[Tensor] = []
    biases: list[Tensor] = []
    weight_count = bias_count = 0
    for layer in layers:
        convolution = layer.convolution
        channels_in = padded_channels(convolution.in_channels, smallest)
        channels_out = padded_channels(convolution.out_channels, smallest)
        kernel, stride = int(convolution.kernel_size[0]), int(convolution.stride[0])
        residual = -1 if layer.residual is None else places[layer.residual]
        program.append(
            [places[layer.source], places[layer.result], residual, kernel, stride, layer.relu, weight_count, bias_count]
        )
        weight, bias = pad_layer(layer, channels_in, channels_out)
        weights.append(pack_weight(weight.bfloat16(), stride))
        biases.append(bias)
        weight_count += weights[-1].numel()
        bias_count += biases[-1].numel()
    return CoreChain(
        classifier, torch.tensor(pictures), torch.tensor(program), places[pooled], torch.cat(weights), torch.cat(biases)
    )


def find_chain(chain: fx.GraphModule) -> tuple[list[Layer], fx.Node, nn.Linear]:
    """The convolutions in the order of their results, what is averaged over its pixels, and the classifier behind.

    Raises:
        NotAChain: there is something else between the images and the classifier.
    """
    pooled, classifier = _find_end(chain)
    layers = _find_layers(chain)
    known = {layer.source for layer in layers[:1]} | {layer.result for layer in layers}
    if not layers or layers[0].source.op != "placeholder" or pooled not in known:
        raise NotAChain("it is not made of convolutions from end to end")
    for layer in layers:
        if layer.source not in known or (layer.residual is not None and layer.residual not in known):
            raise NotAChain("it has something between its convolutions")
    return layers, pooled, classifier


def _find_end(chain: fx.GraphModule) -> tuple[fx.Node, nn.Linear]:
    """What is averaged over its pixels, and the classifier of these averages."""
    output = next(node for node in chain.graph.nodes if node.op == "output")
    end = output.args[0][0]
    classifier = _layer(chain, end)
    flat = end.args[0]
    pool = flat.args[0] if flat.args else None
    if not isinstance(classifier, nn.Linear) or not isinstance(pool, fx.Node):
        raise NotAChain("it does not end in a linear layer")
    average = _layer(chain, pool)
    if not isinstance(average, nn.AdaptiveAvgPool2d) or average.output_size not in {1, (1, 1)}:
        raise NotAChain("its classifier does not see averages over all pixels")
    return pool.args[0], classifier  # type: ignore[return-value]


def _find_layers(chain: fx.GraphModule) -> list[Layer]:
    """The convolutions with what they take in, in the order in which their results are there."""
    found: dict[fx.Node, Layer] = {}
    taken: set[fx.Node] = set()
    for node in chain.graph.nodes:
        convolution = _layer(chain, node)
        if isinstance(convolution, nn.Conv2d):
            _check_convolution(convolution)
            last: fx.Node = node
            residual: fx.Node | None = None
            after = _only_user(last)
            if after is not None and after not in taken and is_addition(after) and after.args[0] is not after.args[1]:
                (residual,) = (source for source in after.all_input_nodes if source is not last)
                taken.add(after)
                last, after = after, _only_user(after)
            relu = after is not None and is_relu(chain, after)
            if after is not None and relu:
                taken.add(after)
                last = after
            found[last] = Layer(convolution, node.all_input_nodes[0], last, residual, relu)
        elif node not in taken and (is_relu(chain, node) or is_addition(node)):
            raise NotAChain("it has a ReLU or an addition that follows no convolution")
    return [found[node] for node in chain.graph.nodes if node in found]


def _check_convolution(convolution: nn.Conv2d) -> None:
    kernel = convolution.kernel_size[0]
    expected = ((kernel, kernel), (kernel // 2, kernel // 2), (1, 1), 1)
    found = (convolution.kernel_size, convolution.padding, convolution.dilation, convolution.groups)
    if kernel not in {1, 3} or found != expected or convolution.stride not in {(1, 1), (2, 2)}:
        raise NotAChain(f"it has a {convolution}")


def place_tensors(
    layers: list[Layer], pooled: fx.Node, smallest: int, images: Callable[[fx.Node], int]
) -> tuple[list[tuple[int, int, int, int]], dict[fx.Node, int]]:
    """Few pictures of [channels, height, width, images side by side], and in which of them each tensor is.

    A picture is free for another tensor of its shape when nobody will look at its tensor again; a residual's picture
    takes the sum itself, and that of the images takes nothing else.
    """
    first = layers[0].source

    def picture(node: fx.Node) -> tuple[int, int, int, int]:
        _, channels, height, width = node.meta["tensor_meta"].shape
        return padded_channels(channels, smallest), height, width, images(node)

    looks = Counter(node for layer in layers for node in (layer.source, layer.residual) if node is not None)
    looks[pooled] += 1
    looks[first] += 1
    pictures = [picture(first)]
    places, free = {first: 0}, set[int]()
    for layer in layers:
        if layer.residual is not None:
            looks[layer.residual] -= 1
            if looks[layer.residual] == 0:
                free.add(places[layer.residual])
        shape = picture(layer.result)
        place = next((place for place in sorted(free) if pictures[place] == shape), None)
        if place is None:
            place = len(pictures)
            pictures.append(shape)
        free.discard(place)
        places[layer.result] = place
        looks[layer.source] -= 1
        if looks[layer.source] == 0:
            free.add(places[layer.source])
    return pictures, places


def _images(node: fx.Node) -> int:
    """Images side by side: more where they are so narrow that tiles of 16 pixels would be left half empty."""
    return 1 if node.meta["tensor_meta"].shape[3] >= 16 else 4


def smallest_channels(layers: list[Layer]) -> int:
    """8 output channels can be computed of 8 input channels only."""
    return 16 if any(layer.convolution.out_channels <= 8 < layer.convolution.in_channels for layer in layers) else 8


def padded_channels(channels: int, smallest: int) -> int:
    """As many as a picture has for them."""
    return smallest if channels <= smallest else -(-channels // 16) * 16


def pad_layer(layer: Layer, channels_in: int, channels_out: int) -> tuple[Tensor, Tensor]:
    """Weight float32 [O, I, K, K] and bias float32 [O] with zeros for the channels that are missing."""
    convolution = layer.convolution
    weight = convolution.weight.detach()
    more = (channels_in - weight.shape[1], channels_out - weight.shape[0])
    bias = torch.zeros(channels_out)
    if convolution.bias is not None:
        bias[: convolution.out_channels] = convolution.bias.detach()
    return F.pad(weight, (0, 0, 0, 0, 0, more[0], 0, more[1])), bias


def _layer(chain: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return chain.get_submodule(str(node.target)) if node.op == "call_module" else None


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None
