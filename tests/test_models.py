from __future__ import annotations

import pytest
import torch
from torch import nn

from prunefuse_bench.errors import BadInput
from prunefuse_bench.models import CifarResNet, build_model, count_parameters, find_classifier


def test_resnet56_has_the_papers_parameters() -> None:
    assert count_parameters(build_model("resnet56", num_classes=10, in_channels=3)) == 855_770
    assert count_parameters(build_model("resnet56", num_classes=100, in_channels=3)) == 861_620
    assert count_parameters(build_model("resnet20", num_classes=10, in_channels=3)) == 272_474


@pytest.mark.parametrize("name", ["resnet8", "resnet14", "resnet20"])
@pytest.mark.parametrize(("channels", "side", "width"), [(1, 8, 1.0), (3, 32, 0.5), (4, 28, 2.0)])
def test_any_image_and_width(name: str, channels: int, side: int, width: float) -> None:
    model = build_model(name, num_classes=7, in_channels=channels, width=width)
    assert model(torch.zeros(2, channels, side, side)).shape == (2, 7)


@pytest.mark.parametrize("depth", [8, 14, 20, 32, 44, 56, 110])
def test_depth_counts_weighted_layers(depth: int) -> None:
    model = build_model(f"resnet{depth}", num_classes=10, in_channels=3)
    layers = [m for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and "shortcut" not in n]
    assert len(layers) == depth


def test_depth_is_checked() -> None:
    with pytest.raises(ValueError, match=r"expected 6 n \+ 2"):
        CifarResNet(18, 10)


def test_unknown_model_suggests_the_nearest() -> None:
    with pytest.raises(BadInput, match=r"unknown model 'resnet57': did you mean 'resnet56'"):
        build_model("resnet57", num_classes=10, in_channels=3)


def test_find_classifier_is_the_last_linear_and_changes_nothing() -> None:
    model = CifarResNet(8, 10).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert find_classifier(model, torch.randn(2, 3, 8, 8)) is model.classifier
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_network_without_a_linear_end_has_no_classifier() -> None:
    with pytest.raises(ValueError, match="does not end in a linear layer"):
        find_classifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.ReLU()), torch.zeros(1, 1, 2, 2))
