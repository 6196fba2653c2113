"""FLOPs of networks: counted by hand, by torch on the real graph, and by fvcore on a trace."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from prunefuse_bench.cost.flops import BATCH, ModuleFlops, compare_counters, count_flops, flop_counter
from prunefuse_bench.models import CifarResNet, build_model
from prunefuse_bench.pruning import prune

IMAGE = torch.randn(1, 3, 32, 32)


class Small(nn.Module):
    """Two convolutions, batch norm and a linear layer on 3 x 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.second = nn.Conv2d(5, 7, 3, stride=2)
        self.drop = nn.Dropout(0.5)
        self.classifier = nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)))
        return self.classifier(self.drop(self.second(x).mean((2, 3))))


FIRST, SECOND, LINEAR = 2 * (5 * 8 * 8) * (3 * 9), 2 * (7 * 3 * 3) * (5 * 9), 2 * 7 * 4
SMALL_IMAGE = torch.randn(1, 3, 8, 8)


def test_a_linear_layer_alone_has_no_gradient_by_its_input() -> None:
    flops = count_flops(nn.Linear(6, 5), torch.randn(3, 6))
    assert (flops.forward, flops.backward) == (2 * 6 * 5, 2 * 6 * 5)
    assert (flops.fvcore_forward, flops.disagreement) == (2 * 6 * 5, "")


def test_a_small_network_is_counted_as_by_hand() -> None:
    flops = count_flops(Small(), SMALL_IMAGE)
    assert flops.forward == FIRST + SECOND + LINEAR == flops.fvcore_forward
    assert flops.backward == FIRST + 2 * SECOND + 2 * LINEAR, "the image needs no gradient"
    assert not flops.disagreement


def test_what_calculates_and_is_not_counted_is_named_and_nothing_else() -> None:
    uncounted = count_flops(Small(), SMALL_IMAGE).uncounted
    assert list(uncounted) == sorted(set(uncounted))
    names = " ".join(uncounted)
    for part in ("batch_norm", "batch_norm_backward", "relu", "threshold_backward", "mean", "bernoulli", "mul"):
        assert part in names
    for part in ("convolution", "addmm", "view", "expand", "clone", "empty", "ones", "copy"):
        assert part not in names, f"{part} does no arithmetic or is counted"


