"""A program: chooses from a stream by Ray Data, and prints what it found and what memory it took, as JSON.

    python tests/ray_stream.py equal|large READERS SCORERS FOLDER

``equal``: 100,000 images, by Ray and in this process. ``large``: 2,000,000 images, and the memory of all processes
together, shared pages once, when two shards are done and at most.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import psutil
import ray
import torch
from made_stream import Brightness, MadeShard

from prunefuse_bench.streaming import score_stream
from prunefuse_bench.streaming.ray_engine import RayEngine

ROWS, BATCH, K = 20_000, 2500, 1000


def shards(count: int) -> list[MadeShard]:
    return [MadeShard(number * ROWS, ROWS) for number in range(count)]


def equal(engine: RayEngine, folder: Path) -> dict[str, object]:
    found = score_stream(shards(5), Brightness(50), K, folder / "ray", batch_size=BATCH, engine=engine)
    expected = score_stream(shards(5), Brightness(50), K, folder / "here", batch_size=BATCH)
    same = [torch.equal(getattr(found, name), getattr(expected, name)) for name in ("shards", "rows", "scores")]
    return {"samples": [found.samples, expected.samples], "equal": all(same)}


def large(engine: RayEngine, folder: Path) -> dict[str, object]:
    memory: list[int] = []

    def note_memory(done: int, total: int) -> None:
        family = [psutil.Process(), *psutil.Process().children(recursive=True)]
        memory.append(sum(process.memory_full_info().pss for process in family))

    start = time.perf_counter()
    choice = score_stream(shards(100), Brightness(), K, folder, batch_size=BATCH, engine=engine, progress=note_memory)
    seconds = time.perf_counter() - start
    return {"samples": choice.samples, "memory": [memory[1], max(memory)], "seconds": seconds}


if __name__ == "__main__":
    what, readers, scorers, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    environment = {"env_vars": {"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"}}
    # A processor for each, as Ray keeps a worker ready for each, and each has torch in memory.
    ray.init(
        num_cpus=readers + scorers,
        object_store_memory=80 * 2**20,
        include_dashboard=False,
        runtime_env=environment,
        log_to_driver=False,
    )
    told = {"equal": equal, "large": large}[what](RayEngine(readers, scorers), folder)
    ray.shutdown()
    print(json.dumps(told))
