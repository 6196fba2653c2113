from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from prunefuse_bench import ops
from prunefuse_bench.acquisition import HeadMembers, Members, StoredMembers, members
from prunefuse_bench.ops import NotRankable, reference

SAMPLES, FEATURES, CLASSES, COUNT, KEEP = 23, 11, 4, 6, 0.7
ALL = slice(None)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def head(*, shared_masks: bool, seed: int = 5, bias: bool = True, features: Tensor | None = None) -> HeadMembers:
    return HeadMembers(
        normal(SAMPLES, FEATURES) if features is None else features,
        normal(CLASSES, FEATURES, seed=1),
        normal(CLASSES, seed=2) if bias else None,
        count=COUNT,
        keep=KEEP,
        seed=seed,
        shared_masks=shared_masks,
    )


def masks(*, shared_masks: bool, seed: int = 5, samples: int = SAMPLES) -> Tensor:
    """[K, N, D] as a layer lets them through that has one output for each input, all of them 1."""
    through = HeadMembers(
        torch.ones(samples, FEATURES),
        torch.eye(FEATURES),
        None,
        count=COUNT,
        keep=KEEP,
        seed=seed,
        shared_masks=shared_masks,
    )
    return through.logits(ALL)


def stored(*shape: int) -> StoredMembers:
    return StoredMembers(3 * normal(*shape))


