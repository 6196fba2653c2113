"""Networks made ready for looking at a whole pool: what training needs is gone, what the hardware likes is in."""

from prunefuse_bench.inference.prepared import Prepared, prepare
from prunefuse_bench.inference.screening import SCREENED_FROM, Screen, can_screen, prepare_screen

__all__ = ["SCREENED_FROM", "Prepared", "Screen", "can_screen", "prepare", "prepare_screen"]
