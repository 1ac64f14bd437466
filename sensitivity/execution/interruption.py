"""Stopping on request: SIGTERM (a job's stop) ends a command the way SIGINT (Ctrl-C) does."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruptible:
    """A block in which SIGINT and SIGTERM raise ``KeyboardInterrupt`` (in the main thread, which alone gets signals).

    It is ``KeyboardInterrupt`` because Ray's native code lets no other exception through while it waits. Where even
    that is swallowed (raised in a callback of the interpreter, say), `requested` still tells. After the first
    signal, others are ignored until the block is left, so that they do not break the tidying up.
    """

    def __init__(self) -> None:
        self.requested = False
        self.cause = ""
        """Why, where it was not a user who asked."""
        self._applies = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Interruptible:
        self._before = {number: signal.getsignal(number) for number in _SIGNALS}
        self.arm()
        return self

    def arm(self) -> None:
        """Install the handlers, again if something has put its own in their place."""
        if self._applies and not self.requested:
            for number in _SIGNALS:
                signal.signal(number, self._stop)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._applies:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def stop(self, cause: str) -> None:
        """Stop as a signal does, because of `cause`; from any thread."""
        if self.requested:
            return
        self.cause = cause
        if self._applies:
            os.kill(os.getpid(), signal.SIGINT)  # wakes the main thread, whatever it waits for
        else:
            self.requested = True

    def _stop(self, number: int, _: FrameType | None) -> None:
        self.requested = True
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt(signal.Signals(number).name)
