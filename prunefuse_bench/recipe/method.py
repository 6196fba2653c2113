"""Methods by name: functions that return a recipe, their arguments being what a user may vary."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pydantic

from prunefuse_bench.errors import BadInput, unknown_name
from prunefuse_bench.recipe.recipe import Recipe
from prunefuse_bench.registry import Registry

__all__ = ["METHODS", "Method", "method", "methods", "resolve_recipe"]


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


METHODS: Registry[Method] = Registry("method")

Build = Callable[..., Recipe]


def method(name: str, *, source: str) -> Callable[[Build], Build]:
    """Register a function that returns a recipe.

    Its keyword arguments need types and defaults: they are what a user may vary. Its docstring's first line is shown.
    """

    def register(build: Build) -> Build:
        METHODS.add(name, Method(name, build, source, inspect.getdoc(build).splitlines()[0]))  # type: ignore[union-attr]
        return build

    return register


def methods() -> Registry[Method]:
    """All methods: the modules of ``prunefuse_bench.baselines`` are found here, and register themselves."""
    package = importlib.import_module("prunefuse_bench.baselines")
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
    return METHODS


def resolve_recipe(entry: str | Mapping[str, Any]) -> Recipe:
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
    found = methods()[name]
    for key in given:
        if key not in found.parameters:
            raise unknown_name(f"parameter of method {name!r}", key, [*found.parameters, "label"])
    try:
        recipe: Recipe = pydantic.validate_call(found.build)(**given)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise BadInput(
            f"method {name!r}: {'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}"
        ) from None
    changed = ", ".join(f"{key}={value}" for key, value in given.items())
    recipe = dataclasses.replace(recipe, label=str(label or (f"{name}({changed})" if changed else name)))
    recipe.check()
    return recipe
