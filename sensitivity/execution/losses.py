"""What Ray says of a task that was lost with its worker or its node, which is no fault of what the task does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray

from sensitivity.study.errors import UserError

GONE = (ray.exceptions.NodeDiedError, ray.exceptions.TaskUnschedulableError)
"""The node went away; Ray may say so before it takes the node off its list."""
LOST = (*GONE, ray.exceptions.WorkerCrashedError)
"""The node, or the worker alone."""
ATTEMPTS = 3
"""How often a task is started that is lost each time."""


def answer(start: Callable[[], Any], *, doing: str, mend: str, attempts: int = ATTEMPTS) -> Any:
    """Return what a task returns that may run anywhere, started again where it is lost.

    Args:
        start: starts the task, and returns Ray's reference.
        doing: what it does, for the message.
        mend: what to do where it never gets done.
        attempts: how often it may be started.

    Raises:
        UserError: it was lost each time, or Ray can't run it.
    """
    try:
        return ray.get(start())
    except ray.exceptions.RayError as error:
        if isinstance(error, LOST) and attempts > 1:
            return answer(start, doing=doing, mend=mend, attempts=attempts - 1)
        raise UserError(f"{doing}: {last_line(error)}\n  {mend}") from None


def last_line(error: BaseException) -> str:
    """Return the last line of what Ray says, which is the cause where it quotes a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
