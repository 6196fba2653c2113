"""Pictures of what the methods chose: above all what one chose and no other did.

The images are not among the records. They are loaded again by the settings that the run has on record, and shown only
if their content is the one that the run was made with. Nothing is downloaded for a report.
"""

from __future__ import annotations

import base64
import io
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from prunefuse_bench.config import DatasetSpec
from prunefuse_bench.data import ImageDataset
from prunefuse_bench.errors import BadInput
from prunefuse_bench.records import RunFolder
from prunefuse_bench.report.overlap import Purchases, load_purchases, overlaps
from prunefuse_bench.runner import load_images

__all__ = ["Exhibit", "Gallery", "NoGallery", "Pick", "Sprite", "gallery", "overlaps"]

PER_METHOD = 24
"""Pictures of a method at a budget, if there is room."""
TOTAL_BYTES = 400_000
"""Of all pictures of a gallery as they stand in the page."""
FEWEST = 6
"""Rather than fewer pictures of a method, only the last budget is shown."""
LARGEST_SIDE = 48
"""Pixels; larger images are made smaller."""
COLUMNS = 24
"""Pictures side by side in a sprite."""


@dataclass(frozen=True)
class Sprite:
    """Many pictures in one image, in rows of equal tiles; enlarge it without smoothing.

    Attributes:
        uri: ``data:image/png;base64,...``
        columns, rows: of tiles.
        tile_width, tile_height: pixels.
    """

    uri: str
    columns: int
    rows: int
    tile_width: int
    tile_height: int


@dataclass(frozen=True)
class Pick:
    """One sample that a method chose.

    Attributes:
        index: in the pool.
        class_name: as the data set names it: plain text from outside, to be escaped like any other.
        sprite: position in :attr:`Gallery.sprites`; ``column`` and ``row`` of the picture in it.
        others: how many of the other methods had bought it by then.
        compared: how many other methods there are to compare with.
    """

    index: int
    class_name: str
    sprite: int
    column: int
    row: int
    others: int
    compared: int

    @property
    def alt(self) -> str:
        """Text in place of the picture; not escaped."""
        if not self.compared:
            return f"{self.class_name}, image {self.index}"
        who = "no other method" if not self.others else f"{self.others} of {self.compared} other methods"
        return f"{self.class_name}, image {self.index}, chosen by {who}"


@dataclass(frozen=True)
class Exhibit:
    """What one method chose at one budget.

    Attributes:
        labels: the budget, the random start included.
        method: as tables name it.
        bought: samples chosen in this round.
        exclusive: how many of them no other method had bought by then.
        picks: some of them: first those that the fewest other methods have, among equals the method's first choice
            first.
    """

    labels: int
    method: str
    bought: int
    exclusive: int
    picks: tuple[Pick, ...]


