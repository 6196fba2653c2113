"""Chains in 8 bits: a network that looks through a pool several times as fast, and is right to within a few percent.

Activations are bytes, in steps of their channel's own size, up to the largest value that a sample of the pool gave
there; weights are signed bytes in steps of their filter's own size (Jacob et al., CVPR 2018). The images are taken as
the pool has them, with the normalisation in the first layer's weights.

How a network is described to the operator is said in ``csrc/cpu/quantised.h``.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from prunefuse_bench.inference.core import (
    Layer,
    find_chain,
    pad_layer,
    padded_channels,
    place_tensors,
    smallest_channels,
)
from prunefuse_bench.inference.rewriting import NotAChain
from prunefuse_bench.ops.quantised import has_quantised_chains, run_quantised_chain

__all__ = ["QuantisedChain", "quantise_chain"]

SIDE_BY_SIDE = 4
"""Images: rows of 16 pixels are full then, also where images are 8 pixels wide."""
BYTES, SIGNED, MIDDLE = 255, 127, 128
"""Steps of what ReLU has ended; of what has a sign, either way; and what zero of the latter is stored as."""
SMALLEST_SHARE = 1 / 256
"""A channel that is silent in the sample may speak elsewhere: its step is at least this share of the largest one."""


@dataclass(frozen=True)
class QuantisedChain:
    """From images of the pool to logits.

    Attributes:
        steps: of the features, what one more means, float32 [D].
        error: of the sample's logits, root mean square, as a share of their standard deviation.
    """

    classifier: nn.Linear
    around: Tensor = field(repr=False)
    pictures: Tensor = field(repr=False)
    layers: Tensor = field(repr=False)
    averaged: int
    weights: Tensor = field(repr=False)
    factors: Tensor = field(repr=False)
    steps: Tensor = field(repr=False)
    error: float = 0.0

    def __call__(self, images: Tensor) -> Tensor:
        """Uint8 [N, C, H, W] -> logits float32 [N, classes]."""
        means = run_quantised_chain(
            images, self.around, self.pictures, self.layers, self.averaged, self.weights, self.factors
        )
        with torch.no_grad():
            return self.classifier(means[:, : len(self.steps)] * self.steps)


def quantise_chain(chain: fx.GraphModule, sample: Tensor, mean: Tensor, std: Tensor) -> QuantisedChain:
    """Weights, factors and program for the kernels.

    Args:
        chain: traced, batch norms folded, every node with the shape of its tensor; it is not changed.
        sample: uint8 [N, C, H, W] of the pool, which says how large activations become.
        mean, std: per channel, of pixel values 0 to 255.

    Raises:
        NotAChain: this processor does not multiply bytes, or the network has other parts than 3x3 and 1x1 convolutions,
            ReLU, additions, and global average pooling before its classifier.
    """
    if not has_quantised_chains():
        raise NotAChain("no AVX512-VNNI")
    layers, pooled, classifier = find_chain(chain)
    by_result = {layer.result: layer for layer in layers}
    images = layers[0].source
    for layer in layers:
        read = by_result.get(layer.source)
        if (read is not None and not read.relu) or layer.residual is images:
            raise NotAChain("it has a convolution of what no ReLU has ended, or adds to its images")
    if not by_result[pooled].relu:
        raise NotAChain("its classifier sees what no ReLU has ended")
    smallest = smallest_channels(layers)
    pictures, places = place_tensors(layers, pooled, smallest, lambda _: SIDE_BY_SIDE)
    largest, expected = _look(chain, (sample - mean[:, None, None]) / std[:, None, None])
    steps = {images: 1 / std}
    program: list[list[int]] = []
    weights: list[Tensor] = []
    factors: list[Tensor] = []
    weight_count = factor_count = 0
    for layer in layers:
        channels_in = padded_channels(layer.convolution.in_channels, smallest)
        channels_out = padded_channels(layer.convolution.out_channels, smallest)
        steps[layer.result] = _steps(largest[layer.result], layer.relu)
        quantised, scale, offset = _quantised(layer, channels_in, channels_out, steps[layer.source])
        if layer.source is images:  # which have their mean in them
            offset -= scale * (quantised.sum((2, 3))[:, : len(mean)].float() @ mean)
        out = _padded(steps[layer.result], channels_out)
        gain = torch.zeros(channels_out)
        if layer.residual is not None:
            gain = _padded(steps[layer.residual], channels_out) / out
        offset = offset / out + (0 if layer.relu else MIDDLE)
        if layer.residual is not None and not by_result[layer.residual].relu:
            offset -= MIDDLE * gain
        residual = -1 if layer.residual is None else places[layer.residual]
        kernel, stride = int(layer.convolution.kernel_size[0]), int(layer.convolution.stride[0])
        program.append(
            [places[layer.source], places[layer.result], residual, kernel, stride, 1, weight_count, factor_count]
        )
        weights.append(quantised.flatten())
        factors.append(torch.stack([scale / out, offset, gain]))
        weight_count += quantised.numel()
        factor_count += channels_out
    quantised_chain = QuantisedChain(
        classifier,
        mean.round().to(torch.uint8),
        torch.tensor(pictures),
        torch.tensor(program),
        places[pooled],
        torch.cat(weights),
        torch.cat(factors, dim=1),
        steps[pooled],
    )
    difference = (quantised_chain(sample) - expected).square().mean().sqrt()
    return dataclasses.replace(quantised_chain, error=float(difference / expected.std().clamp(min=1e-6)))


def _look(chain: fx.GraphModule, inputs: Tensor) -> tuple[dict[fx.Node, Tensor], Tensor]:
    """The largest value of each channel of each node's tensor, without its sign, float32 [C]; and the logits."""
    largest: dict[fx.Node, Tensor] = {}

    class Looking(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            found = super().run_node(n)
            if isinstance(found, Tensor) and found.dim() == 4:
                largest[n] = found.abs().amax((0, 2, 3))
            return found

    with torch.no_grad():
        logits, _ = Looking(chain).run(inputs)
    return largest, logits


def _steps(largest: Tensor, relu: bool) -> Tensor:
    """What one more means, float32 [C]."""
    if not float(largest.max()) > 0:
        return torch.ones_like(largest)
    return largest.clamp(min=SMALLEST_SHARE * float(largest.max())) / (BYTES if relu else SIGNED)


def _quantised(layer: Layer, channels_in: int, channels_out: int, steps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights int8 [O, I, K, K]; what one more of their sums means, and the bias, float32 [O]."""
    weight, bias = pad_layer(layer, channels_in, channels_out)
    weight = weight * _padded(steps, channels_in)[:, None, None]
    scale = weight.abs().amax((1, 2, 3)) / SIGNED
    scale[scale == 0] = 1
    return (weight / scale[:, None, None, None]).round().to(torch.int8), scale, bias


def _padded(steps: Tensor, channels: int) -> Tensor:
    return torch.cat([steps, steps.new_ones(channels - len(steps))])
