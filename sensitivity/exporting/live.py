"""Sends a study's runs while it runs, from a separate process, so that it can neither slow down nor stop the study."""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

from sensitivity.exporting.follower import warning
from sensitivity.store.directory import Place
from sensitivity.study.spec import StudySpec
from sensitivity.study.trackers import Target, parse_target, target_without_credentials
from sensitivity.study.words import count

logger = logging.getLogger(__name__)

PATIENCE_S = 120.0
"""How long the end of a study waits for a target that reports no progress."""
_STOP_S = 5.0
"""How long a stopped command waits for the run that is being sent."""


def targets_of(spec: StudySpec, log: Sequence[str] | None) -> tuple[Target, ...]:
    """Return the targets of a command (`log`), or if None those of the study file.

    Raises:
        UserError: a tool is unknown, or an address contains credentials.
    """
    given = dict.fromkeys(spec.log.to if log is None else log)
    return tuple(parse_target(target_without_credentials(text)) for text in given)


@contextlib.contextmanager
def sending(directory: Place, targets: Sequence[Target], show: Callable[[str], None]) -> Iterator[LiveExport]:
    """Send the runs of a study directory inside the block; call `end` there when the study has ended.

    Args:
        directory: study directory, which need not exist yet.
        targets: targets to send to; one whose package is not installed is skipped with a warning.
        show: called with lines about the progress.
    """
    available = []
    for target in targets:
        if target.missing:
            logger.warning("%s", _without_package(target, directory))
        else:
            available.append(target)
    with LiveExport(directory, available, show) as live:
        yield live


class LiveExport:
    """Handle of the sending process in the command that runs the study."""

    def __init__(self, directory: Place, targets: Sequence[Target], show: Callable[[str], None]) -> None:
        self._directory, self._targets, self._show = directory, targets, show
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._last_event_at = 0.0
        self._done: list[dict[str, Any]] = []
        self._warned: set[str] = set()

    def __enter__(self) -> LiveExport:
        if self._targets:
            try:
                self._start()
            except OSError as error:
                self._give_up(f"no process can be started: {error.strerror}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop sending, unless it has ended."""
        if self._process is not None:
            self._close(_STOP_S)

    def end(self) -> None:
        """Send the remaining runs and the verdict, as long as there is progress, and show the totals."""
        if self._process is None:
            return
        self._show(f"sending the remaining runs to {', '.join(target.shown for target in self._targets)}")
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.write("end\n")
            self._process.stdin.flush()
        self._last_event_at = time.monotonic()
        while self._process.poll() is None and time.monotonic() - self._last_event_at < PATIENCE_S:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.2)
        self._close(0.0)
        for event in self._done:
            missing = "" if not event["failed"] else "; others could not be sent (see above)"
            self._show(f"{event['target']}: {count(event['sent'], 'run')} sent{missing}. {event['where']}".rstrip(". "))
        silent = {target.shown for target in self._targets} - {event["target"] for event in self._done}
        if silent:
            self._give_up(f"no progress for {PATIENCE_S:.0f} s, or its process was killed", only=silent)

    def _start(self) -> None:
        command = [sys.executable, "-P", "-m", "sensitivity.exporting.follower"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C is handled by the study, which then ends this process
        )
        work = {"directory": self._directory.uri, "targets": [target.text for target in self._targets]}
        assert self._process.stdin is not None
        self._process.stdin.write(f"{json.dumps(work)}\n")
        self._process.stdin.flush()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._last_event_at = time.monotonic()
            event = json.loads(line)
            if event["event"] == "warning":
                logger.warning("%s", event["text"])
            elif event["event"] == "done":
                self._done.append(event)

    def _close(self, seconds: float) -> None:
        """Wait for the process to end for this time, then kill it."""
        process, self._process = self._process, None
        assert process is not None
        with contextlib.suppress(OSError):
            assert process.stdin is not None
            process.stdin.close()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if self._reader is not None:
            self._reader.join(1.0)
        assert process.stdout is not None
        process.stdout.close()

    def _give_up(self, reason: str, *, only: set[str] | None = None) -> None:
        for target in self._targets:
            if only is None or target.shown in only:
                logger.warning("%s", warning(target, reason, self._directory.uri))


def _without_package(target: Target, directory: Place) -> str:
    why, _, fix = target.missing.partition("\n")
    return (
        f"{target.shown}: runs aren't sent: {why}. The study continues, and every result is kept\n"
        f"{fix}, then send them: sensitivity export {directory.uri} {target.shown}"
    )
