from __future__ import annotations

import copy
import dataclasses
from typing import get_args

import pytest
import torch
from networks import touched
from torch import nn

from prunefuse_bench import fuse, prune
from prunefuse_bench.errors import BadInput
from prunefuse_bench.fusion import Rest
from prunefuse_bench.initialisation import initial_laws
from prunefuse_bench.models import build_model, count_parameters
from prunefuse_bench.pruning import replay_pruning

EXAMPLE = torch.zeros(1, 3, 16, 16)


def dense_network(name: str = "resnet8", width: float = 1.0) -> nn.Module:
    """With buffers that are not all the same."""
    torch.manual_seed(0)
    model = build_model(name, num_classes=10, in_channels=3, width=width).eval()
    fill_with_noise(model)
    return model


def fill_with_noise(model: nn.Module) -> None:
    for tensor in model.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape) + 0.5 if tensor.is_floating_point() else torch.tensor(7))


def test_a_pruned_network_of_another_precision_is_converted() -> None:
    dense = dense_network()
    pruned = prune(dense, EXAMPLE, 0.5)
    expected = fuse(dense, pruned).state_dict()
    pruned.model.double()
    assert all(torch.equal(value, expected[name]) for name, value in fuse(dense, pruned).state_dict().items())


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.8])
def test_zero_rest_computes_what_the_pruned_network_does(ratio: float) -> None:
    """Coordinates that do not fit each other across layers would change the function."""
    dense = dense_network("resnet14")
    pruned = prune(dense, EXAMPLE, ratio)
    fill_with_noise(pruned.model)
    for parameter in pruned.model.parameters():
        parameter.data -= 1.0  # both signs
    fused = fuse(dense, pruned, rest="zero")
    images = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(fused.eval()(images), pruned.model.eval()(images), rtol=1e-4, atol=1e-4)


def test_dense_network_is_never_changed() -> None:
    dense = dense_network()
    before = copy.deepcopy(dense.state_dict())
    pruned = prune(dense, EXAMPLE, 0.5)
    for rest in get_args(Rest):
        fuse(dense, pruned, rest=rest)
    assert all(torch.equal(before[name], tensor) for name, tensor in dense.state_dict().items())


def test_half_the_channels_leave_a_quarter_of_the_parameters() -> None:
    dense = dense_network("resnet56")
    pruned = prune(dense, EXAMPLE, 0.5)
    assert count_parameters(pruned.model) / count_parameters(dense) == pytest.approx(0.25, abs=0.003)
    assert pruned.model(EXAMPLE).shape == (1, 10)


def test_the_weakest_channels_go() -> None:
    dense = dense_network()
    block = dense.blocks[0]
    for tensor in (block.conv1.weight, block.bn1.weight, block.conv2.weight):
        tensor.data.fill_(1.0)
    weak = [1, 4, 5, 6, 10, 11, 13, 15]
    block.conv1.weight.data[weak] *= 0.1  # the group of channels between the two convolutions
    pruned = prune(dense, EXAMPLE, 0.5)
    kept = pruned.index_map["blocks.0.bn1.weight"].tolist()
    assert kept == [channel for channel in range(16) if channel not in weak]


def test_ratio_zero_prunes_nothing() -> None:
    dense = dense_network()
    pruned = prune(dense, EXAMPLE, 0.0)
    assert all(torch.equal(index.reshape(-1), torch.arange(index.numel())) for index in pruned.index_map.values())


def test_replaying_the_history_gives_the_same_structure_and_map() -> None:
    dense = dense_network("resnet14")
    pruned = prune(dense, EXAMPLE, 0.6)
    fill_with_noise(dense)  # other weights would be pruned elsewhere; the history decides
    again = replay_pruning(dense, EXAMPLE, pruned.history)
    assert again.index_map.keys() == pruned.index_map.keys()
    assert all(torch.equal(again.index_map[name], index) for name, index in pruned.index_map.items())
    again.model.load_state_dict(pruned.model.state_dict())


