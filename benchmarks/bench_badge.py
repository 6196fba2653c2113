"""BADGE on the two factors of its gradient embeddings against the embeddings written out."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from bench_core import measure
from pytest_benchmark.fixture import BenchmarkFixture
from sklearn.metrics import pairwise_distances
from torch import Tensor

from prunefuse_bench.acquisition import Opinions
from prunefuse_bench.acquisition.badge import badge


@functools.cache
def pool(count: int, classes: int, width: int) -> tuple[Tensor, Tensor]:
    """Logits of some certain and some undecided predictions, and ReLU features; synthetic."""
    draw = torch.Generator().manual_seed(0)
    certainty = 8 * torch.rand(count, 1, generator=draw)
    logits = certainty * torch.randn(count, classes, generator=draw)
    return logits, torch.randn(count, width, generator=draw).relu()


def embed(logits: Tensor, features: Tensor) -> Tensor:
    """float32 [N, C * D]."""
    errors = torch.softmax(logits, dim=1)
    errors[torch.arange(len(errors)), logits.argmax(dim=1)] -= 1
    return (errors[:, :, None] * features[:, None, :]).flatten(1)


def seed_centers(embeddings: Tensor, k: int, squared_distances_to: Callable[[int], Tensor]) -> list[int]:
    """k-means++ seeding, with the draws of ours."""
    generator = torch.Generator().manual_seed(0)
    torch.randint(1, (), generator=generator)
    chosen = [int(embeddings.norm(dim=1).argmax())]
    nearest = squared_distances_to(chosen[0]).double()
    while len(chosen) < k:
        cumulative = nearest.cumsum(dim=0)
        uniform = torch.rand((), generator=generator, dtype=torch.float64)
        chosen.append(int(torch.searchsorted(cumulative, uniform * cumulative[-1], right=True)))
        torch.minimum(nearest, squared_distances_to(chosen[-1]), out=nearest)
        nearest[chosen[-1]] = 0.0
    return chosen


def with_sklearn(k: int, logits: Tensor, features: Tensor) -> list[int]:
    """Distances from a library, as published code has it."""
    embeddings = embed(logits, features)
    points = embeddings.numpy()
    return seed_centers(
        embeddings, k, lambda pick: torch.from_numpy(pairwise_distances(points, points[pick : pick + 1])[:, 0]) ** 2
    )


def with_torch(k: int, logits: Tensor, features: Tensor) -> list[int]:
    """The embeddings at their best: norms kept, one matrix-vector product per pick."""
    embeddings = embed(logits, features)
    norms = embeddings.square().sum(dim=1)
    return seed_centers(
        embeddings,
        k,
        lambda pick: torch.addmv(norms, embeddings, embeddings[pick], alpha=-2).add_(norms[pick]).clamp_min_(0),
    )


def factored(k: int, logits: Tensor, features: Tensor) -> list[int]:
    generator = torch.Generator().manual_seed(0)
    return badge(k, Opinions(torch.arange(len(logits)), generator, logits=logits, features=features)).tolist()


DATA = "synthetic logits and ReLU features"


@pytest.mark.parametrize("contender", ["torch", "sklearn", "ours"])
def bench_badge(benchmark: BenchmarkFixture, contender: str) -> None:
    benchmark.group = "BADGE: N = 5,000, C = 20, D = 128, k = 100"
    logits, features = pool(5_000, 20, 128)
    title, choose = {
        "torch": ("torch: embeddings, norms kept, one matrix-vector product per pick", with_torch),
        "sklearn": ("embeddings, sklearn pairwise_distances per pick", with_sklearn),
        "ours": ("acquisition badge, in float64, checks included", factored),
    }[contender]
    assert choose(100, logits, features) == factored(100, logits, features)
    call = functools.partial(choose, 100, logits, features)
    measure(benchmark, title, call, peer=contender == "torch", ours=contender == "ours", data=DATA, rounds=5)


def bench_badge_of_many(benchmark: BenchmarkFixture) -> None:
    benchmark.group = "BADGE: N = 50,000, C = 100, D = 512, k = 1,000"
    call = functools.partial(factored, 1_000, *pool(50_000, 100, 512))
    measure(
        benchmark,
        "acquisition badge, in float64, checks included",
        call,
        ours=True,
        data=f"{DATA}; the embeddings would be 10 GB in float32",
        rounds=1,
        warmup=0,
    )
