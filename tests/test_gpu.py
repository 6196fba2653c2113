"""The CUDA kernels on a GPU: `make gpu`. None has run them yet; elsewhere the emulator does (test_cuda_kernels.py)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, get_args

import pytest
import torch
from kcenters_data import DATA, assert_valid
from torch import Tensor

from prunefuse_bench import fuse, ops, prune
from prunefuse_bench.models import build_model
from prunefuse_bench.ops import reference

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _gpu() -> Iterator[None]:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if not ops.HAS_CUDA_KERNELS:
        pytest.fail("a GPU is here, but _C_cuda is not built: install with PRUNEFUSE_BENCH_CUDA=1 and nvcc")
    yield
    torch.cuda.synchronize()


def some_logits(*shape: int) -> Tensor:
    return 5 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("classes", [1, 2, 10, 33, 100, 1_000, 1_025, 100_000])
def test_scores(dtype: torch.dtype, classes: int) -> None:
    logits = some_logits(50, classes).to(dtype)
    for kind in get_args(ops.ScoreKind):
        expected = reference.score(logits.float(), kind)
        torch.testing.assert_close(ops.score(logits.cuda(), kind).cpu(), expected, rtol=0, atol=1e-5)
    committee = some_logits(7, 20, classes).to(dtype)
    for committee_kind in get_args(ops.CommitteeKind):
        expected = reference.score_committee(committee.float(), committee_kind)
        found = ops.score_committee(committee.cuda(), committee_kind).cpu()
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_head() -> None:
    features, weight, bias = some_logits(5_000, 64), some_logits(100, 64) / 40, some_logits(100)
    expected = reference.score_head(features, weight, bias, "entropy")
    found = ops.score_head(features.cuda(), weight.cuda(), bias.cuda(), "entropy").cpu()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)  # the product's own rounding


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [0, 1, 1_000, 300_000])
def test_top_k(dtype: torch.dtype, k: int) -> None:
    scores = torch.randint(-50, 50, (300_000,), generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(ops.top_k(scores.cuda(), k).cpu(), reference.top_k(scores, k))


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("labeled", [0, 300])
def test_kcenters(name: str, labeled: int) -> None:
    features, initial = DATA[name](3_000), torch.arange(labeled)
    indices, radii = ops.greedy_kcenters(features.cuda(), 400, initial.cuda())
    assert_valid(features, indices.cpu(), radii.cpu(), initial)
    again = ops.greedy_kcenters(features.cuda(), 400, initial.cuda())
    assert torch.equal(indices, again[0])
    assert torch.equal(radii, again[1])


def test_fusion_draws_what_the_cpu_draws() -> None:
    torch.manual_seed(0)
    dense = build_model("resnet20", num_classes=10, in_channels=3)
    pruned = prune(dense, torch.zeros(1, 3, 32, 32), 0.5)
    on_cpu = fuse(dense, pruned, seed=3).state_dict()
    pruned.model.cuda()
    on_gpu = fuse(dense.cuda(), pruned, seed=3).state_dict()
    for name, value in on_cpu.items():
        assert torch.equal(on_gpu[name].cpu(), value), name


CALLS: dict[str, Callable[[Tensor], Any]] = {
    "score": lambda z: ops.score(z, "entropy"),
    "score_committee": lambda z: ops.score_committee(z.view(4, -1, z.shape[1]), "bald"),
    "top_k": lambda z: ops.top_k(z[:, 0].contiguous(), 100),
    "greedy_kcenters": lambda z: ops.greedy_kcenters(z, 50)[0],
}


@pytest.mark.parametrize("name", CALLS)
def test_work_is_ordered_on_the_current_stream(name: str) -> None:
    """The input is written on the same stream just before: a kernel on another stream would read what was there."""
    expected = CALLS[name](some_logits(4_000, 64).cuda())
    logits = torch.zeros(4_000, 64, device="cuda")
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        logits.copy_(some_logits(4_000, 64).cuda(non_blocking=True))
        found = CALLS[name](logits)
    stream.synchronize()
    assert torch.equal(found, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("name", CALLS)
def test_the_second_gpu_is_used_where_the_tensor_lies(name: str) -> None:
    logits = some_logits(4_000, 64)
    found = CALLS[name](logits.to("cuda:1"))
    assert found.device == torch.device("cuda:1")
    assert torch.equal(found.cpu(), CALLS[name](logits.to("cuda:0")).cpu())


def seconds_of(call: Callable[[], Any], rounds: int = 20) -> float:
    times = []
    for _ in range(rounds + 3):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return sorted(times[3:])[rounds // 2]


@pytest.mark.parametrize(("rows", "classes"), [(1_000_000, 10), (500_000, 1_000)])
def test_share_of_the_measured_bandwidth(
    rows: int, classes: int, record_property: Callable[[str, object], None]
) -> None:
    """Records the rate; what is asserted is the answer, since a time depends on who else uses the GPU."""
    logits = torch.randn(rows, classes, device="cuda")
    source, target = torch.empty(2, 2**28, device="cuda").unbind()
    copy = seconds_of(lambda: target.copy_(source))
    bandwidth = 2 * source.numel() * 4 / copy
    rate = logits.numel() * 4 / seconds_of(lambda: torch.ops.prunefuse_bench.score(logits, 1))
    record_property("share of the copy bandwidth", rate / bandwidth)
    print(f"[{rows} x {classes}] entropy reads {rate / 1e9:.0f} GB/s, {100 * rate / bandwidth:.0f}% of a copy's rate")
    expected = reference.score(logits[:100].cpu(), "entropy")
    torch.testing.assert_close(ops.score(logits[:100], "entropy").cpu(), expected, rtol=0, atol=1e-5)


def test_kcenters_time_grows_with_k(record_property: Callable[[str, object], None]) -> None:
    features = torch.randn(200_000, 128, device="cuda").relu()
    seconds = {}
    for k in (1_000, 2_000, 4_000):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        indices, _ = ops.greedy_kcenters(features, k)
        torch.cuda.synchronize()
        seconds[k] = time.perf_counter() - begin
        assert len(indices.unique()) == k
    record_property("seconds by k", seconds)
    print(seconds)
