"""What a run costs: measured seconds, counted FLOPs, and the FLOPs of the paper's rule, never mixed."""

from prunefuse_bench.cost.flops import NetworkFlops, count_flops
from prunefuse_bench.cost.ledger import SELECTOR_STAGES, Bill, Ledger, StageCost
from prunefuse_bench.cost.paper_rule import paper_flops
from prunefuse_bench.cost.rates import NetworkRates, network_rates

__all__ = [
    "SELECTOR_STAGES",
    "Bill",
    "Ledger",
    "NetworkFlops",
    "NetworkRates",
    "StageCost",
    "count_flops",
    "network_rates",
    "paper_flops",
]
