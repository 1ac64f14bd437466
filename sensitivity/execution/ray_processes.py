"""The processes that Ray starts from this one: what they inherit, and how they are ended if Ray fails to."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import ray
import ray._private.services
import ray._private.utils
import ray._private.worker
import ray._raylet

from sensitivity.execution.interruption import STOPS

_END_S = 5.0


_SURVIVOR = 'while read -r group; do groups="$groups -$group"; done; kill -s KILL -- $groups 2>/dev/null'
"""A shell that is told process groups, and kills them when the one who told it is no more."""


class RayProcesses:
    """Ray's daemons below this process: its control store, its raylet and their helpers.

    Those that this process starts die with it, however it dies, but Ray's agents, which the raylet starts, would look
    for the raylet for another ten seconds or more. So a process of ours outlives this one, and kills their group.
    """

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[Any]] = []
        self._survivor: subprocess.Popen[bytes] | None = None

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Start Ray's processes in this block in their own process groups, and remember them.

        A signal to this process's group (Ctrl-C, a closed terminal, a batch system's stop) then does not end Ray
        before this process has finished its work with it.
        """
        popen, started, survive = ray._private.services.ConsolePopen, self._started, self._tell_survivor

        class Recorded(popen):  # type: ignore[misc, valid-type]
            def __init__(self, *arguments: Any, **options: Any) -> None:
                super().__init__(*arguments, **options, process_group=0)
                started.append(self)
                survive(self.pid)

        ray._private.services.ConsolePopen = Recorded  # type: ignore[misc]
        try:
            yield
        finally:
            ray._private.services.ConsolePopen = popen  # type: ignore[misc]

    def _tell_survivor(self, group: int) -> None:
        if self._survivor is None:
            self._survivor = subprocess.Popen(
                ["/bin/sh", "-c", _SURVIVOR],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        assert self._survivor.stdin is not None
        self._survivor.stdin.write(f"{group}\n".encode())
        self._survivor.stdin.flush()

    def kill(self) -> list[int]:
        """Kill all of them and their children; return the ids of any that survive."""
        for process in self._started:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
        if self._survivor is not None:
            self._survivor.kill()  # before the numbers can be those of other processes
            self._survivor.communicate()
            self._survivor = None
        deadline = time.monotonic() + _END_S
        left = []
        for process in self._started:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                left.append(process.pid)
        self._started.clear()
        return left


def keep_quiet() -> None:
    """Suppress output of Ray that no setting disables.

    It prints the log of what dies to the standard output, where ``--json`` has its answer, and it takes SIGTERM for
    itself, in Python and in its native core, to end this process without a word of ours.
    """
    ray._private.worker.print_to_stdstream = lambda data, ignore_prefix: None
    ray._private.utils.set_sigterm_handler = lambda handler: None
    core: Any = ray._raylet
    if not isinstance(core.CoreWorker, _CoreWorker):
        core.CoreWorker = _CoreWorker(core.CoreWorker)


class _CoreWorker:
    """Creates Ray's native core, and restores this process's signal handlers, which the core replaces."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __call__(self, *arguments: Any) -> Any:
        handlers = {number: signal.getsignal(number) for number in STOPS}  # as Python knows them
        try:
            return self._real(*arguments)
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in handlers.items():
                    if handler is not None:
                        signal.signal(number, handler)