def test_frozen_weights_save_their_gradients() -> None:
    network = Small()
    network.first.requires_grad_(False)
    network.norm.requires_grad_(False)
    assert count_flops(network, SMALL_IMAGE).backward == SECOND + 2 * LINEAR
    flops = count_flops(network.requires_grad_(False), SMALL_IMAGE)
    assert (flops.forward, flops.backward) == (FIRST + SECOND + LINEAR, 0)


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("transposed", [False, True])
def test_grouped_convolutions_cost_a_share_forward_and_backward(groups: int, transposed: bool) -> None:
    layer = (nn.ConvTranspose2d if transposed else nn.Conv2d)(8, 16, 3, groups=groups, padding=1)
    network = nn.Sequential(nn.Conv2d(3, 8, 1), layer, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    flops = count_flops(network, torch.randn(1, 3, 6, 6))
    first, grouped = 2 * 6 * 6 * 8 * 3, 2 * 6 * 6 * 8 * 16 * 9 // groups
    assert flops.forward == first + grouped == flops.fvcore_forward
    assert flops.backward == first + 2 * grouped


def test_torch_still_needs_the_rule_for_grouped_convolutions() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    x, layer = torch.randn(1, 8, 4, 4), nn.Conv2d(8, 8, 3, padding=1, groups=8)
    with FlopCounterMode(display=False) as plain:
        layer(x).sum().backward()
    with flop_counter() as ours:
        layer(x).sum().backward()
    forward = 2 * 16 * 8 * 9
    assert ours.get_total_flops() == 2 * forward
    assert plain.get_total_flops() > 2 * forward, "torch counts it rightly by now: the rule can go"


def test_resnet56_does_126_million_multiply_adds_by_both_counters() -> None:
    flops = count_flops(build_model("resnet56", num_classes=10, in_channels=3), IMAGE)
    assert 125.5e6 <= flops.forward / 2 <= 127e6
    assert flops.fvcore_forward == pytest.approx(flops.forward, rel=0.01)
    assert not flops.disagreement
    first = 2 * 32 * 32 * 16 * 27
    assert flops.backward == 2 * flops.forward - first


def test_a_pruned_network_is_counted_as_it_is() -> None:
    dense = build_model("resnet8", num_classes=10, in_channels=3)
    pruned = prune(dense, IMAGE, 0.5).model
    narrow = CifarResNet(8, 10, 3, width=0.5)
    flops = count_flops(pruned, IMAGE)
    assert flops == count_flops(narrow, IMAGE)
    assert flops.forward == flops.fvcore_forward
    assert 0.25 < flops.forward / count_flops(dense, IMAGE).forward < 0.26


class SelfAttention(nn.Module):
    """Two heads of width 4 over 10 positions."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.project(x).unflatten(2, (3, 2, 4)).transpose(1, 3).unbind(2)
        return F.scaled_dot_product_attention(query, key, value).flatten(1)


PROJECTION, SCORES = 2 * 10 * 8 * 24, 2 * 2 * 10 * 10 * 4


def test_attention_is_counted_and_the_comparison_says_that_fvcore_does_not_see_it() -> None:
    network = nn.Sequential(SelfAttention(), nn.Linear(80, 3))
    flops = count_flops(network, torch.randn(1, 10, 8))
    assert flops.forward == PROJECTION + 2 * SCORES + 2 * 80 * 3
    assert flops.fvcore_forward == PROJECTION + 2 * 80 * 3
    assert flops.backward in {
        PROJECTION + 2 * 2 * 80 * 3 + 5 * SCORES,  # fused kernels calculate the scores once more
        PROJECTION + 2 * 2 * 80 * 3 + 4 * SCORES,
    }
    assert f"0: torch {2 * SCORES:,}, fvcore 0" in flops.disagreement
    assert "aten::scaled_dot_product_attention" in flops.disagreement


def test_attention_of_plain_products_is_the_same_to_both_counters() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x, need_weights=True)[0].flatten(1)

    flops = count_flops(Heads(), torch.randn(1, 10, 8))
    assert flops.forward == PROJECTION + 2 * SCORES + 2 * 10 * 8 * 8 == flops.fvcore_forward


def test_a_vision_transformer_differs_by_its_attention_alone() -> None:
    network = torchvision.models.VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=10)
    comparison = compare_counters(network, IMAGE)
    assert not comparison.agrees
    names = [f"encoder.layers.encoder_layer_{layer}.self_attention" for layer in (0, 1)]
    assert [module.name for module in comparison.differing] == names
    assert comparison.torch - comparison.fvcore == 2 * (2 * 2 * 4 * 17 * 17 * 8)


def test_words_go_through_an_embedding_and_a_convolution_over_time() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(50, 8)
            self.convolution = nn.Conv1d(8, 6, 3)
            self.classifier = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.classifier(self.convolution(self.embedding(x).transpose(1, 2)).amax(2))

    flops = count_flops(Words(), torch.randint(50, (1, 20)))
    assert flops.forward == 2 * 18 * 6 * 24 + 2 * 6 * 3 == flops.fvcore_forward
    assert flops.backward == 2 * flops.forward, "the embedding needs a gradient, and so does what comes out of it"


class OwnFunction(torch.autograd.Function):
    @staticmethod
    def forward(_: object, x: Tensor, weight: Tensor) -> Tensor:
        return x @ weight.T

    @staticmethod
    def backward(_: object, *gradients: Tensor) -> tuple[None, None]:
        return None, None


class Hidden(nn.Module):
    """A linear layer that a tracer sees nothing of."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return OwnFunction.apply(x, self.weight)


def test_the_comparison_says_where_the_counters_differ() -> None:
    network = nn.Sequential(nn.Linear(6, 8), nn.Sequential(nn.ReLU(), Hidden(8)), nn.Linear(8, 3))
    comparison = compare_counters(network, torch.randn(1, 6))
    assert comparison.modules == (ModuleFlops("0", 96, 96), ModuleFlops("1.1", 128, 0), ModuleFlops("2", 48, 48))
    assert comparison.differing == (ModuleFlops("1.1", 128, 0),)
    assert (comparison.torch, comparison.fvcore, comparison.agrees) == (272, 144, False)
    assert comparison.skipped == ("prim::PythonOp.OwnFunction",)
    flops = count_flops(network, torch.randn(1, 6))
    assert flops.disagreement == str(comparison)
    assert flops.disagreement == (
        "torch counts 272 forward FLOPs, fvcore 144; 1.1: torch 128, fvcore 0; fvcore skips prim::PythonOp.OwnFunction"
    )


def test_a_message_does_not_name_a_hundred_modules() -> None:
    comparison = compare_counters(nn.Sequential(*[Hidden(4) for _ in range(8)]), torch.randn(1, 4))
    assert len(comparison.differing) == 8
    assert "4: torch 32, fvcore 0; and 3 other modules; " in str(comparison)


def test_a_layer_that_is_used_twice_counts_twice_under_its_first_name() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(4, 4)
            self.other = self.one

        def forward(self, x: Tensor) -> Tensor:
            return self.other(self.one(x))

    comparison = compare_counters(Twice(), torch.randn(1, 4))
    assert comparison.modules == (ModuleFlops("one", 64, 64),)


def test_products_outside_of_layers_belong_to_the_module_that_makes_them() -> None:
    class Bare(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ torch.ones(4, 3)

    assert compare_counters(Bare(), torch.randn(1, 4)).modules == (ModuleFlops("", 24, 24),)
    flops = count_flops(Bare(), torch.randn(1, 4))
    assert (flops.forward, flops.backward) == (24, 0)


def test_a_network_that_cannot_be_traced_is_counted_by_torch_alone() -> None:
    class Untraceable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            if torch.jit.is_tracing():
                raise RuntimeError("not for tracers")
            return self.linear(x)

    flops = count_flops(Untraceable(), torch.randn(1, 4))
    assert (flops.forward, flops.fvcore_forward) == (24, None)
    assert flops.disagreement == ("not compared: fvcore cannot trace Untraceable (RuntimeError: not for tracers)")
    with pytest.raises(ValueError, match="not for tracers"):
        compare_counters(Untraceable(), torch.randn(1, 4))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_nothing_is_changed_wherever_it_is_called(training: bool, context: type[torch.no_grad]) -> None:
    network = Small().train(training)
    network.first.weight.grad = torch.ones_like(network.first.weight)
    before, random_state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    with context():
        flops = count_flops(network, torch.randn(1, 3, 8, 8, generator=torch.Generator()))
    assert flops.backward == FIRST + 2 * SECOND + 2 * LINEAR
    assert torch.equal(torch.get_rng_state(), random_state), "dropout drew from the global generator"
    assert network.training == training
    assert all(module.training == training for module in network.modules())
    after = network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert network.first.weight.grad is not None
    assert torch.equal(network.first.weight.grad, torch.ones_like(network.first.weight))
    assert network.second.weight.grad is None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_the_size_of_the_batch_that_is_given_does_not_matter() -> None:
    assert count_flops(Small(), torch.randn(1, 3, 8, 8)) == count_flops(Small(), torch.randn(5, 3, 8, 8))
    assert BATCH >= 2
