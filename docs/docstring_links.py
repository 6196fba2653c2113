"""For the documentation site: what docstrings of this package write and its generator does not read.

Names written :func:`name` become links where the site has the name. In lists of arguments and attributes, entries for
several names (``weight, bias: float [C]``) become one entry for each.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:func|class|meth|attr|data|mod):`([\w.]+)`")
SHARED_ENTRY = re.compile(r"^( +)(\w+(?:, \w+)+)(:.*(?:\n\1 +.*)*)", re.MULTILINE)


class DocstringLinks(griffe.Extension):
    """Rewrites what was loaded, once all of it was."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Every docstring of the package."""
        self._rewrite(pkg)

    def _rewrite(self, thing: griffe.Object) -> None:
        if thing.docstring:
            text = ROLE.sub(lambda role: _link(thing, role[1]), thing.docstring.value)
            thing.docstring.value = SHARED_ENTRY.sub(_one_for_each, text)
        for member in thing.members.values():
            if isinstance(member, griffe.Object):
                self._rewrite(member)


def _link(thing: griffe.Object, name: str) -> str:
    """A link that may lead nowhere (the name is then code alone): not every name is on the site."""
    try:
        target = name if name.startswith("prunefuse_bench") else thing.resolve(name)
    except griffe.NameResolutionError:
        target = name
    return f'<autoref identifier="{target}" optional><code>{name.rpartition(".")[2]}</code></autoref>'


def _one_for_each(entry: re.Match[str]) -> str:
    return "\n".join(f"{entry[1]}{name}{entry[3]}" for name in entry[2].split(", "))
