"""One cell on many processes: who is there, and what they tell each other. Nothing else knows of torch.distributed."""

from prunefuse_bench.distributed.world import World, current, joined

__all__ = ["World", "current", "joined"]
