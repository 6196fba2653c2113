"""The paper's networks: what is counted stands beside what is printed, and differences are explained."""

from __future__ import annotations

import pytest

from prunefuse_bench.paper.networks import NETWORKS, PaperNetwork, count, explanation, network_sheet
from prunefuse_bench.paper.recompute import DENSE_PARAMETERS, LEFT_BY_PRUNING


@pytest.mark.parametrize(
    "network", [network for network in NETWORKS if network.model in {"resnet8", "resnet20"}], ids=str
)
def test_small_networks_are_counted_in_units_of_two_to_the_twenty(network: PaperNetwork) -> None:
    counted = list(count(network, (0.0, 0.5)))
    for one in counted:
        assert (one.reason != "") == (one.printed is not None)
        assert "counted in 2^20" in one.reason or one.printed is None
    assert counted[0].parameters == counted[0].dense_parameters
    assert counted[0].forward_flops > 3.5 * counted[1].forward_flops
    assert counted[1].channel_ratio == pytest.approx(0.5)


def test_every_difference_over_two_percent_has_a_reason() -> None:
    checked = 0
    for network in NETWORKS:
        dense = DENSE_PARAMETERS.get((network.model, network.dataset))
        for ratio, printed in network.printed.items():
            left = LEFT_BY_PRUNING.get((network.model, network.dataset), {}).get(ratio, None if ratio else dense)
            if dense is None or left is None:
                continue
            reason = explanation(network, ratio, printed, left, dense)
            assert (abs(float(printed) * 1e6 / left - 1) > 0.02) == (reason != ""), (network.model, ratio)
            checked += 1
    assert checked >= 18


@pytest.mark.parametrize(
    ("ratio", "printed", "parameters", "words"),
    [
        (0.5, "0.25", 250_000, ""),
        (0.5, "0.3", 251_000, "rounding: 0.251"),
        (0.5, "0.2", 251_000, "rounding: 0.251"),
        (0.5, "0.250", 280_000, r"(1-p)²·P = 0.25, not what pruning leaves"),
        (0.0, "0.953", 1_000_000, "counted in 2^20: 0.9537"),
        (0.0, "0.5", 1_000_000, ""),
    ],
)
def test_explanations_are_what_fits(ratio: float, printed: str, parameters: int, words: str) -> None:
    network = PaperNetwork("resnet56", "CIFAR-10", 10, {}, "")
    assert explanation(network, ratio, printed, parameters, 1_000_000) == words


def test_the_sheet_has_a_line_for_each_network_and_ratio() -> None:
    network = next(network for network in NETWORKS if network.model == "resnet8")
    sheet = network_sheet(list(count(network, (0.0, 0.8))))
    assert len(sheet.lines) == 2
    dense, pruned = (line.cells for line in sheet.lines)
    assert dense[:5] == ("resnet8", "CIFAR-10", "dense", "–", "78,042")
    assert dense[6:8] == ("0.074", "-5.2%")
    assert pruned[2] == "0.8"
    assert pruned[6] == "–"
