"""The presets as a person reads them: on the terminal, and as docs/presets.md."""

from __future__ import annotations

from collections.abc import Iterator

from prunefuse_bench.config import presets
from prunefuse_bench.groups import SuiteGroup, SuitePart, load_group
from prunefuse_bench.paper.suites import paper_presets
from prunefuse_bench.runner import resolve_recipes

__all__ = ["markdown_page", "paper_rows", "preset_rows"]

SMALL = "-small"


def preset_rows() -> list[tuple[str, str]]:
    """Name and description of each preset that is not of a table or figure of the paper."""
    return [(name, load_group(name).description) for name in presets() if not name.startswith("paper-")]


def paper_rows() -> list[tuple[str, str, str, str]]:
    """Name, subject, parts and number of cells of each preset of the paper, those in small left out."""
    return [
        (name, about, ", ".join(part.name or "–" for part in group.parts), str(_cells(group)))
        for name, about, group in _papers()
    ]


def markdown_page() -> str:
    """docs/presets.md."""
    lines = [
        "# Presets",
        "",
        "Written by `prunefuse-bench presets --markdown`. What the settings mean is said under "
        "[Settings of a suite](suites.md#presets-of-the-paper).",
        "",
        "| preset | what it is |",
        "|---|---|",
        *(f"| `{name}` | {about} |" for name, about in preset_rows()),
        "",
        "## The paper's tables and figures",
        "",
        "Derived from the published cells, so that they cannot differ from them. A preset of several parts is run part "
        "by part. Seeds are 0, 1 and 2.",
        "",
        "| preset | of the paper | part | data set | network | budgets, % | methods | cells |",
        "|---|---|---|---|---|---|---|---|",
        *(row for name, about, group in _papers() for row in _rows(name, about, group)),
        "",
    ]
    lines += [
        "## In small",
        "",
        "The same methods on a task small enough for two cores (--dry-run estimates how long it takes), to see how "
        "a comparison works and not which method is best. Where no path has to be given, the data is embedded.",
        "",
        "| preset | part | data set | network | budgets, % | methods | cells |",
        "|---|---|---|---|---|---|---|",
        *(row for name in _paper_names() for row in _rows(f"{name}{SMALL}", None, load_group(f"{name}{SMALL}"))),
        "",
    ]
    return "\n".join(lines)


def _paper_names() -> list[str]:
    return [name for name in paper_presets() if not name.endswith(SMALL)]


def _papers() -> Iterator[tuple[str, str, SuiteGroup]]:
    about = paper_presets()
    return ((name, about[name], load_group(name)) for name in _paper_names())


def _cells(group: SuiteGroup) -> int:
    return sum(len(part.suite.seeds) * len(part.suite.recipes) for part in group.parts)


def _rows(name: str, about: str | None, group: SuiteGroup) -> Iterator[str]:
    for number, part in enumerate(group.parts):
        first = [f"`{name}`"] if number == 0 else [""]
        if about is not None:
            first.append(about if number == 0 else "")
        yield "| " + " | ".join([*first, *_columns(part)]) + " |"


def _columns(part: SuitePart) -> list[str]:
    suite, task = part.suite, part.suite.task
    width = f", width {task.model.width:g}" if task.model.width != 1 else ""
    budgets = ", ".join(f"{100 * budget:g}" if isinstance(budget, float) else str(budget) for budget in task.budgets)
    methods = ", ".join(recipe.label for recipe in resolve_recipes(suite))
    cells = len(suite.seeds) * len(suite.recipes)
    return [part.name or "–", task.dataset.name, f"{task.model.name}{width}", budgets, methods, str(cells)]
