"""Ray's errors for tasks lost with their worker or node, through no fault of the task."""

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
"""The node went away; Ray may say so before it takes the node off its list."""
LOST = (*GONE, ray.exceptions.WorkerCrashedError, ray.exceptions.ActorDiedError)
"""The node, or the worker alone."""
ATTEMPTS = 3
"""How often a task is started that is lost each time."""


def answer(start: Callable[[], Any], *, doing: str, fix: str, attempts: int = ATTEMPTS) -> Any:
    """Return the result of a task, which is restarted if its worker is lost.

    Args:
        start: starts the task, and returns Ray's reference.
        doing: what it does, for the message.
        fix: what to do where it never gets done.
        attempts: how often it may be started.

    Raises:
        UserError: it was lost each time, or Ray can't run it.
    """
    began = time.time()
    try:
        return ray.get(start())
    except ray.exceptions.RayError as error:
        if isinstance(error, LOST) and attempts > 1:
            return answer(start, doing=doing, fix=fix, attempts=attempts - 1)
        words = words_of_lost_worker(str(error), since=began) if isinstance(error, LOST) else ""
        raise UserError(f"{doing}: {last_line(error)}\n{quoted(words)}  {fix}") from None


def words_of_lost_worker(error: str, *, since: float) -> str:
    """Return the end of the standard error of a lost worker; empty if it ran on another machine.

    Args:
        error: what Ray says of the loss.
        since: time after which it wrote that.
    """
    node = ray._private.worker.global_worker.node
    if node is None:  # reached through ray://
        return ""
    address = re.search(r"^\tip: (\S+)$", error, re.MULTILINE)
    if address is not None and address[1] != node.node_ip_address:
        return ""
    return read_stderr(Path(node.get_logs_dir_path()), error, since=since)


def last_line(error: BaseException) -> str:
    """Return the last line of Ray's message, which is the cause if it quotes a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
