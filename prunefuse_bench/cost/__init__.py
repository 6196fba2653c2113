"""What a run costs."""

from prunefuse_bench.cost.ledger import Ledger, StageCost

__all__ = ["Ledger", "StageCost"]
