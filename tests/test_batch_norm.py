"""The core's batch norm against torch's, in float64 where it counts."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunefuse_bench import ops
from prunefuse_bench.models import build_model
from prunefuse_bench.models.resnet_cifar import BasicBlock
from prunefuse_bench.training.batch_norm import fast_batch_norms
from prunefuse_bench.training.blocks import fast_blocks


def rows(count: int, channels: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.randn(count, channels, generator=generator) * 3 + 1).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 3, 7, 8, 13, 16, 32, 64, 100])
@pytest.mark.parametrize("count", [2, 5, 64, 70_001])
def test_forward_and_backward_are_those_of_float64(
    count: int, channels: int, dtype: torch.dtype, generator: torch.Generator
) -> None:
    if count * channels > 1_000_000:
        count = 5_003
    x, dy = rows(count, channels, generator, dtype), rows(count, channels, generator, dtype)
    weight, bias = torch.randn(2, channels, generator=generator)
    running = [torch.randn(channels, generator=generator), torch.rand(channels, generator=generator)]
    expected_running = [part.double() for part in running]
    wide = [tensor.double().requires_grad_() for tensor in (x, weight, bias)]
    expected = F.batch_norm(wide[0], *expected_running, wide[1], wide[2], True, 0.1, 1e-5)
    expected.backward(dy.double())
    y, mean, inverse = ops.batch_norm(x, weight, bias, *running, 0.1, 1e-5)
    dx, dweight, dbias = ops.batch_norm_backward(dy, x, weight, mean, inverse)
    assert y.dtype == dx.dtype == dtype
    rounding = 1e-5 if dtype == torch.float32 else 2**-8
    size = float((weight.abs() * inverse).max() * dy.float().abs().max())  # of the terms that dx is a difference of
    for found, wanted, terms in ((y, expected.detach(), 1.0), (dx, wide[0].grad, size)):
        assert wanted is not None
        absolute = 2e-5 * (terms + float(wanted.abs().max()))
        torch.testing.assert_close(found.double(), wanted, rtol=rounding, atol=absolute)
    for found, wanted in ((dweight, wide[1].grad), (dbias, wide[2].grad)):
        assert wanted is not None
        torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-5 * count**0.5 * 10)
    for found, wanted in zip(running, expected_running, strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 7, 8, 24, 64, 100])
@pytest.mark.parametrize("count", [2, 5, 64, 5_003])
@pytest.mark.parametrize("with_added", [False, True])
def test_with_sum_and_relu_too(
    with_added: bool, count: int, channels: int, dtype: torch.dtype, generator: torch.Generator
) -> None:
    x, dy = rows(count, channels, generator, dtype), rows(count, channels, generator, dtype)
    added = rows(count, channels, generator, dtype) if with_added else None
    weight, bias = torch.randn(2, channels, generator=generator)
    running = [torch.randn(channels, generator=generator), torch.rand(channels, generator=generator)]
    y, mean, inverse = ops.batch_norm_relu(x, added, weight, bias, *running, 0.1, 1e-5)
    found = ops.batch_norm_relu_backward(dy, x, y if with_added else None, weight, bias, mean, inverse)
    wide = [tensor.double().requires_grad_() for tensor in (x, torch.zeros_like(x) if added is None else added)]
    wide += [tensor.double().requires_grad_() for tensor in (weight, bias)]
    before = F.batch_norm(wide[0], None, None, wide[2], wide[3], True, 0.1, 1e-5) + wide[1]
    rounding = 1e-5 if dtype == torch.float32 else 2**-8
    torch.testing.assert_close(
        y.double(), before.detach().clamp(min=0), rtol=rounding, atol=2e-5 * (1 + float(before.detach().abs().max()))
    )
    (before * (y > 0)).backward(dy.double())  # the operator's own signs: a sum near zero may round to either
    size = float((weight.abs() * inverse).max() * dy.float().abs().max())
    for one, other, terms in zip(found, wide, (size, 0.0, 0.0, 0.0), strict=True):
        assert other.grad is not None
        if other is wide[1] and added is None:
            assert one.numel() == 0
            continue
        absolute = 1e-3 * count**0.5 if other.ndim == 1 else 2e-5 * (terms + float(other.grad.abs().max()))
        torch.testing.assert_close(one.double(), other.grad, rtol=max(rounding, 1e-4), atol=absolute)


def test_a_relu_keeps_nan(generator: torch.Generator) -> None:
    x, dy = rows(70, 8, generator, torch.bfloat16), rows(70, 8, generator, torch.bfloat16)
    x[7, 3] = float("nan")
    parameters = (torch.ones(8), torch.zeros(8))
    for added in (None, torch.zeros_like(x)):
        y, mean, inverse = ops.batch_norm_relu(x, added, *parameters, torch.zeros(8), torch.ones(8), 0.1, 1e-5)
        dx, _, dweight, _ = ops.batch_norm_relu_backward(
            dy, x, None if added is None else y, *parameters, mean, inverse
        )
        for tensor in (y[:, 3], dx[:, 3], dweight[3]):
            assert tensor.isnan().all()
        assert not y[:, :3].isnan().any()


def test_a_mean_far_from_zero_does_not_cost_the_variance_its_digits(generator: torch.Generator) -> None:
    x = torch.randn(10_000, 8, generator=generator) * 0.01 + 100
    _, mean, inverse = ops.batch_norm(x, torch.ones(8), torch.zeros(8), torch.zeros(8), torch.ones(8), 0.1, 0.0)
    torch.testing.assert_close(mean.double(), x.double().mean(0))
    torch.testing.assert_close(inverse.double(), 1 / x.double().std(0, correction=0), rtol=1e-4, atol=0)


def test_a_constant_channel() -> None:
    x = torch.full((50, 8), 3.0)
    y, _, inverse = ops.batch_norm(x, torch.ones(8), torch.full((8,), 0.5), torch.zeros(8), torch.ones(8), 0.1, 1e-5)
    torch.testing.assert_close(y, torch.full_like(y, 0.5))
    torch.testing.assert_close(inverse, torch.full((8,), 1e-5**-0.5))


def test_nan_goes_through(generator: torch.Generator) -> None:
    x = rows(40, 8, generator, torch.bfloat16)
    x[7, 3] = float("nan")
    y, _, _ = ops.batch_norm(x, torch.ones(8), torch.zeros(8), torch.zeros(8), torch.ones(8), 0.1, 1e-5)
    assert y[:, 3].isnan().all()
    assert not y[:, :3].isnan().any()


@pytest.mark.parametrize("threads", [2, 5])
def test_the_same_bits_for_any_number_of_threads(threads: int, generator: torch.Generator) -> None:
    x, dy = rows(40_001, 8, generator), rows(40_001, 8, generator)

    def compute() -> list[Tensor]:
        y, mean, inverse = ops.batch_norm(x, torch.ones(8), torch.zeros(8), torch.zeros(8), torch.ones(8), 0.1, 1e-5)
        return [y, mean, inverse, *ops.batch_norm_backward(dy, x, torch.ones(8), mean, inverse)]

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = compute()
        torch.set_num_threads(threads)
        assert all(torch.equal(a, b) for a, b in zip(one, compute(), strict=True))
    finally:
        torch.set_num_threads(before)


def test_wrong_arguments_are_refused() -> None:
    channels = (torch.ones(8), torch.zeros(8), torch.zeros(8), torch.ones(8))
    with pytest.raises(RuntimeError, match="more than one value per channel"):
        ops.batch_norm(torch.zeros(1, 8), *channels, 0.1, 1e-5)
    with pytest.raises(RuntimeError, match=r"weight: expected contiguous float32 \[4\]"):
        ops.batch_norm(torch.zeros(9, 4), *channels, 0.1, 1e-5)
    with pytest.raises(RuntimeError, match="x: expected contiguous float32 or bfloat16"):
        ops.batch_norm(torch.zeros(8, 9).T, *channels, 0.1, 1e-5)
    with pytest.raises(RuntimeError, match="dy: expected the type and shape of x"):
        ops.batch_norm_backward(torch.zeros(3, 8), torch.zeros(4, 8), *channels[:3])


def test_the_operators_can_be_traced(generator: torch.Generator) -> None:
    x = rows(20, 8, generator)
    statistics = (torch.zeros(8), torch.ones(8))
    torch.library.opcheck(
        torch.ops.prunefuse_bench.batch_norm.default, (x, torch.ones(8), torch.zeros(8), *statistics, 0.1, 1e-5)
    )
    torch.library.opcheck(torch.ops.prunefuse_bench.batch_norm_backward.default, (x, x, torch.ones(8), *statistics))


def test_a_whole_network_trains_as_with_torchs(generator: torch.Generator) -> None:
    torch.manual_seed(0)
    network = build_model("resnet8", num_classes=10, in_channels=3).to(memory_format=torch.channels_last)
    other = copy.deepcopy(network)
    images = torch.randn(16, 3, 16, 16, generator=generator).to(memory_format=torch.channels_last)
    network(images).square().sum().backward()
    with fast_batch_norms(other):
        assert type(other.bn1) is nn.BatchNorm2d
        other(images).square().sum().backward()
    assert "forward" not in vars(other.bn1)
    for (name, ours), theirs in zip(other.named_parameters(), network.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        scale = float(theirs.grad.abs().max())
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4 * scale, msg=name)
    for ours, theirs in zip(other.buffers(), network.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_residual_block_trains_as_with_torchs(stride: int, generator: torch.Generator) -> None:
    torch.manual_seed(0)
    block = BasicBlock(8, 8 * stride, stride).to(memory_format=torch.channels_last)
    other = copy.deepcopy(block)
    x = torch.randn(16, 8, 10, 10, generator=generator).to(memory_format=torch.channels_last)
    inputs = [x.clone(memory_format=torch.preserve_format).requires_grad_() for _ in range(2)]
    direction = torch.randn(block(x).shape, generator=generator)
    block.load_state_dict(other.state_dict())
    (block(inputs[0]) * direction).sum().backward()
    with fast_blocks(other):
        (other(inputs[1]) * direction).sum().backward()
    assert "forward" not in vars(other)
    for ours, theirs in zip([inputs[1], *other.parameters()], [inputs[0], *block.parameters()], strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4 * float(theirs.grad.abs().max()))
    for ours, theirs in zip(other.buffers(), block.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("module", ["bn1", "bn2", "relu"])
def test_hooks_within_a_block_are_still_called(module: str, generator: torch.Generator) -> None:
    block = BasicBlock(8, 8, 1).to(memory_format=torch.channels_last)
    calls: list[str] = []
    getattr(block, module).register_forward_hook(lambda *_: calls.append(module))
    with fast_blocks(nn.Sequential(block)):
        block(torch.randn(4, 8, 6, 6, generator=generator).to(memory_format=torch.channels_last))
    assert calls == [module] * (2 if module == "relu" else 1)


@pytest.mark.parametrize("change", ["eval", "no affine", "no statistics", "nchw"])
def test_everything_else_is_torchs(change: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise AssertionError("the core was asked")

    monkeypatch.setattr("prunefuse_bench.ops.batch_norm", fail)
    images = torch.randn(4, 8, 5, 5, generator=generator)
    if change != "nchw":
        images = images.to(memory_format=torch.channels_last)
    norm = nn.BatchNorm2d(8, affine=change != "no affine", track_running_stats=change != "no statistics")
    norm.train(change != "eval")
    with fast_batch_norms(nn.Sequential(norm)):
        found = norm(images)
    torch.testing.assert_close(found, copy.deepcopy(norm)(images), rtol=1e-3, atol=1e-3)
