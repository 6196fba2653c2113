"""Networks that torchvision and timm build: ``torchvision:convnext_tiny``, ``timm:resnetv2_50``.

The classifier has as many outputs as there are classes, and the first convolution as many inputs as the images have
channels. Weights are drawn as the library draws them; none are downloaded.

Pruned and fused exactly (tests/test_exactness.py) are VGG, RegNet, EfficientNet, MobileNetV3, DenseNet, ConvNeXt and
ViT of torchvision, and DeiT of timm. Refused are, because Torch-Pruning cannot follow how their channels
are rearranged, ShuffleNetV2 (channels shuffled by reshaping), Res2Net (split and added), Swin (patches merged by slices
of the image or by reshaping), XCiT and MLP-Mixer; and those that do not end in one linear layer: SqueezeNet and the
distilled DeiT.

At 32x32 pixels torchvision's MNASNet, dense or pruned, ends its first steps of gradient descent with logits that are
not numbers: five halvings leave one pixel, batch norm over 4 such pixels divides by nearly nothing, gradients reach
10,000 and weights 1,000, and in evaluation mode, where the running statistics hardly know of it (their momentum is
0.0003), activations overflow. With batches of 32 and a learning rate of 0.001 its logits stay below 1.
"""

from __future__ import annotations

import ast
import functools
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any
from urllib.parse import parse_qsl

from torch import nn

from prunefuse_bench.errors import BadInput, unknown_name
from prunefuse_bench.models.entry import ModelEntry

__all__ = ["is_library_name", "library_entry"]

FILES_AND_WEIGHTS = "checkpoint", "pretrained", "weights", "cache_dir"
"""Begin the names of arguments by which a library would load a file, which may be a pickle and so run code."""
NO_AUXILIARY = {"googlenet", "inception_v3"}
"""torchvision's networks that would return the logits of auxiliary classifiers too."""


def is_library_name(name: object) -> bool:
    """Whether it begins with a library's prefix."""
    return isinstance(name, str) and name.partition(":")[0] in LIBRARIES and ":" in name


def library_entry(name: str) -> ModelEntry:
    """The entry of ``LIBRARY:NETWORK`` or ``LIBRARY:NETWORK?ARGUMENT=VALUE&...``.

    Raises:
        BadInput: the library is not installed, or has no such network (the nearest names are in the message); or an
            argument would load weights or another file.
    """
    library, _, asked = name.partition(":")
    network, _, query = asked.partition("?")
    try:
        arguments = {key: _value(text) for key, text in parse_qsl(query, keep_blank_values=True)}
    except ValueError as error:
        raise BadInput(f"model {name!r}: expected NAME?ARGUMENT=VALUE&..., got {query!r} ({error})") from None
    for key in arguments:
        if key.startswith(FILES_AND_WEIGHTS):
            raise BadInput(f"model {name!r}: expected no weights and no files, got {key}; networks begin untrained")
    shape, build = LIBRARIES[library](network)
    return ModelEntry(
        functools.partial(_build, name, build, arguments),
        f"{network} of {library}",
        shape,
    )


Builder = Callable[..., nn.Module]
"""``builder(num_classes, in_channels, **arguments)``"""


def _build(
    name: str, builder: Builder, arguments: dict[str, Any], num_classes: int, in_channels: int, width: float
) -> nn.Module:
    if width != 1:
        raise BadInput(f"model {name!r}: expected width 1, got {width}; networks of a library have their own widths")
    try:
        model = builder(num_classes, in_channels, **arguments)
    except Exception as error:  # whatever the constructor says to its arguments
        raise BadInput(
            f"model {name!r} cannot be built for {num_classes} classes and images of {in_channels} channels "
            f"({type(error).__name__}: {error})"
        ) from error
    again = functools.partial(_build, name, builder, arguments, num_classes, in_channels, width)
    model.build_again = again  # type: ignore[assignment]  # a plain attribute, see initialisation.reinitialise
    return model


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):  # the last two if it is nested too deeply
        return text


def _torchvision(network: str) -> tuple[tuple[int, int, int], Builder]:
    from torchvision import models

    names = models.list_models(module=models)
    if network not in names:
        raise unknown_name("torchvision model", network, names)

    def build(num_classes: int, in_channels: int, **arguments: Any) -> nn.Module:
        if network in NO_AUXILIARY:
            arguments = {"aux_logits": False, "init_weights": True, **arguments}
        model = models.get_model(network, weights=None, num_classes=num_classes, **arguments)
        if in_channels != 3:
            _see_channels(model, in_channels)
        return model

    side = 299 if network == "inception_v3" else 224
    return (3, side, side), build


def _see_channels(model: nn.Module, in_channels: int) -> None:
    """Replace the first convolution of images by one for as many channels."""
    name, first = next((name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    replacement = nn.Conv2d(
        in_channels,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]
        stride=first.stride,  # type: ignore[arg-type]
        padding=first.padding,  # type: ignore[arg-type]
        bias=first.bias is not None,
    )
    model.set_submodule(name, replacement)


def _timm(network: str) -> tuple[tuple[int, int, int], Builder]:
    timm = _imported_timm()
    names = timm.list_models()
    if network.partition(".")[0] not in names:
        raise unknown_name("timm model", network, names)

    def build(num_classes: int, in_channels: int, **arguments: Any) -> nn.Module:
        return timm.create_model(network, pretrained=False, num_classes=num_classes, in_chans=in_channels, **arguments)

    try:
        settings = timm.get_pretrained_cfg(network)
    except Exception as error:  # a tag behind the name that is none
        raise BadInput(f"model 'timm:{network}': {type(error).__name__}: {error}") from None
    return tuple(settings.input_size) if settings else (3, 224, 224), build


def _imported_timm() -> ModuleType:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise BadInput(
            f"models 'timm:...' need timm, which cannot be imported ({error}); install it with "
            "pip install 'prunefuse-bench[timm]'"
        ) from error


LIBRARIES: dict[str, Callable[[str], tuple[tuple[int, int, int], Builder]]] = {
    "timm": _timm,
    "torchvision": _torchvision,
}
