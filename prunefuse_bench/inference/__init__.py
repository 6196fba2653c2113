"""Networks made ready for looking at a whole pool: what training needs is gone, what the hardware likes is in."""

from prunefuse_bench.inference.prepared import Prepared, prepare

__all__ = ["Prepared", "prepare"]
