"""Structured pruning with a record of where every entry came from (paper, section 4.1; Algorithm 1, line 2).

``prune`` removes channels; what it returns carries, for every parameter and buffer of the small network, the flat index
of each of its entries in the dense tensor of the same name. Fusion, whatever the layer types, is then one scatter
through that map.

Which layers share a channel is found by Torch-Pruning's dependency graph (Fang et al. 2023), which traces the network;
such layers form a group and lose the channel together. The map is found by applying the very same pruning steps to a
*shadow* of the network whose tensors hold 0, 1, 2, ... (float64 holds them exactly): what remains in the shadow is the
map. No layer type is treated by hand.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
import torch_pruning
from torch import Tensor, nn

from prunefuse_bench.attention import attention_heads, mend_attention
from prunefuse_bench.errors import BadInput
from prunefuse_bench.models import count_parameters, find_classifier
from prunefuse_bench.randomness import generator

__all__ = [
    "CRITERIA",
    "DYNAMIC_EPOCHS",
    "DYNAMIC_STEPS",
    "Extent",
    "Network",
    "PrunedNetwork",
    "PruningStep",
    "Sparsity",
    "dynamic_schedule",
    "entries_kept",
    "gather",
    "prune",
    "prune_further",
    "replay_pruning",
]

PruningStep = tuple[str, bool, list[int]]
"""One step of pruning: (module, True for its output channels, channels removed), indices as they are at that step."""

Sparsity = Literal["local", "global"]
"""Whether every group of layers loses the same share of its channels, or all groups together do."""

Importance = Callable[[torch_pruning.dependency.Group], Tensor | None]
"""float [channels] of a group, or None if it has no weights."""

CRITERIA: Mapping[str, Callable[[torch.Generator], Importance]] = {
    "magnitude": lambda _: torch_pruning.importance.GroupMagnitudeImportance(p=2),
    "group_norm": lambda _: torch_pruning.importance.GroupMagnitudeImportance(
        p=2, group_reduction="sum", normalizer="max"
    ),
    "lamp": lambda _: torch_pruning.importance.LAMPImportance(p=2),
    "random": lambda draws: lambda group: torch.rand(len(group[0].idxs), generator=draws),
}
"""Importance of a channel by name; the channels of least importance are removed.

- ``magnitude``: squared L2 norm of the channel's weights, averaged over the layers of the group and relative to the
  group's mean.
- ``group_norm``: squared L2 norm of all its weights in the group (Fang et al. 2023), relative to the group's largest.
- ``lamp``: the magnitude relative to the sum of those of the group that are not smaller (Lee et al. 2021).
- ``random``: drawn.

