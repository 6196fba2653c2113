"""Records that carry the SHA-256 of their own content, so that a change made after they were written shows.

It is a guard against damage (a bad disk, an editor, a file copied over another), not against a forger, who would
compute it anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from prunefuse_bench.errors import BadInput

__all__ = ["Record", "checksum", "parse_json", "read_record", "sealed", "unseal"]

KEY = "sha256"


class Record(NamedTuple):
    """A record as it was read.

    Attributes:
        content: without its checksum.
        verified: whether it carried a checksum; if so, the checksum was right.
    """

    content: dict[str, Any]
    verified: bool


def checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON: keys in order, no spaces, ASCII. The layout of a file does not count.

    Raises:
        ValueError: a number that is not finite, or data that is nested too deeply.
    """
    try:
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return hashlib.sha256(text.encode()).hexdigest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with its checksum, ready to be written.

    Raises:
        ValueError: a number that is not finite.
    """
    return {**content, KEY: checksum(content)}


def parse_json(text: str | bytes) -> dict[str, Any]:
    """One JSON object, in UTF-8, by the letter of the standard: no NaN, no infinity, no key twice.

    Raises:
        ValueError: anything else.
    """
    try:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        data = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(data, dict):
        raise ValueError(f"expected an object, got {type(data).__name__}")
    return data


def unseal(data: Mapping[str, Any]) -> Record:
    """Take the checksum off; a record without one was written before there were any.

    Raises:
        ValueError: the checksum is not that of the content.
    """
    content = {key: value for key, value in data.items() if key != KEY}
    found = checksum(content)
    if KEY in data and data[KEY] != found:
        raise ValueError(f"expected content with SHA-256 {str(data[KEY])[:64]}, got {found}: it was changed")
    return Record(content, KEY in data)


def read_record(file: Path, remedy: str) -> Record:
    """Read a record and compare it with its checksum.

    Args:
        remedy: what to do if it is damaged, as the end of the message.

    Raises:
        BadInput: not readable, or changed since it was written.
    """
    try:
        return unseal(parse_json(file.read_bytes()))
    except (OSError, ValueError) as error:
        raise BadInput(f"{file}: not readable or damaged ({error}); {remedy}") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key[:50]!r} is there twice")
            seen.add(key)
    return data
