"""Strided 1x1 convolutions in training: right, and within their buffers."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from prunefuse_bench.models import build_model
from prunefuse_bench.training.strided import safe_strided_convolutions

NARROW_ON_LARGE_IMAGES = """
import torch
from prunefuse_bench.data import Augmentation, Normalisation
from prunefuse_bench.models import build_model
from prunefuse_bench.training import StepSchedule, TrainingRecipe, fit

torch.manual_seed(0)
images = torch.randint(0, 256, (32, 3, 64, 64), dtype=torch.uint8)
recipe = TrainingRecipe(StepSchedule(6, ((1.0, 0.01),)), 8, 0.9, 5e-4, Augmentation(), Normalisation.of(images), "fp32")
network = build_model("resnet8", num_classes=2, in_channels=3, width=0.25)
fit(network, images, torch.arange(32) % 2, recipe, torch.Generator().manual_seed(0))
print("trained")
"""


def test_a_narrow_network_trains_on_large_images_without_damaging_memory() -> None:
    """In a process of its own, where the C library checks its heap: with torch's own layers it is aborted."""
    environment = {**os.environ, "MALLOC_CHECK_": "3", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", NARROW_ON_LARGE_IMAGES], env=environment, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "trained\n"), ended.stderr[-2000:]


@pytest.mark.parametrize("width", [0.5, 1.0])
def test_outputs_and_gradients_are_those_of_the_strided_layer(width: float) -> None:
    torch.manual_seed(0)
    network = build_model("resnet8", num_classes=4, in_channels=3, width=width).to(memory_format=torch.channels_last)
    images = torch.rand(8, 3, 16, 16).to(memory_format=torch.channels_last)

    def gradients() -> list[torch.Tensor]:
        network.zero_grad()
        logits = network(images)
        logits.square().sum().backward()
        return [logits.detach(), *(parameter.grad.clone() for parameter in network.parameters())]  # type: ignore[union-attr]

    network.eval()
    plain = gradients()
    with safe_strided_convolutions(network):
        ours = gradients()
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_only_strided_1x1_convolutions_are_changed_and_all_are_changed_back() -> None:
    network = build_model("resnet8", num_classes=4, in_channels=3)
    strided = [
        m for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) and m.stride == (2, 2)
    ]
    assert len(strided) == 2
    with safe_strided_convolutions(network):
        assert [m for m in network.modules() if "forward" in vars(m)] == strided
    assert not [m for m in network.modules() if "forward" in vars(m)]


def test_groups_and_bias_and_unequal_strides_are_kept() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 1, stride=(2, 3), groups=2)
    x = torch.rand(2, 4, 9, 10)
    expected = layer(x)
    with safe_strided_convolutions(nn.Sequential(layer)):
        torch.testing.assert_close(layer(x), expected)
