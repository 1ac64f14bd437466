"""Stopping on request: SIGTERM (a job's stop) and SIGHUP (a closed terminal) end a command as SIGINT (Ctrl-C) does."""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
from types import FrameType, TracebackType

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PATIENCE_S = 90.0
"""How long a stop may take to end the work: what waits longer waits for something that no longer comes."""
_STOPPED = 130


def heeded() -> tuple[signal.Signals, ...]:
    """Return the signals that stop this process, except those its caller ignores, as ``nohup`` does SIGHUP."""
    return tuple(each for each in STOPS if signal.getsignal(each) is not signal.SIG_IGN)


class Interruptible:
    """A block in which the signals of `STOPS` raise ``KeyboardInterrupt`` (in the main thread, which alone gets them).

    It is ``KeyboardInterrupt`` because Ray's native code lets no other exception through while it waits. Where even
    that is swallowed (raised in a callback of the interpreter, say), `requested` still tells. After the first
    signal, others are ignored until the block is left, and an outer one too, so that they do not break the cleanup.
    """

    def __init__(self) -> None:
        self.requested = False
        self.cause = ""
        """Why, where it was not a user who asked."""
        self._signals = heeded() if threading.current_thread() is threading.main_thread() else ()
        self._last_resort = threading.Timer(_PATIENCE_S, _end)
        self._last_resort.daemon = True

    def __enter__(self) -> Interruptible:
        self._before = {number: signal.getsignal(number) for number in self._signals}
        self.arm()
        return self

    def arm(self) -> None:
        """Install the handlers, again if other code has replaced them."""
        if not self.requested:
            for number in self._signals:
                signal.signal(number, self._stop)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._last_resort.cancel()
        for number, handler in self._before.items():
            outer = getattr(handler, "__self__", None)
            if self.requested and isinstance(outer, Interruptible):
                outer.requested = True
            else:
                signal.signal(number, handler)

    def stop(self, cause: str) -> None:
        """Stop as a signal does, because of `cause`; from any thread."""
        if self.requested:
            return
        self.cause = cause
        if self._signals:
            os.kill(os.getpid(), self._signals[0])  # wakes the main thread, whatever it waits for
        else:
            self.requested = True

    def _stop(self, number: int, _: FrameType | None) -> None:
        if self.requested:  # a second signal that came while the first was being handled
            return
        self.requested = True
        for each in self._signals:
            signal.signal(each, _pass)  # not SIG_IGN: Python reports a signal that has come meanwhile as a race
        self._last_resort.start()
        raise KeyboardInterrupt(signal.Signals(number).name)


def _end() -> None:
    """End this process at once; stored results are complete, and the lock of a dead process is taken over."""
    if faulthandler.is_enabled():
        faulthandler.dump_traceback()
    os.write(
        2, f"stopping took more than {_PATIENCE_S:.0f} s and was cut short; every reported result is kept\n".encode()
    )
    os._exit(_STOPPED)


def _pass(number: int, _: FrameType | None) -> None:
    """Ignore further signals, as a stop is under way."""


def ignore_stops() -> None:
    """Ignore stop signals while the interpreter exits, when it no longer runs Python handlers."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
