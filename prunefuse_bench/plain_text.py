"""Text from anybody: what may stand in a record or a setting, and how it is printed.

Control characters speak to a terminal, and bidirectional controls turn what is read around; neither belongs in a name.
"""

from __future__ import annotations

import re

import rich.markup

__all__ = ["UNPLAIN", "expect_plain", "for_terminal", "printable", "shown_error", "shown_value"]

BIDIRECTIONAL = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
UNPLAIN = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff{BIDIRECTIONAL}]")
"""All of the categories Cc and Cs but line break and tab, and the bidirectional controls."""


def expect_plain(text: str) -> str:
    """The same text.

    Raises:
        ValueError: it has a control character, half of a surrogate pair, or a bidirectional control character.
    """
    if found := UNPLAIN.search(text):
        kind = "bidirectional control" if found[0] in BIDIRECTIONAL else "control"
        raise ValueError(f"{kind} character {found[0]!r}")
    return text


def printable(text: str) -> str:
    """Text as a terminal may get it: what :func:`expect_plain` refuses is written as its escape, as in ``\\x1b``."""
    return UNPLAIN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def for_terminal(text: object) -> str:
    """Text that rich prints as it is: no markup of rich, no control characters."""
    return rich.markup.escape(printable(str(text)))


def shown_error(error: object, length: int = 300) -> str:
    """What an error says, in one line of printable characters: some quote all that they were given."""
    text = " ".join(printable(str(error)).split())
    return text if len(text) <= length else f"{text[:length]}…"


def shown_value(value: object, length: int = 200) -> str:
    """A value for a message: its ``repr``, not longer than this."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python writes no number of more than 4,300 digits
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= length else f"{text[:length]}…"
