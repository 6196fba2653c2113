"""Runs as data frames."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunefuse_bench.cost.ledger import SELECTOR_STAGES
from prunefuse_bench.records.store import CellStore, RunFolder

if TYPE_CHECKING:
    import pandas

__all__ = ["load_results"]


def load_results(path: str | Path | Iterable[str | Path]) -> pandas.DataFrame:
    """All results of one or more run folders, one row per cell and budget.

    A cell without a whole round has one row of status ``missing`` or ``failed`` with no numbers: nothing is dropped.

    Returns:
        Columns: run, cell, dataset, model, method, seed, status (finished, unfinished, failed or missing), reason,
        labels, budget (share of the pool), accuracy and loss of the target, selector_accuracy, selector_parameters,
        target_parameters, and

        - tied: how many samples of the budget's query were drawn by lot among equal scores;
        - selector_seconds: all that was spent to choose the labels of this budget (selectors trained on the earlier
          budgets, scoring, ranking, synchronisation; in the coreset protocol the selector's training on the whole pool,
          which cells of a run share and which is charged to each of them, scoring, and the ranking for this budget);
        - target_seconds: all else that the target of this budget alone needs (its selector's training where it needs
          one, fusion, training);
        - total_seconds: all stages of the cell up to here, with the targets of all reported budgets and evaluation;
        - peak_memory_bytes: largest resident memory of the process up to here;
        - epochs, steps: of the target's training.

    Raises:
        BadInput: not the folder of a run.
    """
    import pandas

    folders = [path] if isinstance(path, str | Path) else list(path)
    rows = itertools.chain.from_iterable(_run_rows(RunFolder(Path(folder))) for folder in folders)
    return pandas.DataFrame(list(rows), columns=list(COLUMNS))


COLUMNS = (
    "run", "cell", "dataset", "model", "method", "seed", "status", "reason", "labels", "budget", "accuracy", "loss",
    "selector_accuracy", "selector_parameters", "target_parameters", "selector_seconds", "target_seconds",
    "total_seconds", "peak_memory_bytes", "epochs", "steps", "tied",
)  # fmt: skip


def _run_rows(run: RunFolder) -> Iterable[dict[str, Any]]:
    suite = run.read_suite()
    for cell in suite["cells"]:
        row = {"run": str(run.folder), "cell": cell["id"], "method": cell["method"], "seed": cell["seed"]}
        row |= {"dataset": suite["dataset"], "model": suite["model"]}
        store = run.open_cell(cell["id"])
        if store is None:
            yield {**row, "status": "missing", "reason": "not run"}
        else:
            yield from _cell_rows(row, store, cell["target_needs_selector"])


def _cell_rows(row: dict[str, Any], store: CellStore, target_needs_selector: bool) -> Iterable[dict[str, Any]]:
    task, failure, rounds = store.settings["task"], store.failure, store.read_rounds()
    row |= {
        "status": "failed" if failure else "finished" if store.finished else "unfinished" if rounds else "missing",
        "reason": failure["reason"] if failure else "",
    }
    if not any(record["target"] for record in rounds):
        yield row
    is_coreset = store.settings["protocol"] == "coreset"
    selector_spent = total = 0.0
    shared: dict[str, float] = {}
    for record in rounds:
        seconds = {name: cost["seconds"] for name, cost in record["stages"].items()}
        # To choose this round's labels: scoring and ranking now, and the selectors of the rounds before.
        choosing = sum(seconds.get(stage, 0.0) for stage in ("selector/infer", "selector/rank"))
        updating = sum(seconds.get(stage, 0.0) for stage in SELECTOR_STAGES) - choosing
        finishing = seconds.get("target/start", 0.0) + seconds.get("target/train", 0.0)
        total += sum(seconds.values())
        selector_spent += choosing
        if is_coreset:
            # One selector and one scoring for all budgets (scored anew after an interruption), and a ranking for each.
            shared |= {stage: seconds[stage] for stage in SELECTOR_STAGES if stage in seconds}
            selector_spent, updating = sum(shared.values()), 0.0
        target, selector = record["target"], record["selector"]
        if target is not None:
            yield {
                **row,
                "labels": record["labels"],
                "budget": record["labels"] / task["dataset"]["train_size"],
                "accuracy": target["accuracy"],
                "loss": target["loss"],
                "selector_accuracy": selector["accuracy"] if selector else None,
                "selector_parameters": selector["parameters"] if selector else None,
                "target_parameters": target["parameters"],
                "selector_seconds": selector_spent,
                "target_seconds": finishing + (updating if target_needs_selector else 0.0),
                "total_seconds": total,
                "peak_memory_bytes": record["peak_memory_bytes"],
                "epochs": target["fit"]["epochs"],
                "steps": target["fit"]["steps"],
                "tied": record["tied"],
            }
        selector_spent += updating