Within one group the first three rank channels alike: a sum is as many times the mean for every channel, and LAMP grows
with the magnitude. With local sparsity they therefore remove the same channels, but for ties and roundings.
"""

DYNAMIC_STEPS = 5
DYNAMIC_EPOCHS = 20
"""Dynamic pruning of the paper: so many steps in so many epochs (section 9.14)."""


@dataclass(frozen=True)
class Network:
    """A network in a role (the selector, say) of a run."""

    model: nn.Module


@dataclass(frozen=True)
class Extent:
    """How much was removed.

    Attributes:
        ratio: the share of the channels that was asked for, or None if the steps were replayed.
        channels: output channels of all layers with weights but the classifier, before and after.
        parameters: before and after.
    """

    ratio: float | None
    channels: tuple[int, int]
    parameters: tuple[int, int]

    @property
    def channel_ratio(self) -> float:
        """Share of the channels that was removed."""
        return 1 - self.channels[1] / self.channels[0]

    @property
    def parameter_ratio(self) -> float:
        """Share of the parameters that was removed."""
        return 1 - self.parameters[1] / self.parameters[0]


@dataclass(frozen=True)
class PrunedNetwork(Network):
    """A structurally pruned network and its origin.

    Attributes:
        model: the small network.
        index_map: for every parameter and buffer of ``model``, int64 of the same shape: the flat index of each entry in
            the dense tensor of that name.
        history: the pruning steps that made it, enough to make its structure again with :func:`replay_pruning`.
        extent: how much was removed.
    """

    index_map: Mapping[str, Tensor] = field(repr=False)
    history: tuple[PruningStep, ...] = field(repr=False)
    extent: Extent


def prune(
    model: nn.Module,
    example_input: Tensor,
    ratio: float,
    *,
    criterion: str = "magnitude",
    sparsity: Sparsity = "local",
    round_to: int = 1,
    seed: int = 0,
) -> PrunedNetwork:
    """Remove the share ``ratio`` of the channels, in one shot; the classifier keeps its outputs.

    The remaining weights are kept as they are (paper, section 4.1). With local sparsity a ratio of p leaves about
    (1-p)^2 of the parameters: of C channels int(C (1-p)) are left, as Torch-Pruning has it. Heads of attention keep
    their number and become narrower, all channels of a layer that has one channel only (per head or group) stay.

    Args:
        model: the dense network; not changed.
        example_input: one batch on the model's device, float [N, C, H, W] or int64 [N, L]; used to trace the network.
        ratio: share of the channels to remove, at least 0 and below 1.
        criterion: name in :data:`CRITERIA`; the channels of least importance are removed.
        sparsity: ``local`` removes the share from every group of layers, ``global`` from all of them together.
        round_to: numbers of channels that are left are rounded to the nearest multiple of it, one multiple at least
            and no more channels than there were.
        seed: determines the draws of ``random``.

    Raises:
        BadInput: the ratio is out of range or would leave a layer without channels or a head without width, criterion
            or sparsity are unknown, or the network cannot be traced or does not run when pruned.
    """
    return _prune_to(model, None, example_input, _Request(ratio, criterion, sparsity, round_to, seed))


def prune_further(
    dense: nn.Module,
    pruned: PrunedNetwork,
    example_input: Tensor,
    ratio: float,
    *,
    criterion: str = "magnitude",
    sparsity: Sparsity = "local",
    round_to: int = 1,
    seed: int = 0,
) -> PrunedNetwork:
    """Prune a pruned network, trained since, until the share ``ratio`` of the *dense* network's channels is gone.

    For dynamic pruning, in the midst of training: call it with each ratio of :func:`dynamic_schedule` and go on with
    the new network and a new optimizer, for its parameters are new; :func:`entries_kept` says which entry of the
    optimizer's state belongs to which. Its index map leads back to ``dense``, so it is
    fused like any other. Arguments and errors are those of :func:`prune`; neither network is changed.
    """
    return _prune_to(dense, pruned, example_input, _Request(ratio, criterion, sparsity, round_to, seed))


def dynamic_schedule(
    ratio: float, steps: int = DYNAMIC_STEPS, epochs: int = DYNAMIC_EPOCHS
) -> tuple[tuple[int, float], ...]:
    """When dynamic pruning prunes, and to which ratio: ((epochs trained before it, ratio), ...).

    The ratio grows by equal steps after equal numbers of epochs; the last step follows the last of ``epochs``. (Paper,
    section 9.14: "five steps over the course of 20 epochs"; that they are equal is our reading.)
    """
    return tuple((round(epochs * step / steps), ratio * (step / steps)) for step in range(1, steps + 1))


def replay_pruning(model: nn.Module, example_input: Tensor, history: tuple[PruningStep, ...]) -> PrunedNetwork:
    """The pruned network that these steps make of ``model`` (not changed): same structure and same index map."""
    pruned = copy.deepcopy(model)
    _dependency_graph(pruned, example_input).load_pruning_history(list(history))
    return _finished(model, pruned, example_input, _index_map(model, example_input, history), history, None)


def entries_kept(before: PrunedNetwork, after: PrunedNetwork) -> dict[str, Tensor]:
    """Where the entries of a network that was pruned further were in the one before.

    Returns:
        For every parameter and buffer of ``after``, int64 of its shape: flat indices into that of ``before``.
    """
    kept = {}
    for name, index in after.index_map.items():
        origin = before.index_map[name].reshape(-1)
        positions = origin.new_full((int(origin.max()) + 1,), -1)
        positions[origin] = torch.arange(len(origin))
        kept[name] = positions[index]
    return kept


def gather(dense_state: Mapping[str, Tensor], index_map: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries of a dense state that a pruned network holds, in the pruned network's shapes."""
    return {
        name: dense_state[name].reshape(-1)[index.to(dense_state[name].device)] for name, index in index_map.items()
    }


@dataclass(frozen=True)
class _Request:
    ratio: float
    criterion: str
    sparsity: Sparsity
    round_to: int
    seed: int

    def check(self) -> None:
        if not 0 <= self.ratio < 1:
            raise BadInput(f"pruning ratio: expected a share of the channels from 0 to below 1, got {self.ratio}")
        if self.criterion not in CRITERIA:
            raise BadInput(f"pruning criterion: expected one of {', '.join(sorted(CRITERIA))}, got {self.criterion!r}")
        if self.sparsity not in get_args(Sparsity):
            raise BadInput(f"sparsity: expected one of {', '.join(get_args(Sparsity))}, got {self.sparsity!r}")
        if self.round_to < 1:
            raise BadInput(f"round_to: expected a number of channels from 1, got {self.round_to}")


