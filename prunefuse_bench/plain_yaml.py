"""YAML from anybody as plain data: what JSON could say, of a bounded size, and no code.

PyYAML's safe loader runs nothing, but a file of a few lines can name itself, grow to gigabytes through its aliases, or
end the program by a date that is none. Here a file is measured before anything is made of it.
"""

from __future__ import annotations

import math
from typing import Any

import yaml

from prunefuse_bench.plain_text import expect_plain, shown_value

__all__ = ["DEEPEST", "LONGEST", "load_plain_yaml"]

LONGEST = 256 << 10
"""Characters of a file; suites have a few thousand."""
LONGEST_TEXT = 10_000
"""Characters of one value."""
LONGEST_NUMBER = 40
"""Characters of one number; whole numbers have less than 64 bits."""
MOST_VALUES = 20_000
"""Keys and values, those that an alias repeats counted each time."""
DEEPEST = 40
"""Levels of keys and lists."""

PREFIX = "tag:yaml.org,2002:"
MERGE = f"{PREFIX}merge"
NUMBERS = f"{PREFIX}int", f"{PREFIX}float"
SCALARS = f"{PREFIX}null", f"{PREFIX}bool", *NUMBERS, f"{PREFIX}str", MERGE
DATE = f"{PREFIX}timestamp"


class _Loader(yaml.SafeLoader):
    """The safe loader; a date is a text, as nothing here is a date."""

    yaml_implicit_resolvers = {  # noqa: RUF012  a class attribute of PyYAML's
        first: [(tag, pattern) for tag, pattern in resolvers if tag != DATE]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def load_plain_yaml(text: str) -> Any:
    """None, truth values, finite numbers, texts, lists and dictionaries; no two places share an object.

    Raises:
        yaml.YAMLError: not YAML, beyond a limit of this module, a tag that is none of these, a key twice, an alias
            within what it names, a number that is not finite, or a text with control characters.
    """
    if len(text) > LONGEST:
        raise yaml.YAMLError(f"expected at most {LONGEST:,} characters, got {len(text):,}")
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        _Measure().of(root)
        return _unshared(loader.construct_document(root))
    except RecursionError:
        raise yaml.YAMLError(f"expected at most {DEEPEST} levels") from None
    except (ValueError, KeyError) as error:  # a text behind a tag that it does not fit, as in !!bool maybe
        raise yaml.YAMLError(f"a value that does not fit its tag ({error})") from None


class _Measure:
    """Walks through the nodes before they become data, each once, however often it is named."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, int]] = {}
        self._above: set[int] = set()

    def of(self, node: yaml.Node) -> tuple[int, int]:
        """How many values it stands for, and how many levels."""
        if id(node) in self._above:
            raise _refused(node, "an alias within what it names")
        if id(node) not in self._known:
            self._above.add(id(node))
            size, levels = self._measure(node)
            if size > MOST_VALUES:
                raise _refused(node, f"expected at most {MOST_VALUES:,} keys and values, aliases written out")
            if levels > DEEPEST:
                raise _refused(node, f"expected at most {DEEPEST} levels")
            self._above.remove(id(node))
            self._known[id(node)] = size, levels
        return self._known[id(node)]

    def _measure(self, node: yaml.Node) -> tuple[int, int]:
        if isinstance(node, yaml.ScalarNode):
            _check_scalar(node)
            return 1, 0
        if isinstance(node, yaml.MappingNode) and node.tag == f"{PREFIX}map":
            _check_keys(node)
            inside = [self.of(one) for pair in node.value for one in pair]
        elif isinstance(node, yaml.SequenceNode) and node.tag == f"{PREFIX}seq":
            inside = [self.of(one) for one in node.value]
        else:
            raise _refused(node, f"the tag {node.tag!r} is not allowed")
        return 1 + sum(size for size, _ in inside), 1 + max((levels for _, levels in inside), default=0)


def _check_scalar(node: yaml.ScalarNode) -> None:
    if node.tag not in SCALARS:
        raise _refused(node, f"the tag {node.tag!r} is not allowed")
    longest = LONGEST_NUMBER if node.tag in NUMBERS else LONGEST_TEXT
    if len(node.value) > longest:
        raise _refused(node, f"expected at most {longest:,} characters in one value, got {len(node.value):,}")
    try:
        expect_plain(node.value)
    except ValueError as error:
        raise _refused(node, str(error)) from None


def _check_keys(node: yaml.MappingNode) -> None:
    seen = set()
    for key, _ in node.value:
        name = key.tag, str(key.value)
        if name in seen and key.tag != MERGE:
            raise _refused(key, f"the key {shown_value(key.value, 50)} is there twice")
        seen.add(name)


def _refused(node: yaml.Node, problem: str) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _number(loader: _Loader, node: yaml.ScalarNode) -> int | float:
    value = loader.construct_yaml_int(node) if node.tag == NUMBERS[0] else loader.construct_yaml_float(node)
    if not math.isfinite(value) or (isinstance(value, int) and abs(value) >= 2**63):
        raise _refused(node, f"expected a finite number of less than 64 bits, got {shown_value(node.value, 50)}")
    return value


for _tag in NUMBERS:
    _Loader.add_constructor(_tag, _number)


def _unshared(data: Any) -> Any:
    """What an alias repeats becomes data of its own: changed in one place, it stays what it was in the others."""
    if isinstance(data, dict):
        return {key: _unshared(value) for key, value in data.items()}
    return [_unshared(value) for value in data] if isinstance(data, list) else data
