"""The two ways to score images: the package's own, and the plain loop that it is compared with."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from prunefuse_bench.data import Normalisation
from prunefuse_bench.training import TrainingRecipe, predict, predict_roughly

__all__ = ["package_logits", "plain_copy", "plain_logits", "rough_logits"]


def package_logits(network: nn.Module, images: Tensor, training: TrainingRecipe) -> Tensor:
    """What selectors score with: float32 [N, classes] of uint8 [N, C, H, W], whatever it does inside."""
    return predict(network, images, training, features=False)[0]


def rough_logits(network: nn.Module, images: Tensor, training: TrainingRecipe) -> Tensor:
    """What selectors look with first, where scores alone decide; arguments and result as for package_logits."""
    return predict_roughly(network, images, training)


def plain_copy(network: nn.Module) -> nn.Module:
    """The network as a user has it: float32, evaluation mode, torch's default memory layout."""
    return copy.deepcopy(network).float().to(memory_format=torch.contiguous_format).eval()


@torch.inference_mode()
def plain_logits(network: nn.Module, images: Tensor, normalisation: Normalisation, batch_size: int) -> Tensor:
    """The usual loop: float32, NCHW, eager, one forward pass per batch; the data is in memory already.

    Args:
        network: of :func:`plain_copy`.
        images: uint8 [N, C, H, W] on the network's device.
        normalisation: mean and deviation per channel.
        batch_size: images of a forward pass.

    Returns:
        float32 [N, classes].
    """
    mean = torch.tensor(normalisation.mean, device=images.device)[:, None, None]
    deviation = torch.tensor(normalisation.std, device=images.device)[:, None, None]
    return torch.cat([network((batch.float() - mean) / deviation) for batch in images.split(batch_size)])
