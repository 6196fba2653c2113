"""The paper's networks at every pruning ratio: parameters and FLOPs, beside the parameters that it prints."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from prunefuse_bench.cost import count_flops
from prunefuse_bench.models import MODELS, build_model, count_parameters
from prunefuse_bench.paper.sheets import NOTHING, Line, Sheet
from prunefuse_bench.pruning import prune

__all__ = ["NETWORKS", "RATIOS", "CountedNetwork", "PaperNetwork", "count", "explanation", "network_sheet"]

RATIOS = (0.0, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Pruning ratios of the paper's tables; 0 is the dense network."""

EXPLAINED_FROM = 0.02
"""A larger difference needs an explanation."""

MEBI = 2**20


@dataclass(frozen=True)
class PaperNetwork:
    """A network and a data set of the paper.

    Attributes:
        model: as ``prunefuse-bench models`` names it.
        dataset: what it is trained on there.
        classes: of the data set.
        printed: parameters in millions by pruning ratio, digit by digit as the paper prints them.
        source: the tables.
        reasons: why a printed number is more than 2% off where no rule of :func:`explanation` says it, by ratio.
    """

    model: str
    dataset: str
    classes: int
    printed: Mapping[float, str]
    source: str
    reasons: Mapping[float, str] | None = None

    def example_input(self) -> Tensor:
        """A batch of one of the sizes that the paper trains on: 224x224 for ImageNet and Tiny-ImageNet."""
        return MODELS[self.model].example_input()


NETWORKS = (
    PaperNetwork(
        "resnet56", "CIFAR-10", 10, {0: "0.85", 0.5: "0.21", 0.6: "0.14", 0.7: "0.08", 0.8: "0.03"}, "Tables 2 and 26"
    ),
    PaperNetwork(
        "resnet56",
        "CIFAR-100",
        100,
        {0: "0.86", 0.5: "0.22", 0.6: "0.14", 0.7: "0.08", 0.8: "0.04"},
        "Tables 2 and 26",
        {0.8: "unexplained: the FLOPs of its row ask for 0.035 M, which no numbers of channels next to (1-p)·C give"},
    ),
    PaperNetwork("resnet8", "CIFAR-10", 10, {0: "0.074"}, "Table 20"),
    PaperNetwork("resnet20", "CIFAR-10", 10, {0: "0.26", 0.5: "0.066"}, "Tables 20 and 21"),
    PaperNetwork("resnet14", "CIFAR-10", 10, {}, "Figure 8"),
    PaperNetwork("resnet110", "CIFAR-100", 100, {}, "Table 29"),
    PaperNetwork("resnet164", "CIFAR-100", 100, {}, "Table 11"),
    PaperNetwork("resnet18_cifar", "CIFAR-10", 10, {}, "Table 25"),
    PaperNetwork("wrn28_10", "CIFAR-10", 10, {}, "Table 25"),
    PaperNetwork("mobilenetv2_cifar", "CIFAR-10", 10, {}, "Table 13"),
    PaperNetwork("vit_small_cifar", "CIFAR-10", 10, {0: "21"}, "Tables 5 and 14"),
    PaperNetwork("vdcnn9", "Amazon Review Polarity", 2, {}, "Tables 6 and 15"),
    PaperNetwork("vdcnn29", "Amazon Review Full", 5, {}, "Tables 6 and 16"),
    PaperNetwork(
        "resnet50",
        "Tiny-ImageNet-200",
        200,
        {0: "23.9", 0.5: "6.10", 0.6: "3.92", 0.7: "2.24", 0.8: "1.02"},
        "Tables 2 and 12",
    ),
    PaperNetwork(
        "resnet50",
        "ImageNet-1K",
        1000,
        {0: "25.5", 0.5: "6.91", 0.6: "4.59", 0.7: "2.74", 0.8: "1.35"},
        "Tables 2 and 25",
    ),
)
"""The paper does not say which VDCNN, ResNet-18 or ViT it trains, beyond the 21 M parameters of the last."""


