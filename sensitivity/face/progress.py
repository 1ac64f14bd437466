"""The status line that a notebook, a terminal or a log shows while a study runs, rewritten in place if possible."""

from __future__ import annotations

import contextlib
import html
import importlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from sensitivity.execution.progress import Progress

_INTERVAL_S = 0.2
_LOG_INTERVAL_S = 5.0
"""Seconds between lines of a log, which can't be rewritten in place."""


class StatusLine:
    """A line of text on a stream, or in the output of a notebook cell."""

    def __init__(self, stream: TextIO, *, silent: bool) -> None:
        """Write to `stream` outside notebooks; write nothing at all if `silent`."""
        self._stream, self._silent = stream, silent
        self._notebook = _is_notebook()
        self._output: Any = None
        self._in_place = self._notebook or stream.isatty()
        self._longest = 0

    @property
    def pause(self) -> float:
        """Seconds between two progress lines."""
        return _INTERVAL_S if self._in_place else _LOG_INTERVAL_S

    def show(self, text: str) -> None:
        """Show `text`, replacing the previous text if possible."""
        if self._silent:
            return
        if self._notebook:
            self._show_in_notebook(text)
        elif self._in_place:
            self._longest = max(self._longest, len(text))
            self._write(f"\r{text.ljust(self._longest)}")
        else:
            self._write(f"{text}\n")

    def end(self, text: str) -> None:
        """Show `text` as the last line, which is not replaced."""
        self.show(text)
        if self._in_place and not self._notebook and not self._silent:
            self._write("\n")

    def _show_in_notebook(self, text: str) -> None:
        ipython: Any = importlib.import_module("IPython.display")
        shown = ipython.HTML(f"<pre>{html.escape(text)}</pre>")
        if self._output is None:
            self._output = ipython.display(shown, display_id=True)
        else:
            self._output.update(shown)

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()

    @contextlib.contextmanager
    def following(self, progress: Progress) -> Iterator[Callable[[], None]]:
        """Show progress inside the block; yields a function to call when the progress has changed."""
        from sensitivity.execution.messages import progress_line

        last = float("-inf")

        def changed() -> None:
            nonlocal last
            if time.monotonic() - last >= self.pause:
                last = time.monotonic()
                self.show(progress_line(progress))

        yield changed


def _is_notebook() -> bool:
    """Whether this process is a notebook kernel."""
    ipython: Any = sys.modules.get("IPython")
    return getattr(ipython and ipython.get_ipython(), "kernel", None) is not None
