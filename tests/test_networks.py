"""Pruning, fusing and fast scoring keep their promises for every family of networks."""

from __future__ import annotations

import copy

import pytest
import torch
from networks import SMALL, assert_round_trip, samples, touched, train
from torch import Tensor, nn
from trained_like import trained_like

from prunefuse_bench import fuse, prune
from prunefuse_bench.errors import BadInput
from prunefuse_bench.inference import prepare
from prunefuse_bench.initialisation import initial_laws
from prunefuse_bench.models import MODELS, build_model, count_parameters
from prunefuse_bench.models.vit import VisionTransformer
from prunefuse_bench.pruning import CRITERIA, dynamic_schedule, prune_further, replay_pruning

RATIOS = (0.3, 0.5, 0.8)

NORMALISES_CHANNELS = {"vit", "vit at another size"}
"""Layer norm sees zero channels, so zeros around a pruned network change what it computes."""


def small(name: str) -> tuple[nn.Module, Tensor]:
    """A dense network after a few steps of training, and an example."""
    build, shape = SMALL[name]
    torch.manual_seed(0)
    network = build()
    train(network, shape, steps=1)
    return network, samples(1, shape)


@pytest.mark.parametrize("name", ["resnet8", "vit", "vdcnn9"])
def test_dynamic_pruning_in_five_steps_replays_as_one(name: str) -> None:
    dense, example = small(name)
    pruned = None
    for _, ratio in dynamic_schedule(0.6):
        pruned = prune_further(dense, pruned, example, ratio) if pruned else prune(dense, example, ratio)
        train(pruned.model, SMALL[name][1], steps=1)
    assert pruned is not None
    again = replay_pruning(dense, example, pruned.history)
    assert all(torch.equal(again.index_map[key], index) for key, index in pruned.index_map.items())
    again.model.load_state_dict(pruned.model.state_dict())
    inputs = samples(3, SMALL[name][1])
    assert torch.equal(again.model.eval()(inputs), pruned.model.eval()(inputs))


def test_the_schedule_of_dynamic_pruning_is_the_papers() -> None:
    assert dynamic_schedule(0.5) == ((4, 0.1), (8, 0.2), (12, pytest.approx(0.3)), (16, 0.4), (20, 0.5))
    assert [dynamic_schedule(ratio)[-1] for ratio in (0.3, 0.7)] == [(20, 0.3), (20, 0.7)]


@pytest.mark.parametrize("name", sorted(SMALL.keys() - NORMALISES_CHANNELS))
@pytest.mark.parametrize("ratio", [0.3, 0.8])
def test_zeros_around_a_pruned_network_change_nothing(name: str, ratio: float) -> None:
    """Coordinates that do not fit each other across layers would change the function."""
    dense, example = small(name)
    pruned = prune(dense, example, ratio, criterion="random")
    train(pruned.model, SMALL[name][1])
    fused = fuse(dense, pruned, rest="zero").eval()
    inputs = samples(4, SMALL[name][1])
    expected = pruned.model(inputs)
    torch.testing.assert_close(fused(inputs), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_a_vit_loses_the_same_channels_everywhere_and_in_every_head() -> None:
    dense, example = small("vit")
    pruned = prune(dense, example, 0.5, criterion="random")
    channels, heads = 24, 3
    kept = pruned.index_map["norm.weight"]
    assert len(kept) == 12
    residual = ["patches.bias", "blocks.0.norm1.weight", "blocks.1.norm2.bias", "blocks.0.attention.projection.bias"]
    assert all(torch.equal(pruned.index_map[name], kept) for name in residual)
    assert torch.equal(pruned.index_map["class_token"][0, 0], kept)
    assert torch.equal(pruned.index_map["positions"][0, 2] - 2 * channels, kept)
    assert torch.equal(pruned.index_map["classifier.weight"][1] - channels, kept)
    in_heads = pruned.index_map["blocks.0.attention.query.bias"].reshape(heads, 4)
    assert torch.equal(in_heads - 8 * torch.arange(heads)[:, None], in_heads[:1].expand(heads, 4))
    for name in ("key.bias", "value.bias"):
        assert torch.equal(pruned.index_map[f"blocks.0.attention.{name}"], in_heads.flatten())
    read = pruned.index_map["blocks.0.attention.projection.weight"] % channels
    assert torch.equal(read, in_heads.flatten().expand_as(read))


def test_criteria_rank_the_channels_of_one_group_alike_but_for_random() -> None:
    dense, example = small("resnet8")
    kept = {criterion: prune(dense, example, 0.5, criterion=criterion).history for criterion in CRITERIA}
    assert kept["magnitude"] == kept["group_norm"] == kept["lamp"] != kept["random"]
    assert [name for name, *_ in kept["random"]] == [name for name, *_ in kept["magnitude"]]


def test_criteria_differ_with_global_sparsity() -> None:
    dense, example = small("resnet8")
    pruned = {criterion: prune(dense, example, 0.4, criterion=criterion, sparsity="global") for criterion in CRITERIA}
    assert len({str(network.history) for network in pruned.values()}) == len(CRITERIA)
    for network in pruned.values():
        assert_round_trip(dense, network)
        assert network.extent.channel_ratio == pytest.approx(0.4, abs=0.1)


def test_random_pruning_is_the_seeds() -> None:
    dense, example = small("vdcnn9")
    first, again, other = (prune(dense, example, 0.5, criterion="random", seed=seed).history for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("name", SMALL)
def test_numbers_of_channels_can_be_rounded(name: str) -> None:
    dense, example = small(name)
    pruned = prune(dense, example, 0.4, round_to=4)
    changed = [
        module.out_features if isinstance(module, nn.Linear) else module.out_channels
        for (key, module), (_, original) in zip(pruned.model.named_modules(), dense.named_modules(), strict=True)
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear) and module.weight.shape[0] != original.weight.shape[0]
    ]
    assert changed
    assert all(count % 4 == 0 for count in changed)
    assert_round_trip(dense, pruned)


def test_a_rounded_layer_is_left_one_multiple_and_never_grows() -> None:
    dense, example = small("resnet8")
    assert prune(dense, example, 0.8, round_to=6).model.blocks[0].conv1.out_channels == 6
    assert prune(dense, example, 0.8, round_to=16).model.blocks[0].conv1.out_channels == 8


def test_the_extent_says_what_was_asked_and_what_was_reached() -> None:
    dense, example = small("resnet8")
    extent = prune(dense, example, 0.8).extent
    assert extent.ratio == 0.8
    assert extent.parameters[0] == count_parameters(dense)
    assert extent.channels[0] == 8 * 3 + 16 * 3 + 32 * 3
    assert extent.channels[1] == 1 * 3 + 3 * 3 + 6 * 3  # int(8 x 0.2), int(16 x 0.2), int(32 x 0.2)
    assert extent.channel_ratio == pytest.approx(1 - 30 / 168)
    assert extent.parameter_ratio == pytest.approx(1 - extent.parameters[1] / extent.parameters[0])


def test_a_ratio_that_leaves_a_layer_without_channels_names_it() -> None:
    dense, example = small("resnet8")
    with pytest.raises(BadInput, match=r"nothing would be left of the 8 channels of 'conv1'; expected at most 0\.875"):
        prune(dense, example, 0.9)
    with pytest.raises(BadInput, match="less, or local sparsity"):
        prune(dense, example, 0.98, sparsity="global")


def test_a_ratio_that_leaves_a_head_without_width_names_it() -> None:
    narrow = VisionTransformer(10, 3, width=0.0625, depth=1, num_heads=2, grid=2)
    with pytest.raises(BadInput, match=r"the 4 channels of '.*projection', per head or group; expected at most 0\.75"):
        prune(narrow, torch.zeros(1, 3, 8, 8), 0.8)


def test_arguments_are_checked() -> None:
    dense, example = small("resnet8")
    with pytest.raises(BadInput, match="sparsity: expected one of local, global, got 'everywhere'"):
        prune(dense, example, 0.5, sparsity="everywhere")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="round_to: expected a number of channels from 1, got 0"):
        prune(dense, example, 0.5, round_to=0)


