"""Suites that belong together: the parts of one YAML file or of one table of the paper, each with a task of its own."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunefuse_bench.config import Suite, override_setting, presets, read_settings, validate_suite
from prunefuse_bench.errors import BadInput, unknown_name
from prunefuse_bench.paper.suites import paper_preset, paper_presets
from prunefuse_bench.plain_text import shown_value

__all__ = ["SuiteGroup", "SuitePart", "load_group"]

PART_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class SuitePart:
    """One suite of a group.

    Attributes:
        name: names the part's folder within that of the group; None for a suite that stands alone.
        suite: what is run.
    """

    name: str | None
    suite: Suite

    def folder(self, group: Path) -> Path:
        """The folder of its run, in that of the group."""
        return group if self.name is None else group / self.name

    def explain(self, error: BadInput) -> BadInput:
        """The same error, saying which part it is about, and naming settings as they are set for this part alone."""
        return error if self.name is None else _about(self.name, error)


@dataclass(frozen=True)
class SuiteGroup:
    """Suites that are run one after another.

    Attributes:
        name: names the folder: runs/NAME.
        description: one or two sentences.
        parts: at least one; a suite that stands alone is its only part and has no name.
    """

    name: str
    description: str
    parts: tuple[SuitePart, ...]

    @property
    def stands_alone(self) -> bool:
        """Whether it is one suite without parts."""
        return self.parts[0].name is None


def load_group(preset_or_file: str, overrides: Sequence[str] = (), only: Sequence[str] = ()) -> SuiteGroup:
    """The suites of a preset or YAML file, with ``key=value`` overrides.

    A file with ``parts`` has several: a mapping from names to suites, each with the keys that are its own; the keys
    beside ``parts`` are shared by all of them. A file of a preset's name comes before the preset that is derived from
    the paper's tables.

    Args:
        overrides: as for :func:`prunefuse_bench.config.load_suite`; they hold for every part, and those that begin with
            ``parts.NAME.`` for that part alone. The later wins.
        only: names of the parts that are wanted; all if empty.

    Raises:
        BadInput: unknown preset, part or key (the nearest are suggested), or a value that is not allowed.
    """
    settings = _settings(preset_or_file)
    if "parts" not in settings:
        if only:
            raise BadInput(f"--part {only[0]}: {preset_or_file} is one suite, it has no parts")
        for override in overrides:
            override_setting(settings, override)
        suite = validate_suite(settings)
        return SuiteGroup(suite.name, suite.description, (SuitePart(None, suite),))
    parts = _parts(settings)
    for name in only:
        if name not in parts:
            raise unknown_name("part", name, parts)
    for override in overrides:
        _override(parts, override)
    chosen = {name: part for name, part in parts.items() if not only or name in only}
    group = str(settings["name"])
    suites = tuple(SuitePart(name, _validate(group, name, part)) for name, part in chosen.items())
    return SuiteGroup(group, str(settings.get("description", "")), suites)


def _settings(preset_or_file: str) -> dict[str, Any]:
    derived = paper_presets()
    if preset_or_file in presets() or preset_or_file not in derived:
        return read_settings(preset_or_file, derived)
    return {"name": preset_or_file, **copy.deepcopy(dict(paper_preset(preset_or_file)))}


def _parts(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings of each part, the shared ones filled in."""
    parts = settings["parts"]
    if not isinstance(parts, dict) or not parts:
        raise BadInput(f"parts: expected names with the settings of a suite each, got {shown_value(parts)}")
    shared = {key: value for key, value in settings.items() if key not in ("parts", "name")}
    found = {}
    for name, own in parts.items():
        if not isinstance(name, str) or not PART_NAME.fullmatch(name):
            raise BadInput(f"parts: expected names of letters, digits, '-' and '_', got {shown_value(name)}")
        if own is not None and not isinstance(own, dict):
            raise BadInput(f"parts.{name}: expected keys and values, got {shown_value(own)}")
        if "name" in (own or {}):
            raise BadInput(f"parts.{name}.name: a part has the name that stands before its settings; leave it out")
        found[name] = _merged(shared, own or {})
    return found


def _merged(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Settings below settings are merged key by key; anything else is replaced."""
    merged = copy.deepcopy(dict(shared))
    for key, value in own.items():
        before = merged.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            merged[key] = _merged(before, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _override(parts: Mapping[str, dict[str, Any]], override: str) -> None:
    key, equals, value = override.partition("=")
    if not key.startswith("parts.") and key != "parts":
        if key == "name":
            raise BadInput(f"--set {override!r}: the parts have names of their own; choose a folder with --out")
        for part in parts.values():
            override_setting(part, override)
        return
    _, _, below = key.partition(".")
    name, _, rest = below.partition(".")
    if name not in parts:
        raise unknown_name("part", name, parts)
    if not rest or not equals:
        raise BadInput(
            f"--set {override!r}: expected parts.{name}.KEY=VALUE, as in parts.{name}.task.training.epochs=30"
        )
    override_setting(parts[name], f"{rest}={value}")


def _validate(group: str, name: str, settings: Mapping[str, Any]) -> Suite:
    try:
        return validate_suite({**settings, "name": f"{group}.{name}"})
    except BadInput as error:
        raise _about(name, error) from None


def _about(part: str, error: BadInput) -> BadInput:
    return type(error)(f"part {part!r}: {str(error).replace('--set task.', f'--set parts.{part}.task.')}")
