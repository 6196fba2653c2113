"""The core against what users would otherwise call. Medians, one process; how much is faster is printed at the end."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import faiss
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from real_features import cifar10_features, relu_features
from sklearn.metrics import pairwise_distances
from torch import Tensor, nn

from prunefuse_bench import fuse, ops, prune
from prunefuse_bench.initialisation import reinitialise
from prunefuse_bench.models import build_model


def measure(
    benchmark: BenchmarkFixture,
    contender: str,
    call: Callable[[], Any],
    *,
    peer: bool = False,
    ours: bool = False,
    data: str = "",
    rounds: int = 7,
    warmup: int = 1,
    part: float = 1.0,
    gigabytes: float = 0.0,
) -> None:
    """Time one contender of a group.

    Args:
        peer: the others are compared with it.
        ours: marked in the table.
        part: the share of the whole task that the call does; its time is divided by it.
        gigabytes: what the call has to read at least, for a rate.
    """
    benchmark.extra_info.update(contender=contender, peer=peer, ours=ours, part=part, data=data, gigabytes=gigabytes)
    benchmark.pedantic(call, rounds=rounds, warmup_rounds=warmup)


# ---- scores ----


def eager_entropy(logits: Tensor) -> Tensor:
    probabilities = torch.softmax(logits, dim=1)
    return -(probabilities * torch.log(probabilities)).sum(dim=1)


compiled_entropy = torch.compile(eager_entropy, dynamic=False)


@pytest.fixture(scope="module", params=[(1_000_000, 10), (50_000, 1_000)], ids=lambda shape: f"{shape[0]}x{shape[1]}")
def logits(request: pytest.FixtureRequest) -> Tensor:
    torch.manual_seed(0)
    return 3 * torch.randn(*request.param)


@pytest.mark.parametrize("contender", ["eager", "compile", "ours", "read"])
def bench_entropy(benchmark: BenchmarkFixture, logits: Tensor, contender: str) -> None:
    benchmark.group = f"entropy of [{logits.shape[0]:,} x {logits.shape[1]:,}] float32"
    gigabytes = logits.numel() * 4 / 1e9
    title, call = {
        "eager": ("torch: softmax, log, sum", functools.partial(eager_entropy, logits)),
        "compile": ("the same under torch.compile", functools.partial(compiled_entropy, logits)),
        "ours": ("ops.score, checks included", functools.partial(ops.score, logits, "entropy")),
        "read": ("reading the logits once (torch.sum)", logits.sum),
    }[contender]
    measure(benchmark, title, call, peer=contender == "eager", ours=contender == "ours", gigabytes=gigabytes, rounds=15)


def eager_bald(logits: Tensor) -> Tensor:
    p = torch.softmax(logits, dim=2)
    mean = p.mean(dim=0)
    return (p * p.log()).sum(dim=2).mean(dim=0) - (mean * mean.log()).sum(dim=1)


@pytest.mark.parametrize("contender", ["eager", "ours"])
@pytest.mark.parametrize("shape", [(25, 50_000, 10), (5, 20_000, 1_000)], ids=lambda s: "x".join(map(str, s)))
def bench_bald(benchmark: BenchmarkFixture, shape: tuple[int, int, int], contender: str) -> None:
    benchmark.group = "BALD of [{:,} x {:,} x {:,}] float32".format(*shape)
    torch.manual_seed(0)
    logits = 3 * torch.randn(*shape)
    title, call = {
        "eager": ("torch: softmax, log, sums", functools.partial(eager_bald, logits)),
        "ours": ("ops.score_committee, checks included", functools.partial(ops.score_committee, logits, "bald")),
    }[contender]
    measure(
        benchmark, title, call, peer=contender == "eager", ours=contender == "ours", gigabytes=logits.numel() * 4e-9
    )


@pytest.fixture(scope="module")
def head() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(100_000, 512), torch.randn(1_000, 512) / 512**0.5, torch.randn(1_000)


@pytest.mark.parametrize("contender", ["product", "eager", "ours"])
def bench_score_head(benchmark: BenchmarkFixture, head: tuple[Tensor, Tensor, Tensor], contender: str) -> None:
    benchmark.group = "entropy of a linear head: N = 100,000, D = 512, C = 1,000, float32"
    features, weight, bias = head
    linear = nn.functional.linear
    title, call = {
        "product": ("the bare matrix product (torch)", lambda: linear(features, weight, bias)),
        "eager": ("torch: product, softmax, log, sum", lambda: eager_entropy(linear(features, weight, bias))),
        "ours": ("ops.score_head, checks included", lambda: ops.score_head(features, weight, bias, "entropy")),
    }[contender]
    measure(benchmark, title, call, peer=contender == "product", ours=contender == "ours")


@pytest.mark.parametrize("contender", ["sort", "topk", "numpy", "ours"])
@pytest.mark.parametrize("k", [10_000, 1_000_000])
def bench_top_k(benchmark: BenchmarkFixture, k: int, contender: str) -> None:
    benchmark.group = f"the {k:,} highest of 1,000,000 scores"
    torch.manual_seed(0)
    scores = torch.rand(1_000_000)
    title, call = {
        "sort": ("torch.sort, stable", lambda: torch.sort(scores, descending=True, stable=True).indices[:k]),
        "topk": ("torch.topk (ties in any order)", lambda: torch.topk(scores, k).indices),
        "numpy": ("numpy.argsort, stable", lambda: (-scores.numpy()).argsort(kind="stable")[:k]),
        "ours": ("ops.top_k, checks included", lambda: ops.top_k(scores, k)),
    }[contender]
    measure(benchmark, title, call, peer=contender == "sort", ours=contender == "ours")


# ---- greedy k-centers ----


def initial_bounds(features: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
    """Squared norms, and squared distances to the nearest initial center, by blocks of matrix products."""
    norms = features.square().sum(dim=1)
    nearest = torch.full((len(features),), torch.inf)
    for block in initial.split(512):
        torch.minimum(
            nearest, torch.addmm(norms[block], features, features[block].T, alpha=-2).amin(1).add_(norms), out=nearest
        )
    nearest[initial] = -1
    return norms, nearest


Bounds = tuple[Tensor, Tensor]


def plain_loop(features: Tensor, initial: Tensor, picks: int, bounds: Bounds | None = None) -> list[int]:
    """The usual loop at its best: cached norms, one matrix-vector product per pick.

    With ``bounds`` computed before, the time is that of the picks alone, which is proportional to their number.
    """
    norms, nearest = bounds or initial_bounds(features, initial)
    chosen: list[int] = []
    for _ in range(picks):
        pick = int(nearest.argmax())
        chosen.append(pick)
        distances = torch.addmv(norms, features, features[pick], alpha=-2).add_(norms[pick])
        torch.minimum(nearest, distances, out=nearest)
        nearest[pick] = -1
    return chosen


def distance_loop(nearest: Tensor, picks: int, distances_to: Callable[[int], Tensor]) -> list[int]:
    """The loop of published code: all distances to the new center from a library, every time."""
    chosen: list[int] = []
    for _ in range(picks):
        pick = int(nearest.argmax())
        chosen.append(pick)
        torch.minimum(nearest, distances_to(pick), out=nearest)
        nearest[pick] = -1
    return chosen


def faiss_blocks(features: Tensor, initial: Tensor, picks: int, block: int = 512) -> list[int]:
    """Picks from blocks of candidates, their centers folded in by FAISS's search for the nearest of them."""
    points = features.numpy()
    nearest = torch.full((len(features),), torch.inf)

    def fold(centers: Tensor) -> None:
        distances, _ = faiss.knn(points, points[centers.numpy()], 1)
        torch.minimum(nearest, torch.from_numpy(distances[:, 0]), out=nearest)
        nearest[centers] = -1

    fold(initial)
    chosen: list[int] = []
    while len(chosen) < picks:
        bounds, candidates = nearest.topk(block + 1)
        limit, bounds, candidates = bounds[-1], bounds[:-1].clone(), candidates[:-1]
        among = torch.cdist(features[candidates], features[candidates]).square_()
        accepted: list[int] = []
        while len(chosen) + len(accepted) < picks:
            best = int(bounds.argmax())
            if bounds[best] < limit:
                break
            accepted.append(int(candidates[best]))
            torch.minimum(bounds, among[best], out=bounds)
            bounds[best] = -1
        chosen += accepted
        fold(torch.tensor(accepted))
    return chosen


