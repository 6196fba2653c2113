from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from prunefuse_bench.data import Augmentation, Normalisation, Pool
from prunefuse_bench.errors import CellFailed

AS_THEY_ARE = Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.fixture
def pool() -> Pool:
    images = torch.arange(10, dtype=torch.uint8)[:, None, None, None].expand(10, 1, 2, 2)
    return Pool(images, torch.arange(10) + 50, torch.device("cpu"))


def test_labels_are_given_only_for_what_is_queried(pool: Pool) -> None:
    assert len(pool.labeled) == 0
    pool.label(torch.tensor([7, 2]))
    labeled = pool.label(torch.tensor([4]))
    assert labeled.indices.tolist() == [7, 2, 4]
    assert labeled.labels.tolist() == [57, 52, 54]
    assert labeled.images[:, 0, 0, 0].tolist() == [7, 2, 4]
    assert pool.unlabeled.tolist() == [0, 1, 3, 5, 6, 8, 9]
    assert len(pool.labeled) == 3


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (torch.tensor([1, 10]), "index 10 is outside the pool of 10"),
        (torch.tensor([-1]), "index -1 is outside"),
        (torch.tensor([5, 3]), "index 3 is labeled already"),
        (torch.tensor([5, 6, 5]), "index 5 is queried twice"),
        (torch.tensor([0.5]), r"expected int64 \[k\]"),
    ],
)
def test_a_wrong_query_costs_no_label(pool: Pool, query: Tensor, message: str) -> None:
    pool.label(torch.tensor([3]))
    with pytest.raises(CellFailed, match=message):
        pool.label(query)
    assert len(pool.labeled) == 1


def test_crops_are_windows_of_the_padded_image(generator: torch.Generator) -> None:
    images = torch.randint(1, 256, (50, 3, 6, 5), dtype=torch.uint8, generator=generator)
    augmentation = Augmentation(crop_padding=2, flip=True)
    draws = augmentation.draw(50, generator, torch.device("cpu"))
    augmented = AS_THEY_ARE.gather(images, torch.arange(50), augmentation, draws)
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    for i in range(50):
        top, left = int(draws.tops[i]), int(draws.lefts[i])
        window = padded[i, :, top : top + 6, left : left + 5]
        assert torch.equal(augmented[i], window.flip(-1) if draws.flips[i] else window)
    assert set(draws.tops.tolist()) == set(range(5))
    assert 10 < int(draws.flips.sum()) < 40


def test_no_augmentation_changes_nothing(generator: torch.Generator) -> None:
    images = torch.randint(0, 256, (4, 1, 6, 6), dtype=torch.uint8, generator=generator)
    none = Augmentation(crop_padding=0, flip=False)
    draws = none.draw(4, generator, torch.device("cpu"))
    one_channel = Normalisation((0.0,), (1.0,))
    assert torch.equal(one_channel.gather(images, torch.arange(4), none, draws), images.float())
    assert torch.equal(one_channel.apply(images), images.float())


def test_normalised_pixels_have_mean_0_and_deviation_1(generator: torch.Generator) -> None:
    images = torch.randint(0, 200, (64, 3, 8, 8), dtype=torch.uint8, generator=generator)
    images[:, 1] //= 3
    values = Normalisation.of(images).apply(images)
    assert values.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(values.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(values.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)


def test_statistics_are_exact_and_so_the_same_on_every_machine(generator: torch.Generator) -> None:
    images = torch.randint(0, 256, (31, 3, 32, 32), dtype=torch.uint8, generator=generator)
    found = Normalisation.of(images)
    for channel, mean, deviation in zip(images.unbind(1), found.mean, found.std, strict=True):
        levels = [Fraction(level) for level in channel.flatten().tolist()]
        exact = sum(levels) / len(levels)
        assert mean == float(exact)
        assert deviation == math.sqrt(sum((level - exact) ** 2 for level in levels) / len(levels))
    assert Normalisation.of(images.flip(0)) == found


def test_images_of_one_grey_level_do_not_divide_by_zero() -> None:
    images = torch.full((2, 1, 4, 4), 9, dtype=torch.uint8)
    assert torch.equal(Normalisation.of(images).apply(images), torch.zeros(2, 1, 4, 4))
