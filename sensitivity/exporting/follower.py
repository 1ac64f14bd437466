"""The process that sends runs while a study runs: ``python -m sensitivity.exporting.follower``, started by `live`.

It reads the study directory alone, at a low priority. On standard input comes one line of JSON that says what to send
where, then "end" once the study has ended, or the end of the file when the command was stopped or killed. On standard
output go events, a line of JSON each. What libraries print goes nowhere.
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

Say = Callable[[Mapping[str, Any]], None]
_EVERY_S, _AT_MOST_S = 1.0, 30.0
"""Between two looks at the study directory; longer where a look takes long."""
_SHARE = 5
"""A look may take one part in so many of the time."""
_LONGEST = 200
"""Characters of a reason."""
_PAUSE_S, _LONGEST_PAUSE_S = 15.0, 300.0
"""Before another attempt to reach a tool that has failed."""


class Signals:
    """What the command says: the study has ended, or everything has to stop."""

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
        """Wait until something is said, or for some time."""
        self._woken.wait(seconds)


@dataclass
class _Attempts:
    """The attempts to send a study to one target: the first failure is said, later ones are not."""

    sender: Sender
    directory: str
    say: Say
    failed: str = ""
    _again_at: float = 0.0
    _pause: float = _PAUSE_S
    _warned: bool = False

    def send(self, action: Callable[[], None], *, now: bool) -> None:
        """Call `action` unless an attempt has failed a short time ago; `now` whenever it was."""
        if not now and time.monotonic() < self._again_at:
            return
        try:
            action()
        except (Exception, SystemExit) as error:
            self.failed = redacted(first_line(error))[:_LONGEST]
            self._again_at, self._pause = time.monotonic() + self._pause, min(2 * self._pause, _LONGEST_PAUSE_S)
            with contextlib.suppress(Exception):
                self.sender.reset()
            if not self._warned:
                self._warned = True
                self.say({"event": "warning", "text": warning(self.sender.target, self.failed, self.directory)})
        else:
            self.failed, self._pause = "", _PAUSE_S


def warning(target: Target, reason: str, directory: str) -> str:
    """Return what is said when runs can't be sent, with what to do."""
    return (
        f"{target.shown}: runs can't be sent ({reason}). The study goes on, and every result is kept\n"
        f"  {target.kind.check}. What is missing can be sent at any time:"
        f" sensitivity export {directory} {target.shown}"
    )


def follow(directory: Place, targets: list[Target], signals: Signals, say: Say) -> None:
    """Send what comes until the study ends, then the verdict."""

    def sent() -> None:
        say({"event": "sent"})

    attempts = [_Attempts(Sender(directory, target, on_sent=sent), directory.uri, say) for target in targets]
    while True:
        last = signals.ended.is_set()  # before the look, which then sees all
        began = time.monotonic()
        for each in attempts:
            sender = each.sender
            each.send(lambda s=sender: s.send_runs(stopped=signals.stopped.is_set), now=last)  # type: ignore[misc]
        if last or signals.stopped.is_set():
            break
        signals.wait(min(max(_EVERY_S, _SHARE * (time.monotonic() - began)), _AT_MOST_S))
    for each in attempts:
        if last and not each.failed and not signals.stopped.is_set():
            each.send(each.sender.send_study, now=True)
        where, there = each.sender.where, each.sender.there
        if not each.failed:
            each.send(each.sender.close, now=True)
        say(
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
    """Do what standard input says."""
    events = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    asked = os.fdopen(os.dup(0), "r", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    with contextlib.suppress(OSError):
        os.nice(10)
    work = json.loads(asked.readline())
    signals = Signals()
    threading.Thread(target=signals.listen, args=(asked,), daemon=True).start()

    def say(event: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the command is gone
            events.write(f"{json.dumps(event)}\n")

    follow(place(work["directory"]), [parse_target(text) for text in work["targets"]], signals, say)
    sys.stdout.flush()
    os._exit(0)  # a library's thread that still waits for a server must not keep it


if __name__ == "__main__":
    main()
