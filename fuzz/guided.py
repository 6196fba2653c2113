"""One harness under atheris: ``python -m fuzz.guided NAME CORPUS [options of libFuzzer]``; see ``python -m fuzz``."""

from __future__ import annotations

import hashlib
import importlib
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

INSTRUMENTED = "prunefuse_bench", "yaml", "zipfile", "json", "PIL"
"""Packages whose branches are counted: ours, and those in Python that read for us."""
LOADED_BEFORE = "numpy", "torch", "torchvision", "sklearn.datasets", "pandas", "plotly", "matplotlib.figure"
"""Large packages that would take minutes to instrument."""


def main() -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris

    name, corpus, *options = sys.argv[1:]
    for package in LOADED_BEFORE:
        importlib.import_module(package)
    for module in [one for one in sys.modules if one.partition(".")[0] in INSTRUMENTED]:
        del sys.modules[module]  # what came with the packages above is loaded once more, to be counted
    with atheris.instrument_imports(include=list(INSTRUMENTED)):
        harness = importlib.import_module(f"fuzz.{name}")
    folder = Path(corpus)
    folder.mkdir(parents=True, exist_ok=True)
    for seed in harness.seeds():
        (folder / f"seed-{hashlib.sha256(seed).hexdigest()[:16]}").write_bytes(seed)
    warnings.simplefilter("ignore")
    test_one: Callable[[bytes], Any] = harness.test_one
    atheris.Setup([sys.argv[0], corpus, *options], test_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
