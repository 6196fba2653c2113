"""How targets converge, as data frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunefuse_bench.records.frames import IDENTITY, begun_cell_rows, frame_of_runs
from prunefuse_bench.records.store import CellStore

if TYPE_CHECKING:
    import pandas

__all__ = ["load_curves"]

COLUMNS = (*IDENTITY, "labels", "start", "epoch", "accuracy", "selector_accuracy")
STARTS = {"Fresh": "fresh", "Fused": "fused", "TrainedSelector": "fresh"}


def load_curves(path: str | Path | Iterable[str | Path]) -> pandas.DataFrame:
    """Test accuracy of targets by epoch, of one or more run folders (the paper's Figure 4).

    Runs of the setting ``task.accuracy_by_epoch`` have it; nothing is chosen by it.

    Returns:
        One row per target and epoch, none if no run recorded it. Columns: run, cell, method, seed, labels; start (how
        the target began: ``fresh`` or ``fused``, with ``, distilled`` if it learns from its selector too; a part of the
        user's own by its name); epoch (0 before the first step: of a fused start, the fused network before any
        fine-tuning); accuracy (0 to 1); selector_accuracy, of the trained selector of the same round, the one that a
        fused target began from (the same in every row of a target; NaN for a method without a selector).

    Raises:
        BadInput: not the folder of a run.
    """
    return frame_of_runs(path, begun_cell_rows(_rows), COLUMNS)


def _rows(cell: CellStore) -> Iterator[dict[str, Any]]:
    start = _describe_start(cell.settings["recipe"]["target_start"])
    for record in cell.read_rounds():
        selector = (record["selector"] or {}).get("accuracy")
        for epoch, accuracy in enumerate((record["target"] or {}).get("accuracy_by_epoch", ())):
            yield {
                "labels": record["labels"],
                "start": start,
                "epoch": epoch,
                "accuracy": accuracy,
                "selector_accuracy": selector,
            }


def _describe_start(settings: Mapping[str, Any]) -> str:
    kind = STARTS.get(settings["type"], settings["type"])
    return f"{kind}, distilled" if settings.get("distillation") else kind
