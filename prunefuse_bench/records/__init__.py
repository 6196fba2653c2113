"""What runs leave behind: one folder per cell, written so that nothing is ever half there."""

from prunefuse_bench.records.corrupted import load_corruptions
from prunefuse_bench.records.curves import load_curves
from prunefuse_bench.records.decomposed import load_decomposition
from prunefuse_bench.records.environment import describe_environment, where_bits_come_from
from prunefuse_bench.records.groups import expect_one_run, find_runs
from prunefuse_bench.records.recovery import recover, recoveries
from prunefuse_bench.records.results import load_results
from prunefuse_bench.records.selectors import Shelf
from prunefuse_bench.records.store import SCHEMA, CellStore, RunFolder, describe_results, grid_hash, task_hash

__all__ = [
    "SCHEMA",
    "CellStore",
    "RunFolder",
    "Shelf",
    "describe_environment",
    "describe_results",
    "expect_one_run",
    "find_runs",
    "grid_hash",
    "load_corruptions",
    "load_curves",
    "load_decomposition",
    "load_results",
    "recover",
    "recoveries",
    "task_hash",
    "where_bits_come_from",
]
