"""What every acquisition must do, whatever it measures; for those of this package and those of others.

A package from outside checks its own acquisition in its tests, once it has told what must come of a case that it worked
out by hand (:mod:`prunefuse_bench.conformance.oracles`):

    @oracle("mine")
    def mine_by_hand() -> list[Case]:
        return [Case(about(2, logits=torch.tensor([[9.0, 0.0], [0.0, 0.0]])), Picks([1]))]

    def test_mine_conforms() -> None:
        print(check(ACQUISITIONS["mine"]))

or one test per check, ``CHECKS[name](ACQUISITIONS["mine"])``. Options have their defaults. All draws are seeded, so
what passes once passes always; a check of chances fails a right acquisition about once in a million.
"""

from prunefuse_bench.conformance import checks  # it registers them
from prunefuse_bench.conformance.opinions import about, opinions_for, take
from prunefuse_bench.conformance.oracles import ORACLES, Case, Chances, Picks, Scores, oracle
from prunefuse_bench.conformance.report import CHECKS, ConformanceReport, DoesNotApply, NotConforming, check

__all__ = [
    "CHECKS",
    "ORACLES",
    "Case",
    "Chances",
    "ConformanceReport",
    "DoesNotApply",
    "NotConforming",
    "Picks",
    "Scores",
    "about",
    "check",
    "checks",
    "opinions_for",
    "oracle",
    "take",
]