@pytest.fixture(params=[1, 7, CLASSES * COUNT * 5, 2**22])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Samples in a block."""
    monkeypatch.setattr(members, "BLOCK_ELEMENTS", request.param)
    return max(1, request.param // (CLASSES * COUNT))


@pytest.mark.parametrize("shared_masks", [True, False])
class TestMasks:
    def test_an_input_is_kept_and_scaled_or_dropped(self, shared_masks: bool) -> None:
        values = masks(shared_masks=shared_masks)
        assert torch.equal(values.unique(), torch.tensor([0, 1 / KEEP]))

    def test_so_many_are_kept(self, shared_masks: bool) -> None:
        kept = torch.stack([masks(shared_masks=shared_masks, seed=seed) for seed in range(200)]) > 0
        draws = 200 * COUNT * FEATURES * (1 if shared_masks else SAMPLES)
        deviation = abs(kept.double().mean().item() - KEEP) / math.sqrt(KEEP * (1 - KEEP) / draws)
        assert deviation < 4

    def test_members_differ(self, shared_masks: bool) -> None:
        assert len(masks(shared_masks=shared_masks).flatten(1).unique(dim=0)) == COUNT

    def test_they_are_the_same_for_all_samples_only_if_they_are_shared(self, shared_masks: bool) -> None:
        different = [len(of_member.unique(dim=0)) for of_member in masks(shared_masks=shared_masks)]
        assert max(different) == 1 if shared_masks else min(different) > SAMPLES * 0.8

    def test_they_follow_the_seed(self, shared_masks: bool) -> None:
        assert torch.equal(masks(shared_masks=shared_masks), masks(shared_masks=shared_masks))
        assert not torch.equal(masks(shared_masks=shared_masks), masks(shared_masks=shared_masks, seed=6))

    def test_a_sample_has_the_same_ones_in_a_larger_pool(self, shared_masks: bool) -> None:
        larger = masks(shared_masks=shared_masks, samples=40)
        assert torch.equal(larger[:, :SAMPLES], masks(shared_masks=shared_masks))

    def test_torchs_global_generator_is_left_alone(self, shared_masks: bool) -> None:
        before = torch.get_rng_state()
        masks(shared_masks=shared_masks)
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("shared_masks", [True, False])
class TestHeadMembers:
    @pytest.mark.parametrize("bias", [True, False])
    def test_they_are_masked_linear_layers(self, shared_masks: bool, bias: bool) -> None:
        features, weight = normal(SAMPLES, FEATURES).tolist(), normal(CLASSES, FEATURES, seed=1).tolist()
        scaled = masks(shared_masks=shared_masks).tolist()
        shifts = normal(CLASSES, seed=2).tolist() if bias else [0.0] * CLASSES
        expected = [
            [
                [
                    sum(w * m * x for w, m, x in zip(of_class, mask, sample, strict=True)) + shift
                    for of_class, shift in zip(weight, shifts, strict=True)
                ]
                for mask, sample in zip(of_member, features, strict=True)
            ]
            for of_member in scaled
        ]
        found = head(shared_masks=shared_masks, bias=bias).logits(ALL)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), torch.tensor(expected).double(), rtol=0, atol=1e-5)

    def test_they_are_the_same_whatever_the_rows_are_cut_into(self, shared_masks: bool) -> None:
        whole = head(shared_masks=shared_masks).logits(ALL)
        for size in (1, 2, 5, 22, 23, 100):
            cut = head(shared_masks=shared_masks)
            parts = [cut.logits(slice(start, start + size)) for start in range(0, SAMPLES, size)]
            torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=0, atol=1e-5)  # rounding of products

    def test_rows_can_be_asked_for_in_any_order_and_again(self, shared_masks: bool) -> None:
        whole = head(shared_masks=shared_masks).logits(ALL)
        asked = head(shared_masks=shared_masks)
        for start, stop in ((15, 20), (3, 9), (9, 12), (3, 9), (22, 23), (0, 1), (5, 5), (0, SAMPLES)):
            part = asked.logits(slice(start, stop))
            torch.testing.assert_close(part, whole[:, start:stop], rtol=0, atol=1e-5)

    def test_far_rows_are_reached_block_by_block(self, shared_masks: bool) -> None:
        features = torch.ones(5000, FEATURES)
        far = head(shared_masks=shared_masks, features=features).logits(slice(4990, 5000))
        whole = head(shared_masks=shared_masks, features=features).logits(ALL)
        torch.testing.assert_close(far, whole[:, 4990:], rtol=0, atol=1e-5)

    def test_counts(self, shared_masks: bool) -> None:
        members = head(shared_masks=shared_masks)
        assert (len(members), members.count, members.classes) == (SAMPLES, COUNT, CLASSES)

    def test_no_samples(self, shared_masks: bool) -> None:
        nobody = head(shared_masks=shared_masks, features=torch.empty(0, FEATURES))
        assert list(nobody.blocks()) == []
        assert nobody.score("bald").shape == (0,)
        assert nobody.log_probabilities().shape == (0, COUNT, CLASSES)

    def test_a_feature_that_is_not_a_number_names_its_sample(self, shared_masks: bool, blocks: int) -> None:
        features = normal(SAMPLES, FEATURES)
        features[[17, 20]] = math.nan
        with pytest.raises(NotRankable) as refused:
            head(shared_masks=shared_masks, features=features).score("bald")
        assert refused.value.row == 17

    def test_features_are_left_as_they_are(self, shared_masks: bool) -> None:
        features = normal(SAMPLES, FEATURES)
        head(shared_masks=shared_masks, features=features).score("bald")
        assert torch.equal(features, normal(SAMPLES, FEATURES))


def test_shared_masks_make_each_member_one_network() -> None:
    order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(3))
    features = normal(SAMPLES, FEATURES)
    shared = head(shared_masks=True, features=features).logits(ALL)
    permuted = head(shared_masks=True, features=features[order]).logits(ALL)
    torch.testing.assert_close(permuted, shared[:, order], rtol=0, atol=1e-5)
    own = head(shared_masks=False, features=features).logits(ALL)
    permuted = head(shared_masks=False, features=features[order]).logits(ALL)
    assert (permuted - own[:, order]).abs().amax(dim=(0, 2)).gt(1e-3).float().mean() > 0.8


class TestAllMembers:
    @pytest.fixture(params=["stored", "shared masks", "own masks"])
    def asked(self, request: pytest.FixtureRequest) -> Members:
        if request.param == "stored":
            return stored(COUNT, SAMPLES, CLASSES)
        return head(shared_masks=request.param == "shared masks")

    def test_blocks_are_all_rows_in_order(self, asked: Members, blocks: int) -> None:
        rows = [range(*rows.indices(SAMPLES)) for rows, _ in asked.blocks()]
        assert [row for part in rows for row in part] == list(range(SAMPLES))
        assert all(len(part) == blocks for part in rows[:-1])
        for (_, logits), part in zip(asked.blocks(), rows, strict=True):
            assert logits.shape == (COUNT, len(part), CLASSES)

    @pytest.mark.parametrize("kind", get_args(ops.CommitteeKind))
    def test_scores_are_those_of_all_logits_at_once(self, asked: Members, blocks: int, kind: ops.CommitteeKind) -> None:
        expected = reference.score_committee(asked.logits(ALL), kind)
        scores = asked.score(kind)
        assert scores.dtype == torch.float32
        torch.testing.assert_close(scores, expected, rtol=0, atol=1e-5)

    def test_log_probabilities_are_those_of_each_member(self, asked: Members, blocks: int) -> None:
        found = asked.log_probabilities()
        assert found.dtype == torch.float64
        assert found.shape == (SAMPLES, COUNT, CLASSES)
        logits = asked.logits(ALL).double()
        for k in range(COUNT):
            weights = logits[k].exp()
            expected = (weights / weights.sum(1, keepdim=True)).log()
            torch.testing.assert_close(found[:, k], expected, rtol=0, atol=1e-5)


def test_log_probabilities_have_the_digits_of_float64() -> None:
    log_p = StoredMembers(torch.tensor([[[0.0, -40.0]], [[-math.inf, 5.0]]])).log_probabilities()
    assert log_p[0, 0].tolist() == pytest.approx([-math.exp(-40), -40], rel=1e-12)
    assert log_p[0, 1].tolist() == [-math.inf, 0]


@pytest.mark.parametrize("bad", [0, 4, 5, 22])
def test_the_row_that_cannot_be_ranked_is_one_of_the_whole_pool(bad: int, blocks: int) -> None:
    logits = normal(COUNT, SAMPLES, CLASSES)
    logits[3, bad, 1] = math.nan
    with pytest.raises(NotRankable, match=rf"block from row {bad // blocks * blocks}\)") as refused:
        StoredMembers(logits).score("mean_entropy")
    assert refused.value.row == bad


def test_stored_members_are_no_copy() -> None:
    logits = normal(COUNT, SAMPLES, CLASSES)
    asked = StoredMembers(logits)
    assert (len(asked), asked.count, asked.classes) == (SAMPLES, COUNT, CLASSES)
    assert asked.logits(slice(2, 5)).data_ptr() == logits[:, 2:].data_ptr()


def test_a_pool_of_nothing() -> None:
    nobody = stored(COUNT, 0, CLASSES)
    assert nobody.score("bald").shape == (0,)
    assert nobody.log_probabilities().shape == (0, COUNT, CLASSES)
