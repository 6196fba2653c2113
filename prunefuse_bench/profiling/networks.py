"""The networks that a profile compares: the dense one, pruned ones, and the smaller ones that SVP would use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from prunefuse_bench.cost import count_flops
from prunefuse_bench.errors import BadInput
from prunefuse_bench.models import MODELS, build_model, count_parameters
from prunefuse_bench.profiling.traffic import Traffic, count_traffic
from prunefuse_bench.pruning import prune
from prunefuse_bench.randomness import seeded

__all__ = ["SVP_PROXIES", "Subject", "subjects"]

SVP_PROXIES = ("resnet8", "resnet20")
"""What selection via proxy scores with in the paper's tables."""

CLASSES = 10


@dataclass(frozen=True)
class Subject:
    """One network under measurement, untrained: what its weights are does not change what they cost.

    Attributes:
        name: how tables name it, unique in a profile.
        role: what it is to the dense network.
        ratio: share of the channels that is removed; 0 unless it is pruned.
        network: on the CPU.
        shape: [C, H, W] of its input.
        parameters: how many it has.
        scoring_flops: of a forward pass over one image.
        training_flops: of forward and backward.
        traffic: numbers that a forward pass moves at least.
    """

    name: str
    role: Literal["dense", "pruned", "smaller"]
    ratio: float
    network: nn.Module
    shape: tuple[int, int, int]
    parameters: int
    scoring_flops: float
    training_flops: float
    traffic: Traffic


def subjects(name: str, ratios: Sequence[float], proxies: Sequence[str] = SVP_PROXIES) -> list[Subject]:
    """The dense network first, then it pruned at each ratio, then those proxies that are smaller than it.

    Raises:
        BadInput: no network has this name or it reads text, or a ratio is out of range.
    """
    entry = MODELS[name]
    if entry.reads_text:
        raise BadInput(f"profile: expected a network of images, got {name!r}, which reads text")
    channels, height, width = entry.example_shape
    shape = (channels, height, width)
    dense = _build(name, shape)
    found = [_subject(name, "dense", 0.0, dense, shape)]
    for ratio in ratios:
        pruned = prune(dense, torch.zeros(1, *shape), ratio).model
        found.append(_subject(f"{name}, p = {ratio}", "pruned", ratio, pruned, shape))
    for proxy in proxies:
        smaller = _build(proxy, shape)
        if count_parameters(smaller) < count_parameters(dense):
            found.append(_subject(proxy, "smaller", 0.0, smaller, shape))
    return found


def _build(name: str, shape: tuple[int, int, int]) -> nn.Module:
    with seeded(0, "profile", name):
        return build_model(name, num_classes=CLASSES, in_channels=shape[0])


def _subject(
    name: str,
    role: Literal["dense", "pruned", "smaller"],
    ratio: float,
    network: nn.Module,
    shape: tuple[int, int, int],
) -> Subject:
    flops = count_flops(network, torch.zeros(1, *shape))
    return Subject(
        name=name,
        role=role,
        ratio=ratio,
        network=network,
        shape=shape,
        parameters=count_parameters(network),
        scoring_flops=flops.forward,
        training_flops=flops.forward + flops.backward,
        traffic=count_traffic(network, shape),
    )
