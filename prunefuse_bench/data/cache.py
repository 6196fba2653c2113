"""Where decoded data is kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """The folder for decoded and downloaded data: ``PRUNEFUSE_BENCH_CACHE`` if set, else the user's cache folder."""
    given = os.environ.get("PRUNEFUSE_BENCH_CACHE")
    folder = Path(given) if given else Path(platformdirs.user_cache_dir("prunefuse-bench"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
