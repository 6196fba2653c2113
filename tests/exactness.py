"""What "exact" means for prune, train, fuse: oracles that take nothing from the code that they check.

Where an entry of a pruned network came from is read off its *value*: the dense network's entries are all made distinct
first, so the place of a value in the dense tensor is the truth that an index map is compared with. What re-initialised
entries look like is read off a freshly built network.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
import torch.nn.functional as F
from networks import samples
from torch import Tensor, nn

from prunefuse_bench import PrunedNetwork, fuse, prune
from prunefuse_bench.fusion import Rest
from prunefuse_bench.pruning import Sparsity, gather, prune_further

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
LEAST_SPREAD = 2.0**-6
"""Between the smallest and the largest entry of a tensor that :func:`make_distinct` made of equal ones."""

LARGEST_SAMPLE = 5_000
"""Entries of one tensor that distributions are compared on."""

KOLMOGOROV = 3.5
"""Limit of the two-sample statistic of Kolmogorov and Smirnov: exceeded by chance once in 2e10 tensors."""


@dataclass(frozen=True)
class Case:
    """One way to prune.

    Attributes:
        ratios: of the steps; one is static pruning.
    """

    criterion: str
    sparsity: Sparsity
    ratios: tuple[float, ...]


@torch.no_grad()
def make_distinct(network: nn.Module, seed: int = 0) -> None:
    """Replace the entries of every tensor by distinct ones in the same order, about as large; equal ones in any order.

    The new values are multiples of a power of two, exact in float32. Variances stay positive.
    """
    draws = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        count = tensor.numel()
        if not tensor.is_floating_point() or count < 2:
            continue
        shuffled = torch.randperm(count, generator=draws)
        order = shuffled[tensor.reshape(-1)[shuffled].argsort(stable=True)]
        spread = max(LEAST_SPREAD, math.sqrt(12) * tensor.std().item())
        step = 2.0 ** math.floor(math.log2(spread / count))
        middle = tensor.double().mean().item()
        middle = step * round((max(middle, spread) if name.endswith("running_var") else middle) / step)
        values = torch.empty(count, dtype=tensor.dtype)
        values[order] = (middle + step * (torch.arange(count, dtype=torch.float64) - count // 2)).to(tensor.dtype)
        assert len(values.unique()) == count, name
        tensor.copy_(values.reshape(tensor.shape))


def origin_of_values(dense: Tensor, pruned: Tensor) -> Tensor:
    """Flat index in ``dense``, all of whose entries differ, of every entry of ``pruned``."""
    ordered, order = dense.reshape(-1).sort()
    places = torch.searchsorted(ordered, pruned.reshape(-1)).clamp(max=len(ordered) - 1)
    assert torch.equal(ordered[places], pruned.reshape(-1)), "an entry that is nowhere in the dense tensor"
    return order[places].reshape(pruned.shape)


def train(network: nn.Module, shape: tuple[int, ...], steps: int = 1) -> None:
    """Steps of gradient descent, short enough for any network; buffers change too."""
    network.train()
    parameters = list(network.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9)
    for step in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(network(samples(4, shape, seed=step)), torch.arange(4)).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    network.eval()
    assert all(value.isfinite().all() for value in network.state_dict().values())


def prune_in_steps(dense: nn.Module, shape: tuple[int, ...], case: Case) -> PrunedNetwork:
    """Pruned to each ratio in turn and trained after each, all of its maps compared with where values came from.

    Args:
        dense: its entries are distinct.
        shape: of a sample.
        case: how to prune.
    """
    example, pruned = samples(1, shape), None
    state = _cloned(dense)
    product = {name: torch.arange(value.numel()).reshape(value.shape) for name, value in state.items()}
    for number, ratio in enumerate(case.ratios):
        pruned = (
            prune(dense, example, ratio, criterion=case.criterion, sparsity=case.sparsity)
            if pruned is None
            else prune_further(dense, pruned, example, ratio, criterion=case.criterion, sparsity=case.sparsity)
        )
        left = pruned.model.state_dict()
        assert left.keys() == pruned.index_map.keys() == state.keys()
        for name, value in left.items():
            step = origin_of_values(state[name], value)
            product[name] = product[name].reshape(-1)[step]
            assert torch.equal(pruned.index_map[name], product[name]), (case, ratio, name)
        train(pruned.model, shape)
        if number + 1 < len(case.ratios):
            make_distinct(pruned.model, seed=number)
            state = _cloned(pruned.model)
    assert pruned is not None
    return pruned


def assert_exact(dense: nn.Module, pruned: PrunedNetwork, fresh: nn.Module) -> None:
    """Every entry of the fused network is what it must be, to the bit, for every rest mode.

    Args:
        dense: what was pruned.
        pruned: pruned and trained.
        fresh: a network built like ``dense``, drawn from another seed: what entries that are drawn anew look like.
    """
    values, initial, drawn = _cloned(pruned.model), _cloned(dense), _cloned(fresh)
    parameters = {name for name, _ in dense.named_parameters()}
    remaining = {}
    for name, value in initial.items():
        index = pruned.index_map[name]
        assert index.dtype == torch.int64
        assert index.shape == values[name].shape
        rest = torch.ones(value.numel(), dtype=torch.bool)
        rest[index.reshape(-1)] = False
        assert int((~rest).sum()) == index.numel(), f"two entries of {name} come from one"
        remaining[name] = rest
    for mode in get_args(Rest):
        fused = fuse(dense, pruned, rest=mode, seed=3).state_dict()
        back = gather(fused, pruned.index_map)
        assert fused.keys() == initial.keys()
        for name, value in fused.items():
            where = (mode, name)
            assert value.dtype == initial[name].dtype, where
            assert _same_bits(value.reshape(-1)[pruned.index_map[name].reshape(-1)], values[name].reshape(-1)), where
            assert _same_bits(back[name], values[name]), where
            rest, before = value.reshape(-1)[remaining[name]], initial[name].reshape(-1)[remaining[name]]
            if mode == "retain" or (mode == "zero" and name not in parameters):
                assert _same_bits(rest, before), where
            elif mode == "zero":
                assert _same_bits(rest, torch.zeros_like(rest)), where
            else:
                _assert_drawn_alike(name, rest, before, drawn[name])


def assert_extent(dense: nn.Module, pruned: PrunedNetwork, classes: int) -> None:
    """What the extent says is what tensors hold."""
    parameters = [name for name, _ in dense.named_parameters()]
    tensors = dense.state_dict()
    assert pruned.extent.parameters == (
        sum(tensors[name].numel() for name in parameters),
        sum(pruned.index_map[name].numel() for name in parameters),
    )
    assert pruned.extent.channels == (_channels(dense) - classes, _channels(pruned.model) - classes)


def assert_local_widths(dense: nn.Module, pruned: PrunedNetwork, classifier: str, heads: Mapping[str, int]) -> None:
    """With local sparsity every layer is left int(C (1 - p)) of its C channels, per head where it has heads.

    Args:
        dense: before.
        pruned: after.
        classifier: name of the layer that keeps its outputs.
        heads: number of heads by the last part of a layer's name.
    """
    ratio = pruned.extent.ratio
    assert ratio is not None
    for (name, before), (_, after) in zip(dense.named_modules(), pruned.model.named_modules(), strict=True):
        if isinstance(before, LAYERS):
            parts = heads.get(name.rpartition(".")[2], 1)
            channels = before.weight.shape[0]
            left = channels if name == classifier else parts * int(channels // parts * (1 - ratio))
            assert after.weight.shape[0] == left, name


def zeros_change(dense: nn.Module, pruned: PrunedNetwork, inputs: Tensor) -> float:
    """Largest difference of logits that zeros around the pruned network make.

    Relative to how much logits differ from input to input, and computed in float64, where rounding is all that is left
    of equal functions.
    """
    model = _with_statistics_of(copy.deepcopy(pruned.model), inputs)
    fused = fuse(dense, dataclasses.replace(pruned, model=model), rest="zero").double().eval()
    small = model.double().eval()
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    with torch.no_grad():
        expected, found = small(inputs), fused(inputs)
    variation = float((expected - expected.mean(0)).abs().max())
    assert math.isfinite(variation)
    # Global sparsity may leave a layer so few channels that the network says the same of all inputs.
    return float((found - expected).abs().max()) / max(variation, 1e-4 * float(expected.abs().max()))


def dynamic(ratios: Sequence[tuple[int, float]]) -> tuple[float, ...]:
    """The ratios of a schedule."""
    return tuple(ratio for _, ratio in ratios)


@torch.no_grad()
def _with_statistics_of(network: nn.Module, inputs: Tensor) -> nn.Module:
    """Its batch norms have seen these inputs, so that no signal is lost in many layers."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = 1.0
    network.train()(inputs)
    return network.eval()


