"""Ray's errors for tasks that were lost with their worker or node, and restarts of such tasks."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import ray._private.worker

from sensitivity.execution.worker_stderr import quoted, read_stderr
from sensitivity.study.errors import UserError

GONE = (ray.exceptions.NodeDiedError, ray.exceptions.TaskUnschedulableError)
"""Errors for a lost node; Ray may raise them before it removes the node from its list."""
LOST = (*GONE, ray.exceptions.WorkerCrashedError, ray.exceptions.ActorDiedError)
"""Errors for a lost node or worker."""
ATTEMPTS = 3
"""Number of attempts for a task that is lost each time."""


def result_with_restarts(start: Callable[[], Any], *, doing: str, fix: str, attempts: int = ATTEMPTS) -> Any:
    """Return the result of a task, which is restarted if its worker is lost.

    Args:
        start: starts the task, and returns Ray's reference.
        doing: description of the task, for the error message.
        fix: fix in the error message.
        attempts: number of attempts.

    Raises:
        UserError: the task was lost each time, or Ray can't run it.
    """
    began = time.time()
    try:
        return ray.get(start())
    except ray.exceptions.RayError as error:
        if isinstance(error, LOST) and attempts > 1:
            return result_with_restarts(start, doing=doing, fix=fix, attempts=attempts - 1)
        words = stderr_of_lost_worker(str(error), since=began) if isinstance(error, LOST) else ""
        raise UserError(f"{doing}: {last_line(error)}\n{quoted(words)}  {fix}") from None


def stderr_of_lost_worker(error: str, *, since: float) -> str:
    """Return the end of the standard error of a lost worker; empty if it ran on another machine.

    Args:
        error: Ray's message about the loss.
        since: start time; output from before is ignored.
    """
    node = ray._private.worker.global_worker.node
    if node is None:  # reached through ray://
        return ""
    address = re.search(r"^\tip: (\S+)$", error, re.MULTILINE)
    if address is not None and address[1] != node.node_ip_address:
        return ""
    return read_stderr(Path(node.get_logs_dir_path()), error, since=since)


def last_line(error: BaseException) -> str:
    """Return the last line of Ray's message, which is the cause if the message quotes a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
