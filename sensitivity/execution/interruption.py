"""Stops on request: SIGTERM (a stopped job) and SIGHUP (a closed terminal) end a command like SIGINT (Ctrl-C)."""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
from types import FrameType, TracebackType

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PATIENCE_S = 90.0
"""How long a stop may take; afterwards the process is ended, because it waits for something that never happens."""
_STOPPED = 130


def heeded() -> tuple[signal.Signals, ...]:
    """Return the signals that stop this process, without those that its parent ignores, such as SIGHUP in ``nohup``."""
    return tuple(each for each in STOPS if signal.getsignal(each) is not signal.SIG_IGN)


class Interruptible:
    """A block in which the signals in `STOPS` raise ``KeyboardInterrupt`` (in the main thread, which receives them).

    Ray's native code propagates no other exception while it waits. If even that one is swallowed, for instance in a
    callback of the interpreter, `requested` is still set. After the first signal, others are ignored until this block
    and any outer one are left, so that they do not interrupt the cleanup.
    """

    def __init__(self) -> None:
        self.requested = False
        self.cause = ""
        """Reason of the stop, if the user did not request it."""
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
        """Stop like a signal, because of `cause`; can be called from any thread."""
        if self.requested:
            return
        self.cause = cause
        if self._signals:
            os.kill(os.getpid(), self._signals[0])  # interrupts any wait of the main thread
        else:
            self.requested = True

    def _stop(self, number: int, _: FrameType | None) -> None:
        if self.requested:  # a second signal arrived while the first was handled
            return
        self.requested = True
        for each in self._signals:
            signal.signal(each, _ignore)  # not SIG_IGN: Python reports a signal that has just arrived as a race
        self._last_resort.start()
        raise KeyboardInterrupt(signal.Signals(number).name)


def _end() -> None:
    """End this process immediately. Stored results are complete, and the lock of a dead process is taken over."""
    if faulthandler.is_enabled():
        faulthandler.dump_traceback()
    os.write(
        2, f"stopping took more than {_PATIENCE_S:.0f} s and was cut short; every reported result is kept\n".encode()
    )
    os._exit(_STOPPED)


def _ignore(number: int, _: FrameType | None) -> None:
    """Ignore further signals during a stop."""


def ignore_stops() -> None:
    """Ignore stop signals while the interpreter exits and no longer runs Python handlers."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
