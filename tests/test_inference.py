"""Networks rewritten for scoring compute what they computed before."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision
from packaging.version import Version
from torch import Tensor, nn
from trained_like import trained_like

from prunefuse_bench.inference import onednn, prepare
from prunefuse_bench.inference.rewriting import fold_batch_norms, pad_channels, trace_chain
from prunefuse_bench.models import build_model
from prunefuse_bench.pruning import prune


class Odd(nn.Module):
    """Channels of no friendly number, a grouped convolution, functional calls, and a value that is used three times."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 7, 3, padding=1)
        self.norm = nn.BatchNorm2d(7)
        self.b = nn.Conv2d(7, 7, 3, padding=1, bias=False)
        self.grouped = nn.Conv2d(14, 14, 3, padding=1, groups=7)
        self.c = nn.Conv2d(7, 14, 1, stride=2)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.a(x)))
        y = self.b(x) + x
        y = torch.relu(y + x)
        z = self.c(y)
        z = (self.grouped(z) + z).relu()
        z = F.relu(z)
        return self.head(self.drop(torch.flatten(nn.functional.adaptive_avg_pool2d(z, 1), 1)))


class OddWithPool(Odd):
    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.a(x)))
        y = torch.relu(self.b(x) + x + x)
        z = self.c(y)
        z = (self.grouped(z) + z).relu()
        return self.head(self.drop(torch.flatten(self.pool(z), 1)))


class FlattensPixels(nn.Module):
    """Its classifier sees pixels side by side, so channels must not be padded."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
        self.head = nn.Linear(5 * 3 * 3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


OLD_TORCH = Version(torch.__version__) < Version("2.14")
"""Its convolutions of oneDNN take no maps of one pixel, and what has some is scored as it is (seen with torch 2.10)."""


def networks() -> list[tuple[str, nn.Module]]:
    torch.manual_seed(0)
    small = build_model("resnet14", num_classes=10, in_channels=3)
    example = torch.zeros(1, 3, 16, 16)
    pruned = [(f"resnet14 pruned by {ratio}", prune(small, example, ratio).model) for ratio in (0.5, 0.6, 0.8)]
    wide = build_model("resnet8", num_classes=3, in_channels=3, width=0.3)
    resnet18 = torchvision.models.resnet18(num_classes=10)
    return [("resnet14", small), *pruned, ("narrow", wide), ("odd", OddWithPool()), ("torchvision", resnet18)]


@pytest.mark.parametrize(("name", "network"), networks(), ids=lambda value: value if isinstance(value, str) else "")
def test_logits_and_features_stay_the_same(name: str, network: nn.Module, generator: torch.Generator) -> None:
    images = torch.randn(12, 3, 16, 16, generator=generator)
    network = trained_like(network, images)
    before = copy.deepcopy(network.state_dict())
    seen: list[Tensor] = []
    head = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    with head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])), torch.no_grad():
        expected = network(images)
    for precision, tolerance in (("fp32", 1e-4), ("bf16", 0.05)):
        ready = prepare(network, images[:2], precision)  # type: ignore[arg-type]
        if not (name == "torchvision" and OLD_TORCH):
            assert "as it is" not in ready.how
        logits, features = ready(images)
        assert features is not None
        assert logits.dtype == features.dtype == torch.float32
        for found, wanted in ((logits, expected), (features, seen[0])):
            assert found.shape == wanted.shape
            torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance * float(wanted.abs().max()))
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_friendly_channels_are_left_and_others_padded() -> None:
    example = torch.randn(2, 3, 16, 16)
    dense = trained_like(build_model("resnet8", num_classes=10, in_channels=3), example)
    odd = trained_like(prune(dense, example[:1], 0.8).model, example)
    for network, padded in ((dense, 0), (odd, 9)):
        chain = trace_chain(network, example)
        assert fold_batch_norms(chain) == 9
        assert pad_channels(chain, example) == padded
        widths = {module.out_channels for module in chain.modules() if isinstance(module, nn.Conv2d)}
        assert all(width % 8 == 0 for width in widths)
        with torch.no_grad():
            torch.testing.assert_close(chain(example)[0], network(example), rtol=1e-4, atol=1e-4)


def test_pixels_side_by_side_are_not_padded() -> None:
    example = torch.randn(2, 3, 8, 8)
    network = FlattensPixels().eval()
    ready = prepare(network, example, "fp32")
    assert "padded" not in ready.how
    with torch.no_grad():
        torch.testing.assert_close(ready(example)[0], network(example), rtol=1e-4, atol=1e-5)


def test_another_batch_size_than_the_one_prepared_for() -> None:
    example = torch.randn(7, 3, 16, 16)
    network = trained_like(build_model("resnet8", num_classes=10, in_channels=3), example)
    ready = prepare(network, example[:1], "fp32")
    whole, _ = ready(example)
    single = torch.cat([ready(image[None])[0] for image in example])
    torch.testing.assert_close(whole, single, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ready(torch.cat([example] * 60))[0][-7:], whole, rtol=1e-4, atol=1e-5)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 1e9:
            x = -x
        return self.head(self.body(x).mean((2, 3)))


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Branching(), "it cannot be traced"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)), "GELU"),
        (Odd(), "adaptive_avg_pool2d"),
    ],
)
def test_a_network_that_is_no_chain_runs_as_it_is_and_says_why(network: nn.Module, reason: str) -> None:
    images = torch.randn(5, 3, 8, 8)
    network.eval()
    ready = prepare(network, images[:1], "fp32")
    assert reason in ready.how
    with torch.no_grad():
        logits, features = ready(images)
        assert torch.equal(logits, network(images))
    assert features is not None
    assert features.shape == (5, network.head.in_features if hasattr(network, "head") else 4)


def test_a_network_without_a_linear_layer_has_no_features() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    logits, features = prepare(network, torch.randn(1, 3, 8, 8), "fp32")(torch.randn(5, 3, 8, 8))
    assert logits.shape == (5, 4)
    assert features is None


def test_without_the_fused_convolutions_the_answer_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randn(4, 3, 16, 16)
    network = trained_like(build_model("resnet8", num_classes=10, in_channels=3), images)
    fused = prepare(network, images[:1], "fp32")
    assert "oneDNN" in fused.how
    monkeypatch.setattr("prunefuse_bench.inference.prepared.has_fused_convolutions", lambda: False)
    plain = prepare(network, images[:1], "fp32")
    assert "oneDNN" not in plain.how
    torch.testing.assert_close(fused(images)[0], plain(images)[0], rtol=1e-4, atol=1e-4)


def test_fused_convolutions_that_compute_something_else_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    onednn.has_fused_convolutions.cache_clear()
    monkeypatch.setattr(onednn.FusedConvolution, "forward", lambda self, x, other=None: x)
    try:
        assert not onednn.has_fused_convolutions()
    finally:
        onednn.has_fused_convolutions.cache_clear()


def test_a_rewriting_that_changes_the_logits_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randn(4, 3, 16, 16)
    network = trained_like(build_model("resnet8", num_classes=10, in_channels=3), images)

    def wrong(chain: nn.Module, example: Tensor) -> int:
        next(module for module in chain.modules() if isinstance(module, nn.Linear)).bias.data += 1
        return 0

    monkeypatch.setattr("prunefuse_bench.inference.prepared.pad_channels", wrong)
    ready = prepare(copy.deepcopy(network), images[:1], "fp32")
    assert "its logits differ by" in ready.how
    with torch.no_grad():
        assert torch.equal(ready(images)[0], network(images))
