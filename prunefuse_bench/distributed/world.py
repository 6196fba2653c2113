"""The processes that run one cell together, as ``torchrun`` starts them; one process alone is a world of size 1.

All of them go through the same steps and draw the same numbers. What is large is shared out: the rows of a batch, the
samples to be scored, the features of k-centers. What is written is written by the first.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from prunefuse_bench.errors import AnotherRankFailed, BadInput, RankLost

__all__ = ["World", "current", "joined"]

PATIENCE = datetime.timedelta(seconds=60)
"""How long the others may take to fail as one process did: they do the same work."""
OWN_KEYS = "prunefuse_bench"

T = TypeVar("T")


@dataclass
class World:
    """One process's view of all of them.

    Attributes:
        rank: of this process, from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1
    _store: Any = field(default=None, repr=False)
    _failures: int = field(default=0, repr=False)

    @property
    def is_first(self) -> bool:
        """Whether this process writes and talks."""
        return self.rank == 0

    def part(self, units: int) -> slice:
        """This process's share of so many units, contiguous; shares differ by one unit at most."""
        return slice(self.rank * units // self.size, (self.rank + 1) * units // self.size)

    def sum(self, own: Tensor) -> Tensor:
        """Sum over the processes of tensors of one shape; ``own`` may be changed."""
        if self.size > 1:
            dist.all_reduce(own)
        return own

    def stack(self, own: Tensor) -> Tensor:
        """[size, ...]: everybody's tensor, all of one shape, in the order of the ranks."""
        if self.size == 1:
            return own[None]
        own = own.contiguous()
        parts = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(parts, own)
        return torch.stack(parts)

    def gather(self, own: Tensor | None, device: torch.device | None = None) -> Tensor | None:
        """[N, ...]: everybody's rows in the order of the ranks; None (no rows here) from everybody gives None.

        Args:
            own: [n, ...], as many rows as there happen to be.
            device: where the result is, for a process that has no rows.
        """
        if self.size == 1:
            return own
        told = self.gather_objects(None if own is None else (tuple(own.shape), own.dtype))
        known = [one for one in told if one is not None]
        if not known:
            return None
        (_, *row_shape), dtype = known[0]
        counts = [0 if one is None else one[0][0] for one in told]
        if own is not None:
            device = own.device
        padded = torch.zeros((max(counts), *row_shape), dtype=dtype, device=device)
        if own is not None:
            padded[: len(own)] = own
        return torch.cat([rows[:count] for rows, count in zip(self.stack(padded), counts, strict=True)])

    def gather_objects(self, own: T) -> list[T]:
        """Everybody's value, in the order of the ranks."""
        if self.size == 1:
            return [own]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, own)
        return values

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first process makes of it, or the error that it raises, for all; the others do not call it."""
        if self.size == 1:
            return make()
        told: list[Any] = [None]
        if self.is_first:
            try:
                told = [(make(), None)]
            except Exception as error:
                told = [(None, error)]
        dist.broadcast_object_list(told, src=0)
        value, raised = told[0]
        if raised is not None:
            raise raised
        return value

    def agree_on_failure(self, reason: str) -> None:
        """Called by a process whose cell failed: returns once all of them say so.

        Raises:
            RankLost: some do not: they wait for this one elsewhere, or are gone.
        """
        if self._store is None:
            return
        self._failures += 1
        keys = [f"cell failed {self._failures}, rank {rank}" for rank in range(self.size)]
        try:
            self._store.set(keys[self.rank], reason)
            self._store.wait(keys, PATIENCE)
        except (RuntimeError, ValueError) as error:
            raise RankLost(
                f"rank {self.rank} of {self.size} cannot go on, and the others do not fail with it: {reason}"
            ) from error

    def _fails_first(self) -> bool:
        """Whether no other process has failed before this one."""
        if self._store is None:
            return True
        try:
            return self._store.compare_set("failed", "", str(self.rank)) == str(self.rank).encode()
        except RuntimeError:  # the process that keeps the store is gone: it was that one
            return False


_world = World()


def current() -> World:
    """The world of this process."""
    return _world


@contextlib.contextmanager
def joined() -> Iterator[World]:
    """Within the block, the world that ``torchrun`` says this process belongs to; one process alone if it says none.

    Under torchrun each process has the CUDA device of its local rank, if there are such devices.

    Raises:
        BadInput: more processes than CUDA devices.
        AnotherRankFailed: in the place of an error, if another process has failed before: one message is enough.
        RankLost: in the place of an error of the communication.
    """
    global _world  # noqa: PLW0603  # it is the process's, as torch's process group is
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "RANK" not in os.environ or _world.size > 1:
        yield _world
        return
    _take_device()
    stores: Any = dist  # which does not say that it exports these two
    store, rank, size = next(iter(stores.rendezvous("env://")))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        store=stores.PrefixStore("torch", store), rank=rank, world_size=size,
    )  # fmt: skip
    _world = World(rank, size, stores.PrefixStore(OWN_KEYS, store))
    try:
        yield _world
        dist.barrier()  # nobody leaves while others still talk
    except Exception as error:
        if not _world._fails_first():
            raise AnotherRankFailed(str(error)) from error
        if _is_of_communication(error):
            raise RankLost(
                f"rank {rank} of {size} has lost another process ({error}); what is on disk is whole: go on with "
                "--resume"
            ) from error
        raise
    else:
        dist.destroy_process_group()
    finally:
        _world = World()


def _take_device() -> None:
    if not torch.cuda.is_available():
        return
    local, devices = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= devices:
        raise BadInput(
            f"torchrun: expected at most one process for each of the {devices} CUDA devices of this machine, got one "
            f"with LOCAL_RANK {local}: lower --nproc-per-node"
        )
    torch.cuda.set_device(local)


def _is_of_communication(error: Exception) -> bool:
    """Gloo's errors have no type of their own."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())