def test_reinit_draws_from_each_layers_own_distribution() -> None:
    torch.manual_seed(0)
    dense = build_model("resnet20", num_classes=10, in_channels=3, width=2.0)
    pruned = prune(dense, EXAMPLE, 0.5)
    fused = fuse(dense, pruned, rest="reinit", seed=1)
    masks = touched(dense, pruned)
    name = "blocks.8.conv2.weight"
    rest, initial = fused.state_dict()[name][~masks[name]], dense.state_dict()[name]
    assert not torch.equal(rest, initial[~masks[name]])
    assert rest.std().item() == pytest.approx(initial.std().item(), rel=0.02)
    assert rest.mean().item() == pytest.approx(0, abs=0.001)
    assert (fused.state_dict()["bn1.weight"] == 1).all()
    same, other = fuse(dense, pruned, seed=1), fuse(dense, pruned, seed=2)
    assert torch.equal(same.state_dict()[name], fused.state_dict()[name])
    assert not torch.equal(other.state_dict()[name], fused.state_dict()[name])


def test_fusing_does_not_touch_the_global_generator() -> None:
    dense = dense_network()
    pruned = prune(dense, EXAMPLE, 0.5)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    fuse(dense, pruned)
    assert torch.equal(torch.rand(1), expected)


def test_channels_last_networks_fuse_the_same() -> None:
    dense = dense_network()
    pruned = prune(dense, EXAMPLE, 0.5)
    expected = fuse(dense, pruned, rest="retain").state_dict()
    last = dataclasses.replace(pruned, model=copy.deepcopy(pruned.model).to(memory_format=torch.channels_last))
    found = fuse(dense.to(memory_format=torch.channels_last), last, rest="retain").state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5])
def test_ratio_out_of_range(ratio: float) -> None:
    with pytest.raises(BadInput, match="expected a share of the channels from 0 to below 1"):
        prune(dense_network(), EXAMPLE, ratio)


def test_unknown_criterion() -> None:
    with pytest.raises(BadInput, match="expected one of group_norm, lamp, magnitude, random, got 'magic'"):
        prune(dense_network(), EXAMPLE, 0.5, criterion="magic")


def test_a_network_that_cannot_be_traced_is_refused() -> None:
    with pytest.raises(BadInput, match="cannot be traced for pruning"):
        prune(nn.Sequential(nn.Flatten(), nn.ReLU()), EXAMPLE, 0.5)


def test_fusing_into_another_network_names_what_does_not_fit() -> None:
    pruned = prune(dense_network("resnet8"), EXAMPLE, 0.5)
    with pytest.raises(ValueError, match=r"only one of them has 'blocks\."):
        fuse(dense_network("resnet14"), pruned)
    with pytest.raises(ValueError, match=r"expected .* entries of a dense tensor"):
        fuse(dense_network("resnet8", width=0.5), pruned)
    with pytest.raises(ValueError, match="rest: expected one of reinit, retain, zero"):
        fuse(dense_network(), pruned, rest="nothing")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["resnet8", "resnet20"])
def test_a_network_says_the_laws_that_it_draws_from(name: str) -> None:
    torch.manual_seed(0)
    network = build_model(name, num_classes=10, in_channels=3)
    laws = initial_laws(network)
    for key, value in network.state_dict().items():
        if not value.is_floating_point():
            continue
        law = laws[key]
        if law.kind == "constant":
            assert bool((value == law.a).all()), key
        elif value.numel() > 200:
            deviation = (law.b - law.a) / 12**0.5 if law.kind == "uniform" else law.b
            assert value.std().item() == pytest.approx(deviation, rel=0.15), key
            if law.kind == "uniform":
                assert law.a <= value.min() <= value.max() <= law.b, key
            else:
                assert value.mean().item() == pytest.approx(law.a, abs=0.2 * law.b), key


def test_layers_without_a_law_are_drawn_by_torch() -> None:
    dense = nn.Sequential(nn.Conv2d(1, 8, 3), nn.PReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    assert "1.weight" not in initial_laws(dense)
    dense[1].weight.data.fill_(7.0)
    pruned = prune(dense, torch.zeros(1, 1, 8, 8), 0.5)
    fused = fuse(dense, pruned, seed=2).state_dict()
    again = fuse(dense, pruned, seed=2).state_dict()
    assert all(torch.equal(fused[key], again[key]) for key in fused)
    mask = torch.ones(8, dtype=torch.bool)
    mask[pruned.index_map["0.bias"]] = False
    assert not torch.equal(fused["0.bias"][mask], dense.state_dict()["0.bias"][mask])
    assert fused["1.weight"].item() == 7.0  # the only slope belongs to the pruned network
