"""Formatting of numbers, counts, durations and sizes, shared by all interfaces."""

from __future__ import annotations

import datetime
import math
from typing import Any


def number(value: float, digits: int = 2) -> str:
    """Format `value` with `digits` significant digits in the shorter notation; a dash for NaN."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else "∞"
    if value == 0 or 0.01 <= abs(value) < 10_000:
        plain = f"{value:.{digits}g}"
        return f"{value:,.0f}" if "e" in plain else plain
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    shortened = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{shortened}e{int(exponent)}"


def count(n: int, noun: str) -> str:
    """Return `n` with its noun, which is in the plural unless n is 1."""
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{n:,} {noun if n == 1 else plural}"


def kind_of(value: Any) -> str:
    """Return the name of a value's type with its article, such as "an int"; "None" for None."""
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'AEIOaeio' or name == 'ndarray' else 'a'} {name}"


def duration(seconds: float) -> str:
    """Format a duration in the largest unit of which it is at least two, such as "51.5 s" or "2.1 h"; a dash for NaN.

    With at least two units, rounding to one decimal changes the value by at most 3%.
    """
    if math.isfinite(seconds):
        for unit, of in (("days", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
            if seconds >= 2 * of:
                return f"{seconds / of:,.1f} {unit}"
        if 0 < seconds < 0.1:
            return f"{number(1e3 * seconds, 3)} ms"
    return "–" if math.isnan(seconds) else f"{number(seconds, 3)} s"


def ago(moment: datetime.datetime, now: datetime.datetime) -> str:
    """Format how long before `now` something happened."""
    return f"{duration(max((now - moment).total_seconds(), 0.0))} ago"


def size(amount: float, unit: str) -> str:
    """Format an amount with a decimal prefix, as in 1.2 GFLOP."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if abs(amount) < 1000:
            return f"{amount:.3g} {prefix}{unit}"
        amount /= 1000
    return f"{amount:.3g} E{unit}"
