"""From records to what people read: leaderboards, pages, tables, figures and comparisons."""

from prunefuse_bench.report.benchmarks import compare_benchmark_files, compare_benchmarks
from prunefuse_bench.report.comparing import compare_runs
from prunefuse_bench.report.exports import write_tables
from prunefuse_bench.report.figures import write_figures
from prunefuse_bench.report.leaderboard import Leaderboard, write_leaderboard
from prunefuse_bench.report.page import write_page

__all__ = [
    "Leaderboard",
    "compare_benchmark_files",
    "compare_benchmarks",
    "compare_runs",
    "write_figures",
    "write_leaderboard",
    "write_page",
    "write_tables",
]
