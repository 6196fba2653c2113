"""Networks that torchvision and timm build: found by name, pruned, fused, scored."""

from __future__ import annotations

import copy
import sys
from typing import get_args

import pytest
import torch
import torchvision
from networks import assert_round_trip, samples, train
from torch import nn
from trained_like import trained_like

from prunefuse_bench import fuse, prune
from prunefuse_bench.errors import BadInput
from prunefuse_bench.fusion import Rest
from prunefuse_bench.inference import prepare
from prunefuse_bench.models import MODELS, build_model, find_classifier
from prunefuse_bench.pruning import prune_further

SIDE = 32

TORCHVISION = ["mobilenet_v3_small", "regnet_y_400mf", "googlenet", "efficientnet_b0"]
LARGE = ["vgg11_bn", "densenet121", "convnext_tiny", "vit_b_16?image_size=32"]
TIMM = ["vit_tiny_patch16_224?img_size=32&depth=2", "convnext_atto"]


def check(dense: nn.Module) -> None:
    shape = (3, SIDE, SIDE)
    example = samples(1, shape)
    assert find_classifier(dense, example).out_features == 7
    pruned = prune(dense, example, 0.25)
    train(pruned.model, shape, steps=1)
    assert_round_trip(dense, pruned, get_args(Rest))
    further = prune_further(dense, pruned, example, 0.5, criterion="random")
    train(further.model, shape, steps=1)
    assert_round_trip(dense, further)
    assert further.extent.channel_ratio == pytest.approx(0.5, abs=0.05)
    inputs = samples(3, shape)
    network = trained_like(further.model, inputs)
    with torch.no_grad():
        expected = network(inputs)
    logits, _ = prepare(network, inputs[:1], "fp32")(inputs)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("name", TORCHVISION)
def test_other_families_of_torchvision(name: str) -> None:
    check(build_model(f"torchvision:{name}", num_classes=7, in_channels=3))


def test_attention_of_torch_itself() -> None:
    check(torchvision.models.VisionTransformer(SIDE, 8, 2, 4, 32, 64, num_classes=7))


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_large_networks_of_torchvision(name: str) -> None:
    check(build_model(f"torchvision:{name}", num_classes=7, in_channels=3))


@pytest.mark.parametrize("name", TIMM)
def test_other_families_of_timm(name: str) -> None:
    pytest.importorskip("timm")
    check(build_model(f"timm:{name}", num_classes=7, in_channels=3))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision:shufflenet_v2_x0_5", "ShuffleNetV2 cannot be traced for pruning"),
        ("torchvision:squeezenet1_1", "SqueezeNet does not end in a linear layer"),
        ("timm:mixer_s32_224?img_size=32", "MlpMixer cannot be traced for pruning"),
        ("timm:poolformer_s12", "MetaFormer does not run any more when it is pruned"),
    ],
)
def test_what_cannot_be_pruned_is_refused(name: str, message: str) -> None:
    if name.startswith("timm"):
        pytest.importorskip("timm")
    dense = build_model(name, num_classes=7, in_channels=3)
    with pytest.raises(BadInput, match=message):
        prune(dense, torch.zeros(1, 3, 64 if "squeeze" in name else SIDE, 64 if "squeeze" in name else SIDE), 0.5)


def test_the_first_convolution_takes_the_images_channels() -> None:
    model = build_model("torchvision:resnet18", num_classes=5, in_channels=1)
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 5)


def test_a_network_of_a_library_is_drawn_anew_as_its_library_draws_it() -> None:
    name = "torchvision:mobilenet_v2?width_mult=0.25"
    torch.manual_seed(0)
    dense = build_model(name, num_classes=5, in_channels=3)
    pruned = prune(dense, torch.zeros(1, 3, 32, 32), 0.5)
    first, again, other = (fuse(dense, pruned, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["classifier.1.weight"], other["classifier.1.weight"])
    assert first["classifier.1.weight"].std().item() == pytest.approx(0.01, rel=0.1)  # not torch's default of 0.016
    copied = copy.deepcopy(dense)
    assert copied.build_again().state_dict().keys() == dense.state_dict().keys()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision:resnet19", r"unknown torchvision model 'resnet19': did you mean 'resnet1"),
        ("torchvision:vit_b_16?image_size=33", "cannot be built for 10 classes and images of 3 channels"),
        ("torchvision:resnet18?depth=3", "unexpected keyword argument 'depth'"),
        ("keras:resnet18", "unknown model 'keras:resnet18'"),
    ],
)
def test_names_and_arguments_are_checked(name: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        build_model(name, num_classes=10, in_channels=3)


def test_a_library_has_no_widths() -> None:
    with pytest.raises(BadInput, match=r"expected width 1, got 0\.5"):
        build_model("torchvision:resnet18", num_classes=10, in_channels=3, width=0.5)


def test_without_timm_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(BadInput, match=r"pip install 'prunefuse-bench\[timm\]'"):
        MODELS["timm:resnet18"]


def test_an_entry_of_a_library_knows_its_images() -> None:
    assert MODELS["torchvision:inception_v3"].example_shape == (3, 299, 299)
    assert "torchvision:resnet18" in MODELS
    assert "torchvision:resnet18" not in list(MODELS)
