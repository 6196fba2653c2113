"""Prune, train, fuse is exact: for every registered network, every criterion, static and dynamic, local and global.

The whole product takes minutes and is marked slow (``make exactness``); every registered network once, and every way to
prune on a few small ones, are in ``make test``.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
import torchvision
from exactness import (
    Case,
    assert_exact,
    assert_extent,
    assert_local_widths,
    dynamic,
    make_distinct,
    prune_in_steps,
    zeros_change,
)
from networks import IMAGE, SMALL, TEXT, samples
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.efficientnet import MBConvConfig
from torchvision.models.mobilenetv3 import InvertedResidualConfig
from torchvision.models.regnet import BlockParams
from torchvision.models.vgg import make_layers

from prunefuse_bench import PrunedNetwork, fuse, prune
from prunefuse_bench.errors import BadInput
from prunefuse_bench.models import MODELS, build_model, find_classifier
from prunefuse_bench.models.vit import VisionTransformer
from prunefuse_bench.pruning import CRITERIA, dynamic_schedule

RATIOS = (0.3, 0.5, 0.8)

NARROW = {"resnet18": 0.125, "resnet50": 0.125, "resnet18_cifar": 0.125, "resnet50_cifar": 0.125}
NARROW |= {"resnet164": 0.5, "wrn28_10": 0.35, "mobilenetv2_cifar": 0.25, "vit_small_cifar": 0.125}
NARROW |= {"vit_tiny_cifar": 0.25}
NARROW |= {"vdcnn9": 0.125, "vdcnn29": 0.125}
"""Widths at which a registered network is pruned in a second and every layer has at least 5 channels."""

DEEP = {"resnet32", "resnet44", "resnet56", "resnet110", "resnet164", "resnet50", "resnet50_cifar", "wrn28_10"}
DEEP |= {"resnet18", "resnet18_cifar", "vit_small_cifar", "mobilenetv2_cifar", "vdcnn29"}
"""Pruned in two steps instead of five when they are pruned dynamically."""

ROUNDING = 1e-9
"""Of float64, through a hundred layers."""

HEADS = {"vit_small_cifar": 6, "vit_tiny_cifar": 3}
"""Of the registered networks that have some."""


@dataclass(frozen=True)
class Subject:
    """A network to prune.

    Attributes:
        build: makes one, drawn from torch's global generator.
        shape: of a sample.
        classes: outputs of its classifier.
        keeps_function: whether zeros around a pruned network change nothing. So it is where channels are seen together
            by linear layers only (to which a zero adds nothing), and everything else treats each channel alone: batch
            norm, whose scale and shift are zero then, pooling, activations. It is not so with layer norm, which takes
            mean and variance over all channels, zeros too, nor with attention, whose scores are divided by the root of
            the wider head's width.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    classes: int = 10
    keeps_function: bool = True

    def dense(self) -> nn.Module:
        """All entries of a tensor differ."""
        torch.manual_seed(0)
        network = self.build()
        make_distinct(network)
        return network

    def fresh(self) -> nn.Module:
        """Drawn from another seed."""
        torch.manual_seed(1)
        return self.build()


def registered(name: str, width: float) -> Subject:
    entry = MODELS[name]
    side = 32 if entry.example_shape[-1] > 32 else 8
    shape = TEXT if entry.reads_text else (3, side, side)
    return Subject(
        lambda: build_model(name, num_classes=10, in_channels=3, width=width),
        shape,
        keeps_function=not name.startswith("vit"),
    )


def check(subject: Subject, dense: nn.Module, fresh: nn.Module, case: Case) -> PrunedNetwork:
    pruned = prune_in_steps(dense, subject.shape, case)
    assert_exact(dense, pruned, fresh)
    assert_extent(dense, pruned, subject.classes)
    if subject.keeps_function:
        assert zeros_change(dense, pruned, samples(3, subject.shape)) < ROUNDING
    return pruned


def classifier_name(network: nn.Module, example: Tensor) -> str:
    classifier = find_classifier(network, example)
    return next(name for name, module in network.named_modules() if module is classifier)


@pytest.mark.parametrize("name", list(MODELS))
def test_every_registered_network_is_exact(name: str) -> None:
    subject = registered(name, 0.125 if name == "wrn28_10" else NARROW.get(name, 1.0))
    dense = subject.dense()
    pruned = check(subject, dense, subject.fresh(), Case("magnitude", "local", (0.5,)))
    heads = dict.fromkeys(("query", "key", "value"), HEADS.get(name, 1))
    assert_local_widths(dense, pruned, classifier_name(dense, samples(1, subject.shape)), heads)


