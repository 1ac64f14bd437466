"""One computation at a time, what a reader waits for first: threads of one interpreter only slow each other down."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

_GRACE_S = 0.25
"""A late computation first leaves others so long to ask: those of one page come within it."""


class ComputeQueue:
    """Lets one thread compute at a time; a late computation waits until no early one is waiting."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._busy = False
        self._early = 0

    def give_way(self) -> None:
        """Leave others time to ask, before a late computation asks for its first turn."""
        time.sleep(_GRACE_S)

    @contextlib.contextmanager
    def take(self, *, late: bool) -> Iterator[None]:
        """Hold a turn while inside."""
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
