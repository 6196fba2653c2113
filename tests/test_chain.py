"""Whole networks in one call: the same numbers as layer by layer, whatever the shapes, the batch and the threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.library import opcheck
from trained_like import trained_like

from prunefuse_bench.inference import prepare
from prunefuse_bench.inference.core import CoreChain, compile_chain
from prunefuse_bench.inference.rewriting import NotAChain, fold_batch_norms, trace_chain
from prunefuse_bench.models import build_model
from prunefuse_bench.ops.chain import has_chains, pack_weight, run_chain
from prunefuse_bench.pruning import prune

pytestmark = pytest.mark.skipif(not has_chains(), reason="needs AMX or AVX512-BF16")

ONE_ROUNDING = 2**-8
"""Relative, of a bfloat16 number; sums in another order may turn one that is near a tie."""


def rounded(tensor: Tensor) -> Tensor:
    return tensor.bfloat16().float()


class Layer:
    """One convolution with random weights, between two pictures."""

    def __init__(
        self, channels_in: int, channels_out: int, size: tuple[int, int], kernel: int, stride: int, images: int = 1
    ) -> None:
        torch.manual_seed(channels_in + channels_out + kernel)
        self.weight = rounded(torch.randn(channels_out, channels_in, kernel, kernel) / (kernel * channels_in**0.5))
        self.bias = torch.randn(channels_out)
        self.kernel, self.stride = kernel, stride
        out = tuple((length - 1) // stride + 1 for length in size)
        self.from_picture = [channels_in, *size, images]
        self.to_picture = [channels_out, *out, images]

    def expected(self, x: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
        y = F.conv2d(x.double(), self.weight.double(), self.bias.double(), self.stride, self.kernel // 2)
        y = y if residual is None else y + residual.double()
        return y.relu() if relu else y

    def run(self, x: Tensor, residual: Layer | None, relu: bool) -> Tensor:
        """Means over the pixels; the residual is another layer of the same images."""
        weights = [pack_weight(self.weight.bfloat16(), self.stride)]
        pictures, layers = [self.from_picture, self.to_picture], []
        if residual is not None:
            weights.insert(0, pack_weight(residual.weight.bfloat16(), residual.stride))
            layers.append([0, 1, -1, residual.kernel, residual.stride, 0, 0, 0])
        layers.append(
            [0, 1, -1 if residual is None else 1, self.kernel, self.stride, int(relu), sum(map(len, weights[:-1])),
             self.to_picture[0] * (len(weights) - 1)]
        )  # fmt: skip
        biases = [self.bias] if residual is None else [residual.bias, self.bias]
        images = x.bfloat16().permute(0, 2, 3, 1).contiguous()
        return run_chain(images, torch.tensor(pictures), torch.tensor(layers), 1, torch.cat(weights), torch.cat(biases))


def check_layer(layer: Layer, count: int, *, relu: bool, residual: Layer | None) -> None:
    channels, height, width, _ = layer.from_picture
    x = rounded(torch.randn(count, channels, height, width))
    other = None if residual is None else rounded(residual.expected(x, None, relu=False).float())
    expected = layer.expected(x, other, relu).float()
    found = layer.run(x, residual, relu)
    assert found.shape == (count, layer.to_picture[0])
    # The mean of values, each rounded once (twice with a residual: it is rounded too, and may be at a tie).
    roundings = expected.abs() + (0 if other is None else other.abs())
    bound = ONE_ROUNDING * roundings.mean((2, 3)) + 1e-5
    assert bool(((found - expected.mean((2, 3))).abs() <= bound).all())


CHANNELS = [(8, 8), (8, 16), (8, 32), (16, 16), (16, 32), (32, 16), (32, 32), (32, 64), (48, 48), (64, 64), (64, 128)]
SIZES = [(7, 9), (8, 8), (16, 16), (28, 28), (32, 32), (1, 1), (5, 40)]


@pytest.mark.parametrize(("channels_in", "channels_out"), CHANNELS)
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (1, 1), (1, 2)])
def test_every_shape_of_a_layer(channels_in: int, channels_out: int, kernel: int, stride: int) -> None:
    for turn, size in enumerate(SIZES):
        for images in (1, 3):
            layer = Layer(channels_in, channels_out, size, kernel, stride, images)
            shortcut = Layer(channels_in, channels_out, size, 1, stride, images)
            for residual in (None, shortcut):
                check_layer(layer, 4, relu=turn % 2 == 0, residual=residual)


@pytest.mark.parametrize("count", [0, 1, 17])
def test_any_number_of_images(count: int) -> None:
    for images in (1, 4):
        check_layer(Layer(16, 16, (12, 12), 3, 1, images), count, relu=True, residual=None)


def test_every_pixel_and_channel_has_its_place() -> None:
    """A mean says nothing of positions, but what a second layer makes of them does."""
    torch.manual_seed(0)
    for channels in (8, 16, 32):
        first, second = Layer(channels, channels, (9, 7), 3, 1), Layer(channels, channels, (9, 7), 3, 2)
        x = rounded(torch.randn(5, channels, 9, 7))
        middle = rounded(first.expected(x, None, relu=True).float())
        expected = second.expected(middle, None, relu=True).float().mean((2, 3))
        weights = [pack_weight(first.weight.bfloat16(), 1), pack_weight(second.weight.bfloat16(), 2)]
        found = run_chain(
            x.bfloat16().permute(0, 2, 3, 1).contiguous(),
            torch.tensor([first.from_picture, first.to_picture, second.to_picture]),
            torch.tensor([[0, 1, -1, 3, 1, 1, 0, 0], [1, 2, -1, 3, 2, 1, len(weights[0]), channels]]),
            2,
            torch.cat(weights),
            torch.cat([first.bias, second.bias]),
        )
        torch.testing.assert_close(found, expected, rtol=2 * ONE_ROUNDING, atol=2 * ONE_ROUNDING)


def network_of(depth: int, ratio: float, size: int, width: float = 1.0, channels: int = 3) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(depth)
    network: nn.Module = build_model(f"resnet{depth}", num_classes=10, in_channels=channels, width=width)
    images = torch.randn(18, channels, size, size)
    if ratio:
        network = prune(network, images[:1], ratio).model
    return trained_like(network, images), images


def compiled(network: nn.Module, images: Tensor) -> CoreChain:
    chain = trace_chain(network, images[:1])
    fold_batch_norms(chain)
    return compile_chain(chain)


NETWORKS = [
    (8, 0.0, 32, 1.0, 3), (14, 0.5, 32, 1.0, 3), (20, 0.6, 28, 1.0, 1), (14, 0.8, 32, 1.0, 3), (56, 0.0, 32, 1.0, 3),
    (56, 0.5, 16, 1.0, 3), (14, 0.0, 17, 0.7, 3), (8, 0.0, 30, 2.0, 4), (8, 0.0, 8, 0.3, 3),
]  # fmt: skip


@pytest.mark.parametrize(("depth", "ratio", "size", "width", "channels"), NETWORKS)
def test_networks_are_as_exact_as_layer_by_layer(
    depth: int, ratio: float, size: int, width: float, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, images = network_of(depth, ratio, size, width, channels)
    expected, wanted = prepare(network, images[:2], "fp32")(images)
    ready = prepare(network, images[:2], "bf16")
    assert "own kernels" in ready.how
    logits, features = ready(images)
    monkeypatch.setattr("prunefuse_bench.inference.core.has_chains", lambda: False)
    by_layer = prepare(network, images[:2], "bf16")
    assert "own kernels" not in by_layer.how
    other_logits, other_features = by_layer(images)
    assert features is not None
    assert wanted is not None
    assert other_features is not None
    for found, other, truth in ((logits, other_logits, expected), (features, other_features, wanted)):
        assert found.shape == truth.shape
        assert found.dtype == torch.float32
        error, other_error = (found - truth).square().mean().sqrt(), (other - truth).square().mean().sqrt()
        assert error <= 0.01 * truth.abs().max()
        assert error <= 1.25 * other_error


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.8])
def test_the_same_to_the_bit_for_every_batch_and_number_of_threads(
    ratio: float, threads: Callable[[int], None]
) -> None:
    network, images = network_of(14, ratio, 32)
    chain = compiled(network, images)
    batch = images.bfloat16().contiguous(memory_format=torch.channels_last)
    threads(1)
    whole = chain(batch)
    for size in (1, 2, 3, 5, 17):
        assert torch.equal(torch.cat([chain(part) for part in batch.split(size)]), whole)
    assert torch.equal(chain(batch.flip(0)).flip(0), whole)
    assert torch.equal(chain(images.bfloat16().contiguous()), whole)
    for count in (2, 3):
        threads(count)
        assert torch.equal(chain(batch), whole)


def test_one_wrong_tile_of_weights_or_bias_in_any_layer_is_noticed() -> None:
    network, images = network_of(8, 0.5, 32)
    expected = prepare(network, images[:2], "fp32")(images)[1]
    assert expected is not None
    chain = compiled(network, images)
    batch = images.bfloat16()
    bound = 0.01 * float(expected.abs().max())
    assert float((chain(batch) - expected).abs().max()) <= bound
    for *_, weights, biases in chain.layers.tolist():
        for part in (chain.weights[weights : weights + 512], chain.biases[biases : biases + 8]):
            part.neg_()
            assert float((chain(batch) - expected).abs().max()) > bound
            part.neg_()


def test_a_chain_that_computes_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    network, images = network_of(8, 0.0, 16)
    monkeypatch.setattr(CoreChain, "__call__", lambda self, batch: torch.ones(len(batch), 64))
    ready = prepare(network, images[:2], "bf16")
    assert "own kernels" not in ready.how
    monkeypatch.undo()
    expected = prepare(network, images[:2], "fp32")(images)[0]
    torch.testing.assert_close(ready(images)[0], expected, rtol=0, atol=0.05 * float(expected.abs().max()))


class Other(nn.Module):
    """A network with something else in one place."""

    def __init__(self, middle: nn.Module, pool: nn.Module | None = None) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), middle)
        self.pool = pool or nn.AdaptiveAvgPool2d(1)
        self.head = nn.LazyLinear(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.body(x)).flatten(1))


@pytest.mark.parametrize(
    "network",
    [
        Other(nn.Conv2d(16, 16, 5, padding=2)),
        Other(nn.Conv2d(16, 16, 3)),
        Other(nn.Conv2d(16, 16, 3, padding=1, groups=2)),
        Other(nn.Conv2d(16, 16, 3, padding=2, dilation=2)),
        Other(nn.Conv2d(16, 16, 3, padding=1, stride=(2, 1))),
        Other(nn.MaxPool2d(2)),
        Other(nn.BatchNorm2d(16)),
        Other(nn.Identity(), nn.AdaptiveAvgPool2d(2)),
    ],
)
def test_other_networks_are_left_to_other_paths(network: nn.Module) -> None:
    images = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        expected = network.eval()(images)
    with pytest.raises(NotAChain):
        compiled(network, images)
    logits, _ = prepare(network, images, "bf16")(images)
    torch.testing.assert_close(logits, expected, rtol=0, atol=0.05 * float(expected.abs().max()))


def program() -> dict[str, Tensor | int]:
    return {
        "images": torch.zeros(2, 8, 8, 3, dtype=torch.bfloat16),
        "pictures": torch.tensor([[8, 8, 8, 1], [16, 4, 4, 1], [16, 4, 4, 1]]),
        "layers": torch.tensor([[0, 1, -1, 3, 2, 1, 0, 0], [1, 2, -1, 3, 1, 1, 1536, 16]]),
        "averaged": 2,
        "weights": torch.zeros(1536 + 6144, dtype=torch.bfloat16),
        "biases": torch.zeros(32),
    }


def test_the_program_of_the_next_test_is_right() -> None:
    parts = program()
    assert pack_weight(torch.zeros(16, 8, 3, 3, dtype=torch.bfloat16), 2).numel() == 1536
    assert pack_weight(torch.zeros(16, 16, 3, 3, dtype=torch.bfloat16), 1).numel() == 6144
    assert run_chain(**parts).shape == (2, 16)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("table", "row", "column", "value"),
    [
        ("layers", 0, 0, 3), ("layers", 0, 0, -1), ("layers", 1, 1, 3), ("layers", 1, 1, 1), ("layers", 1, 2, 3),
        ("layers", 1, 2, -2), ("layers", 1, 2, 0), ("layers", 1, 2, 1), ("layers", 0, 3, 5), ("layers", 0, 4, 3),
        ("layers", 0, 4, 0), ("layers", 1, 4, 2), ("layers", 1, 6, 1537), ("layers", 1, 6, -1),
        ("layers", 1, 6, 2**62), ("layers", 1, 7, 17), ("layers", 1, 7, -1), ("layers", 1, 7, 2**63 - 1),
        ("pictures", 0, 0, 2), ("pictures", 0, 0, 24), ("pictures", 0, 1, 9), ("pictures", 0, 2, 0),
        ("pictures", 2, 0, 8), ("pictures", 2, 1, 5), ("pictures", 1, 3, 2), ("pictures", 2, 3, 2),
        ("pictures", 0, 3, 0), ("pictures", 0, 3, 2), ("pictures", 0, 2, 2**40), ("pictures", 1, 3, 2**40),
    ],
)  # fmt: skip
def test_programs_that_do_not_fit_together_are_refused(table: str, row: int, column: int, value: int) -> None:
    parts = program()
    parts[table][row, column] = value  # type: ignore[index]
    with pytest.raises(RuntimeError, match=r"expected|not enough|no such|do not match"):
        run_chain(**parts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("images", torch.zeros(2, 8, 8, 3)),
        ("images", torch.zeros(2, 8, 8, 9, dtype=torch.bfloat16)),
        ("images", torch.zeros(2, 8, 9, 3, dtype=torch.bfloat16)),
        ("images", torch.zeros(8, 8, 3, dtype=torch.bfloat16)),
        ("weights", torch.zeros(1536 + 6143, dtype=torch.bfloat16)),
        ("weights", torch.zeros(1536 + 6144)),
        ("biases", torch.zeros(31)),
        ("biases", torch.zeros(32, dtype=torch.float64)),
        ("averaged", 3),
        ("averaged", -1),
        ("layers", torch.zeros(0, 8, dtype=torch.int64)),
        ("layers", torch.zeros(2, 7, dtype=torch.int64)),
        ("pictures", torch.zeros(0, 4, dtype=torch.int64)),
        ("pictures", torch.zeros(3, 4)),
    ],
)
def test_wrong_arguments_are_refused(name: str, value: Tensor | int) -> None:
    parts = program() | {name: value}
    with pytest.raises(RuntimeError, match=r"expected|not enough|no such"):
        run_chain(**parts)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(8, 16, 3, 3), (16, 24, 3, 3), (16, 16, 5, 5), (16, 16, 3, 1), (16, 16)])
def test_weights_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(RuntimeError, match="expected"):
        pack_weight(torch.zeros(shape, dtype=torch.bfloat16), 1)


def test_torch_knows_the_operators() -> None:
    operators = torch.ops.prunefuse_bench
    for operator, inputs in (
        (operators.run_chain, tuple(program().values())),
        (operators.pack_weight, (torch.zeros(16, 16, 3, 3, dtype=torch.bfloat16), 1)),
    ):
        results = opcheck(operator, inputs)
        assert set(results.values()) == {"SUCCESS"}, results
