"""Target networks by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunefuse_bench.models.resnet_cifar import CifarResNet
from prunefuse_bench.registry import Registry

__all__ = ["MODELS", "CifarResNet", "ModelEntry", "build_model", "count_parameters", "find_classifier"]


@dataclass(frozen=True)
class ModelEntry:
    """A network that can be asked for by name.

    ``build(num_classes, in_channels, width)`` makes it; ``example_shape`` is [C, H, W] of an input it is meant for.
    """

    build: Callable[[int, int, float], nn.Module]
    summary: str
    example_shape: tuple[int, int, int] = (3, 32, 32)


MODELS: Registry[ModelEntry] = Registry("model")


def _cifar_resnet(depth: int) -> Callable[[int, int, float], nn.Module]:
    return lambda num_classes, in_channels, width: CifarResNet(depth, num_classes, in_channels, width)


for _depth in (8, 14, 20, 32, 44, 56, 110):
    MODELS.add(
        f"resnet{_depth}",
        ModelEntry(_cifar_resnet(_depth), f"CIFAR ResNet of depth {_depth}, 1x1-convolution shortcuts with batch norm"),
    )


def build_model(name: str, *, num_classes: int, in_channels: int, width: float = 1.0) -> nn.Module:
    """A network of the registry, on the CPU, its weights drawn from torch's global generator.

    Raises:
        BadInput: no model has this name; the nearest names are in the message.
    """
    return MODELS[name].build(num_classes, in_channels, width)


def count_parameters(model: nn.Module) -> int:
    """Number of parameters (buffers not counted)."""
    return sum(parameter.numel() for parameter in model.parameters())


def find_classifier(model: nn.Module, example_input: Tensor) -> nn.Linear:
    """The linear layer that makes the logits: the one whose output the network returns.

    Args:
        model: any classifier that ends in a linear layer.
        example_input: float [N, C, H, W], run through the network once (in evaluation mode, restored afterwards).

    Raises:
        ValueError: the network does not end in a linear layer.
    """
    produced: dict[int, nn.Linear] = {}
    hooks = [
        module.register_forward_hook(lambda layer, _, output: produced.__setitem__(id(output), layer))
        for module in model.modules()
        if isinstance(module, nn.Linear)
    ]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits = model(example_input)
            classifier = produced.get(id(logits))
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    if classifier is None:
        raise ValueError(f"{type(model).__name__} does not end in a linear layer, so it has no classifier to keep")
    return classifier
