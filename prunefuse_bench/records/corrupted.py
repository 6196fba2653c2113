"""Accuracies on corrupted test images, as data frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunefuse_bench.records.frames import IDENTITY, begun_cell_rows, frame_of_runs
from prunefuse_bench.records.store import CellStore

if TYPE_CHECKING:
    import pandas

__all__ = ["load_corruptions"]

COLUMNS = (*IDENTITY, "labels", "network", "corruption", "severity", "accuracy")


def load_corruptions(path: str | Path | Iterable[str | Path]) -> pandas.DataFrame:
    """Accuracy on corrupted test images, of one or more run folders (the paper's section 9.5 and Table 17).

    Runs whose ``task.corruptions`` names some have it; nothing is chosen by it. Corruptions whose names begin with
    ``computed:`` were made by this package and are not CIFAR-10-C, also where the rest of the name is alike.

    Returns:
        One row per network, corruption and severity, none if no run recorded it. Columns: run, cell, method, seed,
        labels; network (``target`` or ``selector``); corruption; severity (1 to 5); accuracy (0 to 1).

    Raises:
        BadInput: not the folder of a run.
    """
    return frame_of_runs(path, begun_cell_rows(_rows), COLUMNS)


def _rows(cell: CellStore) -> Iterator[dict[str, Any]]:
    for record in cell.read_rounds():
        for network in ("target", "selector"):
            found = (record[network] or {}).get("corruptions", {"accuracies": {}})
            for name, accuracies in found["accuracies"].items():
                for severity, accuracy in enumerate(accuracies, start=1):
                    yield {
                        "labels": record["labels"],
                        "network": network,
                        "corruption": name,
                        "severity": severity,
                        "accuracy": accuracy,
                    }
