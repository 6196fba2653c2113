"""Runs as data frames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from prunefuse_bench.cost.ledger import SELECTOR_STAGES
from prunefuse_bench.data.corruptions import describe_corruptions
from prunefuse_bench.records.frames import frame_of_runs
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
        - total_seconds: all stages of the cell up to here, with the targets of all reported budgets, evaluation and
          diagnoses;
        - selector_cpu_seconds, target_cpu_seconds, total_cpu_seconds: of all threads of the process, same stages;
        - selector_flops, target_flops, total_flops: counted on the real graph, two per multiply-add;
        - selector_paper_flops, target_paper_flops, total_paper_flops: by the paper's rule (6 and 2 per parameter, input
          value and sample), for the same passes; compare them with the paper's tables and with nothing else;
        - unaccounted_seconds: up to here, in no stage;
        - total_joules: of processor and memory or of the device, or None where the machine cannot tell;
        - peak_memory_bytes: largest resident memory of the process up to here;
        - epochs, steps: of the target's training, as many as were run; stopped: why it ended before its schedule
          (``stop_after`` or ``plateau``), None if it did not;
        - pruning_ratio, pruning_ratio_reached: the share of the channels that was to be removed from a pruned selector,
          and the share that was; pruning_parameters_before, pruning_parameters_after, pruning_flops_before,
          pruning_flops_after: parameters, and counted FLOPs of one sample's forward pass, of the network before and
          after. None for other selectors;
        - corrupted_accuracy: of the target, mean over all corruptions and severities (:func:`load_corruptions` has
          each), and corruptions, in words which they are; both None unless ``task.corruptions`` names some. What is
          computed by this package is not CIFAR-10-C, and the two do not compare.

    Raises:
        BadInput: not the folder of a run.
    """
    return frame_of_runs(path, _run_rows, COLUMNS)


QUANTITIES = ("seconds", "cpu_seconds", "flops", "paper_flops")
NOTHING: Mapping[str, float | None] = MappingProxyType(dict.fromkeys((*QUANTITIES, "joules"), 0.0))
CHOOSING_STAGES = ("selector/infer", "selector/rank")

COLUMNS = (
    "run", "cell", "dataset", "model", "method", "seed", "status", "reason", "labels", "budget", "accuracy", "loss",
    "selector_accuracy", "selector_parameters", "target_parameters",
    *(f"{who}_{what}" for what in QUANTITIES for who in ("selector", "target", "total")),
    "unaccounted_seconds", "total_joules", "peak_memory_bytes", "epochs", "steps", "stopped", "tied",
    "pruning_ratio", "pruning_ratio_reached", "pruning_parameters_before", "pruning_parameters_after",
    "pruning_flops_before", "pruning_flops_after",
    "corrupted_accuracy", "corruptions",
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
    selector_spent, total, unaccounted = dict(NOTHING), dict(NOTHING), 0.0
    shared: dict[str, Any] = {}
    for record in rounds:
        stages = record["stages"]
        # To choose this round's labels: scoring and ranking now, and the selectors of the rounds before.
        choosing = _spent(stages, CHOOSING_STAGES)
        updating = _spent(stages, [stage for stage in SELECTOR_STAGES if stage not in CHOOSING_STAGES])
        finishing = _spent(stages, ("fuse", "target/train"))
        total = _sum(total, _spent(stages, stages))
        unaccounted += record["unaccounted_seconds"]
        selector_spent = _sum(selector_spent, choosing)
        if is_coreset:
            # One selector and one scoring for all budgets (scored anew after an interruption), and a ranking for each.
            shared |= {stage: stages[stage] for stage in SELECTOR_STAGES if stage in stages}
            selector_spent, updating = _spent(shared, shared), dict(NOTHING)
        target, selector = record["target"], record["selector"]
        if target is not None:
            to_target = _sum(finishing, updating) if target_needs_selector else finishing
            spent = {"selector": selector_spent, "target": to_target, "total": total}
            yield {
                **row,
                "labels": record["labels"],
                "budget": record["labels"] / task["dataset"]["train_size"],
                "accuracy": target["accuracy"],
                "loss": target["loss"],
                "selector_accuracy": selector["accuracy"] if selector else None,
                "selector_parameters": selector["parameters"] if selector else None,
                "target_parameters": target["parameters"],
                **{f"{who}_{what}": amounts[what] for what in QUANTITIES for who, amounts in spent.items()},
                "unaccounted_seconds": unaccounted,
                "total_joules": total["joules"],
                "peak_memory_bytes": record["peak_memory_bytes"],
                "epochs": target["fit"]["epochs"],
                "steps": target["fit"]["steps"],
                "stopped": target["fit"].get("stopped"),
                "tied": record["tied"],
                **_corrupted(target),
                **_removed((selector or {}).get("removed")),
            }
        selector_spent = _sum(selector_spent, updating)


def _corrupted(target: Mapping[str, Any]) -> dict[str, Any]:
    found = target.get("corruptions")
    if found is None:
        return {"corrupted_accuracy": None, "corruptions": None}
    return {"corrupted_accuracy": found["mean"], "corruptions": describe_corruptions(list(found["means"]))}


def _removed(removed: Mapping[str, Any] | None) -> dict[str, Any]:
    """What pruning took from the selector, in columns."""
    if removed is None:
        return {}
    before, after = removed["channels"]
    return {
        "pruning_ratio": removed["ratio"],
        "pruning_ratio_reached": 1 - after / before,
        **dict(zip(("pruning_parameters_before", "pruning_parameters_after"), removed["parameters"], strict=True)),
        **dict(zip(("pruning_flops_before", "pruning_flops_after"), removed["forward_flops"], strict=True)),
    }


Amounts = dict[str, float | None]
"""How much of each quantity was spent; None if it is not known for some part."""


def _spent(stages: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> Amounts:
    """Sums over those of the named stages that there were."""
    amounts = dict(NOTHING)
    for stage in (stages[name] for name in names if name in stages):
        flops = stage["flops_forward"] + stage["flops_backward"]
        amounts = _sum(amounts, {**{name: stage[name] for name in NOTHING if name != "flops"}, "flops": flops})
    return amounts


def _sum(one: Amounts, other: Amounts) -> Amounts:
    pairs = {name: (one[name], other[name]) for name in one}
    return {name: None if a is None or b is None else a + b for name, (a, b) in pairs.items()}
