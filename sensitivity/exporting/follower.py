"""The process that sends runs while a study runs: ``python -m sensitivity.exporting.follower``, started by `live`.

It reads only the study directory, at low priority. Standard input has one line of JSON with the directory and the
targets, then "end" once the study has ended, or end-of-file when the command was stopped or killed. Events are written
to standard output, one line of JSON each. Output of libraries is discarded.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any

from sensitivity.exporting.sending import Sender
from sensitivity.store.directory import Place, first_line, place
from sensitivity.study.redaction import redacted
from sensitivity.study.trackers import Target, parse_target

Report = Callable[[Mapping[str, Any]], None]
_POLL_S, _LONGEST_POLL_S = 1.0, 30.0
"""Smallest and largest interval between two polls of the study directory."""
_MAX_LOAD = 5
"""Ratio of the interval between polls to the duration of a poll."""
_MAX_REASON = 200
"""Most characters of a reason."""
_PAUSE_S, _LONGEST_PAUSE_S = 15.0, 300.0
"""First and longest pause before a failed target is tried again."""


class Signals:
    """Signals of the command: the study has ended, or the process must stop."""

    def __init__(self) -> None:
        self.ended, self.stopped = threading.Event(), threading.Event()
        self._woken = threading.Event()

    def listen(self, stream: IO[str]) -> None:
        """Read a stream to its end."""
        for line in stream:
            if line.strip() == "end":
                self.ended.set()
                self._woken.set()
        self.stopped.set()
        self._woken.set()

    def wait(self, seconds: float) -> None:
        """Wait for a signal, for at most this time."""
        self._woken.wait(seconds)


@dataclass
class _Attempts:
    """Attempts to send a study to one target; only the first failure is reported."""

    sender: Sender
    directory: str
    report: Report
    failed: str = ""
    _again_at: float = 0.0
    _pause: float = _PAUSE_S
    _warned: bool = False

    def send(self, action: Callable[[], None], *, now: bool) -> None:
        """Call `action`, unless an attempt has failed recently and `now` is False."""
        if not now and time.monotonic() < self._again_at:
            return
        try:
            action()
        except (Exception, SystemExit) as error:
            self.failed = redacted(first_line(error))[:_MAX_REASON]
            self._again_at, self._pause = time.monotonic() + self._pause, min(2 * self._pause, _LONGEST_PAUSE_S)
            with contextlib.suppress(Exception):
                self.sender.reset()
            if not self._warned:
                self._warned = True
                self.report({"event": "warning", "text": warning(self.sender.target, self.failed, self.directory)})
        else:
            self.failed, self._pause = "", _PAUSE_S


def warning(target: Target, reason: str, directory: str) -> str:
    """Return the warning that runs can't be sent, with the fix."""
    return (
        f"{target.shown}: runs can't be sent ({reason}). The study continues, and every result is kept\n"
        f"  {target.kind.check}. Missing runs can be sent at any time: sensitivity export {directory} {target.shown}"
    )


def follow(directory: Place, targets: list[Target], signals: Signals, report: Report) -> None:
    """Send finished runs until the study ends, then the verdict."""

    def sent() -> None:
        report({"event": "sent"})

    attempts = [_Attempts(Sender(directory, target, on_sent=sent), directory.uri, report) for target in targets]
    while True:
        last = signals.ended.is_set()  # read before the poll, so that the last poll finds all runs
        began = time.monotonic()
        for each in attempts:
            sender = each.sender
            each.send(lambda s=sender: s.send_runs(stopped=signals.stopped.is_set), now=last)  # type: ignore[misc]
        if last or signals.stopped.is_set():
            break
        signals.wait(min(max(_POLL_S, _MAX_LOAD * (time.monotonic() - began)), _LONGEST_POLL_S))
    for each in attempts:
        if last and not each.failed and not signals.stopped.is_set():
            each.send(each.sender.send_study, now=True)
        where, there = each.sender.where, each.sender.there
        if not each.failed:
            each.send(each.sender.close, now=True)
        report(
            {
                "event": "done",
                "target": each.sender.target.shown,
                "sent": each.sender.sent,
                "there": there,
                "where": where,
                "failed": each.failed,
            }
        )


def main() -> None:
    """Run the process; see the module docstring."""
    events = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    instructions = os.fdopen(os.dup(0), "r", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    with contextlib.suppress(OSError):
        os.nice(10)
    work = json.loads(instructions.readline())
    signals = Signals()
    threading.Thread(target=signals.listen, args=(instructions,), daemon=True).start()

    def report(event: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the command has ended
            events.write(f"{json.dumps(event)}\n")

    follow(place(work["directory"]), [parse_target(text) for text in work["targets"]], signals, report)
    sys.stdout.flush()
    os._exit(0)  # a library's thread that still waits for a server must not delay the exit


if __name__ == "__main__":
    main()
