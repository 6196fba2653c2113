"""How a network's entries are drawn at first, as data: so that a kernel can draw some of them anew."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import nn

__all__ = ["Law", "initial_laws", "layer_laws", "reinitialise"]


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


def initial_laws(model: nn.Module) -> dict[str, Law]:
    """The law of every tensor that has one, by its name in the state.

    A network with an ``init_weights()`` of its own says them in a method ``initial_laws()``; if it does not, none is
    known.
    """
    if callable(own := getattr(model, "initial_laws", None)):
        return own()
    return {} if callable(getattr(model, "init_weights", None)) else layer_laws(model)


def reinitialise(model: nn.Module) -> None:
    """Draw all weights anew, each layer from its own initial distribution, and reset the buffers.

    Every layer's ``reset_parameters()``, and then the network's own ``init_weights()`` if it defines one.
    """
    for module in model.modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
    if callable(init_weights := getattr(model, "init_weights", None)):
        init_weights()
