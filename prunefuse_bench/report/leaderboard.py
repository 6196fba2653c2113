"""One table per run: accuracy at each budget, and what it cost."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas

from prunefuse_bench import stats
from prunefuse_bench.atomic import make_folder, write_atomically, write_json
from prunefuse_bench.errors import BadInput
from prunefuse_bench.records import CellStore, RunFolder, load_results
from prunefuse_bench.report.deviations import describe_task, deviations
from prunefuse_bench.report.measurements import Measurement, measurements
from prunefuse_bench.report.spreadsheets import as_csv

__all__ = ["Leaderboard", "budget_headings", "read_leaderboard", "write_leaderboard"]

NOTES = (
    "Accuracy: test accuracy of the target after its last epoch, mean ± standard deviation over seeds, in percent.",
    "Selector seconds: all that was spent to choose the labels of the last budget (selectors trained on the earlier "
    "budgets, scoring, ranking), mean over seeds.",
    "To target: selector seconds, and all that the target of the last budget needs beyond them, mean over seeds.",
    "Total seconds: all stages of the cell, with the targets of every reported budget and their evaluation; "
    "what the curve cost, not what one target costs.",
    "Selector FLOPs: the same work as the selector seconds, counted on the real graph, two per multiply-add.",
    "Paper's rule: FLOPs of the same passes as the paper reckons them (6 per parameter, input value and sample in "
    "training, 2 in scoring), about 20 times as many as counted; compare them with the paper's tables alone.",
)
COST_COLUMNS = ("selector s", "selector FLOPs", "paper's rule", "to target s", "total s")
ACCOUNTED = 0.97
"""Share of a cell's wall-clock that its stages must explain."""


@dataclass(frozen=True)
class Leaderboard:
    """The results of one run.

    Attributes:
        title: data set and target network.
        facts: how it was run, (name, value).
        deviations: where that differs from the paper.
        methods: notes on single methods: what differs from their originals, how much was drawn by lot.
        table: one row per method in order of first appearance, strings ready to print.
        problems: cells that are missing, unfinished or failed, with the reason.
        measurements: what the task asked for beside the table.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    deviations: tuple[str, ...]
    methods: tuple[str, ...]
    table: pandas.DataFrame
    problems: tuple[str, ...]
    measurements: tuple[Measurement, ...] = ()

    def markdown(self) -> str:
        """The table with its facts, for a README or a paper's appendix."""
        lines = [f"# {_escape(self.title)}", ""]
        lines += [f"- {name}: {_escape(value)}" for name, value in self.facts]
        lines += ["", _markdown_table(self.table), ""]
        lines += [f"- {note}" for note in NOTES]
        for one in self.measurements:
            lines += ["", *(sheet.markdown().rstrip() + "\n" for sheet in (*one.sheets, *one.details))]
        for heading, entries in (
            ("Cells without a result", self.problems),
            ("Differs from the paper", self.deviations),
            ("Notes on the methods", self.methods),
        ):
            if entries:
                lines += ["", f"## {heading}", "", *(f"- {_escape(entry)}" for entry in entries)]
        return "\n".join(lines) + "\n"


def write_leaderboard(runs: Sequence[Path], out: Path) -> list[Leaderboard]:
    """Read the runs and write ``leaderboard.md``, ``.csv`` and ``.json`` into ``out``.

    Raises:
        BadInput: a folder holds no run, or no cell has a result.
    """
    results = load_results(runs)
    boards = [read_leaderboard(run) for run in runs]
    make_folder(out)
    markdown = "\n".join(board.markdown() for board in boards)
    csv = as_csv(results)
    write_atomically(out / "leaderboard.md", lambda stream: stream.write(markdown.encode()))
    write_atomically(out / "leaderboard.csv", lambda stream: stream.write(csv.encode()))
    write_json(
        out / "leaderboard.json",
        [
            {
                "title": board.title,
                "facts": [{"name": name, "value": value} for name, value in board.facts],
                "deviations": list(board.deviations),
                "methods": list(board.methods),
                "problems": list(board.problems),
                "table": board.table.to_dict(orient="records"),
                "results": json.loads(results[results["run"] == str(run)].to_json(orient="records")),
            }
            for run, board in zip(runs, boards, strict=True)
        ],
    )
    return boards


