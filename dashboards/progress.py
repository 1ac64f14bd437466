"""The pace of a running study: its rate, and the time left."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import pandas as pd

_WINDOW_S = 300.0
"""Seconds over which the rate is averaged, so that a pause before the current session doesn't count."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Recent runs per second, and the seconds left at that rate; None where unknown."""

    rate: float
    seconds_left: float | None


def pace(times: pd.DataFrame, waiting: int, now: datetime.datetime) -> Pace:
    """Return the pace of a study from the times at which its results started and finished.

    `times` has the columns ``started_at`` and ``finished_at``. All runs are assumed to take equally long.
    """
    lately = times[(now - times["finished_at"]).dt.total_seconds() < _WINDOW_S]
    if not len(lately):
        return Pace(rate=0.0, seconds_left=None)
    span = min((now - lately["started_at"].min()).total_seconds(), _WINDOW_S)
    rate = len(lately) / max(span, 1.0)
    return Pace(rate=rate, seconds_left=waiting / rate)
