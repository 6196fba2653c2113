"""Greedy k-centers whose features lie in shards, one on each process.

Every process keeps the distance of each of its own rows to the nearest center. In each round everybody brings the rows
that are furthest, these candidates are merged, and the first process picks greedily among them for as long as the best
is at least as far as any row that was not brought. Then everybody folds the new centers into its own distances. So no
process ever holds more features than its shard, the candidates and the new centers.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from prunefuse_bench.distributed.world import World

__all__ = ["RowShard", "sharded_kcenters"]

FEWEST_CANDIDATES, MOST_CANDIDATES = 32, 1024
"""That one process brings to a round."""
ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class RowShard:
    """One process's rows of a matrix.

    Attributes:
        rows: float [n, D], rows ``begin`` to ``begin + n``.
        begin: how many rows the processes before hold.
        total: rows of the whole matrix.
    """

    rows: Tensor
    begin: int
    total: int

    def __len__(self) -> int:
        return self.total

    @classmethod
    def of(cls, world: World, rows: Tensor | None) -> RowShard:
        """The shards that all processes have in the order of their ranks; None for no rows here.

        Raises:
            ValueError: nobody has any.
        """
        told = world.gather_objects(None if rows is None else (len(rows), rows.shape[1]))
        width = next((one[1] for one in told if one is not None), None)
        if width is None:
            raise ValueError("expected rows on one of the processes, got none")
        counts = [0 if one is None else one[0] for one in told]
        own = torch.empty(0, width) if rows is None else rows
        return cls(own, sum(counts[: world.rank]), sum(counts))


def sharded_kcenters(world: World, shard: RowShard, priority: Tensor, k: int, centers: Tensor, first: Tensor) -> Tensor:
    """What :func:`prunefuse_bench.ops.greedy_kcenters` picks from the whole matrix.

    Distances are computed in float64 from the differences of coordinates, so rows that are equal have equal distances
    wherever they lie. The operators of one process do so in float32: of two rows whose distances differ by less than
    that rounds (some 1e-7 of them), either may be picked first there.

    Args:
        world: the processes; all call this with the same arguments but for the shard.
        shard: finite features.
        priority: int64 [N], the same everywhere: of equally distant rows the one with the lowest number comes first.
        k: picks, at most the rows that are not in ``first``.
        centers: float [M, D], further centers that are no rows; the same everywhere.
        first: int64 [f], rows that are centers already. There must be one center at least.

    Returns:
        int64 [k] on the CPU, rows of the whole matrix in the order of picking; the same everywhere.
    """
    device = shard.rows.device
    own_priority = priority[shard.begin : shard.begin + len(shard.rows)].to(device)
    distances = torch.full((len(shard.rows),), torch.inf, dtype=torch.float64, device=device)
    is_own = (first >= shard.begin) & (first < shard.begin + len(shard.rows))
    own_first = (first[is_own] - shard.begin).to(device)
    brought = world.gather(shard.rows[own_first], device)
    assert brought is not None
    _fold(shard.rows, torch.cat([centers.to(brought), brought]), distances)
    distances[own_first] = -torch.inf
    picks: list[Tensor] = []
    wanted, done = FEWEST_CANDIDATES, 0
    while done < k:
        candidates, beyond = _furthest(distances, own_priority, wanted)
        merged = _merge(world, shard, candidates, distances, own_priority, beyond, device)
        places = world.from_first(functools.partial(_pick, *merged, k - done))
        rows, features = merged[0], merged[1]
        _fold(shard.rows, features[places.to(device)], distances)
        picked = rows[places.to(device)]
        mine = picked[(picked >= shard.begin) & (picked < shard.begin + len(shard.rows))] - shard.begin
        distances[mine] = -torch.inf
        picks.append(picked.cpu())
        done += len(places)
        # As many candidates as are worth it: a few too many cost a product, too few cost a round.
        if len(places) * 4 > wanted:
            wanted = min(2 * wanted, MOST_CANDIDATES)
        elif len(places) * 16 < wanted:
            wanted = max(wanted // 2, FEWEST_CANDIDATES)
    return torch.cat(picks) if picks else torch.empty(0, dtype=torch.int64)


Merged = tuple[Tensor, Tensor, Tensor, Tensor, tuple[float, int]]


def _furthest(distances: Tensor, priority: Tensor, wanted: int) -> tuple[Tensor, tuple[float, int]]:
    """Own rows in the order of picking, and the distance and priority of the one after them."""
    by_priority = priority.argsort()
    order = by_priority[distances[by_priority].argsort(descending=True, stable=True)]
    open_rows = order[distances[order] >= 0]
    if len(open_rows) <= wanted:
        return open_rows, (-1.0, 0)
    after = open_rows[wanted]
    return open_rows[:wanted], (float(distances[after]), int(priority[after]))


def _merge(
    world: World,
    shard: RowShard,
    candidates: Tensor,
    distances: Tensor,
    priority: Tensor,
    beyond: tuple[float, int],
    device: torch.device,
) -> Merged:
    """Rows, features, distances and priorities of everybody's candidates, and the best that was not brought."""
    rows = world.gather(candidates + shard.begin, device)
    features = world.gather(shard.rows[candidates], device)
    far = world.gather(distances[candidates], device)
    order = world.gather(priority[candidates], device)
    assert rows is not None and features is not None and far is not None and order is not None  # noqa: PT018
    best = max(world.gather_objects(beyond), key=lambda one: (one[0], -one[1]))
    return rows, features, far, order, best


def _pick(
    rows: Tensor, features: Tensor, distances: Tensor, priority: Tensor, beyond: tuple[float, int], k: int
) -> Tensor:
    """Places of the candidates that are picked, int64 on the CPU: as long as no other row could come first."""
    by_priority = priority.argsort()  # argmax takes the first of equal ones
    exact, far = features[by_priority].double(), distances[by_priority].clone()
    places: list[int] = []
    while len(places) < min(k, len(rows)):
        place = int(far.argmax())
        distance, own = float(far[place]), int(priority[by_priority[place]])
        if distance < 0 or (distance, -own) < (beyond[0], -beyond[1]):
            break
        places.append(int(by_priority[place]))
        torch.minimum(far, _distances(exact, exact[place][None])[:, 0], out=far)
        far[place] = -torch.inf
    return torch.tensor(places, dtype=torch.int64)


def _fold(rows: Tensor, centers: Tensor, distances: Tensor) -> None:
    """Lower the distance of each row to that of the nearest of these centers, in place."""
    exact = centers.double()
    for begin in range(0, len(rows), ROWS_AT_ONCE):
        block = rows[begin : begin + ROWS_AT_ONCE].double()
        own = distances[begin : begin + ROWS_AT_ONCE]
        for some in exact.split(ROWS_AT_ONCE):
            torch.minimum(own, _distances(block, some).amin(1), out=own)


def _distances(rows: Tensor, centers: Tensor) -> Tensor:
    """From differences of coordinates, not from products: equal rows have equal distances, and zero is zero."""
    return torch.cdist(rows, centers, compute_mode="donot_use_mm_for_euclid_dist")