@functools.cache
def small() -> tuple[str, Tensor, Tensor]:
    title, features = cifar10_features()
    return title, features, torch.randperm(len(features), generator=torch.Generator().manual_seed(0))[:5_000]


SMALL = {
    "plain": ("torch: norms kept, one matrix-vector product per pick", 1.0, True),
    "cdist": ("loop with torch.cdist", 0.1, False),
    "sklearn": ("loop with sklearn pairwise_distances", 0.02, False),
    "faiss": ("blocks, folded by FAISS's k = 1 search", 1.0, False),
    "ours": ("ops.greedy_kcenters, checks included", 1.0, False),
    "ours twice": ("ops.greedy_kcenters, k = 10,000", 1.0, False),
}


@pytest.mark.parametrize("contender", SMALL)
def bench_kcenters(benchmark: BenchmarkFixture, contender: str) -> None:
    benchmark.group = "greedy k-centers: N = 50,000, d = 64, 5,000 labeled, k = 5,000"
    data, features, initial = small()
    title, part, peer = SMALL[contender]
    picks = int(5_000 * part)
    # Bounds by the initial centers are part of the task where all of it is timed, and given to who is timed in part.
    nearest = initial_bounds(features, initial)[1].clamp_min(0).sqrt()
    nearest[initial] = -1
    call: Callable[[], Any] = {
        "plain": lambda: plain_loop(features, initial, picks),
        "cdist": lambda: distance_loop(
            nearest, picks, lambda pick: torch.cdist(features, features[pick : pick + 1])[:, 0]
        ),
        "sklearn": lambda: distance_loop(
            nearest,
            picks,
            lambda pick: torch.from_numpy(
                pairwise_distances(features.numpy(), features[pick : pick + 1].numpy())[:, 0]
            ),
        ),
        "faiss": lambda: faiss_blocks(features, initial, picks),
        "ours": lambda: ops.greedy_kcenters(features, picks, initial),
        "ours twice": lambda: ops.greedy_kcenters(features, 2 * picks, initial),
    }[contender]
    measure(
        benchmark, title, call, peer=peer, ours="ours" in contender, data=data, part=part, rounds=3 if part == 1 else 1
    )


