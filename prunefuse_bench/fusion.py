"""Fusion: the trained pruned network goes back into the dense one (paper, sections 4.4 and 9.4)."""

from __future__ import annotations

import copy
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from prunefuse_bench.pruning import PrunedNetwork
from prunefuse_bench.randomness import seeded

__all__ = ["Rest", "fuse", "reinitialise"]

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
        seed: determines the draw of ``reinit``.

    Returns:
        A network of the class and the device of ``dense``.

    Raises:
        ValueError: an unknown ``rest``, or a network that ``pruned`` does not come from (the first tensor that does not
            fit is named).
    """
    if rest not in get_args(Rest):
        raise ValueError(f"rest: expected one of {', '.join(get_args(Rest))}, got {rest!r}")
    fused = copy.deepcopy(dense)
    if rest == "reinit":
        with seeded(seed, "reinit"):
            reinitialise(fused)
    elif rest == "zero":
        for parameter in fused.parameters():
            parameter.zero_()
    dense_state = fused.state_dict()
    pruned_state = pruned.model.state_dict()
    if pruned_state.keys() != dense_state.keys():
        odd = sorted(pruned_state.keys() ^ dense_state.keys())[0]
        raise ValueError(f"the pruned network does not come from this dense network: only one of them has {odd!r}")
    for name, values in pruned_state.items():
        _scatter(dense_state[name], pruned.index_map[name], values, name)
    return fused


def _scatter(dense: Tensor, index: Tensor, values: Tensor, name: str) -> None:
    if index.shape != values.shape or (index.numel() and int(index.max()) >= dense.numel()):
        raise ValueError(
            f"{name}: expected {tuple(index.shape)} entries of a dense tensor {tuple(dense.shape)}, "
            f"got {tuple(values.shape)}"
        )
    flat = dense.view(-1) if dense.is_contiguous() else dense.reshape(-1)
    flat[index.reshape(-1).to(dense.device)] = values.reshape(-1).to(dense)
    if flat.data_ptr() != dense.data_ptr():
        dense.copy_(flat.view(dense.shape))


def reinitialise(model: nn.Module) -> None:
    """Draw all weights anew, each layer from its own initial distribution, and reset the buffers.

    Every layer's ``reset_parameters()``, and then the network's own ``init_weights()`` if it defines one.
    """
    for module in model.modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
    if callable(init_weights := getattr(model, "init_weights", None)):
        init_weights()
