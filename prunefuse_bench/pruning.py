"""Structured pruning with a record of where every entry came from (paper, section 4.1; Algorithm 1, line 2).

``prune`` removes channels; what it returns carries, for every parameter and buffer of the small network, the flat index
of each of its entries in the dense tensor of the same name. Fusion, whatever the layer types, is then one scatter
through that map.

The map is found by applying the very same pruning steps to a *shadow* of the network whose tensors hold 0, 1, 2, ...
(float64 holds them exactly): what remains in the shadow is the map. No layer type is treated by hand.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch_pruning
from torch import Tensor, nn

from prunefuse_bench.errors import BadInput
from prunefuse_bench.models import find_classifier

__all__ = ["CRITERIA", "Network", "PrunedNetwork", "PruningStep", "gather", "prune", "replay_pruning"]

PruningStep = tuple[str, bool, list[int]]
"""One step of pruning: (module, True for its output channels, channels removed), indices as they are at that step."""

CRITERIA: Mapping[str, Callable[[], Callable[..., Tensor]]] = {
    "magnitude": lambda: torch_pruning.importance.GroupMagnitudeImportance(p=2),
}
"""Importance of a channel by name. ``magnitude``: L2 norm over the group of layers that share the channel."""


@dataclass(frozen=True)
class Network:
    """A network in a role (the selector, say) of a run."""

    model: nn.Module


@dataclass(frozen=True)
class PrunedNetwork(Network):
    """A structurally pruned network and its origin.

    Attributes:
        model: the small network.
        index_map: for every parameter and buffer of ``model``, int64 of the same shape: the flat index of each entry in
            the dense tensor of that name.
        history: the pruning steps that made it, enough to make its structure again with :func:`replay_pruning`.
    """

    index_map: Mapping[str, Tensor] = field(repr=False)
    history: tuple[PruningStep, ...] = field(repr=False)


def prune(
    model: nn.Module,
    example_input: Tensor,
    ratio: float,
    *,
    criterion: str = "magnitude",
) -> PrunedNetwork:
    """Remove the share ``ratio`` of the channels of every layer, in one shot; the classifier keeps its outputs.

    The remaining weights are kept as they are (paper, section 4.1). Uniform over layers: with p = 0.5 a quarter of the
    parameters remains, as in the paper's tables.

    Args:
        model: the dense network; not changed.
        example_input: float [N, C, H, W] on the model's device; used to trace the network.
        ratio: share of the channels to remove, at least 0 and below 1.
        criterion: name in :data:`CRITERIA`; the channels of least importance are removed.

    Raises:
        BadInput: the ratio is out of range, the criterion is unknown, or the network cannot be traced.
    """
    if not 0 <= ratio < 1:
        raise BadInput(f"pruning ratio: expected a share of the channels from 0 to below 1, got {ratio}")
    if criterion not in CRITERIA:
        raise BadInput(f"pruning criterion: expected one of {', '.join(sorted(CRITERIA))}, got {criterion!r}")
    pruned = copy.deepcopy(model)
    try:
        pruner = torch_pruning.pruner.BasePruner(
            pruned,
            example_input,
            importance=CRITERIA[criterion](),
            pruning_ratio=ratio,
            ignored_layers=[find_classifier(pruned, example_input)],
        )
    except Exception as error:
        raise BadInput(
            f"{type(model).__name__} cannot be traced for pruning ({type(error).__name__}: {error}); "
            "expected a network whose forward pass is made of layers that Torch-Pruning knows"
        ) from error
    pruner.step()
    history = tuple(
        (str(name), bool(is_output), list(map(int, idxs))) for name, is_output, idxs in pruner.pruning_history()
    )
    pruned.zero_grad(set_to_none=True)
    pruned.train(model.training)  # tracing leaves it in evaluation mode
    return PrunedNetwork(pruned, _index_map(model, example_input, history), history)


def replay_pruning(model: nn.Module, example_input: Tensor, history: tuple[PruningStep, ...]) -> PrunedNetwork:
    """The pruned network that these steps make of ``model`` (not changed): same structure and same index map."""
    pruned = copy.deepcopy(model)
    _dependency_graph(pruned, example_input).load_pruning_history(list(history))
    pruned.zero_grad(set_to_none=True)
    pruned.train(model.training)  # tracing leaves it in evaluation mode
    return PrunedNetwork(pruned, _index_map(model, example_input, history), history)


def gather(dense_state: Mapping[str, Tensor], index_map: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries of a dense state that a pruned network holds, in the pruned network's shapes."""
    return {
        name: dense_state[name].reshape(-1)[index.to(dense_state[name].device)] for name, index in index_map.items()
    }


def _dependency_graph(model: nn.Module, example_input: Tensor) -> torch_pruning.DependencyGraph:
    with torch.enable_grad():
        return torch_pruning.DependencyGraph().build_dependency(model, example_inputs=example_input, verbose=False)


def _index_map(model: nn.Module, example_input: Tensor, history: tuple[PruningStep, ...]) -> dict[str, Tensor]:
    shadow = copy.deepcopy(model).cpu().double()
    graph = _dependency_graph(shadow, example_input.cpu().double())
    for tensor in _named_tensors(shadow).values():
        tensor.data = torch.arange(tensor.numel(), dtype=tensor.dtype).reshape(tensor.shape)
    graph.load_pruning_history(list(history))
    return {name: tensor.detach().round().long() for name, tensor in _named_tensors(shadow).items()}


def _named_tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
