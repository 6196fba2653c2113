"""What the leaderboard page shows of one run, read from its records: nothing here knows how it will look."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prunefuse_bench import stats
from prunefuse_bench.records import CellStore, RunFolder, load_results
from prunefuse_bench.records.store import grid_hash
from prunefuse_bench.report.costs import MachineCosts, Saving, costs_by_machine, read_savings
from prunefuse_bench.report.leaderboard import Leaderboard, budget_headings, read_leaderboard
from prunefuse_bench.report.machines import machine_of
from prunefuse_bench.report.numbers import known
from prunefuse_bench.report.rows import groups_of, rows_of
from prunefuse_bench.report.spreadsheets import as_csv

if TYPE_CHECKING:
    import pandas

__all__ = [
    "Board", "Budget", "CellRow", "Flops", "Group", "MethodRow", "Score", "group_of", "read_board", "readable",
]  # fmt: skip

PROTOCOL_NAMES = {"active_learning": "active learning", "coreset": "coreset selection"}

Group = Literal["best", "inseparable", "behind", "incomplete", "alone"]
"""How a method stands: ``incomplete`` has cells without a result, ``alone`` has nothing to be compared with."""


@dataclass(frozen=True)
class Budget:
    """A size of the labeled set; ``share`` of the pool, ``heading`` as tables name it."""

    labels: int
    share: float
    heading: str


@dataclass(frozen=True)
class Score:
    """Accuracy at one budget over the seeds that got there, of as many as the grid has."""

    estimate: stats.Estimate
    expected: int

    @property
    def complete(self) -> bool:
        """Whether every cell of the grid has a result here."""
        return self.estimate.count >= self.expected


@dataclass(frozen=True)
class Flops:
    """FLOPs at one budget, mean over cells: to choose its labels, and with its target too; counted, and by the rule."""

    selector: float | None
    to_target: float | None
    selector_by_rule: float | None
    to_target_by_rule: float | None


@dataclass(frozen=True)
class CellRow:
    """One cell and where its numbers come from."""

    identity: str
    seed: int
    status: str
    reason: str
    machine: str
    commits: str
    accuracies: Mapping[int, float]
    area: float | None


@dataclass(frozen=True)
class MethodRow:
    """One line of the leaderboard.

    Attributes:
        key: the method as records name it.
        number: in the order in which the run names the methods; the same in every chart.
        name: the method as the page shows it.
        rank: mean over seeds (1 is best), with its 95% interval; None where there is nothing to rank by.
        places: first and last place that it can hold if all that is told apart is so, and nothing else is.
        area: area under accuracy over budget, divided by the budgets' width: an average accuracy.
        accuracies, label_savings, flops_savings, flops: by size of the labeled set.
        recipe: settings of the method, as JSON.
        wins: pairs of this method that are told apart, won and lost.
    """

    key: str
    number: int
    name: str
    group: Group
    rank: float | None
    rank_low: float | None
    rank_high: float | None
    places: tuple[int, int] | None
    area: stats.Estimate | None
    accuracies: Mapping[int, Score]
    label_savings: Mapping[int, Saving]
    flops_savings: Mapping[int, Saving]
    flops: Mapping[int, Flops]
    finished: int
    expected: int
    notes: tuple[str, ...]
    recipe: str
    cells: tuple[CellRow, ...]
    wins: tuple[int, int]


@dataclass(frozen=True)
class Board:
    """One run.

    Attributes:
        key: names it within the page.
        chance: accuracy of guessing.
        seeds: of the grid.
        comparisons: of the areas, paired by seed.
        csv: the tidy results, one row per cell and budget.
        suite: what was asked for, as JSON.
        environments: every different environment that rounds were run in, as JSON, with how many rounds.
    """

    key: str
    run: Path
    name: str
    dataset: str
    model: str
    protocol: str
    chance: float
    seeds: tuple[int, ...]
    budgets: tuple[Budget, ...]
    methods: tuple[MethodRow, ...]
    machines: tuple[MachineCosts, ...]
    comparisons: stats.Comparisons
    leaderboard: Leaderboard
    grid: str
    task: str
    csv: str
    suite: str
    environments: tuple[tuple[str, int], ...]

    @property
    def title(self) -> str:
        """Data set, network and protocol."""
        return f"{self.dataset}, {self.model}: {self.protocol}"

    @property
    def last(self) -> Budget | None:
        """The largest budget."""
        return self.budgets[-1] if self.budgets else None

    @property
    def in_order_of_name(self) -> tuple[MethodRow, ...]:
        """Methods as the run names them, so that a number is a position."""
        return tuple(sorted(self.methods, key=lambda row: row.number))


def read_board(run: Path, key: str) -> Board:
    """All that the page says of a run.

    Raises:
        BadInput: the folder holds no run, or no cell of it was begun.
    """
    leaderboard = read_leaderboard(run)
    results = load_results(run)
    folder = RunFolder(run)
    suite = folder.read_suite()
    begun = {cell["id"]: store for cell, store in folder.begun_cells()}
    rounds = {identity: store.read_rounds() for identity, store in begun.items()}
    settings = next(iter(begun.values())).settings
    results["to_target_seconds"] = results["selector_seconds"] + results["target_seconds"]
    results["to_target_flops"] = results["selector_flops"] + results["target_flops"]
    areas = stats.curve_areas(results)
    comparisons = stats.compare_areas(areas)
    return Board(
        key=key,
        run=run,
        name=readable(run.resolve().name),
        dataset=readable(suite["dataset"]),
        model=readable(suite["model"]),
        protocol=PROTOCOL_NAMES.get(settings["protocol"], settings["protocol"]),
        chance=1 / settings["task"]["dataset"]["classes"],
        seeds=tuple(sorted(int(seed) for seed in results["seed"].unique())),
        budgets=_budgets(results),
        methods=tuple(_methods(suite["cells"], begun, rounds, results, areas, comparisons)),
        machines=tuple(costs_by_machine(results, rounds)),
        comparisons=comparisons,
        leaderboard=leaderboard,
        grid=grid_hash(suite),
        task=suite["task"],
        csv=_as_csv(results.drop(columns=["to_target_seconds", "to_target_flops"]).assign(run=run.name)),
        suite=as_text(suite["suite"]),
        environments=_environments(rounds),
    )


def _as_csv(frame: pandas.DataFrame) -> str:
    """Readable text; names are made so before, as Python 3.10 writes no CSV that has the character NUL in it."""
    names = {column: frame[column].map(readable) for column in ("run", "method")}
    return readable(as_csv(frame.assign(**names)))


def readable(text: str) -> str:
    """Text that a file in UTF-8 can hold and a page can show: no lone surrogates, no control characters."""
    whole = str(text).encode("utf-8", "replace").decode()
    return "".join(character if character.isprintable() or character in "\n\t\u200d" else " " for character in whole)


def as_text(data: Any) -> str:
    """Plain data as readable JSON, names in their own script."""
    return readable(json.dumps(data, indent=1, ensure_ascii=False))


def _budgets(results: pandas.DataFrame) -> tuple[Budget, ...]:
    budgets = results[["labels", "budget"]].dropna().drop_duplicates().sort_values("labels")
    headings = budget_headings(budgets) if len(budgets) else []
    return tuple(
        Budget(int(labels), float(share), heading)
        for labels, share, heading in zip(budgets["labels"], budgets["budget"], headings, strict=True)
    )


def _methods(
    grid: Sequence[Mapping[str, Any]],
    begun: Mapping[str, CellStore],
    rounds: Mapping[str, Sequence[Mapping[str, Any]]],
    results: pandas.DataFrame,
    areas: pandas.DataFrame,
    comparisons: stats.Comparisons,
) -> Iterator[MethodRow]:
    """Lines of the board, best rank first, what cannot be ranked last."""
    names = list(dict.fromkeys(cell["method"] for cell in grid))
    scores, flops = _scores(results), _flops(results)
    label_savings = read_savings(stats.label_savings(results))
    flops_savings = read_savings(stats.cost_savings(results, quantity="to_target_flops"))
    ranks = {row["method"]: row for row in rows_of(comparisons.ranks)}
    wins = _wins(comparisons.pairs)
    by_method = dict(groups_of(results, "method"))
    found = {(row["method"], row["seed"]): float(row["area"]) for row in rows_of(areas)}
    rows = []
    for number, name in enumerate(names):
        cells = [cell for cell in grid if cell["method"] == name]
        ranked = ranks.get(name)
        values = [found.get((name, cell["seed"]), math.nan) for cell in cells]
        whole = [value for value in values if not math.isnan(value)]
        recipe = next((begun[cell["id"]].settings["recipe"] for cell in cells if cell["id"] in begun), None)
        rows.append(
            MethodRow(
                key=name,
                number=number,
                name=readable(name),
                group=group_of(name, comparisons),
                rank=known(ranked["rank"]) if ranked is not None else None,
                rank_low=known(ranked["low"]) if ranked is not None else None,
                rank_high=known(ranked["high"]) if ranked is not None else None,
                places=(int(ranked["place_low"]), int(ranked["place_high"])) if ranked is not None else None,
                area=stats.estimate(whole) if whole else None,
                accuracies=scores.get(name, {}),
                label_savings=label_savings.get(name, {}),
                flops_savings=flops_savings.get(name, {}),
                flops=flops.get(name, {}),
                finished=int(by_method[name].loc[by_method[name]["status"] == "finished", "cell"].nunique()),
                expected=len(cells),
                notes=tuple(readable(note) for note in cells[0]["notes"]),
                recipe=as_text(recipe) if recipe else "",
                cells=tuple(_cell_rows(cells, by_method[name], rounds, found)),
                wins=wins.get(name, (0, 0)),
            )
        )
    return iter(sorted(rows, key=lambda row: (row.rank is None, row.rank or 0.0, row.number)))


def _cell_rows(
    cells: Sequence[Mapping[str, Any]],
    results: pandas.DataFrame,
    rounds: Mapping[str, Sequence[Mapping[str, Any]]],
    areas: Mapping[tuple[str, int], float],
) -> Iterator[CellRow]:
    by_cell = dict(groups_of(results, "cell"))
    for cell in cells:
        rows = by_cell[cell["id"]]
        environments = [record["environment"] for record in rounds.get(cell["id"], ())]
        reached = rows.dropna(subset=["labels", "accuracy"])
        yield CellRow(
            identity=cell["id"],
            seed=cell["seed"],
            status=rows["status"].iloc[0],
            reason=readable(rows["reason"].iloc[0]),
            machine=" and ".join(dict.fromkeys(readable(machine_of(environment)) for environment in environments)),
            commits=", ".join(dict.fromkeys(readable(e["commit"] or "no commit") for e in environments)),
            accuracies={
                int(at): float(share) for at, share in zip(reached["labels"], reached["accuracy"], strict=True)
            },
            area=known(areas.get((cell["method"], cell["seed"]), math.nan)),
        )


def group_of(method: str, comparisons: stats.Comparisons) -> Group:
    """How a method stands among those that it was compared with."""
    if len(comparisons.ranks) < 2:
        return "alone"
    if method in comparisons.incomplete:
        return "incomplete"
    if method == comparisons.best:
        return "best"
    return "inseparable" if method in comparisons.inseparable else "behind"


def _scores(results: pandas.DataFrame) -> dict[str, dict[int, Score]]:
    scores: dict[str, dict[int, Score]] = {}
    for row in rows_of(stats.summarise(results)):
        deviation, low, high = (known(row[name]) for name in ("deviation", "low", "high"))
        estimate = stats.Estimate(row["mean"], deviation, low, high, int(row["count"]))
        scores.setdefault(row["method"], {})[int(row["labels"])] = Score(estimate, int(row["expected"]))
    return scores


def _flops(results: pandas.DataFrame) -> dict[str, dict[int, Flops]]:
    flops: dict[str, dict[int, Flops]] = {}
    names = ["selector_flops", "to_target_flops", "selector_paper_flops", "to_target_paper_flops"]
    both = results.assign(to_target_paper_flops=results["selector_paper_flops"] + results["target_paper_flops"])
    for row in rows_of(both.groupby(["method", "labels"])[names].mean().reset_index()):
        flops.setdefault(row["method"], {})[int(row["labels"])] = Flops(*(known(row[name]) for name in names))
    return flops


def _wins(pairs: pandas.DataFrame) -> dict[str, tuple[int, int]]:
    """Pairs that are told apart, (won, lost), of each method."""
    wins: dict[str, tuple[int, int]] = {}
    for row in (row for row in rows_of(pairs) if row["different"]):
        one, other = row["one"], row["other"]
        winner, loser = (one, other) if row["difference"] > 0 else (other, one)
        (won, lost), (beaten, losses) = wins.get(winner, (0, 0)), wins.get(loser, (0, 0))
        wins[winner], wins[loser] = (won + 1, lost), (beaten, losses + 1)
    return wins


def _environments(rounds: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[tuple[str, int], ...]:
    counts: dict[str, int] = {}
    for records in rounds.values():
        for record in records:
            text = as_text(record["environment"])
            counts[text] = counts.get(text, 0) + 1
    return tuple(counts.items())
