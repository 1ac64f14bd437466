"""Stopping on request: SIGTERM (a job's stop) ends a command the way SIGINT (Ctrl-C) does."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise ``KeyboardInterrupt`` on SIGINT and SIGTERM while inside (in the main thread, which alone gets signals).

    It is ``KeyboardInterrupt`` because Ray's native code lets no other exception through while it waits.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: object) -> None:
        for each in before:  # a second signal must not break the tidying up after the first
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