@pytest.mark.parametrize("sparsity", ["local", "global"])
@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("name", ["resnet8", "vit at another size", "vdcnn9"])
def test_every_way_to_prune_is_exact(name: str, criterion: str, sparsity: str) -> None:
    subject = Subject(*SMALL[name], keeps_function="vit" not in name)
    dense, fresh = subject.dense(), subject.fresh()
    ratio = RATIOS[list(CRITERIA).index(criterion) % 2]
    check(subject, dense, fresh, Case(criterion, sparsity, (ratio,)))  # type: ignore[arg-type]
    check(subject, dense, fresh, Case(criterion, sparsity, dynamic(dynamic_schedule(ratio))))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_whole_product_is_exact(name: str, criterion: str, capsys: pytest.CaptureFixture[str]) -> None:
    subject = registered(name, NARROW.get(name, 1.0))
    dense, fresh = subject.dense(), subject.fresh()
    exact, refused = 0, []
    steps = 2 if name in DEEP else 5
    for sparsity, ratio in itertools.product(("local", "global"), RATIOS):
        for ratios in ((ratio,), dynamic(dynamic_schedule(ratio, steps))):
            case = Case(criterion, sparsity, ratios)  # type: ignore[arg-type]
            try:
                pruned = check(subject, dense, fresh, case)
            except BadInput as error:
                if sparsity == "local" or "nothing would be left of the" not in str(error):
                    raise
                refused.append(case)  # one threshold for all layers may leave one of them nothing
                continue
            exact += 1
            if sparsity == "local":
                heads = dict.fromkeys(("query", "key", "value"), HEADS.get(name, 1))
                assert_local_widths(dense, pruned, classifier_name(dense, samples(1, subject.shape)), heads)
    assert exact >= 8
    with capsys.disabled():
        print(f"\n{name} {criterion}: {exact} exact, refused {[(case.sparsity, case.ratios) for case in refused]}")


def test_what_zeros_change_in_a_vit_is_the_width_that_layer_norm_and_attention_see(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Told of the channels that are left, both compute what the pruned network computes, to rounding."""
    subject = Subject(lambda: VisionTransformer(10, 3, width=0.125, depth=2, num_heads=3, grid=2), IMAGE)
    dense = subject.dense()
    pruned = prune_in_steps(dense, subject.shape, Case("random", "local", (0.5,)))
    inputs = samples(3, subject.shape)
    assert zeros_change(dense, pruned, inputs) > 0.01
    kept = pruned.index_map["norm.weight"]
    width, head = dense.norm.weight.numel(), dense.norm.weight.numel() // 3  # type: ignore[union-attr, operator]
    layer_norm, attention = F.layer_norm, F.scaled_dot_product_attention

    def of_the_kept(x: Tensor, shape: list[int], weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        if x.shape[-1] != width:
            return layer_norm(x, shape, weight, bias, eps)
        normalised = torch.zeros_like(x)
        normalised[..., kept] = layer_norm(x[..., kept], [len(kept)], weight[kept], bias[kept], eps)
        return normalised

    def of_narrow_heads(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        narrow = pruned.index_map["blocks.0.attention.query.bias"].numel() // 3
        return attention(query, key, value, scale=min(narrow, query.shape[-1]) ** -0.5)

    assert query_width(fuse(dense, pruned)) == 3 * head
    with monkeypatch.context() as patch:
        patch.setattr(F, "layer_norm", of_the_kept)
        assert zeros_change(dense, pruned, inputs) > 1e-5  # the heads
        patch.setattr(F, "scaled_dot_product_attention", of_narrow_heads)
        assert zeros_change(dense, pruned, inputs) < ROUNDING


def vgg() -> nn.Module:
    """torchvision's class would draw a classifier of 100 million weights first."""
    body = make_layers([8, "M", 16, "M"], batch_norm=True)
    head = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 7))
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(2), nn.Flatten(), head)


def regnet() -> nn.Module:
    blocks = BlockParams.from_init_params(depth=4, w_0=16, w_a=16.0, w_m=2.0, group_width=8, se_ratio=0.25)
    return torchvision.models.RegNet(blocks, num_classes=7)


def efficientnet() -> nn.Module:
    blocks = [MBConvConfig(1, 3, 1, 32, 16, 1), MBConvConfig(6, 3, 2, 16, 24, 2)]
    return torchvision.models.EfficientNet(blocks, dropout=0.0, num_classes=7)