@dataclass(frozen=True)
class CountedNetwork:
    """One network at one ratio.

    Attributes:
        ratio: share of the channels that was asked to be removed.
        channel_ratio: share that was removed.
        parameters: that are left.
        dense_parameters: of the network before.
        forward_flops: of one sample, two per multiply-add.
        printed: the paper's parameters in millions, or None.
        reason: why they differ by more than 2%, or empty.
    """

    network: PaperNetwork
    ratio: float
    channel_ratio: float
    parameters: int
    dense_parameters: int
    forward_flops: int
    printed: str | None
    reason: str

    @property
    def difference(self) -> float | None:
        """Printed over counted, less one."""
        return None if self.printed is None else float(self.printed) * 1e6 / self.parameters - 1


def count(network: PaperNetwork, ratios: tuple[float, ...] = RATIOS) -> Iterator[CountedNetwork]:
    """Build the network, prune it by magnitude at each ratio and count; takes seconds to half a minute.

    Numbers of channels do not depend on the weights, so neither do the counts.
    """
    with torch.random.fork_rng(devices=[]):
        dense = build_model(network.model, num_classes=network.classes, in_channels=3)
    example = network.example_input()
    before = count_parameters(dense)
    for ratio in ratios:
        pruned = prune(dense, example, ratio)
        parameters = pruned.extent.parameters[1]
        printed = network.printed.get(ratio)
        yield CountedNetwork(
            network=network,
            ratio=ratio,
            channel_ratio=pruned.extent.channel_ratio,
            parameters=parameters,
            dense_parameters=before,
            forward_flops=count_flops(pruned.model, example).forward,
            printed=printed,
            reason=explanation(network, ratio, printed, parameters, before) if printed else "",
        )


def explanation(network: PaperNetwork, ratio: float, printed: str, parameters: int, dense: int) -> str:
    """Why the printed number is more than 2% from the counted one; empty if it is not.

    Tried in turn: its few digits, rounded or cut off; (1-p)^2 of the dense network's parameters instead of what is
    left; millions of 2^20. The paper's rules are found by fitting, so what fits is an explanation, not a proof.
    """
    if abs(float(printed) * 1e6 / parameters - 1) <= EXPLAINED_FROM:
        return ""
    if _prints_as(parameters / 1e6, printed):
        return f"rounding: {parameters / 1e6:.4g}"
    if _prints_as((1 - ratio) ** 2 * dense / 1e6, printed):
        return f"(1-p)²·P = {(1 - ratio) ** 2 * dense / 1e6:.4g}, not what pruning leaves"
    if _prints_as(parameters / MEBI, printed):
        return f"counted in 2^20: {parameters / MEBI:.4g}"
    return (network.reasons or {}).get(ratio, "")


def _prints_as(millions: float, printed: str) -> bool:
    """Whether that is the number rounded, or cut off, to the printed digits."""
    places = len(printed.partition(".")[2])
    cut_off = math.floor(millions * 10**places) / 10**places
    return printed in {f"{millions:.{places}f}", f"{cut_off:.{places}f}"}


def network_sheet(counted: list[CountedNetwork]) -> Sheet:
    """All of it as one table."""
    lines = tuple(Line("recomputed", _cells(one)) for one in counted)
    columns = "network", "data set", "p", "channels", "parameters", "left", "printed, M", "differs", "MFLOPs", "why"
    return Sheet(
        "The paper's networks, pruned",
        columns,
        lines,
        notes=(
            "p is the share of the channels that is asked for, 'channels' the share that is gone: of C channels "
            "int(C (1-p)) are left, in each layer.",
            "MFLOPs: millions of FLOPs of a forward pass over one sample, two per multiply-add; 224x224 pixels for "
            "Tiny-ImageNet and ImageNet, 1,024 characters for VDCNN.",
            "'differs' is the printed number over the counted one; 'why' says what fits where that is over 2%.",
        ),
        is_text=True,
    )


def _cells(one: CountedNetwork) -> tuple[str, ...]:
    difference = one.difference
    return (
        one.network.model,
        one.network.dataset,
        f"{one.ratio:g}" if one.ratio else "dense",
        f"{one.channel_ratio:.1%}" if one.ratio else NOTHING,
        f"{one.parameters:,}",
        f"{one.parameters / one.dense_parameters:.1%}",
        one.printed or NOTHING,
        NOTHING if difference is None else f"{difference:+.1%}",
        f"{one.forward_flops / 1e6:,.1f}",
        one.reason,
    )
