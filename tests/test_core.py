from __future__ import annotations

import prunefuse_bench
from prunefuse_bench import _host, ops


def test_the_core_says_how_it_was_built() -> None:
    info = _host.build_info()
    assert info["version"] == prunefuse_bench.__version__
    assert info["compiler"]
    assert info["cuda"] == ops.HAS_CUDA_KERNELS
