"""Points of many shapes, and what makes a selection of them valid."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _clustered(count: int) -> Tensor:
    centers = 100 * _normal(20, 30)
    return centers[torch.arange(count) % 20] + 0.01 * _normal(count, 30, seed=1)


def _manifold(count: int) -> Tensor:
    return (_normal(count, 8) @ _normal(8, 64, seed=1) + 0.3 * _normal(64, seed=2)).relu()


def _outliers(count: int) -> Tensor:
    points = _normal(count, 20)
    points[:: max(1, count // 10)] *= 1e6
    return points


DATA: dict[str, Callable[[int], Tensor]] = {
    "manifold": _manifold,
    "normal": lambda count: _normal(count, 24),
    "uniform": lambda count: torch.rand(count, 3, generator=torch.Generator().manual_seed(0)),
    "line": lambda count: _normal(count, 1),
    "clustered": _clustered,
    "duplicated": lambda count: _normal(max(1, count // 5), 10)[torch.arange(count) % max(1, count // 5)],
    "constant": lambda count: torch.full((count, 17), 3.25),
    "huge": lambda count: 1e30 * _normal(count, 16),
    "tiny": lambda count: 1e-30 * _normal(count, 16),
    "far from the origin": lambda count: 1e4 + _normal(count, 32),
    "outliers": _outliers,
}


def assert_valid(features: Tensor, indices: Tensor, radii: Tensor, initial: Tensor | None) -> None:
    """Every pick's true distance is within 1e-5 relative of the true maximum at that moment; no point comes twice."""
    points = features.double()
    differences = torch.empty_like(points)

    def squared_distances(point: Tensor) -> Tensor:
        torch.sub(points, point, out=differences)
        return differences.square_().sum(1)

    nearest = torch.full((len(points),), torch.inf, dtype=torch.float64)
    centers = [] if initial is None else initial.tolist()
    for center in centers:
        torch.minimum(nearest, squared_distances(points[center]), out=nearest)
    nearest[centers] = -1.0
    assert len(set(indices.tolist()) | set(centers)) == len(indices) + len(centers)
    for pick, (index, radius) in enumerate(zip(indices.tolist(), radii.tolist(), strict=True)):
        if pick == 0 and not centers:
            from_mean = (points - points.mean(0)).square().sum(1).sqrt()
            assert from_mean[index] >= from_mean.max() * (1 - 1e-5)
            assert radius == torch.inf
        else:
            furthest = nearest.max().sqrt().item()
            found = nearest[index].sqrt().item()
            assert found >= furthest * (1 - 1e-5), (pick, index, found, furthest)
            assert abs(radius - found) <= 1e-5 * furthest, (pick, index, radius, found)
        torch.minimum(nearest, squared_distances(points[index]), out=nearest)
        nearest[index] = -1.0
