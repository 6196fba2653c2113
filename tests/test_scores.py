"""The compiled scores against the float64 references, over types, widths and magnitudes."""

from __future__ import annotations

import functools
import math
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prunefuse_bench import ops
from prunefuse_bench.ops import CommitteeKind, NotRankable, ScoreKind, reference

KINDS = get_args(ScoreKind)
COMMITTEE_KINDS = get_args(CommitteeKind)
WIDTHS = [1, 2, 3, 10, 31, 63, 64, 65, 100, 1_000, 1_023, 1_025, 5_000, 100_000]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@functools.lru_cache(maxsize=1)  # one test after another takes the same
def some_logits(rows: int, classes: int, magnitude: float, members: int | None = None) -> Tensor:
    """Rows of every temper: spread out, nearly certain, tied, shifted far up and down, with impossible classes."""
    generator = torch.Generator().manual_seed(classes)
    shape = (rows, classes) if members is None else (members, rows, classes)
    logits = torch.randn(shape, generator=generator) * torch.logspace(-3, 0, rows)[:, None] * magnitude / 5
    logits = logits.clamp(-magnitude, magnitude)
    logits[..., 1::7, :] -= magnitude / 2
    logits[..., 2::7, :] = logits[..., 2::7, :1]  # all equal
    logits[..., 3::7, ::2] = -math.inf
    logits[..., 3::7, -1] = 0.0
    logits[..., 4::7, 0] += 5.0
    return logits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", WIDTHS)
