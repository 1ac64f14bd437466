"""Ray sessions for `launch`, for one command or kept across several.

Ray is imported only after its environment variables are set.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from sensitivity.execution.environment import ray_environment
from sensitivity.execution.prepare import available_workers
from sensitivity.execution.resources import local_cores
from sensitivity.study.execution import ExecutionSpec

_SET_BY_LIBRARIES = ("RAY_", "TUNE_", "KMP_", "PYTEST_")
"""Prefixes of environment variables that Ray and other libraries set when they are imported."""


class Sessions(Protocol):
    """Provides Ray inside a block, with the number of packs that may run at once and a folder for Tune's files."""

    def __call__(
        self, *, address: str | None, workers: int | None, execution: ExecutionSpec, on_loss: Callable[[str], None]
    ) -> contextlib.AbstractContextManager[tuple[int, Path]]:
        """Enter a session; see `session.session` for the arguments."""


@contextlib.contextmanager
def one_session(
    *, address: str | None, workers: int | None, execution: ExecutionSpec, on_loss: Callable[[str], None]
) -> Iterator[tuple[int, Path]]:
    """Start Ray, or join the cluster at `address`; shut it down or leave it at the end."""
    with ray_environment(local=address is None) as scratch:
        from sensitivity.execution.session import session

        with session(address=address, workers=workers, execution=execution, on_loss=on_loss) as at_once:
            yield at_once, scratch


class Executor:
    """Ray on this machine, started by the first run and reused by later ones.

    It restarts when a run needs more cores than it has, or when the current folder or the environment variables, which
    its workers inherit, have changed.
    """

    def __init__(self) -> None:
        self._ray_environment = contextlib.ExitStack()
        """Environment of Ray. Its access token never changes in a process, because Ray keeps the first one it reads."""
        self._variables: dict[str, str] = {}
        """Environment variables that are set only for Ray."""
        self._ray: contextlib.ExitStack | None = None
        self._cores = 0
        self._inherited: tuple[str, dict[str, str]] | None = None
        self._on_loss: Callable[[str], None] | None = None
        self._lost = False
        self._lock = threading.RLock()

    @contextlib.contextmanager
    def session(
        self, *, address: str | None, workers: int | None, execution: ExecutionSpec, on_loss: Callable[[str], None]
    ) -> Iterator[tuple[int, Path]]:
        """Reuse Ray, or start it; a cluster is joined for this session only."""
        if address is not None:
            self.close()
            with one_session(address=address, workers=workers, execution=execution, on_loss=on_loss) as found:
                yield found
            return
        with self._lock:
            self._prepare(workers or available_workers(execution.threads), execution)
            self._on_loss = on_loss
        try:
            with self._environment(), ray_environment(local=True) as scratch:
                from sensitivity.execution.session import session

                with session(address=None, workers=workers, execution=execution, on_loss=on_loss) as at_once:
                    yield at_once, scratch
        finally:
            self._on_loss = None
            if self._lost:
                self.close()

    def close(self) -> None:
        """Shut Ray down, if it was started here."""
        with self._lock, self._environment():
            ray, self._ray, self._lost = self._ray, None, False
            if ray is not None:
                ray.close()

    def _end(self) -> None:
        """Clean up at the end of the process."""
        self.close()
        self._ray_environment.close()

    def _prepare(self, workers: int, execution: ExecutionSpec) -> None:
        """Start Ray, unless the running one fits."""
        cores = local_cores(workers, execution, available=available_workers(1))
        fits = cores <= self._cores and self._inherited == _inherited() and not self._lost
        if self._ray is not None and fits:
            return
        self.close()
        if not self._variables:
            before = dict(os.environ)
            self._ray_environment.enter_context(ray_environment(local=True))
            self._variables = {name: value for name, value in os.environ.items() if name not in before}
            for name in self._variables:
                os.environ.pop(name)
        with self._environment(), contextlib.ExitStack() as stack:
            from sensitivity.execution.session import session

            stack.enter_context(session(address=None, workers=workers, execution=execution, on_loss=self._on_ray_loss))
            self._ray = stack.pop_all()
        self._cores, self._inherited = cores, _inherited()  # including what Ray itself has set
        atexit.unregister(self._end)
        atexit.register(self._end)  # registered after Ray's own handler, so that it runs before it

    @contextlib.contextmanager
    def _environment(self) -> Iterator[None]:
        """Set the environment variables with which Ray was started."""
        added = {name: value for name, value in self._variables.items() if name not in os.environ}
        os.environ.update(added)
        try:
            yield
        finally:
            for name in added:
                os.environ.pop(name, None)

    def _on_ray_loss(self, cause: str) -> None:
        """Stop the current run, or an idle Ray, before Ray terminates this process."""
        self._lost = True
        if self._on_loss is not None:
            self._on_loss(cause)
        else:
            # In another thread, because `close` waits for the thread that called this.
            threading.Thread(target=self.close, name="executor-close", daemon=True).start()


def _inherited() -> tuple[str, dict[str, str]]:
    """Return the folder and the environment variables that Ray's workers would inherit."""
    return str(Path.cwd()), {
        name: value for name, value in os.environ.items() if not name.startswith(_SET_BY_LIBRARIES)
    }
