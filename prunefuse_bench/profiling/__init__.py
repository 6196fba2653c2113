"""What selection costs on this hardware: how much of the FLOPs that pruning saves comes out as time."""

from prunefuse_bench.profiling.agreement import Agreement, compare_scores, measure_agreement, top_k_overlap
from prunefuse_bench.profiling.realised import Realised
from prunefuse_bench.profiling.report import markdown, measurements, write_report
from prunefuse_bench.profiling.session import Profile, ProfileRequest, numbers_of, run_profile

__all__ = [
    "Agreement",
    "Profile",
    "ProfileRequest",
    "Realised",
    "compare_scores",
    "markdown",
    "measure_agreement",
    "measurements",
    "numbers_of",
    "run_profile",
    "top_k_overlap",
    "write_report",
]
