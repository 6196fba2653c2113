"""Small members of every family of networks, and what pruning and fusing must keep of any network."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunefuse_bench import PrunedNetwork, fuse
from prunefuse_bench.fusion import Rest
from prunefuse_bench.models.mobilenet_v2 import CifarMobileNetV2
from prunefuse_bench.models.resnet import ResNet
from prunefuse_bench.models.resnet_cifar import CifarResNet
from prunefuse_bench.models.resnet_preactivation import resnet_bottleneck, wide_resnet
from prunefuse_bench.models.vdcnn import CHARACTERS, VDCNN
from prunefuse_bench.models.vit import VisionTransformer
from prunefuse_bench.pruning import gather

IMAGE, LARGE_IMAGE, TEXT = (3, 8, 8), (3, 64, 64), (64,)

SMALL: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet8": (lambda: CifarResNet(8, 10, 3, width=0.5), IMAGE),
    "pre-activation bottlenecks": (lambda: resnet_bottleneck(11, 10, 3, width=0.5), IMAGE),
    "wide resnet": (lambda: wide_resnet(10, 1, 10, 3, width=0.5), IMAGE),
    "resnet18, stem of CIFAR": (lambda: ResNet(18, "cifar", 10, 3, width=0.125), IMAGE),
    "resnet50, stem of ImageNet": (lambda: ResNet(50, "imagenet", 10, 3, width=0.125), LARGE_IMAGE),
    "mobilenetv2": (lambda: CifarMobileNetV2(10, 3, width=0.25), IMAGE),
    "vit": (lambda: VisionTransformer(10, 3, width=0.125, depth=2, num_heads=3, grid=2), IMAGE),
    "vit at another size": (lambda: VisionTransformer(10, 3, width=0.125, depth=1, num_heads=2, grid=4), IMAGE),
    "vdcnn9": (lambda: VDCNN(9, 10, width=0.125), TEXT),
    "vdcnn17 by stride": (lambda: VDCNN(17, 10, width=0.125, halving="stride"), TEXT),
}
"""Builder and shape of a sample; every layer has at least 5 channels, so that 0.8 of them can go."""


def samples(count: int, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Images float [count, C, H, W], or texts int64 [count, L]."""
    draws = torch.Generator().manual_seed(seed)
    if len(shape) == 1:
        return torch.randint(CHARACTERS, (count, *shape), generator=draws)
    return torch.randn(count, *shape, generator=draws)


def train(network: nn.Module, shape: tuple[int, ...], steps: int = 2) -> None:
    """A few steps of gradient descent; buffers change too."""
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for step in range(steps):
        inputs = samples(4, shape, seed=step)
        optimizer.zero_grad()
        F.cross_entropy(network(inputs), torch.arange(4)).backward()
        optimizer.step()
    network.eval()


def touched(dense: nn.Module, pruned: PrunedNetwork) -> dict[str, Tensor]:
    """bool of each dense tensor's shape: where an entry of the pruned network came from."""
    masks = {name: torch.zeros(tensor.numel(), dtype=torch.bool) for name, tensor in dense.state_dict().items()}
    for name, index in pruned.index_map.items():
        masks[name][index.reshape(-1)] = True
    return {name: mask.reshape(dense.state_dict()[name].shape) for name, mask in masks.items()}


def assert_round_trip(dense: nn.Module, pruned: PrunedNetwork, rests: Iterable[Rest] = ("retain",)) -> None:
    """What was put in comes out to the bit, and everything else is as the rest mode says."""
    values, dense_state = pruned.model.state_dict(), dense.state_dict()
    assert values.keys() == pruned.index_map.keys() == dense_state.keys()
    masks = touched(dense, pruned)
    assert all(int(masks[name].sum()) == index.numel() for name, index in pruned.index_map.items())  # none twice
    parameters = dict(dense.named_parameters())
    for rest in rests:
        state = fuse(dense, pruned, rest=rest).state_dict()
        back = gather(state, pruned.index_map)
        for name, value in values.items():
            assert torch.equal(back[name], value), (rest, name)
        for name, value in dense_state.items():
            remaining = state[name][~masks[name]]
            if rest == "retain" or (rest == "zero" and name not in parameters):
                assert torch.equal(remaining, value[~masks[name]]), (rest, name)
            elif rest == "zero":
                assert not remaining.any(), name
            else:
                assert remaining.isfinite().all(), name
