"""The parts of the paper's bound on selection by a proxy, as data frames."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunefuse_bench.decomposition import Decomposition, Distance, Gaps
from prunefuse_bench.records.frames import IDENTITY, begun_cell_rows, frame_of_runs
from prunefuse_bench.records.store import CellStore

if TYPE_CHECKING:
    import pandas

__all__ = ["load_decomposition"]

COLUMNS = (
    *IDENTITY, "labels", "target", "gap", "delta", "gap_labeled", "delta_labeled", "rho",
    "rho_kept", "target_norm", "target_accuracy", "selector_accuracy", "fresh_accuracy", "sync_gap", "fresh_gap",
)  # fmt: skip


def load_decomposition(path: str | Path | Iterable[str | Path]) -> pandas.DataFrame:
    """Gaps, delta, rho and the accuracies of Table 8, of one or more run folders (the paper's sections 5 and 9.2).

    Runs of the setting ``task.decomposition`` have it. Means over the pool take labels that no method was given: a
    diagnosis after the fact, by which nothing is chosen.

    A row is about one pair of networks, the target theta and the selector theta_p that a round ends with
    (:class:`prunefuse_bench.decomposition.Decomposition`), and about the query that this selector then chose in the
    next round. Losses are cross entropies in nats on clean images.

    Returns:
        One row per round that has a target, none if no run recorded it. Columns: run, cell, method, seed, labels (at
        the end of the round), and

        - target: ``synchronised`` (theta is the fused network that theta_p was pruned from, Algorithm 1, lines 12 and
          13) or ``reported`` (a round without synchronisation: theta is its target, which began from theta_p);
        - gap: |mean loss of the next query - mean loss of the pool| under theta, the representativeness gap (equations
          4 and 5); NaN where no query follows;
        - delta: the same under theta_p, the least delta of equation 7 and so its estimate;
        - gap_labeled, delta_labeled: the same of all that was labeled by the end of the round, on which both networks
          were trained;
        - rho: distance of the parameters, pruned coordinates being zero in theta_p (equation 8); rho_kept: over the
          coordinates that theta_p has; target_norm: of theta. NaN for a selector of another architecture;
        - target_accuracy, selector_accuracy, fresh_accuracy: of theta, of theta_p, and in synchronised rounds of a
          pruned selector trained from scratch on the same labels; on the test set;
        - sync_gap and fresh_gap: Delta_sync and Delta_fresh of section 9.2.1, differences of these accuracies (0 to 1).
          In a round without synchronisation theta_p itself is the fresh one, and there is no sync_gap.

        What does not exist, such as a selector of a method that has none, is NaN.

    Raises:
        BadInput: not the folder of a run.
    """
    frame = frame_of_runs(path, begun_cell_rows(_rows), COLUMNS)
    return frame.astype(dict.fromkeys(COLUMNS[6:], "float64"))


def _rows(cell: CellStore) -> Iterator[dict[str, Any]]:
    rounds = cell.read_rounds()
    nothing: dict[str, Any] = {}
    for record, following in itertools.zip_longest(rounds, rounds[1:], fillvalue=nothing):
        if "decomposition" not in record:
            continue
        found = _read(record["decomposition"])
        query = following.get("query_gaps") or {"target": None, "selector": None}
        distance = found.distance
        yield {
            "labels": record["labels"],
            "target": found.target,
            "gap": query["target"],
            "delta": query["selector"],
            "gap_labeled": found.labeled.target,
            "delta_labeled": found.labeled.selector,
            "rho": distance.rho if distance else None,
            "rho_kept": distance.kept if distance else None,
            "target_norm": distance.target_norm if distance else None,
            "target_accuracy": found.target_accuracy,
            "selector_accuracy": found.selector_accuracy,
            "fresh_accuracy": found.fresh_accuracy,
            "sync_gap": found.sync_gap,
            "fresh_gap": found.fresh_gap,
        }


def _read(plain: Mapping[str, Any]) -> Decomposition:
    distance = plain["distance"]
    parts = {"labeled": Gaps(**plain["labeled"]), "distance": Distance(**distance) if distance else None}
    return Decomposition(**{**plain, **parts})