class StoresItsWidth(nn.Module):
    """Its forward pass counts on channels in a way that no tracing can see."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)) + torch.ones(8))


def test_a_network_that_does_not_run_when_pruned_is_refused() -> None:
    with pytest.raises(BadInput, match="StoresItsWidth does not run any more when it is pruned"):
        prune(StoresItsWidth(), torch.zeros(1, 3, 8, 8), 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_registered_network_at_full_size(name: str, criterion: str) -> None:
    shape = MODELS[name].example_shape
    torch.manual_seed(0)
    dense = build_model(name, num_classes=10, in_channels=3)
    example = samples(1, shape)
    for ratio in RATIOS:
        static = prune(dense, example, ratio, criterion=criterion)
        train(static.model, shape)
        assert_round_trip(dense, static)
        halfway = prune(dense, example, ratio / 2, criterion=criterion)
        train(halfway.model, shape, steps=1)
        dynamic = prune_further(dense, halfway, example, ratio, criterion=criterion)
        train(dynamic.model, shape)
        assert_round_trip(dense, dynamic)
        assert dynamic.extent == static.extent


@pytest.mark.parametrize("name", SMALL)
def test_scoring_computes_the_same_logits(name: str) -> None:
    dense, example = small(name)
    shape = SMALL[name][1]
    inputs = samples(6, shape)
    for given in (dense, prune(dense, example, 0.6).model):
        network = trained_like(given, inputs)
        before = copy.deepcopy(network.state_dict())
        with torch.no_grad():
            expected = network(inputs)
        for precision, tolerance in (("fp32", 1e-4), ("bf16", 0.06)):
            logits, features = prepare(network, inputs[:2], precision)(inputs)  # type: ignore[arg-type]
            torch.testing.assert_close(logits, expected, rtol=0, atol=tolerance * float(expected.abs().max()))
            assert features is not None
            assert logits.dtype == features.dtype == torch.float32
        assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize("name", SMALL)
def test_a_network_says_the_laws_that_it_draws_from(name: str) -> None:
    build, _ = SMALL[name]
    torch.manual_seed(0)
    network = build()
    laws = initial_laws(network)
    for key, value in network.state_dict().items():
        if not value.is_floating_point():
            continue
        law = laws[key]
        if law.kind == "constant":
            assert bool((value == law.a).all()), key
        elif value.numel() > 500:
            deviation = (law.b - law.a) / 12**0.5 if law.kind == "uniform" else law.b
            assert value.std().item() == pytest.approx(deviation, rel=0.15), key
            assert value.mean().item() == pytest.approx(
                (law.a + law.b) / 2 if law.kind == "uniform" else law.a, abs=0.2 * deviation
            )


def test_the_rest_of_a_fused_network_is_drawn_from_its_own_laws() -> None:
    dense, example = small("vit")
    pruned = prune(dense, example, 0.5)
    fused, masks = fuse(dense, pruned, seed=1), touched(dense, pruned)
    rest = torch.cat(
        [
            value[~masks[key]]
            for key, value in fused.state_dict().items()
            if key.endswith("weight") and "norm" not in key
        ]
    )
    assert rest.std().item() == pytest.approx(0.02, rel=0.05)
    assert all((fused.state_dict()[key][~masks[key]] == 1).all() for key in masks if "norm" in key and "weight" in key)
