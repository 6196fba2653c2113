"""Networks in 8 bits: the kernel against whole numbers, the network against float32, and who is chosen in the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.library import opcheck
from trained_like import trained_like

from prunefuse_bench import ops
from prunefuse_bench.acquisition.refinement import refine_near_threshold
from prunefuse_bench.data import Augmentation, Normalisation
from prunefuse_bench.inference import prepare, screening
from prunefuse_bench.inference.quantised import QuantisedChain, quantise_chain
from prunefuse_bench.inference.rewriting import NotAChain, fold_batch_norms, trace_chain
from prunefuse_bench.models import build_model
from prunefuse_bench.ops.quantised import has_quantised_chains, run_quantised_chain
from prunefuse_bench.pruning import prune
from prunefuse_bench.training import StepSchedule, TrainingRecipe, predict, predict_roughly

pytestmark = pytest.mark.skipif(not has_quantised_chains(), reason="no AVX512-VNNI, or AMX beside it")

NORMALISATION = Normalisation((120.0, 118.0, 108.0), (62.0, 60.0, 63.0))


@dataclasses.dataclass
class Layer:
    """One layer whose factors are powers of two: its result is exact, and so is what is expected."""

    channels_in: int
    channels_out: int
    height: int
    width: int
    kernel: int
    stride: int
    images: int = 4

    def __post_init__(self) -> None:
        draw = torch.Generator().manual_seed(self.channels_in + self.channels_out + self.width)
        shape = (self.channels_out, self.channels_in, self.kernel, self.kernel)
        self.weight = torch.randint(-127, 128, shape, generator=draw, dtype=torch.int8)
        self.scale = 2.0 ** torch.randint(-12, -7, (self.channels_out,), generator=draw)
        self.offset = torch.randint(-200, 300, (self.channels_out,), generator=draw).float() / 2
        self.gain = 2.0 ** torch.randint(-2, 2, (self.channels_out,), generator=draw)

    @property
    def factors(self) -> Tensor:
        return torch.stack([self.scale, self.offset, self.gain])

    @property
    def out(self) -> tuple[int, int]:
        return (self.height - 1) // self.stride + 1, (self.width - 1) // self.stride + 1

    def expected(self, x: Tensor, around: Tensor, residual: Tensor | None) -> Tensor:
        """Bytes, float64 [N, O, H, W]; there is ``around`` outside of x."""
        side = self.kernel // 2
        middle = around.double()[:, None, None]
        sums = F.conv2d(F.pad(x.double() - middle, (side,) * 4), self.weight.double(), stride=self.stride)
        sums += (self.weight.double().sum((2, 3)) @ around.double())[:, None, None]
        value = sums * self.scale.double()[:, None, None] + self.offset.double()[:, None, None]
        if residual is not None:
            value = value + residual.double() * self.gain.double()[:, None, None]
        return value.round().clamp(0, 255)


def random_bytes(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.uint8)


def identity(channels: int) -> tuple[Tensor, Tensor]:
    """A layer that hands bytes on: its picture can be averaged, or added to."""
    weight = torch.eye(channels, dtype=torch.int8).flatten()
    return weight, torch.stack([torch.ones(channels), torch.zeros(channels), torch.zeros(channels)])


@pytest.mark.parametrize(
    "layer",
    [
        Layer(8, 8, 9, 7, 3, 1), Layer(8, 8, 9, 8, 3, 2), Layer(8, 8, 6, 5, 1, 1), Layer(8, 16, 12, 12, 3, 1),
        Layer(16, 16, 32, 32, 3, 1), Layer(16, 16, 5, 33, 3, 1, images=1), Layer(16, 32, 32, 32, 3, 2),
        Layer(16, 32, 8, 8, 1, 2), Layer(32, 32, 16, 16, 3, 1), Layer(64, 64, 8, 8, 3, 1), Layer(48, 80, 7, 7, 3, 1),
        Layer(64, 16, 1, 1, 1, 1), Layer(16, 64, 4, 4, 3, 2, images=3),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("count", [1, 5])
def test_a_layer_is_exact_at_every_pixel(layer: Layer, count: int) -> None:
    """Its means, that is: of positions the next test says more."""
    x, around = random_bytes(count, layer.channels_in, layer.height, layer.width), random_bytes(layer.channels_in)
    expected = layer.expected(x, around, None)
    height, width = layer.out
    means = run_quantised_chain(
        x,
        around,
        torch.tensor([[layer.channels_in, layer.height, layer.width, layer.images],
                      [layer.channels_out, height, width, layer.images]]),
        torch.tensor([[0, 1, -1, layer.kernel, layer.stride, 1, 0, 0]]),
        1,
        layer.weight.flatten(),
        layer.factors,
    )  # fmt: skip
    torch.testing.assert_close(means.double(), expected.mean((2, 3)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("scale", "expected"), [(1e30, 255), (-1e30, 0), (float("inf"), 255), (float("nan"), 0)])
def test_what_no_byte_can_hold_ends_at_0_or_255(scale: float, expected: int) -> None:
    layer = Layer(16, 16, 4, 4, 1, 1)
    layer.weight.fill_(1)
    layer.scale.fill_(scale)
    picture = [16, 4, 4, 4]
    tables = (torch.tensor([picture, picture]), torch.tensor([[0, 1, -1, 1, 1, 1, 0, 0]]), 1)
    x = torch.full((1, 16, 4, 4), 7, dtype=torch.uint8)
    means = run_quantised_chain(x, x[0, :, 0, 0], *tables, layer.weight.flatten(), layer.factors)
    assert means.tolist() == [[expected] * 16]


def test_channels_whose_sums_could_wrap_are_refused() -> None:
    parts = program()
    parts["pictures"] = torch.tensor([[7312, 1, 1, 1], [16, 1, 1, 1]])
    parts["images"] = torch.zeros(1, 3, 1, 1, dtype=torch.uint8)
    parts["layers"] = torch.tensor([[0, 1, -1, 3, 1, 1, 0, 0]])
    parts["averaged"], parts["weights"] = 1, torch.zeros(7312 * 16 * 9, dtype=torch.int8)
    with pytest.raises(RuntimeError, match="their sums have 32 bits"):
        run_quantised_chain(**parts)  # type: ignore[arg-type]


@pytest.mark.parametrize("channels", [8, 16, 32])
@pytest.mark.parametrize("in_place", [True, False])
def test_layers_after_another_and_residuals_are_exact(channels: int, in_place: bool) -> None:
    """What a second convolution makes of the first one's picture shows where its pixels are, and what edges are."""
    first, second = Layer(channels, channels, 9, 7, 3, 1), Layer(channels, channels, 9, 7, 3, 1)
    second.scale = 2.0 ** torch.full((channels,), -13.0)
    third = Layer(channels, channels, 9, 7, 3, 2)
    x, around = random_bytes(6, channels, 9, 7), random_bytes(channels)
    outside = torch.zeros(channels, dtype=torch.uint8)
    one = first.expected(x, around, None)
    two = second.expected(one, outside, one)
    three = third.expected(two, outside, None)
    picture = [channels, 9, 7, 4]
    size, last = channels * channels * 9, 1 if in_place else 2
    # A residual's own picture can take the sum only if the convolution does not read it: of a copy, then.
    copy, factors = identity(channels)
    means = run_quantised_chain(
        x,
        around,
        torch.tensor([picture, picture, picture, picture, [channels, 5, 4, 4]]),
        torch.tensor([
            [0, 1, -1, 3, 1, 1, 0, 0],
            [1, 3, -1, 1, 1, 1, 3 * size, 3 * channels],
            [3, last, 1, 3, 1, 1, size, channels],
            [last, 4, -1, 3, 2, 1, 2 * size, 2 * channels],
        ]),
        4,
        torch.cat([first.weight.flatten(), second.weight.flatten(), third.weight.flatten(), copy]),
        torch.cat([first.factors, second.factors, third.factors, factors], dim=1),
    )  # fmt: skip
    torch.testing.assert_close(means.double(), three.mean((2, 3)), rtol=1e-6, atol=1e-6)