@dataclass(frozen=True)
class Gallery:
    """Pictures of one seed.

    Attributes:
        seed: the first that all methods have, unless asked for another.
        methods: compared with each other, in order of the grid.
        exhibits: by budget, then by method.
        sprites: one for each method.
        notes: what a reader must know.
    """

    seed: int
    methods: tuple[str, ...]
    exhibits: tuple[Exhibit, ...]
    sprites: tuple[Sprite, ...]
    notes: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of all pictures as they stand in the page."""
        return sum(len(sprite.uri) for sprite in self.sprites)


@dataclass(frozen=True)
class NoGallery:
    """Why there are no pictures: plain text for a reader, not escaped."""

    reason: str


def gallery(
    run: Path, *, per_method: int = PER_METHOD, seed: int | None = None, total_bytes: int = TOTAL_BYTES
) -> Gallery | NoGallery:
    """What each method of a run chose in the rounds that are reported, what no other chose first.

    Pictures are left out until all of them fit: first colours (to 256 for each method), then pictures of each method
    and budget, then all budgets but the last.

    Args:
        run: folder.
        per_method: pictures of each method and budget, at most.
        seed: None for the first that all methods have.
        total_bytes: of all pictures in the page, at most.

    Returns:
        The pictures, or in words why there are none: no images, data that is not on this machine, or other data than
        the run's.

    Raises:
        BadInput: not the folder of a run, a record that is damaged, or a seed that no cell has.
    """
    purchases = load_purchases(run)
    chosen = _of_one_seed(run, purchases, seed)
    rounds = _rounds(chosen)
    if not rounds:
        return NoGallery("No method has chosen anything yet: there is no whole round beyond the random start.")
    dataset = _load(run, chosen[0])
    if isinstance(dataset, NoGallery):
        return dataset
    ranked = [ranking for number in rounds for ranking in _rank(number, chosen)]
    bytes_each = 0.0
    for numbers, count, colours in _attempts(rounds, per_method):
        shown = [one for one in ranked if one.number in numbers]
        pictures = sum(min(count, len(one.query)) for one in shown)
        if pictures * bytes_each > total_bytes:  # fewer pictures take more bytes each, never less
            continue
        exhibits, sprites = _build(shown, dataset, count, colours)
        size = sum(len(sprite.uri) for sprite in sprites)
        if size <= total_bytes:
            methods = tuple(p.method for p in chosen)
            notes = tuple(_notes(chosen, rounds, numbers, colours))
            return Gallery(chosen[0].seed, methods, exhibits, sprites, notes)
        if colours is not None:
            bytes_each = size / pictures
    return NoGallery(f"The pictures of {len(chosen)} methods do not fit into {total_bytes:,} bytes.")


def _of_one_seed(run: Path, purchases: Sequence[Purchases], seed: int | None) -> list[Purchases]:
    """The cells of the seed asked for, else of the first seed that the most methods have."""
    if seed is not None and all(p.seed != seed for p in purchases):
        known = ", ".join(str(known) for known in sorted({p.seed for p in purchases})) or "none"
        raise BadInput(f"{run}: expected a seed with a whole round ({known}), got {seed}")
    by_seed: dict[int, list[Purchases]] = {}
    for p in purchases:
        if seed in (None, p.seed) and any(_has(p, number) for number in range(len(p.queries))):
            by_seed.setdefault(p.seed, []).append(p)
    return max(by_seed.values(), key=len, default=[])  # the first of the longest


def _has(p: Purchases, number: int) -> bool:
    return len(p.queries) > number and len(p.queries[number]) > 0


def _rounds(chosen: Sequence[Purchases]) -> list[int]:
    """Rounds in which something was chosen; those that are reported, if there are any."""
    numbers = [n for n in range(max((len(p.queries) for p in chosen), default=0)) if any(_has(p, n) for p in chosen)]
    reported = set(chosen[0].settings["task"]["report_rounds"]) if chosen else set()
    return [number for number in numbers if number in reported] or numbers


def _load(run: Path, cell: Purchases) -> ImageDataset | NoGallery:
    """The data set, if it is on this machine and the one that the cell was run on."""
    recorded = cell.settings["task"]["dataset"]
    if len(recorded.get("image", ())) != 3:
        return NoGallery("The samples of this task are no images.")
    if recorded["image"][0] not in (1, 3):
        return NoGallery(f"Images of {recorded['image'][0]} channels cannot be shown.")
    try:
        spec = DatasetSpec.model_validate(RunFolder(run).read_suite()["suite"]["task"]["dataset"])
        if spec.name == "image-archive" and spec.path is None:
            return NoGallery("The records do not say where the images are: results that others publish come without.")
        dataset = load_images(spec, download=False)
    except (BadInput, OSError, ValueError, KeyError, TypeError) as error:
        return NoGallery(f"The images could not be loaded again: {error}")
    reason = _difference(dataset, recorded)
    return NoGallery(reason) if reason else dataset


def _difference(dataset: ImageDataset, recorded: Mapping[str, Any]) -> str | None:
    """Why a data set is not the one on record; what a record claims of it may not fit its own hash."""
    if (found := dataset.sha256()) != recorded["sha256"]:
        return (
            f"The data set on this machine is not the one of the run: expected content with SHA-256 "
            f"{recorded['sha256'][:12]}, got {found[:12]}."
        )
    size, shape = len(dataset.train_labels), list(dataset.train_images.shape[1:])
    if (size, shape) != (recorded["train_size"], list(recorded["image"])):
        return (
            f"The data set on this machine has {size:,} images {shape}, and the run is of another size by its records."
        )
    return None


def _attempts(rounds: Sequence[int], per_method: int) -> Iterator[tuple[Sequence[int], int, int | None]]:
    """(rounds, pictures of each method and budget, colours or None for all of them), from best to smallest."""
    yield rounds, per_method, None
    for numbers, fewest in ((rounds, min(FEWEST, per_method)), (rounds[-1:], 1)):
        count = per_method
        while count >= fewest:
            yield numbers, count, 256
            count = min(count - 1, math.floor(count * 0.8))


@dataclass(frozen=True)
class _Ranking:
    """A query in the order in which it is shown, and how many of the ``compared`` other methods have each sample."""

    number: int
    cell: Purchases
    query: NDArray[numpy.int64]
    others: NDArray[numpy.int64]
    compared: int


def _rank(number: int, chosen: Sequence[Purchases]) -> Iterator[_Ranking]:
    """Of each method what the fewest others have first."""
    there = [p for p in chosen if len(p.queries) > number]
    bought, holders = numpy.unique(numpy.concatenate([numpy.unique(p.by(number)) for p in there]), return_counts=True)
    for p in there:
        if _has(p, number):
            others = holders[numpy.searchsorted(bought, p.queries[number])] - 1
            order = numpy.argsort(others, kind="stable")
            yield _Ranking(number, p, p.queries[number][order], others[order], len(there) - 1)


def _build(
    ranked: Sequence[_Ranking], dataset: ImageDataset, count: int, colours: int | None
) -> tuple[tuple[Exhibit, ...], tuple[Sprite, ...]]:
    """One sprite for each method, with ``count`` pictures of each of its rounds."""
    by_method: dict[str, list[_Ranking]] = {}
    for one in ranked:
        by_method.setdefault(one.cell.method, []).append(one)
    sprites, exhibits = [], {}
    for position, own in enumerate(by_method.values()):
        sprites.append(_sprite(dataset, numpy.concatenate([one.query[:count] for one in own]), colours))
        tiles = itertools.count()
        for one in own:
            picks = []
            for index, others in zip(one.query[:count].tolist(), one.others[:count].tolist(), strict=True):
                row, column = divmod(next(tiles), COLUMNS)
                name = dataset.classes[int(dataset.train_labels[index])]
                picks.append(Pick(index, name, position, column, row, others, one.compared))
            exhibits[one.number, one.cell.method] = Exhibit(
                one.cell.label_counts[one.number],
                one.cell.method,
                len(one.query),
                int((one.others == 0).sum()),
                tuple(picks),
            )
    return tuple(exhibits[one.number, one.cell.method] for one in ranked), tuple(sprites)


def _sprite(dataset: ImageDataset, indices: NDArray[numpy.int64], colours: int | None) -> Sprite:
    """The images of these indices in rows."""
    _, channels, height, width = dataset.train_images.shape
    scale = min(1.0, LARGEST_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    columns, rows = min(COLUMNS, len(indices)), math.ceil(len(indices) / COLUMNS)
    sheet = Image.new("L" if channels == 1 else "RGB", (columns * size[0], rows * size[1]))
    chosen = dataset.train_images[torch.from_numpy(indices)]
    images = chosen if isinstance(chosen, Tensor) else chosen.read()
    for tile, image in enumerate(images):
        pixels = image.permute(1, 2, 0).contiguous().numpy()
        picture = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
        if scale < 1:
            picture = picture.resize(size, Image.Resampling.LANCZOS)
        sheet.paste(picture, (tile % COLUMNS * size[0], tile // COLUMNS * size[1]))
    if colours is not None and channels == 3:
        sheet = sheet.quantize(colours, Image.Quantize.FASTOCTREE)
    stream = io.BytesIO()
    sheet.save(stream, "PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
    return Sprite(uri, columns, rows, *size)


def _notes(
    chosen: Sequence[Purchases], rounds: Sequence[int], shown: Sequence[int], colours: int | None
) -> Iterator[str]:
    height, width = chosen[0].settings["task"]["dataset"]["image"][1:]
    if max(height, width) > LARGEST_SIDE:
        yield f"The images of {width}x{height} pixels are shown smaller."
    if colours is not None and chosen[0].settings["task"]["dataset"]["image"][0] == 3:
        yield f"Colours are reduced to {colours} for each method."
    if len(shown) < len(rounds):
        yield "Only the last budget is shown: the pictures of all budgets are too many for a page."
