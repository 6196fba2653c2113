"""How a network's entries are drawn at first, as data: so that a kernel can draw some of them anew."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

__all__ = ["Law", "draw", "he_laws", "initial_laws", "layer_laws", "reinitialise"]


@dataclass(frozen=True)
class Law:
    """The distribution of one tensor's entries.

    Attributes:
        kind: ``constant`` (a), ``uniform`` (from a to b), ``normal`` (mean a, standard deviation b), or ``keep``
            (whatever stands there).
    """

    kind: Literal["keep", "constant", "uniform", "normal"]
    a: float = 0.0
    b: float = 0.0


def layer_laws(model: nn.Module) -> dict[str, Law]:
    """The laws of torch's own ``reset_parameters``, by tensor name, for the layer types whose law is one of a Law's.

    Linear layers and convolutions draw weight and bias uniformly within 1 / sqrt(fan-in); embeddings are standard
    normal; normalisations start at scale 1 and shift 0, running mean 0 and variance 1.
    """
    laws: dict[str, Law] = {}
    for prefix, module in model.named_modules():
        if type(module) in {nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d}:
            bound = 1 / math.sqrt(module.weight[0].numel())
            names = {"weight": Law("uniform", -bound, bound), "bias": Law("uniform", -bound, bound)}
        elif type(module) in {nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm}:
            zero, one = Law("constant", 0.0), Law("constant", 1.0)
            names = {"weight": one, "bias": zero, "running_mean": zero, "running_var": one}
        elif type(module) is nn.Embedding and module.padding_idx is None:
            names = {"weight": Law("normal", 0.0, 1.0)}
        else:
            continue
        for name, law in names.items():
            if getattr(module, name, None) is not None:
                laws[f"{prefix}.{name}" if prefix else name] = law
    return laws


def he_laws(model: nn.Module, mode: Literal["fan_in", "fan_out"]) -> dict[str, Law]:
    """He-normal laws of all convolutions, by name of the weight (as ``nn.init.kaiming_normal_`` for ReLU draws them).

    The fan-out counts all output channels, of grouped convolutions too.
    """
    laws = {}
    for prefix, module in model.named_modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            weight = module.weight
            fan = weight[0].numel() if mode == "fan_in" else weight.shape[0] * math.prod(weight.shape[2:])
            laws[f"{prefix}.weight"] = Law("normal", 0.0, math.sqrt(2 / fan))
    return laws


@torch.no_grad()
def draw(model: nn.Module, laws: Mapping[str, Law]) -> None:
    """Draw the tensors that have a law from torch's global generator, in the order of the state."""
    for name, tensor in model.state_dict().items():
        law = laws.get(name, Law("keep"))
        if law.kind == "constant":
            tensor.fill_(law.a)
        elif law.kind == "uniform":
            tensor.uniform_(law.a, law.b)
        elif law.kind == "normal":
            tensor.normal_(law.a, law.b)


def initial_laws(model: nn.Module) -> dict[str, Law]:
    """The law of every tensor that has one, by its name in the state.

    A network with an ``init_weights()`` of its own says them in a method ``initial_laws()``; if it does not, none is
    known. Nor is one known of a network that only its library can build (``build_again``).
    """
    if callable(own := getattr(model, "initial_laws", None)):
        return own()
    known = not any(callable(getattr(model, name, None)) for name in ("init_weights", "build_again"))
    return layer_laws(model) if known else {}


def reinitialise(model: nn.Module) -> None:
    """Draw all weights anew, each layer from its own initial distribution, and reset the buffers.

    What a network's ``build_again()`` returns, if it has one: a fresh network of the same class and sizes. Else every
    layer's ``reset_parameters()``, and then the network's own ``init_weights()`` if it defines one.
    """
    if callable(build_again := getattr(model, "build_again", None)):
        model.load_state_dict(build_again().state_dict())
        return
    for module in model.modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
    if callable(init_weights := getattr(model, "init_weights", None)):
        init_weights()