def mobilenet_v3() -> nn.Module:
    blocks = [
        InvertedResidualConfig(16, 3, 16, 16, True, "RE", 1, 1, 1),
        InvertedResidualConfig(16, 3, 32, 24, True, "HS", 2, 1, 1),
    ]
    return torchvision.models.MobileNetV3(blocks, 64, num_classes=7)


def densenet() -> nn.Module:
    return torchvision.models.DenseNet(growth_rate=8, block_config=(2, 2), num_init_features=16, num_classes=7)


def convnext() -> nn.Module:
    return torchvision.models.ConvNeXt([CNBlockConfig(16, 24, 1), CNBlockConfig(24, None, 1)], num_classes=7)


def deit() -> nn.Module:
    pytest.importorskip("timm")
    name = "timm:deit_tiny_patch16_224?img_size=32&patch_size=8&depth=2&embed_dim=48&num_heads=3"
    return build_model(name, num_classes=7, in_channels=3)


OTHERS = {
    "VGG with batch norm": (vgg, True),
    "RegNet": (regnet, True),  # grouped convolutions, squeeze and excitation
    "EfficientNet": (efficientnet, True),
    "MobileNetV3": (mobilenet_v3, True),
    "DenseNet": (densenet, True),  # concatenated channels
    "ConvNeXt": (convnext, False),  # layer norm
    "ViT of torchvision": (lambda: torchvision.models.VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=7), False),
    "DeiT of timm": (deit, False),
}
"""Small members of families that are not registered, and whether zeros around them change nothing."""


@pytest.mark.parametrize("family", OTHERS)
def test_other_families_are_exact(family: str) -> None:
    build, keeps_function = OTHERS[family]

    def built_again() -> nn.Module:
        network = build()
        network.build_again = build  # type: ignore[assignment]  # as networks of a library have it
        return network

    subject = Subject(built_again, (3, 32, 32), classes=7, keeps_function=keeps_function)
    dense, fresh = subject.dense(), subject.fresh()
    check(subject, dense, fresh, Case("magnitude", "local", (0.3,)))
    check(subject, dense, fresh, Case("random", "global", (0.2, 0.4)))


def test_a_swin_is_refused_instead_of_followed_for_ever() -> None:
    """Its patches are merged by strided slices of the image, which Torch-Pruning takes for slices of the channels."""
    network = torchvision.models.SwinTransformer([2, 2], 16, [2, 2], [2, 4], [4, 4], num_classes=7)
    with pytest.raises(BadInput, match=r"SwinTransformer cannot be traced for pruning .* become more from layer to"):
        prune(network, samples(1, (3, 32, 32)), 0.3)


class TwoClassifiers(nn.Module):
    """The logits are a sum, as those of a DeiT with a classifier of its own for distillation."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(12, 7)
        self.first, self.second = nn.Linear(7, 7), nn.Linear(7, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x.flatten(1))
        for _ in range(3):
            x = self.body(torch.cat([x, x], 1)[:, :12])
        return (self.first(x) + self.second(x)) / 2


def test_a_sum_of_classifiers_is_no_classifier() -> None:
    with pytest.raises(ValueError, match="TwoClassifiers does not end in a linear layer"):
        find_classifier(TwoClassifiers(), torch.zeros(1, 3, 2, 2))


def query_width(network: nn.Module) -> int:
    return network.blocks[0].attention.query.out_features  # type: ignore[union-attr, index, return-value, operator]


def test_the_oracle_sees_one_wrong_coordinate() -> None:
    """Two entries of one map exchanged, a value lost, or a coordinate used twice."""
    subject = Subject(*SMALL["resnet8"])
    dense, fresh = subject.dense(), subject.fresh()
    pruned = prune_in_steps(dense, subject.shape, Case("magnitude", "local", (0.5,)))
    name = "blocks.1.conv1.weight"
    whole = pruned.index_map[name]
    twice = whole.clone()
    twice.view(-1)[1] = twice.view(-1)[0]
    with pytest.raises(AssertionError, match="come from one"):
        assert_exact(dense, copied(pruned, name, twice), fresh)
    exchanged = whole.flip(0)
    assert zeros_change(dense, copied(pruned, name, exchanged), samples(3, subject.shape)) > 0.01


def copied(pruned: PrunedNetwork, name: str, index: Tensor) -> PrunedNetwork:
    return PrunedNetwork(copy.deepcopy(pruned.model), {**pruned.index_map, name: index}, pruned.history, pruned.extent)