@dataclass(frozen=True)
class _ChannelGroup:
    """Channels of layers that lose them together.

    Attributes:
        layer: name of the layer that they are removed from first, whence the others follow.
        is_output: whether they are its outputs.
        repeats: how often the ranked channels are there, side by side: heads, or groups of a convolution.
        importance: float [channels of one repeat] on the CPU.
        initial: channels of one repeat in the dense network.
    """

    layer: str
    is_output: bool
    repeats: int
    importance: Tensor
    initial: int

    def least_important(self, count: int) -> list[int]:
        """Indices of so many channels of every repeat, sorted."""
        ranked = torch.topk(self.importance, k=count, largest=False).indices
        begins = len(self.importance) * torch.arange(self.repeats)
        return sorted((begins[:, None] + ranked).flatten().tolist())


def _prune_to(
    dense: nn.Module, pruned_before: PrunedNetwork | None, example_input: Tensor, request: _Request
) -> PrunedNetwork:
    request.check()
    start = dense if pruned_before is None else pruned_before.model
    pruned = copy.deepcopy(start)
    try:
        classifier = find_classifier(pruned, example_input)
        graph = _dependency_graph(pruned, example_input)
        groups = list(_channel_groups(graph, classifier, dense, CRITERIA[request.criterion](_draws(request))))
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(
            f"{type(dense).__name__} cannot be traced for pruning ({type(error).__name__}: {error}); "
            "expected a network that ends in a linear layer and is made of layers that Torch-Pruning knows"
        ) from error
    history = []
    for group, count in zip(groups, _removals(groups, request), strict=True):
        if count:
            step = (group.layer, group.is_output, group.least_important(count))
            graph.load_pruning_history([step])
            history.append(step)
    index_map = _index_map(start, example_input, history)
    if pruned_before is not None:
        index_map = {name: pruned_before.index_map[name].reshape(-1)[index] for name, index in index_map.items()}
        history = [*pruned_before.history, *history]
    return _finished(dense, pruned, example_input, index_map, history, request.ratio)


def _draws(request: _Request) -> torch.Generator:
    return generator(request.seed, "pruning", str(request.ratio))


def _channel_groups(
    graph: torch_pruning.DependencyGraph, classifier: nn.Linear, dense: nn.Module, importance: Importance
) -> Iterator[_ChannelGroup]:
    """Every group that can lose channels, in the order of the network."""
    heads = attention_heads(graph.model)
    names = {module: name for name, module in graph.model.named_modules()}
    for found in graph.get_all_groups(ignored_layers=[classifier], root_module_types=ROOTS):
        group = _seen_from_the_reader(graph, found, heads)
        scores = importance(group)
        if scores is None or _smallest_width(graph, group) <= 1:
            continue
        repeats = math.lcm(*_repeats(graph, group, heads))
        ranked = scores.view(repeats, -1).mean(dim=0).cpu()
        if len(ranked) <= 1:
            continue
        name = names[group[0].dep.target.module]
        is_output = graph.is_out_channel_pruning_fn(group[0].dep.handler)
        original = dense.get_submodule(name)
        pruner = graph.get_pruner_of_module(original)
        initial = pruner.get_out_channels(original) if is_output else pruner.get_in_channels(original)
        yield _ChannelGroup(name, is_output, repeats, ranked, initial // repeats)


ROOTS = (nn.modules.conv._ConvNd, nn.Linear)
"""Groups begin at the outputs of these."""


def _seen_from_the_reader(
    graph: torch_pruning.DependencyGraph,
    group: torch_pruning.dependency.Group,
    heads: Mapping[nn.Module, int],
) -> torch_pruning.dependency.Group:
    """Channels of heads, seen from the layer that reads them: there each of them is once, in ``qkv`` three times."""
    reader = None
    headed = False
    for dep, idxs in group:
        headed |= dep.target.module in heads and graph.is_out_channel_pruning_fn(dep.handler)
        if isinstance(dep.target.module, ROOTS) and graph.is_in_channel_pruning_fn(dep.handler):
            reader = (dep.target.module, dep.handler, idxs)
    return graph.get_pruning_group(*reader) if headed and reader else group


def _repeats(
    graph: torch_pruning.DependencyGraph, group: torch_pruning.dependency.Group, heads: Mapping[nn.Module, int]
) -> Iterator[int]:
    yield 1
    for dep, _ in group:
        module, is_output = dep.target.module, graph.is_out_channel_pruning_fn(dep.handler)
        if is_output and module in heads:
            yield heads[module]
        elif not _is_depthwise(module):
            pruner = graph.get_pruner_of_module(module)
            count = pruner.get_out_channel_groups(module) if is_output else pruner.get_in_channel_groups(module)
            yield count


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.conv._ConvNd) and module.groups == module.out_channels


def _smallest_width(graph: torch_pruning.DependencyGraph, group: torch_pruning.dependency.Group) -> int:
    widths = [
        graph.get_out_channels(dep.target)
        if graph.is_out_channel_pruning_fn(dep.handler)
        else graph.get_in_channels(dep.target)
        for dep, _ in group
    ]
    return min(width for width in widths if width is not None)