def network_of(name: str, ratio: float, size: int, channels: int = 3, width: float = 1.0) -> tuple[nn.Module, Tensor]:
    """A network whose statistics are those of the images, uint8."""
    torch.manual_seed(0)
    coarse = torch.rand(300, channels, 6, 6)
    images = (F.interpolate(coarse, size, mode="bicubic") * 255).clamp(0, 255).to(torch.uint8)
    network: nn.Module = build_model(name, num_classes=10, in_channels=channels, width=width)
    if ratio:
        network = prune(network, torch.zeros(1, channels, size, size), ratio).model
    return trained_like(network, normalised(images)), images


def normalised(images: Tensor) -> Tensor:
    mean, std = statistics_of(images.shape[1])
    return (images - mean[:, None, None]) / std[:, None, None]


def statistics_of(channels: int) -> tuple[Tensor, Tensor]:
    return torch.tensor((NORMALISATION.mean * 2)[:channels]), torch.tensor((NORMALISATION.std * 2)[:channels])


def quantised(network: nn.Module, images: Tensor) -> QuantisedChain:
    chain = trace_chain(network, normalised(images[:2]))
    fold_batch_norms(chain)
    return quantise_chain(chain, images[:128], *statistics_of(images.shape[1]))


@pytest.mark.parametrize(
    ("name", "ratio", "size", "channels", "width"),
    [
        ("resnet8", 0.0, 32, 3, 1.0), ("resnet20", 0.5, 32, 3, 1.0), ("resnet14", 0.8, 28, 1, 1.0),
        ("resnet56", 0.0, 16, 3, 1.0), ("resnet14", 0.0, 17, 3, 0.7), ("resnet8", 0.0, 30, 4, 2.0),
    ],
)  # fmt: skip
def test_networks_are_right_to_within_a_few_percent(
    name: str, ratio: float, size: int, channels: int, width: float
) -> None:
    network, images = network_of(name, ratio, size, channels, width)
    expected = prepare(network, normalised(images[:2]), "fp32")(normalised(images))[0]
    chain = quantised(network, images)
    found = chain(images)
    error = float((found - expected).square().mean().sqrt() / expected.std())
    assert error <= 0.1
    own = float((found[:128] - expected[:128]).square().mean().sqrt() / expected[:128].std())
    assert chain.error == pytest.approx(own, rel=0.01)


