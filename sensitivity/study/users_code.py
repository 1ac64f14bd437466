"""Boundary to user code (modules, data sets, models): exceptions it raises are converted to messages."""

from __future__ import annotations

import contextlib
import logging
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from sensitivity.study.errors import UserError, printable, shortened

logger = logging.getLogger(__name__)

_MOST = 2_000
"""Maximum characters of an exception's message."""
_IN_WORKER = re.compile(r"Caught \w+ in (.+?)\.\nOriginal Traceback.*?\n(.+)", re.DOTALL)
"""The text of an exception that torch passes on from a worker process of a ``DataLoader``."""
_FRAME = re.compile(r'^  File "(.+?)", line (\d+)', re.MULTILINE)
_ERROR = re.compile(r"^\S.*", re.MULTILINE | re.DOTALL)
_WAIT_S = 15.0
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PACKAGE = Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def users_code(what: str) -> Iterator[None]:
    """Turn any exception raised by user code in the block into a message with its type, text and place.

    An exit or interrupt raised by the code itself is handled like other exceptions; Ctrl-C still interrupts. If
    the code takes long, a log message names it.

    Raises:
        UserError: the code raised an exception of another type.
    """
    # Its output is kept apart from the output of this command, which may be JSON for a program.
    with _logged_when_slow(what), contextlib.redirect_stdout(sys.stderr), _interrupts() as interrupts:
        try:
            yield
        except (UserError, GeneratorExit):
            raise
        except KeyboardInterrupt as error:
            if interrupts:
                raise
            raise UserError(f"{what}: it raises KeyboardInterrupt; raise an error instead{_where(error)}") from None
        except SystemExit as error:
            raise UserError(
                f"{what}: it exits the process (sys.exit({error.code!r})); raise an error instead, and put script code "
                f'below if __name__ == "__main__"{_where(error)}'
            ) from None
        except MemoryError as error:
            raise UserError(f"{what}: MemoryError: it needs more memory than is available{_where(error)}") from None
        except BaseException as error:  # some libraries derive their exceptions from BaseException
            if isinstance(error.__cause__, StopIteration):  # in a generator of this package, Python replaces it
                error = error.__cause__
            raise UserError(f"{what}: {_in_worker(error) or described(error) + _where(error)}") from None


def described(error: BaseException) -> str:
    """Return an exception's type and message, shortened if it is very long."""
    message = _message(error)
    return printable(shortened(f"{type(error).__name__}: {message}" if message else type(error).__name__, _MOST))


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except (Exception, SystemExit):  # the class is the user's
        return "(its message can't be shown)"


def _in_worker(error: BaseException) -> str:
    """Return the exception that a ``DataLoader``'s worker process raised, with its place; empty if it isn't one."""
    found = _IN_WORKER.match(_message(error))
    process, trace = found.groups() if found else ("", "")
    frames = list(_FRAME.finditer(trace))
    said = _ERROR.search(trace, frames[-1].end()) if frames else None
    if said is None:
        return ""
    filename, line = ([each for each in frames if _is_own(each[1])] or frames)[-1].groups()
    return f"{printable(shortened(said[0].rstrip(), _MOST))} (in {process})\n  at {filename}:{line}"


def _where(error: BaseException) -> str:
    """Return the place of the last line of user code in a traceback, or of the last line if there is none."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"\n  at {error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    named = [frame for frame in frames if not frame.filename.startswith("<")]
    frame = ([frame for frame in named if _is_own(frame.filename)] or named)[-1]
    return f"\n  at {frame.filename}:{frame.lineno}"


def _is_own(filename: str) -> bool:
    """Whether a file belongs to neither an installed package, nor Python, nor this package."""
    path = Path(filename)
    installed = "site-packages" in path.parts or "dist-packages" in path.parts
    library = Path(traceback.__file__).parent
    return not (installed or path.is_relative_to(library) or path.is_relative_to(_PACKAGE))


@contextlib.contextmanager
def _logged_when_slow(what: str) -> Iterator[None]:
    timer = threading.Timer(
        _WAIT_S, logger.warning, ("%s: still running after %.0f s; Ctrl-C stops this command", what, _WAIT_S)
    )
    timer.daemon = True
    try:
        timer.start()
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Yield a list that receives each stop signal before its previous handler runs."""
    arrived: list[int] = []
    before: dict[int, Callable[[int, FrameType | None], Any]] = {}
    if threading.current_thread() is threading.main_thread():  # other threads receive no signals
        before = {number: handler for number in _STOPS if callable(handler := signal.getsignal(number))}

    def record(number: int, frame: FrameType | None) -> None:
        arrived.append(number)
        before[number](number, frame)

    for number in before:
        signal.signal(number, record)
    try:
        yield arrived
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is record:  # otherwise the user's code has set its own handler
                signal.signal(number, handler)
