"""Processes that Ray starts from this one: their process groups, and their end if Ray does not end them."""

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


_KILL_SCRIPT = 'while read -r group; do groups="$groups -$group"; done; kill -s KILL -- $groups 2>/dev/null'
"""Shell script that reads process groups, and kills them when its standard input is closed."""


class RayProcesses:
    """Ray's daemons below this process: its control store, its raylet and their helpers.

    The daemons that this process starts end with it, but Ray's agents, which the raylet starts, would wait for the
    raylet for ten seconds or more. Therefore a helper process outlives this one and kills their process group.
    """

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[Any]] = []
        self._killer: subprocess.Popen[bytes] | None = None

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Start Ray's processes in this block in process groups of their own, and record them.

        A signal to this process's group (Ctrl-C, a closed terminal, a batch system's stop) then does not end Ray while
        this process still uses it.
        """
        popen, started, survive = ray._private.services.ConsolePopen, self._started, self._kill_with_parent

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

    def _kill_with_parent(self, group: int) -> None:
        if self._killer is None:
            self._killer = subprocess.Popen(
                ["/bin/sh", "-c", _KILL_SCRIPT],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        assert self._killer.stdin is not None
        self._killer.stdin.write(f"{group}\n".encode())
        self._killer.stdin.flush()

    def kill(self) -> list[int]:
        """Kill all of them and their children; return the ids of any that survive."""
        for process in self._started:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
        if self._killer is not None:
            self._killer.kill()  # before the ids can be reused by other processes
            self._killer.communicate()
            self._killer = None
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
    """Suppress output and signal handlers of Ray that no setting disables.

    Ray prints logs of lost processes to standard output, where ``--json`` has its answer, and it handles SIGTERM in
    Python and in its native core by ending this process immediately.
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
        handlers = {number: signal.getsignal(number) for number in STOPS}  # the Python handlers
        try:
            return self._real(*arguments)
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in handlers.items():
                    if handler is not None:
                        signal.signal(number, handler)