def test_one_wrong_weight_or_factor_in_any_layer_is_noticed() -> None:
    network, images = network_of("resnet8", 0.5, 32)
    expected = prepare(network, normalised(images[:2]), "fp32")(normalised(images))[0]
    chain = quantised(network, images)

    def error() -> float:
        return float((chain(images) - expected).square().mean().sqrt() / expected.std())

    right = error()
    weights = [*chain.layers[:, 6].tolist(), len(chain.weights)]
    factors = [*chain.layers[:, 7].tolist(), chain.factors.shape[1]]
    for layer in range(len(chain.layers)):
        parts = [
            chain.weights[weights[layer] : weights[layer + 1]],
            chain.factors[1, factors[layer] : factors[layer + 1]],
        ]
        if int(chain.layers[layer, 2]) >= 0:
            parts.append(chain.factors[2, factors[layer] : factors[layer + 1]])
        for part in parts:
            if not bool(part.any()):
                continue
            part.neg_()
            assert error() > 1.5 * right, layer
            part.neg_()


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_the_same_to_the_bit_for_every_batch_and_number_of_threads(threads: Callable[[int], None]) -> None:
    network, images = network_of("resnet14", 0.5, 32)
    chain = quantised(network, images)
    threads(1)
    whole = chain(images[:19])
    for size in (1, 2, 3, 5, 17):
        parts = [chain(part) for part in images[:19].split(size)]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-5)
        tables = (chain.around, chain.pictures, chain.layers, chain.averaged, chain.weights, chain.factors)
        means = [run_quantised_chain(part, *tables) for part in images[:19].split(size)]
        assert torch.equal(torch.cat(means), run_quantised_chain(images[:19], *tables))
    for count in (2, 3):
        threads(count)
        assert torch.equal(chain(images[:19]), whole)


class Other(nn.Module):
    """A network with something else in one place."""

    def __init__(self, *middle: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), *middle)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.LazyLinear(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.body(x)).flatten(1))


@pytest.mark.parametrize(
    "network",
    [
        Other(),
        Other(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()),
        Other(nn.ReLU(), nn.Conv2d(16, 16, 5, padding=2), nn.ReLU()),
    ],
    ids=["no ReLU at the end", "no ReLU in between", "a kernel of 5"],
)
def test_other_networks_are_refused(network: nn.Module) -> None:
    images = random_bytes(200, 3, 16, 16)
    network(normalised(images[:2]))
    with pytest.raises(NotAChain):
        quantised(network.eval(), images)


def program() -> dict[str, Tensor | int]:
    return {
        "images": torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
        "around": torch.zeros(3, dtype=torch.uint8),
        "pictures": torch.tensor([[8, 8, 8, 4], [16, 4, 4, 4], [16, 4, 4, 4]]),
        "layers": torch.tensor([[0, 1, -1, 3, 2, 1, 0, 0], [1, 2, -1, 3, 1, 1, 1152, 16]]),
        "averaged": 2,
        "weights": torch.zeros(1152 + 2304, dtype=torch.int8),
        "factors": torch.zeros(3, 32),
    }


