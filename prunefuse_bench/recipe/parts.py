"""Parts by name, so that suites can combine them and packages from outside can add their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import pydantic

from prunefuse_bench.errors import BadInput, unknown_name
from prunefuse_bench.registry import Registry

__all__ = ["UNLESS_DEFAULT", "PartEntry", "make_part", "part_decorator", "part_parameters"]

PartEntry = str | dict[str, Any]
"""A part in a suite: its name, or a mapping with ``name`` and its settings."""

UNLESS_DEFAULT: Mapping[str, Any] = MappingProxyType({"settings": "unless default"})
"""Metadata of a part's field that was added later: a cell's settings name it only where it is not the default, so that
cells from before are still the same cells."""

P = TypeVar("P")


def part_decorator(registry: Registry[type[P]]) -> Callable[[str], Callable[[type[P]], type[P]]]:
    """A decorator that registers frozen dataclasses as parts of one kind: ``@proxy("name")``."""

    def named(name: str) -> Callable[[type[P]], type[P]]:
        def register(part: type[P]) -> type[P]:
            if not dataclasses.is_dataclass(part):
                raise TypeError(f"{registry.kind} {name!r}: expected a dataclass (its fields are its settings)")
            return registry.add(name, part)

        return register

    return named


def part_parameters(part: type[Any]) -> dict[str, Any]:
    """What a user may vary, with the defaults; a field without a default has to be given."""
    return {
        field.name: ... if field.default is dataclasses.MISSING else field.default for field in dataclasses.fields(part)
    }


def make_part(registry: Registry[type[P]], entry: PartEntry) -> P:
    """The part that an entry names.

    Raises:
        BadInput: an unknown name or setting (the nearest are suggested), or a value that is not allowed.
    """
    settings: Mapping[str, Any] = {"name": entry} if isinstance(entry, str) else entry
    given = dict(settings)
    name = given.pop("name", None)
    if not isinstance(name, str):
        raise BadInput(f"{registry.kind}: expected a name or a mapping with 'name', got {entry!r}")
    part = registry[name]
    for key in given:
        if key not in part_parameters(part):
            raise unknown_name(f"setting of {registry.kind} {name!r}", key, part_parameters(part))
    try:
        return pydantic.TypeAdapter(part).validate_python(given)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise BadInput(
            f"{registry.kind} {name!r}: {'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}"
        ) from None
