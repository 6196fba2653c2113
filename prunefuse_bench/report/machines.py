"""Which machine and which software a result comes from, and whether two of them are the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunefuse_bench.records import RunFolder
from prunefuse_bench.report.sheets import NOTHING

__all__ = ["Change", "changes", "machine_of", "machine_of_cells", "software_of"]

MACHINE_KEYS = ("cpu", "cpu_capability", "cores", "threads", "device", "gpu", "ranks")
"""Of an environment, what seconds depend on and no version changes."""

Environment = Mapping[str, Any]
"""What :func:`prunefuse_bench.records.describe_environment` wrote."""


@dataclass(frozen=True)
class Change:
    """A setting that is not the same before and after.

    Attributes:
        path: keys, joined by dots.
        before, after: as text; ``–`` where there is none.
    """

    path: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.path}: {self.before} -> {self.after}"


def changes(before: Any, after: Any, path: str = "") -> Iterator[Change]:
    """Every leaf of nested plain data in which the two differ; lists are leaves."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys((*before, *after)):
            inner = f"{path}.{key}" if path else str(key)
            yield from changes(before.get(key, _ABSENT), after.get(key, _ABSENT), inner)
    elif before != after:
        yield Change(path, _text(before), _text(after))


def machine_of(environment: Environment) -> str:
    """The machine in words. Seconds compare only where these are equal."""
    gpu = environment.get("gpu")
    cores = ", ".join(_count(environment.get(name), name) for name in ("cores", "threads"))
    cpu = f"{environment.get('cpu')}, {environment.get('cpu_capability')}, {cores}"
    if "ranks" in environment:
        cpu += f", {environment['ranks']} processes together"
    return f"{gpu['name']} ({gpu['memory_bytes'] / 2**30:.0f} GiB, {gpu['capability']}); {cpu}" if gpu else cpu


def software_of(environment: Environment) -> dict[str, Any]:
    """Versions, commit and all else of an environment that is not the machine."""
    software = {key: value for key, value in environment.items() if key not in MACHINE_KEYS}
    return {**software, "cuda": (environment.get("gpu") or {}).get("cuda")}


def machine_of_cells(run: Path) -> dict[str, str]:
    """The machine of each cell of a run that has a round, by the cell's id; several are joined by ``and``."""
    found = {}
    for cell, store in RunFolder(run).begun_cells():
        if machines := dict.fromkeys(machine_of(record["environment"]) for record in store.read_rounds()):
            found[cell["id"]] = " and ".join(machines)
    return found


def _count(number: Any, of: str) -> str:
    return f"1 {of[:-1]}" if number == 1 else f"{number} {of}"


_ABSENT = object()


def _text(value: Any) -> str:
    return NOTHING if value is _ABSENT else value if isinstance(value, str) else str(value)
