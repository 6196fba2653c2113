"""Fusion: the trained pruned network goes back into the dense one (paper, sections 4.4 and 9.4)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from prunefuse_bench import ops
from prunefuse_bench.initialisation import Law, initial_laws, reinitialise
from prunefuse_bench.pruning import PrunedNetwork
from prunefuse_bench.randomness import derive_seed, seeded

__all__ = ["Rest", "fuse"]

Rest = Literal["reinit", "retain", "zero"]
"""What the coordinates hold that no entry of the pruned network came from (paper, Table 18)."""


@torch.no_grad()
def fuse(dense: nn.Module, pruned: PrunedNetwork, *, rest: Rest = "reinit", seed: int = 0) -> nn.Module:
    """Copy every entry of the pruned network to the coordinate of the dense network that it came from.

    Parameters and buffers (running mean and variance) alike. The classifier's outputs are never pruned, so only its
    inputs are aligned.

    Args:
        dense: the network that was pruned; not changed.
        pruned: what :func:`prunefuse_bench.prune` made of it, trained since.
        rest: the remaining entries are drawn anew from each layer's own initial distribution (``reinit``, the paper's
            choice), kept as they are in ``dense`` (``retain``), or set to zero (``zero``; parameters only, buffers are
            kept). A remaining entry of zero stays zero under gradient descent, since its gradient is zero too.
        seed: determines the draw of ``reinit``, which is the same on every device.

    Returns:
        A network of the class and the device of ``dense``.

    Raises:
        ValueError: an unknown ``rest``, or a network that ``pruned`` does not come from (the first tensor that does not
            fit is named).
    """
    if rest not in get_args(Rest):
        raise ValueError(f"rest: expected one of {', '.join(get_args(Rest))}, got {rest!r}")
    fused = copy.deepcopy(dense)
    pruned_state, dense_state = pruned.model.state_dict(), fused.state_dict()
    if pruned_state.keys() != dense_state.keys():
        odd = min(pruned_state.keys() ^ dense_state.keys())
        raise ValueError(f"the pruned network does not come from this dense network: only one of them has {odd!r}")
    laws = _laws_of_the_rest(fused, rest)
    drawn = {name for name, tensor in dense_state.items() if tensor.is_floating_point()}
    if rest == "reinit" and not drawn <= laws.keys():
        # Some layers draw in ways that are no Law: they are drawn on the host, and what they drew is kept.
        with seeded(seed, "reinit"):
            reinitialise(fused)
    for name, index in pruned.index_map.items():
        _check_fit(name, dense_state[name], index, pruned_state[name])
    for dtype in {tensor.dtype for tensor in dense_state.values()}:
        names = [name for name, tensor in dense_state.items() if tensor.dtype == dtype]
        if dtype.is_floating_point:
            _fuse_tensors(
                names, dense_state, pruned_state, pruned.index_map, laws, derive_seed(seed, "reinit", str(dtype))
            )
        else:  # counters of batches
            for name in names:
                index = pruned.index_map[name].to(dense_state[name].device)
                dense_state[name].view(-1)[index.reshape(-1)] = pruned_state[name].reshape(-1)
    return fused


def _laws_of_the_rest(model: nn.Module, rest: Rest) -> dict[str, Law]:
    if rest == "reinit":
        return initial_laws(model)
    if rest == "zero":
        return {name: Law("constant", 0.0) for name, _ in model.named_parameters()}
    return {}


def _fuse_tensors(
    names: list[str],
    dense_state: Mapping[str, Tensor],
    pruned_state: Mapping[str, Tensor],
    index_map: Mapping[str, Tensor],
    laws: Mapping[str, Law],
    seed: int,
) -> None:
    """All tensors of one dtype in one call: they lie one after the other, and so do those of the pruned network."""
    dense = torch.cat([dense_state[name].reshape(-1) for name in names])
    values = torch.cat([pruned_state[name].reshape(-1).to(dense) for name in names])
    sizes = [dense_state[name].numel() for name in names]
    begins = torch.tensor([0, *sizes[:-1]]).cumsum(0)
    coordinates = [
        index_map[name].reshape(-1).to(dense.device) + begin for name, begin in zip(names, begins.tolist(), strict=True)
    ]
    origin = torch.full((len(dense),), -1, dtype=torch.int64, device=dense.device)
    origin[torch.cat(coordinates)] = torch.arange(len(values), device=dense.device)
    rest = [laws.get(name, Law("keep")) for name in names]
    fused = ops.fuse_flat(
        dense,
        origin,
        values,
        begins,
        torch.tensor([ops.LAWS[law.kind] for law in rest], dtype=torch.int32),
        torch.tensor([(law.a, law.b) for law in rest], dtype=torch.float32),
        seed,
    )
    for name, part in zip(names, fused.split(sizes), strict=True):
        dense_state[name].copy_(part.view(dense_state[name].shape))


def _check_fit(name: str, dense: Tensor, index: Tensor, values: Tensor) -> None:
    if index.shape != values.shape or (index.numel() and int(index.max()) >= dense.numel()):
        raise ValueError(
            f"{name}: expected {tuple(index.shape)} entries of a dense tensor {tuple(dense.shape)}, "
            f"got {tuple(values.shape)}"
        )
