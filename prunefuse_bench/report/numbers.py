"""Numbers as tables print them, with their units."""

from __future__ import annotations

import math

from prunefuse_bench.report.sheets import NOTHING

__all__ = ["flops", "known", "percent", "points", "rank", "ratio", "seconds"]

PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def known(value: float | None) -> float | None:
    """A finite number, or None where there is none."""
    return None if value is None or not math.isfinite(value) else float(value)


def percent(share: float | None) -> str:
    """A share (0 to 1) in percent, two digits after the point."""
    return NOTHING if share is None or math.isnan(share) else f"{100 * share:.2f}"


def points(share: float | None) -> str:
    """A difference of shares in percentage points, with its sign."""
    return NOTHING if share is None or math.isnan(share) else f"{100 * share:+.2f}"


def seconds(value: float | None) -> str:
    """Three digits, in seconds, minutes or hours."""
    if value is None or not math.isfinite(value):
        return NOTHING
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if value >= 2 * size:
            return f"{_three_digits(value / size)} {unit}"
    return "0 s" if not value else f"{1e3 * value:.2g} ms" if value < 0.1 else f"{_three_digits(value)} s"


def flops(value: float | None) -> str:
    """Three digits and a prefix of a thousand."""
    if value is None or not math.isfinite(value):
        return NOTHING
    size, prefix = next((entry for entry in PREFIXES if value >= entry[0]), (1.0, ""))
    return f"{_three_digits(value / size)} {prefix}FLOP" if value else "0"


def ratio(value: float | None) -> str:
    """A factor, two digits after the point."""
    if value is None or math.isnan(value):
        return NOTHING
    return "∞" if math.isinf(value) else f"{value:.2f}×"


def rank(value: float | None) -> str:
    """A mean rank; whole ranks without a point."""
    return NOTHING if value is None or math.isnan(value) else f"{value:.2f}".rstrip("0").rstrip(".")


def _three_digits(value: float) -> str:
    digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f}"
