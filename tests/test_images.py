"""The one-pass batch of images, against plain torch and by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prunefuse_bench import ops
from prunefuse_bench.data import Augmentation, Normalisation
from prunefuse_bench.ops import reference


def random_images(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(9, 3, 32, 32), (5, 1, 7, 4), (3, 5, 4, 9), (1, 3, 1, 1)])
@pytest.mark.parametrize(("padding", "flip"), [(0, False), (4, True), (0, True), (20, True)])
def test_it_equals_plain_torch_to_the_bit(
    shape: tuple[int, ...], padding: int, flip: bool, dtype: torch.dtype, generator: torch.Generator
) -> None:
    images = random_images(generator, *shape)
    rows = torch.randint(0, shape[0], (33,), generator=generator)
    levels = torch.randn(shape[1], 256, generator=generator).to(dtype)
    draws = Augmentation(padding, flip).draw(33, generator, torch.device("cpu"))
    crop = (draws.tops, draws.lefts) if padding else (None, None)
    flips = draws.flips if flip else None
    found = ops.gather_images(images, rows, levels, padding=padding, tops=crop[0], lefts=crop[1], flips=flips)
    expected = reference.gather_images(images, rows, levels, *crop, flips, padding).permute(0, 3, 1, 2)
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, expected)


def test_a_crop_by_hand() -> None:
    image = torch.tensor([[[[1, 2], [3, 4]]]], dtype=torch.uint8)
    levels = torch.arange(256.0)[None] * 10 + 7  # black is 7
    zero, two = torch.tensor([0]), torch.tensor([2])

    def crop(top: Tensor, left: Tensor, flip: bool) -> list[list[float]]:
        flips = torch.tensor([flip])
        return ops.gather_images(image, zero, levels, padding=1, tops=top, lefts=left, flips=flips)[0, 0].tolist()

    assert crop(zero, zero, False) == [[7, 7], [7, 17]]
    assert crop(zero, zero, True) == [[7, 7], [17, 7]]
    assert crop(two, zero, False) == [[7, 37], [7, 7]]
    assert crop(two, two, True) == [[7, 47], [7, 7]]
    assert crop(torch.tensor([1]), torch.tensor([1]), True) == [[27, 17], [47, 37]]


def test_normalised_values_are_those_of_the_formula(generator: torch.Generator) -> None:
    images = random_images(generator, 20, 3, 8, 8)
    normalisation = Normalisation.of(images)
    mean, std = (torch.tensor(part)[:, None, None] for part in (normalisation.mean, normalisation.std))
    expected = (images.float() - mean) / std
    assert torch.equal(normalisation.apply(images), expected)
    assert torch.equal(normalisation.apply(images, torch.bfloat16), expected.bfloat16())


def test_images_that_are_not_contiguous_and_no_rows_at_all(generator: torch.Generator) -> None:
    images = random_images(generator, 6, 4, 4, 3).permute(0, 3, 1, 2)
    levels = torch.arange(256.0).expand(3, 256)
    assert torch.equal(ops.gather_images(images, torch.tensor([4, 1]), levels), images[[4, 1]].float())
    assert ops.gather_images(images, torch.empty(0, dtype=torch.int64), levels).shape == (0, 3, 4, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(2, 3, 4, 4)}, r"images: expected uint8 \[N, C, H, W\]"),
        ({"rows": torch.tensor([0, 2])}, "rows: expected from 0 to 1, got 2"),
        ({"rows": torch.tensor([-1, 0])}, "rows: expected from 0 to 1, got -1"),
        ({"rows": torch.tensor([0.0, 1.0])}, "rows: expected torch.int64"),
        ({"levels": torch.zeros(1, 256)}, r"levels: expected float32 or bfloat16 \[3, 256\]"),
        ({"tops": torch.tensor([0, 3]), "lefts": torch.tensor([0, 0])}, "crop: expected offsets from 0 to 2, got 3"),
        ({"tops": torch.tensor([0, 1])}, "tops and lefts: expected both or neither"),
        ({"flips": torch.tensor([True])}, r"flips: expected torch.bool \[2\]"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, Tensor], message: str) -> None:
    arguments = {
        "images": torch.zeros(2, 3, 4, 4, dtype=torch.uint8),
        "rows": torch.tensor([0, 1]),
        "levels": torch.zeros(3, 256),
        **change,
    }
    with pytest.raises((ValueError, RuntimeError), match=message):
        ops.gather_images(**arguments, padding=1)  # type: ignore[arg-type]


def test_the_operator_can_be_traced() -> None:
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    arguments = (images, torch.tensor([0, 1]), torch.zeros(3, 256), None, None, None, 0)
    torch.library.opcheck(torch.ops.prunefuse_bench.gather_images.default, arguments)