def read_leaderboard(run: Path) -> Leaderboard:
    """What a run found, and how it was run.

    Raises:
        BadInput: the folder holds no run, or no cell of it was begun.
    """
    results = load_results(run)
    folder = RunFolder(run)
    suite = folder.read_suite()
    stores = [store for _, store in folder.begun_cells()]
    if not stores:
        raise BadInput(f"{run}: no cell of this run was begun; run it with: prunefuse-bench run")
    seeds = sorted(results["seed"].unique().tolist())
    problems = results.loc[results["status"] != "finished"].drop_duplicates("cell")
    return Leaderboard(
        title=f"{suite['dataset']}, {suite['model']}",
        facts=(
            *describe_task(stores[0].settings, suite["dataset"], seeds),
            *_machines(stores),
            *_accounting(results, stores),
            *_standing(results),
        ),
        deviations=tuple(deviations([store.settings for store in stores])),
        methods=tuple(_method_notes(suite["cells"], stores)),
        table=_table(results),
        problems=tuple(
            f"{row['method']}, seed {row['seed']}: {row['status']} ({row['reason'] or 'stopped'})"
            for row in problems.to_dict(orient="records")
        ),
        measurements=tuple(measurements(run, stores[0].settings["task"], results)),
    )


def _method_notes(cells: Sequence[dict[str, Any]], stores: Sequence[CellStore]) -> Iterator[str]:
    """Deviations of each method, and the share of its choice that was drawn by lot among equal scores."""
    for method, notes in {cell["method"]: cell["notes"] for cell in cells}.items():
        yield from (f"{method}: {note}" for note in notes)
        ids = {cell["id"] for cell in cells if cell["method"] == method}
        rounds = [r for store in stores if store.folder.name in ids for r in store.read_rounds()]
        chosen = sum(len(record["query"]) for record in rounds if record["tied"] is not None)
        tied = sum(record["tied"] or 0 for record in rounds)
        if tied:
            yield f"{method}: {100 * tied / chosen:.2g}% of the samples chosen were drawn by lot among equal scores."


def _machines(stores: list[CellStore]) -> Iterator[tuple[str, str]]:
    """Every different machine and set of versions that rounds were run on."""
    environments = [record["environment"] for store in stores for record in store.read_rounds()]
    descriptions = list(dict.fromkeys(_describe_environment(environment) for environment in environments))
    for description in descriptions:
        yield "Machine", description
    if len(descriptions) > 1:
        yield "Warning", "these results come from different machines or versions; their seconds do not compare"


def _accounting(results: pandas.DataFrame, stores: list[CellStore]) -> Iterator[tuple[str, str]]:
    """What the costs leave out."""
    stages = [cost for store in stores for record in store.read_rounds() for cost in record["stages"].values()]
    if uncounted := sorted({operator for cost in stages for operator in cost["uncounted"]}):
        yield "Not in the counted FLOPs", ", ".join(uncounted)
    if differing := sorted({text for cost in stages for text in cost.get("disagreements", ())}):
        yield "Warning", f"the two FLOP counters differ: {'; '.join(differing)}"
    ends = results.dropna(subset=["total_seconds"]).groupby("cell").last()
    wall_clock = ends["total_seconds"] + ends["unaccounted_seconds"]
    loose = int((ends["unaccounted_seconds"] > (1 - ACCOUNTED) * wall_clock).sum())
    if loose:
        explained = f"less than {100 * ACCOUNTED:.0f}% of their wall-clock"
        yield "Warning", f"the stages of {loose} of {len(ends)} cells explain {explained}"


