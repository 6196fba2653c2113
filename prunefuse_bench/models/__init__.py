"""Target networks by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from prunefuse_bench.models.entry import ModelEntry
from prunefuse_bench.models.libraries import is_library_name, library_entry
from prunefuse_bench.models.resnet_cifar import CifarResNet
from prunefuse_bench.models.resnet_preactivation import resnet_bottleneck, wide_resnet
from prunefuse_bench.models.vdcnn import VDCNN, Halving
from prunefuse_bench.models.vit import VisionTransformer
from prunefuse_bench.registry import Registry

if TYPE_CHECKING:
    from prunefuse_bench.models.resnet import Stem

__all__ = ["MODELS", "CifarResNet", "ModelEntry", "build_model", "count_parameters", "find_classifier"]


class ModelRegistry(Registry[ModelEntry]):
    """The paper's networks, and with a prefix whatever torchvision and timm build: ``torchvision:vgg11_bn``."""

    def __getitem__(self, name: str) -> ModelEntry:
        return library_entry(name) if is_library_name(name) else super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        return is_library_name(name) or super().__contains__(name)


MODELS = ModelRegistry("model")

Build = Callable[[int, int, float], nn.Module]


def _cifar_resnet(depth: int) -> Build:
    return lambda num_classes, in_channels, width: CifarResNet(depth, num_classes, in_channels, width)


def _resnet(depth: int, stem: Stem) -> Build:
    def build(num_classes: int, in_channels: int, width: float) -> nn.Module:
        from prunefuse_bench.models.resnet import ResNet  # torchvision's networks take seconds to import

        return ResNet(depth, stem, num_classes, in_channels, width)

    return build


def _mobilenet_v2(num_classes: int, in_channels: int, width: float) -> nn.Module:
    from prunefuse_bench.models.mobilenet_v2 import CifarMobileNetV2

    return CifarMobileNetV2(num_classes, in_channels, width)


def _vit(depth: int, num_heads: int) -> Build:
    return lambda num_classes, in_channels, width: VisionTransformer(
        num_classes, in_channels, width, depth=depth, num_heads=num_heads
    )


def _vdcnn(depth: int, halving: Halving) -> Build:
    return lambda num_classes, _, width: VDCNN(depth, num_classes, width, halving)


for _depth in (8, 14, 20, 32, 44, 56, 110):
    MODELS.add(
        f"resnet{_depth}",
        ModelEntry(_cifar_resnet(_depth), f"CIFAR ResNet of depth {_depth}, 1x1-convolution shortcuts with batch norm"),
    )
MODELS.add(
    "resnet164",
    ModelEntry(
        lambda num_classes, in_channels, width: resnet_bottleneck(164, num_classes, in_channels, width),
        "Pre-activation ResNet of depth 164, bottlenecks",
    ),
)
MODELS.add(
    "wrn28_10",
    ModelEntry(
        lambda num_classes, in_channels, width: wide_resnet(28, 10, num_classes, in_channels, width),
        "Wide ResNet of depth 28, ten times as wide",
    ),
)
for _depth in (18, 50):
    MODELS.add(
        f"resnet{_depth}_cifar",
        ModelEntry(
            _resnet(_depth, "cifar"), f"ResNet-{_depth} whose first convolution is 3x3 and keeps the resolution"
        ),
    )
    MODELS.add(
        f"resnet{_depth}", ModelEntry(_resnet(_depth, "imagenet"), f"ResNet-{_depth} of ImageNet", (3, 224, 224))
    )
MODELS.add("mobilenetv2_cifar", ModelEntry(_mobilenet_v2, "MobileNetV2 that reduces the resolution 8 times"))
MODELS.add(
    "vit_small_cifar", ModelEntry(VisionTransformer, "ViT-S: patches of 4x4, 12 blocks of 384 channels, 6 heads")
)
MODELS.add(
    "vit_tiny_cifar",
    ModelEntry(_vit(depth=6, num_heads=3), "A small ViT: patches of 4x4, 6 blocks of 192 channels, 3 heads"),
)
MODELS.add(
    "vdcnn9", ModelEntry(_vdcnn(9, "pooling"), "Character-level VDCNN of depth 9, halved by max pooling", (1024,))
)
MODELS.add("vdcnn29", ModelEntry(_vdcnn(29, "stride"), "Character-level VDCNN of depth 29, halved by stride", (1024,)))


def build_model(name: str, *, num_classes: int, in_channels: int, width: float = 1.0) -> nn.Module:
    """A network of the registry, on the CPU, its weights drawn from torch's global generator.

    Args:
        name: in :data:`MODELS`, or ``torchvision:NAME`` or ``timm:NAME``; arguments of the library's constructor may
            follow, as in ``timm:vit_tiny_patch16_224?img_size=32&patch_size=4``.
        num_classes: outputs of the classifier.
        in_channels: channels of the images; of no meaning for networks that read text.
        width: factor on the channels; 1 for networks of a library, which have none.

    Raises:
        BadInput: no model has this name (the nearest names are in the message), its library is not installed, or it
            cannot be built like this.
    """
    return MODELS[name].build(num_classes, in_channels, width)


def count_parameters(model: nn.Module) -> int:
    """Number of parameters (buffers not counted)."""
    return sum(parameter.numel() for parameter in model.parameters())


def find_classifier(model: nn.Module, example_input: Tensor) -> nn.Linear:
    """The linear layer that makes the logits: the one whose output the network returns.

    Args:
        model: any classifier that ends in a linear layer.
        example_input: a batch, [N, C, H, W] or [N, L], run through the network once (in evaluation mode, restored
            afterwards).

    Raises:
        ValueError: the network does not end in a linear layer.
    """
    produced: list[tuple[nn.Module, Tensor]] = []  # the outputs are kept: another tensor must not get the id of one
    hooks = [
        module.register_forward_hook(lambda layer, _, output: produced.append((layer, output)))
        for module in model.modules()
        if isinstance(module, nn.Linear)
    ]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits = model(example_input)
            classifier = next((layer for layer, output in produced if output is logits), None)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    if not isinstance(classifier, nn.Linear):
        raise ValueError(f"{type(model).__name__} does not end in a linear layer, so it has no classifier to keep")
    return classifier
