"""How a running study gets on: its rate, and when it may be done."""

from __future__ import annotations

import datetime
import json
import os
import socket
import time
from dataclasses import dataclass

import pandas as pd

from sensitivity.store.directory import Place
from sensitivity.store.lock import LOCK, STALE_S
from sensitivity.study.errors import StorageError

_WINDOW_S = 300.0
"""The rate is that of so many last seconds: an earlier session's pause doesn't count."""


@dataclass(frozen=True, kw_only=True)
class Writer:
    """The process that writes a study now, as its lock names it."""

    token: str
    host: str
    pid: int
    job: str
    """The cluster's job that it is; empty on one machine."""

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this machine."""
        return self.host == socket.gethostname() and self.pid > 0


def writer(directory: Place) -> Writer | None:
    """Return who writes a study now; None if nobody does, or its lock is stale or can't be read."""
    try:
        if not directory.exists(LOCK):
            return None
        content = json.loads(directory.read(LOCK))
        found = Writer(
            token=str(content["token"]),
            host=str(content["host"]),
            pid=int(content["pid"]),
            job=str(content.get("job", "")),
        )
        fresh = time.time() - float(content["renewed_at"]) < STALE_S
    except (StorageError, ValueError, KeyError, TypeError):
        return None
    if found.is_here:
        try:
            os.kill(found.pid, 0)
        except (ProcessLookupError, OverflowError):
            return None
        except PermissionError:
            pass
    return found if fresh else None


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Runs a second lately, and the seconds left at that rate; None where nothing tells."""

    rate: float
    seconds_left: float | None


def pace(times: pd.DataFrame, waiting: int, now: datetime.datetime) -> Pace:
    """Return the pace of a study from when its results began (``started_at``) and were recorded (``finished_at``).

    Runs are taken to be alike.
    """
    lately = times[(now - times["finished_at"]).dt.total_seconds() < _WINDOW_S]
    if not len(lately):
        return Pace(rate=0.0, seconds_left=None)
    span = min((now - lately["started_at"].min()).total_seconds(), _WINDOW_S)
    rate = len(lately) / max(span, 1.0)
    return Pace(rate=rate, seconds_left=waiting / rate)
