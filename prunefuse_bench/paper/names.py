"""What the paper calls its data sets and networks, and what they are called here."""

from __future__ import annotations

from types import MappingProxyType

__all__ = ["DATASETS", "UNSTATED_NETWORKS", "family", "registered_network"]

DATASETS = MappingProxyType(
    {
        "CIFAR-10": "cifar10",
        "CIFAR-10-C": "cifar10",
        "CIFAR-100": "cifar100",
        "Tiny-ImageNet-200": "tiny-imagenet-200",
        "ImageNet-1K": "imagenet",
        "Amazon Review Polarity": "amazon-polarity",
        "Amazon Review Full": "amazon-full",
    }
)
"""From the paper's name to that of ``prunefuse-bench datasets``; CIFAR-10-C are corrupted test images of CIFAR-10."""

_NETWORKS = {
    "resnet18": "resnet18_cifar",  # published on CIFAR-10 alone
    "wide-resnet-28-10": "wrn28_10",
    "mobilenetv2": "mobilenetv2_cifar",
    "vit": "vit_small_cifar",
}
_BY_DATASET = {("vdcnn", "Amazon Review Polarity"): "vdcnn9", ("vdcnn", "Amazon Review Full"): "vdcnn29"}

UNSTATED_NETWORKS = ("vdcnn", "vit")
"""Networks of which the paper does not say which of their kind it trains: a choice of this suite stands for them."""


def registered_network(network: str, dataset: str) -> str:
    """The name in ``prunefuse-bench models`` of a network in the published tables."""
    return _BY_DATASET.get((network, dataset)) or _NETWORKS.get(network, network)


def family(network: str) -> str:
    """Networks that differ in their size alone are of one family: resnet14 and resnet56, both vision transformers."""
    return network.rstrip("0123456789").replace("_tiny", "_small")