def test_the_program_of_the_next_test_is_right() -> None:
    assert run_quantised_chain(**program()).shape == (2, 16)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("table", "row", "column", "value"),
    [
        ("layers", 0, 0, 3), ("layers", 0, 2, 1),
        ("layers", 1, 1, 0), ("layers", 1, 1, 1), ("layers", 1, 2, 0), ("layers", 0, 3, 5),
        ("layers", 1, 6, 1153), ("layers", 1, 6, -1), ("layers", 1, 6, 2**62), ("layers", 1, 7, 17),
        ("layers", 1, 7, 2**63 - 1), ("pictures", 0, 0, 24), ("pictures", 0, 1, 9), ("pictures", 1, 3, 2),
        ("pictures", 1, 3, 8), ("pictures", 0, 2, 2**40),
    ],
)  # fmt: skip
def test_programs_that_do_not_fit_together_are_refused(table: str, row: int, column: int, value: int) -> None:
    parts = program()
    parts[table][row, column] = value  # type: ignore[index]
    with pytest.raises(RuntimeError, match=r"expected|not enough|no such|do not match"):
        run_quantised_chain(**parts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("images", torch.zeros(2, 3, 8, 8)),
        ("images", torch.zeros(2, 9, 8, 8, dtype=torch.uint8)),
        ("images", torch.zeros(2, 3, 9, 8, dtype=torch.uint8)),
        ("around", torch.zeros(2, dtype=torch.uint8)),
        ("around", torch.zeros(3)),
        ("weights", torch.zeros(1152 + 2303, dtype=torch.int8)),
        ("weights", torch.zeros(1152 + 2304)),
        ("factors", torch.zeros(3, 31)),
        ("factors", torch.zeros(2, 32)),
        ("averaged", 3),
    ],
)
def test_wrong_arguments_are_refused(name: str, value: Tensor | int) -> None:
    parts = program() | {name: value}
    with pytest.raises(RuntimeError, match=r"expected|not enough|no such"):
        run_quantised_chain(**parts)  # type: ignore[arg-type]


def test_torch_knows_the_operator() -> None:
    results = opcheck(torch.ops.prunefuse_bench.run_quantised_chain, tuple(program().values()))
    assert set(results.values()) == {"SUCCESS"}, results


RECIPE = TrainingRecipe(
    schedule=StepSchedule(1, ((1.0, 0.1),)),
    batch_size=8,
    momentum=0.9,
    weight_decay=0.0,
    augmentation=Augmentation(),
    normalisation=NORMALISATION,
    precision="fp32",
    screening=True,
)


def test_who_is_chosen_after_a_look_in_8_bits_is_who_float32_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    network, images = network_of("resnet8", 0.0, 16)
    pool = torch.cat([images, images.flip(3), 255 - images, images.flip(2)])
    monkeypatch.setattr(screening, "SCREENED_FROM", len(pool))
    exact = predict(network, pool, RECIPE, features=False)[0]
    rough = predict_roughly(network, pool, RECIPE)
    assert not torch.equal(rough, exact)
    for kind in ("entropy", "least_confidence", "margin"):
        right, nearly = ops.score(exact, kind), ops.score(rough, kind)  # type: ignore[arg-type]
        refined = refine_near_threshold(nearly, 100, lambda positions, right=right: right[positions])
        chosen = torch.isin(ops.top_k(right, 100), ops.top_k(refined, 100)).double().mean()
        assert chosen >= 0.99


def test_small_pools_other_networks_and_who_asks_not_to_get_the_usual_way(monkeypatch: pytest.MonkeyPatch) -> None:
    network, images = network_of("resnet8", 0.0, 16)
    exact = predict(network, images, RECIPE, features=False)[0]
    assert torch.equal(predict_roughly(network, images, RECIPE), exact)
    monkeypatch.setattr(screening, "SCREENED_FROM", len(images))
    assert not torch.equal(predict_roughly(network, images, RECIPE), exact)
    assert torch.equal(predict_roughly(network, images, dataclasses.replace(RECIPE, screening=False)), exact)
    other = Other(nn.ReLU(), nn.MaxPool2d(2))
    other(normalised(images[:2]))
    assert torch.equal(predict_roughly(other, images, RECIPE), predict(other, images, RECIPE, features=False)[0])
    monkeypatch.setattr(screening, "LARGEST_ERROR", 0.0)
    assert torch.equal(predict_roughly(network, images, RECIPE), exact)