def _standing(results: pandas.DataFrame) -> Iterator[tuple[str, str]]:
    """What the differences between the methods say, and what they could have said."""
    compared = stats.compare_areas(stats.curve_areas(results))
    pairs, seeds = len(compared.pairs), results["seed"].nunique()
    if not pairs or compared.best is None:
        return
    if compared.smallest_difference is None:
        yield "Differences", f"{seeds} seed{'s' * (seeds > 1)}: no difference can be told from chance"
        return
    yield (
        "Differences",
        f"{seeds} seeds and {pairs} pairs of methods show {100 * compared.smallest_difference:.1f} points of mean "
        "accuracy over the budgets (paired t-tests, 5% by Holm, 80% power)",
    )
    alike = [method for method in compared.inseparable if method != compared.best]
    yield "Best mean accuracy", f"{compared.best}; not separable from it: {', '.join(alike) or 'none'}"


def _describe_environment(environment: dict[str, Any]) -> str:
    cpu = f"{environment['cpu']}, {environment['threads']} threads, {environment['cpu_capability']}"
    return (
        f"{environment['gpu']['name'] if environment['gpu'] else cpu}; "
        f"prunefuse-bench {environment['prunefuse_bench']} ({environment['commit'] or 'no commit'}), "
        f"torch {environment['packages']['torch']}"
    )


def _table(results: pandas.DataFrame) -> pandas.DataFrame:
    """One row per method; a budget whose cells did not all get there says how many did."""
    seeds = results.groupby("method")["seed"].nunique()
    budgets = results[["labels", "budget"]].dropna().drop_duplicates().sort_values("labels")
    headings = budget_headings(budgets)
    rows = []
    for method, cells in results.groupby("method", sort=False):
        row: dict[str, Any] = {"method": method}
        for labels, heading in zip(budgets["labels"], headings, strict=True):
            accuracy = 100 * cells.loc[cells["labels"] == labels, "accuracy"].dropna()
            row[heading] = _mean_and_deviation(accuracy, int(seeds[method]))
        last = cells.loc[cells["labels"] == budgets["labels"].max()] if len(budgets) else cells.iloc[:0]
        row["selector s"] = _mean_seconds(last["selector_seconds"])
        row["selector FLOPs"] = _mean_flops(last["selector_flops"])
        row["paper's rule"] = _mean_flops(last["selector_paper_flops"])
        row["to target s"] = _mean_seconds(last["selector_seconds"] + last["target_seconds"])
        row["total s"] = _mean_seconds(last["total_seconds"])
        rows.append(row)
    return pandas.DataFrame(rows)


def budget_headings(budgets: pandas.DataFrame) -> list[str]:
    """Shares of the pool in percent, with as many digits as tell them apart."""
    shares = budgets["budget"].tolist()
    for digits in range(3, 12):
        headings = [f"{100 * share:.{digits}g}%" for share in shares]
        if len(set(headings)) == len(headings):
            break
    return headings


def _mean_and_deviation(accuracy: pandas.Series, seeds: int) -> str:
    if accuracy.empty:
        return "–"
    text = f"{accuracy.mean():.2f}" + (f" ± {accuracy.std(ddof=1):.2f}" if len(accuracy) > 1 else "")
    return text if len(accuracy) == seeds else f"{text} ({len(accuracy)} of {seeds})"


def _mean_seconds(seconds: pandas.Series) -> str:
    return "–" if seconds.dropna().empty else f"{seconds.mean():.1f}"


def _mean_flops(flops: pandas.Series) -> str:
    mean = flops.dropna().mean() if flops.notna().any() else None
    return "–" if mean is None else "0" if not mean else f"{mean:.2e}"


def _markdown_table(table: pandas.DataFrame) -> str:
    lines = ["| " + " | ".join(_escape(str(column)) for column in table.columns) + " |"]
    lines.append("|" + "---|" * len(table.columns))
    lines += ["| " + " | ".join(_escape(str(value)) for value in row) + " |" for row in table.itertuples(index=False)]
    return "\n".join(lines)


def _escape(text: str) -> str:
    """Text that means nothing to Markdown or HTML."""
    for character in "\\`*_[]<>|#":
        text = text.replace(character, f"\\{character}")
    return text.replace("\r", " ").replace("\n", " ").replace("&", "&amp;")
