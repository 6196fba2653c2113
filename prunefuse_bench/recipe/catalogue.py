"""All methods and parts as plain text, for the command line and for docs/methods.md."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from prunefuse_bench.acquisition import ACQUISITIONS
from prunefuse_bench.recipe.committee import COMMITTEES
from prunefuse_bench.recipe.method import Method, methods
from prunefuse_bench.recipe.parts import part_parameters
from prunefuse_bench.recipe.proxy import PROXIES
from prunefuse_bench.recipe.recipe import PROTOCOLS, ProtocolName, Recipe
from prunefuse_bench.recipe.target_start import TARGET_STARTS
from prunefuse_bench.registry import Registry

__all__ = ["MethodRow", "PartRow", "acquisition_rows", "markdown_page", "method_rows", "part_rows"]

HEADINGS: dict[ProtocolName, str] = {
    "active_learning": "Active learning (Algorithm 1 of the paper)",
    "coreset": "Coreset selection (paper, sections 4.2 and 9.13)",
}
INTRODUCTION = """\
# Methods

Every method is a combination of four parts: a proxy that looks at the pool, a committee that says how many opinions
it gives, an acquisition that makes a choice of them, and a target start. This page is written by
`prunefuse-bench methods --markdown` from the code itself, and a test holds it to that.

- **fair**, the default: the shared protocol of a suite. Every network of every method is trained by the task's
  settings, scored on clean images, and the target is trained alike.
- **faithful** (`{method: svp, preset: faithful}`): the original's own settings, as far as they fit into a suite, its
  known deviations included. Budgets, data and the target's architecture are always the task's. What is not reproduced
  is listed. Where no faithful preset is possible, the deviations say why.

Cost is what the selector takes, in FLOPs by the paper's rule (6 per parameter, input value and sample for training, 2
for a forward pass). P: parameters of the target, P_pruned and P_small those of the proxies; D: input values of a
sample; |L| and |U|: labeled and unlabeled samples of a round, n: all samples; T: epochs; F and C: inputs and outputs of
the classifier.
"""


@dataclass(frozen=True)
class MethodRow:
    """One method with one preset."""

    name: str
    preset: str
    summary: str
    source: str
    equation: str
    settings: str
    cost: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class PartRow:
    """One part."""

    kind: str
    name: str
    summary: str
    settings: str


def method_rows(protocol: ProtocolName) -> Iterator[MethodRow]:
    """The methods of a protocol, those that have presets once for each."""
    for _, found in methods(protocol).items():  # noqa: PERF102  a registry, not a dict
        for preset in ("fair", "faithful") if "preset" in found.parameters else ("",):
            recipe = found.build(**({"preset": preset} if preset else {}))
            yield _row(found, preset, recipe, protocol)


def _row(found: Method, preset: str, recipe: Recipe, protocol: ProtocolName) -> MethodRow:
    return MethodRow(
        name=found.name,
        preset=preset,
        summary=found.summary,
        source=found.source,
        equation=recipe.find_acquisition().equation,
        settings=_settings(recipe),
        cost=recipe.cost_formula(protocol),
        notes=recipe.notes,
    )


def _settings(recipe: Recipe) -> str:
    """The parts of a recipe, as they would be written."""
    parts: list[str] = [str(recipe.proxy), str(recipe.committee), recipe.acquisition, str(recipe.target_start)]
    if not recipe.uses_selector:
        parts = [recipe.acquisition, str(recipe.target_start)]
    if recipe.options:
        parts.append(", ".join(f"{name}={value}" for name, value in recipe.options))
    if recipe.sync_every:
        parts.append(f"T_sync = {recipe.sync_every}")
    if recipe.own_training:
        parts.append(f"own training: {recipe.own_training.describe()}")
    return "; ".join(parts)


def part_rows() -> Iterator[PartRow]:
    """Proxies, committees and target starts."""
    registries: tuple[Registry[Any], ...] = (PROXIES, COMMITTEES, TARGET_STARTS)
    for registry in registries:
        for name, part in registry.items():
            summary = (inspect.getdoc(part) or "").partition("\n")[0]
            yield PartRow(registry.kind, name, summary, _listed(part_parameters(part)))


def acquisition_rows() -> Iterator[tuple[str, str, str, str, str, str]]:
    """(name, summary, equation, needs, options, source) of every acquisition."""
    for name, found in ACQUISITIONS.items():
        # Python 3.10 counts the flag of nothing among the flags.
        needs = ", ".join(str(need.name).lower() for need in type(found.needs) if need and need in found.needs)
        yield name, found.summary, found.equation, needs, _listed(found.options), found.source


def markdown_page() -> str:
    """docs/methods.md."""
    lines = [INTRODUCTION]
    for protocol in PROTOCOLS:
        lines += [f"## {HEADINGS[protocol]}", ""]
        lines += _table(
            ("method", "what it does", "source", "rule", "settings", "selector FLOPs", "deviations"),
            [
                (
                    f"**{row.name}**" + (f" ({row.preset})" if row.preset else ""),
                    row.summary,
                    row.source,
                    row.equation,
                    row.settings,
                    row.cost,
                    "; ".join(row.notes),
                )
                for row in method_rows(protocol)
            ],
        )
    lines += ["## Acquisitions", "", "Higher is chosen first; equal scores are drawn by lot.", ""]
    lines += _table(("acquisition", "what it is", "equation", "needs", "options", "source"), acquisition_rows())
    lines += ["## Other parts", ""]
    rows = [(row.kind, row.name, row.summary, row.settings) for row in part_rows()]
    lines += _table(("part", "name", "what it is", "settings and defaults"), rows)
    return "\n".join(lines).rstrip() + "\n"


def _table(columns: tuple[str, ...], rows: Any) -> list[str]:
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return [*lines, ""]


def _listed(parameters: dict[str, Any]) -> str:
    return ", ".join(name if default is ... else f"{name}={default}" for name, default in parameters.items())