@functools.cache
def middle() -> Tensor:
    return relu_features(200_000, 512, 32)


@pytest.mark.parametrize("contender", ["plain", "ours"])
def bench_kcenters_of_many(benchmark: BenchmarkFixture, contender: str) -> None:
    benchmark.group = "greedy k-centers: N = 200,000, d = 512, k = 10,000"
    features, first = middle(), torch.tensor([0])
    data = "synthetic ReLU features on a 32-dimensional manifold; the plain loop's time is that of 50 picks times 200"
    if contender == "plain":
        norms, nearest = initial_bounds(features, first)
        call: Callable[[], Any] = lambda: plain_loop(features, first, 50, (norms, nearest))  # noqa: E731
        measure(benchmark, SMALL["plain"][0], call, peer=True, data=data, part=1 / 200, rounds=3)
    else:
        call = functools.partial(ops.greedy_kcenters, features, 10_000, first)
        measure(benchmark, SMALL["ours"][0], call, ours=True, data=data, rounds=3, warmup=0)


# ---- fusion ----


@pytest.mark.parametrize("contender", ["per tensor", "ours"])
def bench_fuse(benchmark: BenchmarkFixture, contender: str) -> None:
    benchmark.group = "fusing half of a ResNet-110, the rest drawn anew"
    torch.manual_seed(0)
    dense = build_model("resnet110", num_classes=10, in_channels=3)
    pruned = prune(dense, torch.zeros(1, 3, 32, 32), 0.5)

    def per_tensor() -> nn.Module:
        fused = copy.deepcopy(dense)
        reinitialise(fused)
        state = fused.state_dict()
        for name, values in pruned.model.state_dict().items():
            state[name].view(-1)[pruned.index_map[name].reshape(-1)] = values.reshape(-1)
        return fused

    title, call = {
        "per tensor": ("layer by layer: draw anew, then one scatter per tensor", per_tensor),
        "ours": ("fuse: one call for the whole network", functools.partial(fuse, dense, pruned)),
    }[contender]
    measure(benchmark, title, call, peer=contender == "per tensor", ours=contender == "ours", rounds=9)
