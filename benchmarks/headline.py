"""Greedy k-centers at the size of ImageNet: `python benchmarks/headline.py` (about 3 GB of memory, some minutes).

1,281,167 points of 512 dimensions (synthetic ReLU features on a 32-dimensional manifold), 20,000 picks; the usual loop
is timed over 50 picks, which must be the same points, and its whole time extrapolated from them.
"""

from __future__ import annotations

import sys
import time

import torch
from bench_core import plain_loop
from real_features import relu_features

from prunefuse_bench import ops

COUNT, DIMENSIONS, MANIFOLD, PICKS, LOOP_PICKS = 1_281_167, 512, 32, 20_000, 50


def main() -> None:
    """Prints one line per measurement."""
    features = relu_features(COUNT, DIMENSIONS, MANIFOLD)
    first = torch.tensor([0])
    print(f"{torch.get_num_threads()} threads, {ops.instruction_set()}", flush=True)
    begin = time.perf_counter()
    chosen = plain_loop(features, first, 1)
    start = time.perf_counter() - begin
    begin = time.perf_counter()
    chosen = plain_loop(features, first, 1 + LOOP_PICKS)
    per_pick = (time.perf_counter() - begin - start) / LOOP_PICKS
    loop = start + per_pick * (PICKS - 1)
    print(f"plain loop: {1e3 * per_pick:.1f} ms per pick, {loop:.0f} s for {PICKS:,} (extrapolated)", flush=True)
    begin = time.perf_counter()
    indices, radii = ops.greedy_kcenters(features, PICKS, first)
    seconds = time.perf_counter() - begin
    print(f"ops.greedy_kcenters: {seconds:.1f} s, {loop / seconds:.1f} times faster", flush=True)
    print(f"radius of the first pick {radii[0]:.3f}, of the last {radii[-1]:.3f}")
    same = indices[: len(chosen)].tolist() == chosen
    print(f"the loop's {len(chosen)} picks are {'the same' if same else 'NOT the same'}")
    sys.exit(not same)


if __name__ == "__main__":
    main()
