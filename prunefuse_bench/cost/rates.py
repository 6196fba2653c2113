"""What one sample costs in a network, counted once for each structure."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from prunefuse_bench.cost.flops import NetworkFlops, count_flops
from prunefuse_bench.cost.ledger import StageCost
from prunefuse_bench.cost.paper_rule import scoring_flops, training_flops

__all__ = ["NetworkRates", "network_rates"]


@dataclass(frozen=True)
class NetworkRates:
    """FLOPs of one sample by both counts.

    Attributes:
        flops: counted on the real graph.
        parameters: P of the paper's rule.
        input_size: D of the paper's rule, values of one input.
    """

    flops: NetworkFlops
    parameters: int
    input_size: int

    def charge_training(self, cost: StageCost, samples: int) -> None:
        """Forward and backward passes, one of each per sample seen."""
        cost.flops_backward += samples * self.flops.backward
        cost.flops_forward += samples * self.flops.forward
        cost.paper_flops += training_flops(self.parameters, self.input_size, samples, epochs=1)
        self._say_what_is_uncertain(cost)

    def charge_forward(self, cost: StageCost, samples: int) -> None:
        """Forward passes alone, one per sample seen."""
        cost.flops_forward += samples * self.flops.forward
        cost.paper_flops += scoring_flops(self.parameters, self.input_size, samples)
        self._say_what_is_uncertain(cost)

    def _say_what_is_uncertain(self, cost: StageCost) -> None:
        cost.uncounted = tuple(sorted({*cost.uncounted, *self.flops.uncounted}))
        if self.flops.disagreement:
            cost.disagreements = tuple(sorted({*cost.disagreements, self.flops.disagreement}))


def network_rates(network: nn.Module, example_input: Tensor) -> NetworkRates:
    """The rates of a network, remembered for all of the same structure.

    Args:
        network: not changed.
        example_input: float [N, C, H, W] on its device.
    """
    key = (str(network), tuple(parameter.shape for parameter in network.parameters()), tuple(example_input.shape[1:]))
    if key not in _known:
        parameters = sum(parameter.numel() for parameter in network.parameters())
        _known[key] = NetworkRates(count_flops(network, example_input), parameters, example_input[0].numel())
    return _known[key]


_known: dict[object, NetworkRates] = {}
