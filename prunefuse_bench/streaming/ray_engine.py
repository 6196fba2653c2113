"""Shards that are read and scored by the workers of a Ray cluster, as one stream of Ray Data.

Readers decode on processors, scorers may have a GPU each, and only names and scores come back. Ray Data holds readers
up when scorers are slower, so what waits between them is bounded by its object store.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from numpy.typing import NDArray

from prunefuse_bench.errors import BadInput, CellFailed
from prunefuse_bench.streaming.scoring import Partial, Scorer, add_batch, close
from prunefuse_bench.streaming.selection import Shortlist, names_of
from prunefuse_bench.streaming.shards import Shard

__all__ = ["RayEngine"]

Columns = dict[str, NDArray[Any]]
BATCHES_BACK = 64
"""Of names and scores, that the driver looks at together."""


@dataclass(frozen=True)
class RayEngine:
    """An engine for :func:`prunefuse_bench.streaming.score_stream`; needs the extra ``ray``.

    Uses the cluster that ``ray.init`` has joined; without one, Ray starts one on this machine.

    Attributes:
        readers: processes that read and decode, one processor each; 0 to have the scorers read for themselves, which
            takes less memory and copies nothing, where no GPU would wait for the reading.
        scorers: processes that score.
        gpus: of each scorer.
    """

    readers: int = 1
    scorers: int = 1
    gpus: float = 0

    def __call__(
        self, shards: Sequence[tuple[int, Shard]], scorer: Scorer, k: int, seed: int, batch_size: int
    ) -> Iterator[Partial]:
        """Partial results, each as soon as all samples of its shard are scored.

        Raises:
            BadInput: Ray is not installed.
            CellFailed: a score is NaN, or a shard has another number of samples than it says.
        """
        try:
            ray_data: Any = importlib.import_module("ray.data")
        except ImportError as error:
            raise BadInput(f"Ray Data cannot be used ({error}): pip install 'prunefuse-bench[ray]'") from None
        by_number = dict(shards)
        lengths = {number: len(shard) for number, shard in shards}
        for number in [number for number, length in lengths.items() if length == 0]:
            yield close(number, Shortlist(k, seed), 0)
        stream = ray_data.from_items(
            [{"shard": number} for number, length in lengths.items() if length], override_num_blocks=len(shards)
        )
        if self.readers:
            stream = stream.map_batches(
                _Reader, fn_constructor_args=(by_number, batch_size), batch_size=1, concurrency=self.readers
            ).map_batches(
                _Scorer,
                fn_constructor_args=(scorer,),
                batch_size=batch_size,
                concurrency=self.scorers,
                num_gpus=self.gpus,
            )
        else:
            stream = stream.map_batches(
                _ReadingScorer,
                fn_constructor_args=(by_number, batch_size, scorer),
                batch_size=1,
                concurrency=self.scorers,
                num_gpus=self.gpus,
            )
        waiting: dict[int, Shortlist] = {}
        seen: dict[int, int] = {}
        for columns in stream.iter_batches(batch_size=BATCHES_BACK * batch_size, batch_format="numpy"):
            for number in numpy.unique(columns["shard"]).tolist():
                of_shard = columns["shard"] == number
                rows = torch.from_numpy(columns["row"][of_shard].copy())
                scores = torch.from_numpy(columns["score"][of_shard].copy())
                best = waiting.setdefault(number, Shortlist(k, seed))
                add_batch(best, by_number[number].name, rows, scores, names_of(number, rows))
                seen[number] = seen.get(number, 0) + len(rows)
                if seen[number] == lengths[number]:
                    yield close(number, waiting.pop(number), seen[number])
        for number in waiting:
            raise CellFailed(
                f"{by_number[number].name}: expected {lengths[number]} samples, got {seen[number]}: it changed while "
                "it was read"
            )


class _Reader:
    """Shards to batches of samples with their names."""

    def __init__(self, shards: dict[int, Shard], batch_size: int) -> None:
        self._shards, self._batch_size = shards, batch_size

    def __call__(self, columns: Columns) -> Iterator[Columns]:
        for number in columns["shard"].tolist():
            row = 0
            for samples in self._shards[number].batches(self._batch_size):
                rows = numpy.arange(row, row + len(samples))
                yield {"shard": numpy.full(len(rows), number), "row": rows, "sample": samples.numpy()}
                row += len(rows)


class _Scorer:
    """Batches of samples to scores with the same names."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    def __call__(self, columns: Columns) -> Columns:
        scores = self._scorer(torch.from_numpy(columns["sample"].copy()))
        return {"shard": columns["shard"], "row": columns["row"], "score": scores.float().numpy()}


class _ReadingScorer:
    """Shards to scores, in one process."""

    def __init__(self, shards: dict[int, Shard], batch_size: int, scorer: Scorer) -> None:
        self._reader, self._scorer = _Reader(shards, batch_size), _Scorer(scorer)

    def __call__(self, columns: Columns) -> Iterator[Columns]:
        for batch in self._reader(columns):
            yield self._scorer(batch)