@pytest.mark.parametrize("magnitude", [1.0, 30.0, 1e4])
def test_scores_are_those_of_the_reference(kind: ScoreKind, classes: int, magnitude: float) -> None:
    for dtype in DTYPES:
        logits = some_logits(30 if classes < 10_000 else 9, classes, magnitude).to(dtype)
        expected = reference.score(logits.float(), kind)
        torch.testing.assert_close(ops.score(logits, kind), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", COMMITTEE_KINDS)
@pytest.mark.parametrize("classes", [1, 2, 10, 33, 1_000, 1_025, 100_000])
@pytest.mark.parametrize("magnitude", [1.0, 30.0, 1e4])
def test_committee_scores_are_those_of_the_reference(kind: CommitteeKind, classes: int, magnitude: float) -> None:
    for dtype in DTYPES:
        logits = some_logits(23 if classes < 10_000 else 7, classes, magnitude, members=4).to(dtype)
        expected = reference.score_committee(logits.float(), kind)
        torch.testing.assert_close(ops.score_committee(logits, kind), expected, rtol=0, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.integers(1, 12),
    st.integers(1, 90),
    st.sampled_from([1e-3, 1.0, 50.0, 1e4]),
    st.integers(0, 10**6),
)
def test_what_does_not_change_a_score(kind: ScoreKind, rows: int, classes: int, magnitude: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Whole multiples of 2^-8: adding a constant is exact.
    logits = (torch.randn(rows, classes, generator=generator) * magnitude * 256).round().clamp(-1e6, 1e6) / 256
    scores = ops.score(logits, kind)
    torch.testing.assert_close(ops.score(logits + 64.0, kind), scores, rtol=0, atol=2e-6)
    order = torch.randperm(classes, generator=generator)
    torch.testing.assert_close(ops.score(logits[:, order], kind), scores, rtol=0, atol=2e-6)
    low, high = {"least_confidence": (0.0, 1.0), "entropy": (0.0, math.log(classes)), "margin": (-1.0, 0.0)}[kind]
    assert bool(((scores >= low) & (scores <= high + 1e-6)).all())
    for row in range(rows):  # a row's score does not depend on its neighbours
        assert torch.equal(ops.score(logits[row : row + 1], kind), scores[row : row + 1])


def test_a_nearly_certain_row_keeps_its_order() -> None:
    logits = torch.tensor([[40.0, 0.0], [41.0, 0.0], [42.0, 0.0]])
    for padded in (logits, torch.cat([logits, torch.full((3, 100), -math.inf)], 1)):
        for kind in ("least_confidence", "entropy"):
            assert ops.top_k(ops.score(padded, kind), 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("classes", [10, 1_000])
def test_a_thousand_members_lose_no_digits(classes: int) -> None:
    one = some_logits(9, classes, 5.0)
    for logits in (one.expand(1_000, -1, -1), one + 0.1 * torch.randn(1_000, 9, classes)):
        for kind in COMMITTEE_KINDS:
            expected = reference.score_committee(logits, kind)
            torch.testing.assert_close(ops.score_committee(logits, kind), expected, rtol=0, atol=1e-5)


def test_a_reused_batch_does_not_change_a_stream() -> None:
    stream, batch = ops.TopK(2), torch.tensor([3.0, 1.0, 2.0])
    stream.add(batch, first_index=0)
    batch.zero_()
    stream.add(batch, first_index=3)
    assert stream.indices().tolist() == [0, 2]


def test_a_head_is_not_rounded_under_autocast() -> None:
    features, weight = torch.randn(50, 32), torch.randn(10, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = ops.score_head(features, weight, None, "entropy")
    torch.testing.assert_close(found, reference.score_head(features, weight, None, "entropy"), rtol=0, atol=2e-5)


def test_committees_worked_out_by_hand() -> None:
    certain_of_first, certain_of_second = [50.0, 0.0], [0.0, 50.0]
    divided = torch.tensor([[certain_of_first], [certain_of_second]])
    united = torch.tensor([[certain_of_first], [certain_of_first]])
    undecided = torch.zeros(2, 1, 2)
    expected = {
        "bald": (math.log(2), 0.0, 0.0),
        "mean_entropy": (math.log(2), 0.0, math.log(2)),
        "variation_ratio": (0.5, 0.0, 0.0),
        "mean_least_confidence": (0.5, 0.0, 0.5),
    }
    for kind in COMMITTEE_KINDS:
        scores = [ops.score_committee(logits, kind).item() for logits in (divided, united, undecided)]
        assert scores == pytest.approx(expected[kind], abs=1e-6)


def test_a_vote_on_equal_logits_goes_to_the_lowest_class() -> None:
    logits = torch.tensor([[[1.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]], [[0.0, 1.0, 1.0]], [[0.0, 1.0, 0.0]]])
    assert ops.score_committee(logits, "variation_ratio").item() == 0.5  # votes 0, 0, 1, 1
    wide = torch.zeros(3, 1, 200)
    wide[1, 0, 150] = wide[1, 0, 20] = 1.0
    wide[2, 0, 20] = 1.0
    assert ops.score_committee(wide, "variation_ratio").item() == pytest.approx(1 / 3)  # votes 0, 20, 20


@pytest.mark.parametrize("kind", COMMITTEE_KINDS)
def test_one_member_is_a_single_network(kind: CommitteeKind) -> None:
    logits = some_logits(20, 12, 8.0)
    expected = {
        "bald": torch.zeros(20),
        "mean_entropy": ops.score(logits, "entropy"),
        "variation_ratio": torch.zeros(20),
        "mean_least_confidence": ops.score(logits, "least_confidence"),
    }
    torch.testing.assert_close(ops.score_committee(logits[None], kind), expected[kind], rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 3, 2), (1_000, 64, 10), (700, 130, 2_000)])
def test_a_head_is_scored_like_its_logits(kind: ScoreKind, has_bias: bool, shape: tuple[int, int, int]) -> None:
    rows, width, classes = shape
    generator = torch.Generator().manual_seed(0)
    features, weight = torch.randn(rows, width, generator=generator), torch.randn(classes, width, generator=generator)
    bias = torch.randn(classes, generator=generator) if has_bias else None
    for dtype in DTYPES:
        inputs = [None if tensor is None else tensor.to(dtype) for tensor in (features, weight, bias)]
        expected = reference.score_head(inputs[0], inputs[1], inputs[2], kind)  # type: ignore[arg-type]
        found = ops.score_head(inputs[0], inputs[1], inputs[2], kind)  # type: ignore[arg-type]
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_layouts_and_double_precision() -> None:
    logits = some_logits(10, 50, 8.0)
    expected = reference.score(logits, "entropy")
    for same in (logits.T.contiguous().T, logits.double(), torch.stack([logits, logits], 2)[:, :, 1]):
        torch.testing.assert_close(ops.score(same, "entropy"), expected, rtol=0, atol=1e-6)
    assert not ops.score(logits.requires_grad_(), "entropy").requires_grad


def test_empty_pools() -> None:
    assert ops.score(torch.empty(0, 10), "entropy").shape == (0,)
    assert ops.score_committee(torch.empty(3, 0, 10), "bald").shape == (0,)
    assert ops.score_head(torch.empty(0, 4), torch.empty(10, 4), None, "margin").shape == (0,)
    assert ops.top_k(torch.empty(0), 0).shape == (0,)


@pytest.mark.parametrize("classes", [3, 200])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_a_number_is_named(classes: int, bad: float) -> None:
    logits = torch.zeros(40, classes)
    logits[17, classes - 1] = logits[39, 0] = bad
    for dtype in (*DTYPES, torch.float64):
        with pytest.raises(NotRankable, match=r"2 of 40 rows cannot be ranked .* the first is row 17") as error:
            ops.score(logits.to(dtype), "entropy")
        assert error.value.row == 17
        committee = torch.stack([torch.zeros_like(logits), logits]).to(dtype)
        with pytest.raises(NotRankable, match=r"2 of 40 rows .* the first is row 17"):
            ops.score_committee(committee, "bald")
    with pytest.raises(NotRankable, match="first is row 2"):
        ops.score_head(torch.tensor([[0.0], [1.0], [bad]]), torch.ones(classes, 1), None, "entropy")


def test_impossible_everywhere_is_no_prediction() -> None:
    for classes in (2, 100):
        with pytest.raises(NotRankable, match="row 1"):
            ops.score(torch.stack([torch.zeros(classes), torch.full((classes,), -math.inf)]), "margin")
        with pytest.raises(NotRankable, match="row 0"):
            ops.score_committee(torch.full((1, 1, classes), -math.inf), "bald")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ops.score_committee(torch.zeros(2, 3), "bald"),
            r"expected a float tensor \[K, N, C\].*got .*\(2, 3\)",
        ),
        (lambda: ops.score_committee(torch.zeros(0, 3, 2), "bald"), r"at least one member, got \(0, 3, 2\)"),
        (lambda: ops.score_committee(torch.zeros(1, 3, 0), "bald"), "at least one class"),
        (lambda: ops.score_committee(torch.zeros(1, 3, 2), "entropy"), "expected one of bald, .*got 'entropy'"),
        (lambda: ops.score(torch.zeros(3, 0), "entropy"), "at least one column"),
        (lambda: ops.score_head(torch.zeros(3, 4), torch.zeros(2, 5), None, "entropy"), r"\[C, 4\].*got \(2, 5\)"),
        (lambda: ops.score_head(torch.zeros(3, 4), torch.zeros(0, 4), None, "entropy"), "at least one class"),
        (
            lambda: ops.score_head(torch.zeros(3, 4), torch.zeros(2, 4), torch.zeros(3), "entropy"),
            r"\[2\], got .*\(3,\)",
        ),
        (
            lambda: ops.score_head(torch.zeros(3, 4), torch.zeros(2, 4, device="meta"), None, "entropy"),
            "expected all tensors on one device, got",
        ),
        (lambda: ops.top_k(torch.zeros(3, 2), 1), r"scores \[N\]: expected a float vector"),
        (lambda: ops.top_k(torch.zeros(3), -1), "expected from 0 to the 3 that can be picked, got -1"),
    ],
)
def test_bad_arguments(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 3_000), st.integers(1, 5), st.integers(0, 10**6), st.data())
def test_top_k_is_a_stable_sort(count: int, distinct: int, seed: int, data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.cat([torch.tensor([0.0, -0.0, math.inf, -math.inf]), torch.randn(distinct, generator=generator)])
    scores = values[torch.randint(len(values), (count,), generator=generator)]
    k = data.draw(st.integers(0, count))
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        assert torch.equal(ops.top_k(scores.to(dtype), k), reference.top_k(scores.to(dtype), k))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=12), st.integers(0, 60), st.integers(0, 10**6))
def test_a_stream_gives_what_the_whole_gives(batches: list[int], k: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 6, (sum(batches),), generator=generator).float()
    starts = torch.tensor([0, *batches]).cumsum(0).tolist()
    expected = ops.top_k(scores, min(k, len(scores)))
    in_order, out_of_order, halves = ops.TopK(k), ops.TopK(k), (ops.TopK(k), ops.TopK(k))
    for number, (start, size) in enumerate(zip(starts, batches, strict=False)):
        in_order.add(scores[start : start + size], first_index=start)
        halves[number % 2].add(scores[start : start + size], first_index=start)
    for number in torch.randperm(len(batches), generator=generator).tolist():
        indices = torch.arange(starts[number], starts[number + 1])
        out_of_order.add(scores[indices], indices=indices)
    halves[0].merge(halves[1])
    for stream in (in_order, out_of_order, halves[0]):
        assert torch.equal(stream.indices(), expected)
        assert torch.equal(stream.scores(), scores[expected])


def test_a_stream_refuses_what_it_cannot_rank() -> None:
    stream = ops.TopK(3)
    with pytest.raises(NotRankable, match="row 1"):
        stream.add(torch.tensor([0.0, math.nan]), first_index=0)
    with pytest.raises(ValueError, match="expected either first_index or indices"):
        stream.add(torch.zeros(2))
    with pytest.raises(ValueError, match=r"indices: expected int64 \[2\]"):
        stream.add(torch.zeros(2), indices=torch.zeros(3, dtype=torch.int64))
    stream.add(torch.zeros(2), first_index=0)
    with pytest.raises(ValueError, match="like the batches before"):
        stream.add(torch.zeros(2, dtype=torch.float64), first_index=2)
    with pytest.raises(ValueError, match="k: expected 0 or more, got -1"):
        ops.TopK(-1)
