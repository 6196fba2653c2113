"""From a trained network to the fastest function we know that computes the same logits.

A convolutional classifier becomes a chain of convolutions: batch norm is folded into the weights, ReLU and the residual
addition happen inside the convolution before it, channels are padded with zeros to what vector and matrix units take at
once, tensors are channels_last, and with bf16 nothing but the classifier is wider than 16 bits. This takes well under a
second, where a compiler takes a minute for each new structure, and pruning makes a new structure in every round. Where
the core has kernels for the whole chain, a few images at a time go through all of it (:mod:`.core`).

A network that is not such a chain runs as it is, under autocast.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from prunefuse_bench.inference.core import CoreChain, compile_chain
from prunefuse_bench.inference.onednn import fuse_activations, has_fused_convolutions
from prunefuse_bench.inference.precision import Precision, autocast
from prunefuse_bench.inference.rewriting import NotAChain, fold_batch_norms, pad_channels, rewrite, trace_chain
from prunefuse_bench.models import find_classifier

__all__ = ["Prepared", "prepare"]

CPU_BATCH = 256
"""Images at once: large enough for the calls to cost nothing, small enough that activations stay near the processor."""
DEVICE_BATCH = 2000

TOLERANCE = 1e-3
"""Largest difference of the rewritten network's logits in float32, as a share of the largest logit."""
BF16_TOLERANCE = 0.05
"""Largest difference of the core's features, as a share of the largest feature: roundings of all layers together."""


@dataclass(frozen=True)
class Prepared:
    """A function that computes the logits of a network in evaluation mode, without gradients.

    Attributes:
        how: what was done, in words; ``prunefuse-bench profile`` prints it.
        batch_size: how many images it likes to see at once.
        dtype: which number format it likes them in; any other is converted.
    """

    how: str
    batch_size: int
    dtype: torch.dtype
    forward: Callable[[Tensor], tuple[Tensor, Tensor | None]] = field(repr=False)

    def __call__(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Float [N, C, H, W] -> logits float32 [N, classes], features float32 [N, D] (what the classifier sees).

        The features are None if the network does not end in a linear layer.
        """
        with torch.no_grad():
            return self.forward(inputs)


def prepare(network: nn.Module, example_input: Tensor, precision: Precision) -> Prepared:
    """Make ``network`` ready for scoring; it is left in evaluation mode and otherwise not changed.

    Args:
        network: a classifier.
        example_input: float [N, C, H, W] on the network's device, of the shape that will be scored.
        precision: ``bf16`` rounds weights and activations to bfloat16; the classifier stays in float32.

    Returns:
        A function of batches of that shape; what cannot be rewritten runs as it is, and ``how`` says why.
    """
    network.eval()
    batch_size = CPU_BATCH if example_input.device.type == "cpu" else DEVICE_BATCH
    try:
        return Prepared(*_chain(network, example_input, precision, batch_size))
    except NotAChain as reason:
        how = f"as it is, {precision} by autocast: {reason}"
        return Prepared(how, batch_size, torch.float32, _plain(network, precision))


def _chain(
    network: nn.Module, example_input: Tensor, precision: Precision, batch_size: int
) -> tuple[str, int, torch.dtype, Callable[[Tensor], tuple[Tensor, Tensor | None]]]:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    with torch.no_grad():
        chain = trace_chain(network, example_input)
        steps = [f"{fold_batch_norms(chain)} batch norms folded"]
        core = _compile(chain) if example_input.device.type == "cpu" and precision == "bf16" else None
        if padded := pad_channels(chain, example_input):
            steps.append(f"{padded} layers padded with zero channels")
        _check(network, chain, example_input)
        if core is not None and _agrees(core, chain, example_input):
            how = f"{steps[0]}, {len(core.layers)} convolutions in one call (own kernels), {precision}"
            return how, batch_size, dtype, _in_core(core)
        rewrite(chain, dtype)
        if example_input.device.type == "cpu" and has_fused_convolutions():
            steps.append(f"{fuse_activations(chain, batch_size)} convolutions with ReLU or addition inside (oneDNN)")
    steps += ["channels_last", precision]

    def forward(inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        logits, features = chain(inputs.to(dtype, memory_format=torch.channels_last))
        return logits, features

    try:
        with torch.no_grad():
            forward(example_input)
    except RuntimeError as error:  # some processors and versions lack an operator for a number format
        raise NotAChain(f"rewritten, it does not run ({error})") from error
    return ", ".join(steps), batch_size, dtype, forward


def _check(network: nn.Module, chain: nn.Module, example_input: Tensor) -> None:
    """A rewriting that computes something else is not used, whatever the reason."""
    expected, (found, _) = network(example_input), chain(example_input)
    difference = float((found - expected).abs().max())
    if not difference <= TOLERANCE * float(expected.abs().max().clamp(min=1e-6)):
        raise NotAChain(f"rewritten, its logits differ by {difference:.2g}")


def _compile(chain: fx.GraphModule) -> CoreChain | None:
    try:
        return compile_chain(chain)
    except NotAChain:
        return None


def _agrees(core: CoreChain, chain: nn.Module, example_input: Tensor) -> bool:
    """Whether the core computes the features, up to the roundings of bfloat16."""
    _, expected = chain(example_input)
    try:
        difference = (core(example_input.bfloat16()) - expected).abs().max()
    except RuntimeError:  # images too large for its tables
        return False
    return bool(difference <= BF16_TOLERANCE * expected.abs().max().clamp(min=1e-6))


def _in_core(core: CoreChain) -> Callable[[Tensor], tuple[Tensor, Tensor | None]]:
    def forward(inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        features = core(inputs.to(torch.bfloat16, memory_format=torch.channels_last))
        return core.classifier(features), features

    return forward


def _plain(network: nn.Module, precision: Precision) -> Callable[[Tensor], tuple[Tensor, Tensor | None]]:
    classifier: list[nn.Linear] = []

    def forward(inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        if not classifier:
            try:
                classifier.append(find_classifier(network, inputs[:1]))
            except ValueError:
                return _logits(network, inputs, precision), None
        seen: list[Tensor] = []
        hook = classifier[0].register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].float()))
        try:
            return _logits(network, inputs, precision), seen[-1]
        finally:
            hook.remove()

    return forward


def _logits(network: nn.Module, inputs: Tensor, precision: Precision) -> Tensor:
    with autocast(inputs.device, precision):
        return network(inputs).float()
