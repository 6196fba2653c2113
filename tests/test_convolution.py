"""The core's convolutions in training against torch's in float64."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunefuse_bench import ops
from prunefuse_bench.models import build_model
from prunefuse_bench.ops.chain import has_chains
from prunefuse_bench.training.convolution import fast_convolutions

needs_units = pytest.mark.skipif(not has_chains(), reason="needs AMX or AVX512-BF16")


def draw(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator)


def both_ways(x: Tensor, weight: Tensor, dy: Tensor, stride: int) -> tuple[Tensor, Tensor, Tensor]:
    """Output and gradients by x and weight, all [.., channels] last."""
    return (
        ops.convolution(x, weight, stride),
        ops.convolution_input_gradient(dy, weight, x.shape[1], x.shape[2], stride),
        ops.convolution_weight_gradient(dy, x, weight.shape[1], stride),
    )


def of_float64(x: Tensor, weight: Tensor, dy: Tensor, stride: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same by torch, of the same rounded numbers."""
    wide = x.double().permute(0, 3, 1, 2).requires_grad_()
    weights = weight.bfloat16().double().permute(0, 3, 1, 2).requires_grad_()
    y = F.conv2d(wide, weights, stride=stride, padding=weight.shape[1] // 2)
    dx, dweight = torch.autograd.grad(y, (wide, weights), dy.double().permute(0, 3, 1, 2))
    return y.detach().permute(0, 2, 3, 1), dx.permute(0, 2, 3, 1), dweight.permute(0, 2, 3, 1)


def arguments(
    shape: tuple[int, int, int], channels: tuple[int, int], kernel: int, stride: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    images, height, width = shape
    x = draw((images, height, width, channels[0]), generator).bfloat16()
    weight = draw((channels[1], kernel, kernel, channels[0]), generator)
    outputs = (images, (height - 1) // stride + 1, (width - 1) // stride + 1, channels[1])
    return x, weight, draw(outputs, generator).bfloat16()


CHANNELS = [(8, 8), (16, 16), (24, 24), (32, 32), (48, 48), (64, 64), (128, 128), (3, 16), (8, 16), (64, 8), (5, 13)]
SHAPES = [(1, 1, 1), (3, 32, 32), (2, 33, 33), (5, 8, 8), (7, 5, 3), (2, 1, 17), (3, 9, 1)]


@needs_units
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (1, 1), (1, 2)])
@pytest.mark.parametrize("channels", CHANNELS, ids=str)
def test_outputs_and_gradients_are_those_of_float64(
    channels: tuple[int, int], kernel: int, stride: int, generator: torch.Generator
) -> None:
    for shape in SHAPES:
        x, weight, dy = arguments(shape, channels, kernel, stride, generator)
        found, wanted = both_ways(x, weight, dy, stride), of_float64(x, weight, dy, stride)
        for name, one, other in zip(("y", "dx", "dweight"), found, wanted, strict=True):
            # One rounding to bfloat16 at the end, and sums in float32 of terms that may cancel.
            relative = 0.0 if name == "dweight" else 2**-8
            torch.testing.assert_close(
                one.double(),
                other,
                rtol=relative,
                atol=2e-5 * float(other.abs().max()) + 1e-6,
                msg=lambda text, name=name, shape=shape: f"{name} of {shape}: {text}",
            )


@needs_units
@pytest.mark.parametrize("images", [1, 2, 31, 128, 130])
def test_any_number_of_images(images: int, generator: torch.Generator) -> None:
    x, weight, dy = arguments((images, 8, 8), (8, 16), 3, 1, generator)
    for one, other in zip(both_ways(x, weight, dy, 1), of_float64(x, weight, dy, 1), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=2**-8, atol=2e-5 * float(other.abs().max()))


@needs_units
@pytest.mark.parametrize("stride", [1, 2])
def test_the_same_bits_for_any_number_of_threads_and_in_every_run(stride: int, generator: torch.Generator) -> None:
    x, weight, dy = arguments((37, 16, 16), (16, 32), 3, stride, generator)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = both_ways(x, weight, dy, stride)
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            assert all(torch.equal(a, b) for a, b in zip(expected, both_ways(x, weight, dy, stride), strict=True))
    finally:
        torch.set_num_threads(before)


@needs_units
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("channels", [8, 16, 32])
def test_what_is_not_finite_is_never_lost(value: float, channels: int, generator: torch.Generator) -> None:
    x, weight, dy = arguments((5, 8, 8), (channels, channels), 3, 1, generator)
    for spoiled in (x, dy, weight):
        whole = spoiled.clone()
        spoiled[(1, 1, 2, 3)] = value
        for one, other in zip(both_ways(x, weight, dy, 1), of_float64(x, weight, dy, 1), strict=True):
            assert not one.isfinite()[~other.isfinite()].any()
        spoiled.copy_(whole)
    x[1, 4, 4, 3] = value
    y = ops.convolution(x, weight, 1)
    assert y[[0, 2, 3, 4]].isfinite().all(), "other images stay as they are"


@needs_units
def test_the_operators_can_be_traced(generator: torch.Generator) -> None:
    x, weight, dy = arguments((2, 5, 6), (8, 16), 3, 2, generator)
    names = torch.ops.prunefuse_bench
    torch.library.opcheck(names.convolution.default, (x, weight, 2))
    torch.library.opcheck(names.convolution_input_gradient.default, (dy, weight, 5, 6, 2))
    torch.library.opcheck(names.convolution_weight_gradient.default, (dy, x, 3, 2))


@needs_units
def test_wrong_arguments_are_refused(generator: torch.Generator) -> None:
    x, weight, dy = arguments((2, 5, 6), (8, 16), 3, 1, generator)
    with pytest.raises(RuntimeError, match="expected 8 channels, got 7"):
        ops.convolution(x[..., :7].contiguous(), weight, 1)
    with pytest.raises(RuntimeError, match=r"expected contiguous bfloat16 \[N, H, W, C\]"):
        ops.convolution(x.float(), weight, 1)
    with pytest.raises(RuntimeError, match=r"expected contiguous float32 \[O, K, K, I\]"):
        ops.convolution(x, weight.bfloat16(), 1)
    with pytest.raises(RuntimeError, match="a kernel of 1 or 3 and a stride of 1 or 2"):
        ops.convolution(x, weight, 3)
    with pytest.raises(RuntimeError, match="expected the shape of the output"):
        ops.convolution_input_gradient(dy, weight, 5, 7, 1)
    with pytest.raises(RuntimeError, match="expected the shape of the output"):
        ops.convolution_weight_gradient(dy[:1], x, 3, 1)


@needs_units
@pytest.mark.parametrize("width", [0.5, 1.0, 0.8])
def test_a_whole_network_trains_as_with_torchs(width: float, generator: torch.Generator) -> None:
    torch.manual_seed(0)
    network = build_model("resnet8", num_classes=10, in_channels=3, width=width).to(memory_format=torch.channels_last)
    exact, other = copy.deepcopy(network), copy.deepcopy(network)
    images = draw((16, 3, 16, 16), generator).to(memory_format=torch.channels_last)

    def gradients(model: nn.Module, autocast: bool) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            model(images).float().square().sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters()]  # type: ignore[union-attr]

    with fast_convolutions(other):
        found = gradients(other, autocast=True)
    assert not [module for module in other.modules() if "forward" in vars(module)]
    for name, ours, torchs, wanted in zip(
        dict(network.named_parameters()), found, gradients(network, True), gradients(exact, False), strict=True
    ):
        assert ours.dtype == torch.float32
        error, theirs = (ours - wanted).norm(), (torchs - wanted).norm()
        assert error <= 1.5 * theirs + 0.02 * wanted.norm(), name


@needs_units
@pytest.mark.parametrize("change", ["eval", "no autocast", "nchw", "bias", "groups", "kernel", "dilation", "wide"])
def test_everything_else_is_torchs(change: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise AssertionError("the core was asked")

    monkeypatch.setattr("prunefuse_bench.ops.convolution", fail)
    channels = 136 if change == "wide" else 8
    layer = nn.Conv2d(
        channels,
        channels,
        5 if change == "kernel" else 3,
        padding=2 if change in {"kernel", "dilation"} else 1,
        bias=change == "bias",
        groups=2 if change == "groups" else 1,
        dilation=2 if change == "dilation" else 1,
    ).train(change != "eval")
    x = draw((2, channels, 6, 6), generator)
    if change != "nchw":
        x = x.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=change != "no autocast"):
        with fast_convolutions(nn.Sequential(layer)):
            found = layer(x)
        assert torch.equal(found, layer(x))
