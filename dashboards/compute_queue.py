"""Runs one computation at a time, the most urgent first: threads of one interpreter only slow each other down."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

_GRACE_S = 0.25
"""Seconds that a late computation waits first, so that other requests of the same page can come before it."""


class ComputeQueue:
    """Lets one thread compute at a time; late computations wait until no early one is waiting."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._busy = False
        self._early = 0

    def wait_for_others(self) -> None:
        """Wait before the first turn of a late computation, so that others can ask first."""
        time.sleep(_GRACE_S)

    @contextlib.contextmanager
    def take(self, *, late: bool) -> Iterator[None]:
        """Hold a turn inside the block."""
        with self._changed:
            self._early += not late
            while self._busy or (late and self._early):
                self._changed.wait()
            self._busy = True
            self._early -= not late
        try:
            yield
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
