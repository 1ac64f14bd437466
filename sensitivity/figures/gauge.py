"""An interval and its margin on a line, shown with an answer before any figure."""

from __future__ import annotations

import math
from dataclasses import dataclass

_MAX_LOG_RATIO = math.log(100.0)
"""Largest absolute log ratio that the line shows."""
_ROOM = 1.15


@dataclass(frozen=True, kw_only=True)
class Gauge:
    """Positions on a line in percent of its length: equality is at 50, and the candidate is ahead to the right."""

    band: tuple[float, float]
    """The margin around equality, within which the two count as equivalent."""
    interval: tuple[float, float]
    value: float | None
    """None if there is no estimate."""
    left: str
    right: str
    alt_text: str
    """Text alternative for screen readers."""


def gauge(
    *, ratio: float | None, ends: tuple[float | None, float | None], margin: float, flipped: bool, one: str, other: str
) -> Gauge | None:
    """Return the gauge of a ratio and the `ends` of its interval, or None if there is no interval.

    Args:
        ratio: the estimate, candidate over reference; None or NaN if there is none.
        ends: bounds of the interval; None, 0 or infinity where it is unbounded.
        margin: ratio up to which the two count as equivalent, above 1.
        flipped: whether a smaller ratio means that the candidate is ahead.
        one: name of the candidate.
        other: name of the reference.
    """
    sign = -1.0 if flipped else 1.0
    low, high = sorted(
        sign * _log(end, end_of) for end, end_of in zip(ends, (-_MAX_LOG_RATIO, _MAX_LOG_RATIO), strict=True)
    )
    if (low, high) == (-_MAX_LOG_RATIO, _MAX_LOG_RATIO):
        return None
    known = ratio is not None and math.isfinite(ratio) and ratio > 0
    value = sign * _log(ratio, 0.0) if known else None
    reach = max(abs(end) for end in (low, high, 2 * math.log(margin)) if abs(end) < _MAX_LOG_RATIO) * _ROOM

    def place(at: float) -> float:
        return round(50 + 50 * min(max(at / reach, -1.0), 1.0), 2)

    edge = math.log(margin)
    return Gauge(
        band=(place(-edge), place(edge)),
        interval=(place(low), place(high)),
        value=None if value is None else place(value),
        left=f"{other} ahead",
        right=f"{one} ahead",
        alt_text=f"The interval on a line from {other} ahead, through equal, to {one} ahead; shaded: the margin.",
    )


def _log(ratio: float | None, otherwise: float) -> float:
    if ratio is None or not math.isfinite(ratio) or ratio <= 0:
        return otherwise
    return min(max(math.log(ratio), -_MAX_LOG_RATIO), _MAX_LOG_RATIO)
