"""Where decoded data is kept between runs."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import platformdirs

__all__ = ["cache_folder", "sha256_of_file"]


def cache_folder() -> Path:
    """The folder for decoded and downloaded data: ``PRUNEFUSE_BENCH_CACHE`` if set, else the user's cache folder."""
    given = os.environ.get("PRUNEFUSE_BENCH_CACHE")
    folder = Path(given) if given else Path(platformdirs.user_cache_dir("prunefuse-bench"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def sha256_of_file(file: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
