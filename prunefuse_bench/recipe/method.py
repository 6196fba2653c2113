"""Methods by name: functions that return a recipe, their arguments being what a user may vary."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pydantic

from prunefuse_bench.errors import BadInput, unknown_name
from prunefuse_bench.recipe.recipe import PROTOCOLS, ProtocolName, Recipe
from prunefuse_bench.registry import Registry

__all__ = ["ENTRY_POINTS", "Method", "load_file", "load_outside_parts", "method", "methods", "resolve_recipe"]

ENTRY_POINTS = "prunefuse_bench"
"""Group of the entry points by which packages from outside bring methods and parts: each names a module to import."""

_METHODS: dict[ProtocolName, Registry[Method]] = {protocol: Registry("method") for protocol in PROTOCOLS}


@dataclass(frozen=True)
class Method:
    """A named recipe with parameters.

    Attributes:
        build: keyword arguments -> recipe.
        source: where the method is defined.
        summary: one line.
    """

    name: str
    build: Callable[..., Recipe]
    source: str
    summary: str

    @property
    def parameters(self) -> dict[str, Any]:
        """What a user may vary, with the defaults."""
        return {name: parameter.default for name, parameter in inspect.signature(self.build).parameters.items()}


Build = Callable[..., Recipe]


def method(
    name: str, *, source: str, protocols: Sequence[ProtocolName] = ("active_learning",)
) -> Callable[[Build], Build]:
    """Register a function that returns a recipe.

    Its keyword arguments need types and defaults: they are what a user may vary. Its docstring's first line is shown.
    """

    def register(build: Build) -> Build:
        summary = (inspect.getdoc(build) or "").partition("\n")[0]
        for protocol in protocols:
            _METHODS[protocol].add(name, Method(name, build, source, summary))
        return build

    return register


def methods(protocol: ProtocolName = "active_learning") -> Registry[Method]:
    """All methods of a protocol, those of packages from outside included.

    The modules of ``prunefuse_bench.baselines`` are found here, and register themselves.

    Raises:
        BadInput: a package from outside cannot be loaded.
    """
    _load_own()
    load_outside_parts()
    return _METHODS[protocol]


def _load_own() -> None:
    package = importlib.import_module("prunefuse_bench.baselines")
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)


@functools.cache
def load_outside_parts() -> tuple[str, ...]:
    """Import what installed packages declare as entry points of the group ``prunefuse_bench``; returns their names.

    Importing is all: the modules register methods, acquisitions, proxies and committees by the decorators.

    Raises:
        BadInput: one cannot be imported, or takes a name that is taken.
    """
    _load_own()  # first, so that a name taken twice is the other's fault
    found = sorted(metadata.entry_points(group=ENTRY_POINTS), key=lambda point: point.name)
    for point in found:
        try:
            point.load()
        except Exception as error:
            raise BadInput(
                f"the entry point {point.name!r} ({point.value}) cannot be loaded: {type(error).__name__}: {error}; "
                "mend that package or uninstall it"
            ) from error
    return tuple(point.name for point in found)


def load_file(file: Path) -> None:
    """Run a Python file that registers methods and parts by the decorators.

    Raises:
        BadInput: it cannot be run, or takes a name that is taken.
    """
    if not file.is_file():
        raise BadInput(f"--methods-from {file}: expected a Python file, but there is none")
    load_outside_parts()
    name = f"prunefuse_bench_methods_from_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return
    specification = importlib.util.spec_from_file_location(name, file)
    if specification is None or specification.loader is None:
        raise BadInput(f"--methods-from {file}: expected a Python file (.py)")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    try:
        specification.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise BadInput(f"--methods-from {file}: {type(error).__name__}: {error}") from error


def resolve_recipe(entry: str | Mapping[str, Any], protocol: ProtocolName = "active_learning") -> Recipe:
    """The recipe of one entry of a suite.

    Args:
        entry: a method's name, or a mapping with ``method``, any of its parameters and, if wanted, a ``label``. The
            label is otherwise the name, followed by the parameters that are given.

    Raises:
        BadInput: an unknown method or parameter (the nearest names are suggested), a value out of range, or parts that
            do not fit.
    """
    given = {"method": entry} if isinstance(entry, str) else dict(entry)
    name = given.pop("method", None)
    if not isinstance(name, str):
        raise BadInput(f"recipes: expected a method's name or a mapping with 'method', got {entry!r}")
    label = given.pop("label", None)
    found = _find(name, protocol)
    for key in given:
        if key not in found.parameters:
            raise unknown_name(f"parameter of method {name!r}", key, [*found.parameters, "label"])
    changed = ", ".join(f"{key}={value}" for key, value in given.items())
    label = str(label or (f"{name}({changed})" if changed else name))
    try:
        recipe: Recipe = pydantic.validate_call(found.build)(**given)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise BadInput(
            f"method {name!r}: {'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}"
        ) from None
    recipe = dataclasses.replace(recipe, label=label)
    recipe.check(protocol)
    return recipe


def _find(name: str, protocol: ProtocolName) -> Method:
    known = methods(protocol)
    for other in PROTOCOLS:
        if name not in known and name in methods(other):
            raise BadInput(f"method {name!r} belongs to the protocol {other!r}, and this suite's is {protocol!r}")
    return known[name]
