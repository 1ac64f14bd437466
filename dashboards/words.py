"""Durations, times and counts in words."""

from __future__ import annotations

import datetime
import math

from sensitivity.figures.labels import number


def duration(seconds: float) -> str:
    """Return a length of time in the unit that suits it; a dash for NaN."""
    if math.isnan(seconds):
        return "–"
    for unit, size in (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{number(seconds, 2)} s"


def ago(moment: datetime.datetime, now: datetime.datetime) -> str:
    """Return how long before `now` something was."""
    return f"{duration(max((now - moment).total_seconds(), 0.0))} ago"
