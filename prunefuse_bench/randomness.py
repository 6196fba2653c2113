"""Every random draw comes from a generator that is named and derived from the cell's seed.

Deriving a generator from (seed, purpose, round) instead of passing one along makes a draw independent of what ran
before it: a resumed run draws what an uninterrupted one draws, and all methods of one seed share the initial labels,
the initial weights and the order of the training batches.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch

__all__ = ["derive_seed", "generator", "seeded"]


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose; different purposes give unrelated streams."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose. On the CPU, so that draws are the same on every device."""
    return torch.Generator().manual_seed(derive_seed(seed, *purpose))


@contextlib.contextmanager
def seeded(seed: int, *purpose: str | int) -> Iterator[None]:
    """Within the block, torch's global CPU generator is seeded for one purpose; it is restored afterwards.

    For code that takes no generator, such as the constructors of networks.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, *purpose))
        yield
