"""Score a pool shard by shard, keep the k best, and be able to go on after a stop.

For each shard that is done there is one small file, whole or not at all: those of its samples that may be among the k
best, with their scores. Going on reads these files and scores the other shards; the result is the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from prunefuse_bench.atomic import make_folder, write_atomically, write_json
from prunefuse_bench.errors import BadInput, CellFailed
from prunefuse_bench.ops import NotRankable
from prunefuse_bench.streaming.selection import Shortlist, names_of, parts_of
from prunefuse_bench.streaming.shards import Shard

__all__ = ["Engine", "Partial", "Scorer", "StreamChoice", "score_here", "score_stream"]

BATCH = 256


class Scorer(Protocol):
    """Tells how much a sample is wanted."""

    @property
    def fingerprint(self) -> str:
        """Tells one way of scoring from another; a stream that is gone on with must be scored in one way."""

    def __call__(self, samples: Tensor) -> Tensor:
        """uint8 [B, C, H, W], or of texts [B, L] -> float [B]; higher is chosen first."""


@dataclass(frozen=True)
class Partial:
    """Of one shard, all samples that may be among the k best.

    Attributes:
        shard: its number.
        rows: int64 [n], best first.
        scores: float32 [n].
        samples: how many it has in all.
    """

    shard: int
    rows: Tensor
    scores: Tensor
    samples: int


@dataclass(frozen=True)
class StreamChoice:
    """The k best of a stream.

    Attributes:
        shards: int64 [k], best first: in which shard each is, a position in the shards' order of names.
        rows: int64 [k], and where there.
        scores: float32 [k].
        names: of all shards, in that order.
        samples: how many were scored, in this call and in those before.
        resumed: shards that were done already.
        damaged: files of shards that were done but could not be read; they were scored again.
    """

    shards: Tensor
    rows: Tensor
    scores: Tensor
    names: tuple[str, ...]
    samples: int
    resumed: int
    damaged: tuple[Path, ...]


Engine = Callable[[Sequence[tuple[int, Shard]], Scorer, int, int, int], Iterable[Partial]]
"""(numbered shards, scorer, k, seed, batch size) -> their partial results, in any order."""


def score_here(
    shards: Sequence[tuple[int, Shard]], scorer: Scorer, k: int, seed: int, batch_size: int
) -> Iterator[Partial]:
    """The engine of one process: one shard after another."""
    for number, shard in shards:
        best, samples = Shortlist(k, seed), 0
        for batch in shard.batches(batch_size):
            rows = torch.arange(samples, samples + len(batch))
            add_batch(best, shard.name, rows, scorer(batch), names_of(number, rows))
            samples += len(batch)
        yield close(number, best, samples)


def add_batch(best: Shortlist, shard: str, rows: Tensor, scores: Tensor, names: Tensor) -> None:
    """Add scores to a shortlist; CellFailed names the sample whose score is no number."""
    if scores.shape != rows.shape:
        raise CellFailed(f"{shard}: expected one score for each of {len(rows)} samples, got {list(scores.shape)}")
    try:
        best.add(scores, names)
    except NotRankable as error:
        raise CellFailed(f"{shard}, row {int(rows[error.row])}: the score is NaN and cannot be ranked") from None


def close(number: int, best: Shortlist, samples: int) -> Partial:
    """What a shortlist of one shard has found."""
    names, scores = best.best()
    return Partial(number, parts_of(names)[1], scores, samples)


def score_stream(
    shards: Iterable[Shard],
    scorer: Scorer,
    k: int,
    out: Path,
    *,
    seed: int = 0,
    batch_size: int = BATCH,
    engine: Engine = score_here,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> StreamChoice:
    """The k samples of a stream with the highest scores.

    Memory is O(k) and one batch. Of equal scores those are chosen that a lot puts first, see
    :mod:`prunefuse_bench.streaming.selection`.

    Args:
        shards: of any order; results are the same.
        k: fewer are chosen if the stream has fewer samples.
        out: a folder for what is done. If it holds a part of the very same work, that is gone on with.
        seed: of the lot.
        engine: who scores, such as :class:`prunefuse_bench.streaming.ray_engine.RayEngine`.
        progress: told of (shards done, shards in all).

    Raises:
        BadInput: two shards of one name, none, or a folder that holds the progress of other work.
        CellFailed: a score is NaN; the sample is named.
        CannotWrite: progress cannot be stored.
    """
    ordered = sorted(shards, key=lambda shard: shard.name)
    names = tuple(shard.name for shard in ordered)
    if not names or len(set(names)) != len(names):
        raise BadInput(f"shards: expected at least one and each name once, got {len(names)} of {len(set(names))} names")
    if k < 0:
        raise BadInput(f"k: expected 0 or more, got {k}")
    folder = _Progress(out)
    folder.begin(ordered, scorer.fingerprint, k, seed)
    best, samples, done, damaged = Shortlist(k, seed), 0, 0, list[Path]()
    to_do: list[tuple[int, Shard]] = []
    for number, shard in enumerate(ordered):
        try:
            partial = folder.read(number)
        except ValueError:
            damaged.append(folder.file(number))
            partial = None
        if partial is None:
            to_do.append((number, shard))
            continue
        best.add(partial.scores, names_of(number, partial.rows))
        samples, done = samples + partial.samples, done + 1
    resumed = done
    progress(done, len(ordered))
    for partial in engine(to_do, scorer, k, seed, batch_size) if to_do else ():
        best.add(partial.scores, names_of(partial.shard, partial.rows))
        folder.write(_needed(partial, best))
        samples, done = samples + partial.samples, done + 1
        progress(done, len(ordered))
    if done != len(ordered):
        raise CellFailed(f"expected the results of {len(ordered)} shards, got {done}: the engine left some out")
    chosen, scores = best.best()
    where, rows = parts_of(chosen)
    return StreamChoice(where, rows, scores, names, samples, resumed, tuple(damaged))


def _needed(partial: Partial, best: Shortlist) -> Partial:
    """Without what is below the k-th score so far: it can be among the k best of no larger stream."""
    _, scores = best.best()
    if len(scores) < best.k or not len(scores):
        return partial
    kept = partial.scores >= scores[-1]
    return Partial(partial.shard, partial.rows[kept], partial.scores[kept], partial.samples)


class _Progress:
    """The files of the shards that are done, and what they are about."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self, shards: Sequence[Shard], scorer: str, k: int, seed: int) -> None:
        work = {
            "k": k,
            "seed": seed,
            "scorer": scorer,
            "shards": [[shard.name, shard.fingerprint] for shard in shards],
        }
        make_folder(self.folder)
        file = self.folder / "stream.json"
        if not file.exists():
            write_json(file, work)
            return
        try:
            found: Any = json.loads(file.read_text())
            different = [key for key, value in work.items() if found.get(key) != value]
        except (OSError, ValueError, AttributeError) as error:
            raise BadInput(f"{file}: expected what a stream is about, but it is damaged ({error}); remove it") from None
        if different:
            raise BadInput(
                f"{self.folder} holds the progress of a stream with another {' and '.join(different)}: give another "
                "folder, or remove this one to begin anew"
            )

    def file(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:06d}.safetensors"

    def write(self, partial: Partial) -> None:
        tensors = {"rows": partial.rows.contiguous(), "scores": partial.scores.contiguous()}
        metadata = {"samples": str(partial.samples), "sha256": _digest(partial)}
        packed = safetensors.torch.save(tensors, metadata)
        write_atomically(self.file(partial.shard), lambda stream: stream.write(packed))

    def read(self, shard: int) -> Partial | None:
        """None if the shard is not done; ValueError if its file is damaged."""
        file = self.file(shard)
        if not file.exists():
            return None
        try:
            with safetensors.safe_open(file, framework="pt") as opened:
                metadata = opened.metadata() or {}
                partial = Partial(
                    shard, opened.get_tensor("rows"), opened.get_tensor("scores"), int(metadata.get("samples", -1))
                )
        except (OSError, safetensors.SafetensorError) as error:
            raise ValueError(f"{file}: {error}") from None
        if metadata.get("sha256") != _digest(partial):
            raise ValueError(f"{file}: the checksum is wrong")
        return partial


def _digest(partial: Partial) -> str:
    digest = hashlib.sha256(f"{partial.shard} {partial.samples} {len(partial.rows)} ".encode())
    digest.update(partial.rows.contiguous().numpy().tobytes())
    digest.update(partial.scores.contiguous().numpy().tobytes())
    return digest.hexdigest()