def _cloned(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def _channels(network: nn.Module) -> int:
    layers = sum(module.weight.shape[0] for module in network.modules() if isinstance(module, LAYERS))
    return layers + sum(module.weight.shape[1] for module in network.modules() if isinstance(module, nn.Embedding))


def _same_bits(first: Tensor, second: Tensor) -> bool:
    integers = {torch.float32: torch.int32, torch.int64: torch.int64}[first.dtype]
    return torch.equal(first.contiguous().view(integers), second.contiguous().view(integers))


def _assert_drawn_alike(name: str, rest: Tensor, before: Tensor, fresh: Tensor) -> None:
    """As the same tensor of a fresh network: equal where that is constant, else of its distribution."""
    if not len(rest):
        return
    if bool((fresh == fresh.reshape(-1)[0]).all()) and fresh.numel() > 1:
        assert bool((rest == fresh.reshape(-1)[0]).all()), name
        return
    assert rest.isfinite().all(), name
    assert float((rest == before).double().mean()) < 0.5 or len(rest) < 10, f"{name} is not drawn anew"
    first, second = _sampled(rest), _sampled(fresh.reshape(-1))
    every = torch.cat([first, second])
    below = [torch.searchsorted(part, every, right=True).double() / len(part) for part in (first, second)]
    largest = float((below[0] - below[1]).abs().max())
    assert largest < KOLMOGOROV * math.sqrt(1 / len(first) + 1 / len(second)), f"{name}: {largest}"


def _sampled(values: Tensor) -> Tensor:
    """Sorted, contiguous, at most :data:`LARGEST_SAMPLE` of them."""
    chosen = torch.randperm(len(values), generator=torch.Generator().manual_seed(0))[:LARGEST_SAMPLE]
    return values[chosen].sort().values.contiguous()