def _removals(groups: Sequence[_ChannelGroup], request: _Request) -> list[int]:
    """How many channels of one repeat each group loses."""
    if not groups:
        return []
    if request.sparsity == "local":
        left = [int(group.initial * (1 - request.ratio)) for group in groups]
    else:
        left = _left_by_threshold(groups, request.ratio)
    for group, count in zip(groups, left, strict=True):
        if count < 1:
            where = f"{group.layer!r}, per head or group" if group.repeats > 1 else repr(group.layer)
            advice = (
                f"at most {1 - 1 / group.initial:.3g}" if request.sparsity == "local" else "less, or local sparsity"
            )
            raise BadInput(
                f"pruning ratio {request.ratio}: nothing would be left of the {group.initial} channels of {where}; "
                f"expected {advice}"
            )
    return [
        max(0, len(group.importance) - _rounded(count, request.round_to, group))
        for group, count in zip(groups, left, strict=True)
    ]


def _left_by_threshold(groups: Sequence[_ChannelGroup], ratio: float) -> list[int]:
    scores = torch.cat([group.importance for group in groups])
    removed = len(scores) - int(sum(group.initial for group in groups) * (1 - ratio))
    goes = torch.zeros(len(scores), dtype=torch.bool)
    goes[torch.topk(scores, k=max(0, removed), largest=False).indices] = True
    return [int((~part).sum()) for part in goes.split([len(group.importance) for group in groups])]


def _rounded(count: int, round_to: int, group: _ChannelGroup) -> int:
    """The number of channels of one repeat for which all repeats together are nearest to a multiple."""
    step = round_to // math.gcd(round_to, group.repeats)
    return min(len(group.importance), max(step, (2 * count + step) // (2 * step) * step))


def _finished(
    dense: nn.Module,
    pruned: nn.Module,
    example_input: Tensor,
    index_map: Mapping[str, Tensor],
    history: Sequence[PruningStep],
    ratio: float | None,
) -> PrunedNetwork:
    mend_attention(pruned)
    pruned.zero_grad(set_to_none=True)
    pruned.eval()
    try:
        with torch.no_grad():
            classes = pruned(example_input).shape[1]
    except Exception as error:
        raise BadInput(
            f"{type(dense).__name__} does not run any more when it is pruned ({type(error).__name__}: {error}); "
            "its forward pass does something with channels that Torch-Pruning does not follow"
        ) from error
    pruned.train(dense.training)  # tracing leaves it in evaluation mode
    extent = Extent(
        ratio,
        (_output_channels(dense) - classes, _output_channels(pruned) - classes),
        (count_parameters(dense), count_parameters(pruned)),
    )
    return PrunedNetwork(pruned, index_map, tuple(history), extent)


def _output_channels(model: nn.Module) -> int:
    count = 0
    for module in model.modules():
        if isinstance(module, ROOTS):
            count += module.out_features if isinstance(module, nn.Linear) else module.out_channels
        elif isinstance(module, nn.Embedding):
            count += module.embedding_dim
    return count


def _dependency_graph(model: nn.Module, example_input: Tensor) -> torch_pruning.DependencyGraph:
    with torch.enable_grad():
        graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=(example_input,), verbose=False)
    widest = max((max(parameter.shape[:2]) for parameter in model.parameters() if parameter.ndim), default=0)
    for node in graph.module2node.values():
        for dependency in node.dependencies:
            dependency.index_mapping.append(_Limit(LARGEST_GROUP * widest))  # after those that the graph itself sets
    return graph


LARGEST_GROUP = 4
"""More channels than so many times the widest layer's, followed from one layer to the next, were followed wrongly."""


@dataclass(frozen=True)
class _Limit:
    """Hands indices of channels on, unless there are too many: those of some networks would multiply for ever."""

    count: int

    def __call__(self, indices: list[Any]) -> list[Any]:
        if len(indices) > self.count:
            raise ValueError("the channels that belong together become more from layer to layer, without end")
        return indices


def _index_map(model: nn.Module, example_input: Tensor, history: Sequence[PruningStep]) -> dict[str, Tensor]:
    shadow = copy.deepcopy(model).cpu().double()
    example = example_input.cpu()
    graph = _dependency_graph(shadow, example.double() if example.is_floating_point() else example)
    for tensor in _named_tensors(shadow).values():
        tensor.data = torch.arange(tensor.numel(), dtype=tensor.dtype).reshape(tensor.shape)
    graph.load_pruning_history(list(history))
    return {name: tensor.detach().round().long() for name, tensor in _named_tensors(shadow).items()}


def _named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers themselves, as they are named in the state."""
    return dict(model.state_dict(keep_vars=True))
