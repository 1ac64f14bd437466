"""Standard output and error that never interrupt the work, whatever they are connected to.

* Characters that the encoding lacks are replaced by ASCII (``×`` becomes ``x``) instead of raising an exception.
* Output that can't be written is dropped: the reader of a pipe has exited, the disk is full, the terminal was closed.
  The command continues, and `StandardStreams.exit_code` reports in the end whether output was lost.
* A descriptor that was closed at the start is opened on the null device; otherwise the next file or socket would get
  its number and receive what is printed.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import select
import stat
import sys
import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_SUBSTITUTES = {
    "×": "x", "·": "-", "•": "*", "−": "-", "–": "-", "—": "-", "…": "...", "≈": "~", "≤": "<=", "≥": ">=", "≠": "!=",
    "±": "+-", "→": "->", "←": "<-", "‘": "'", "’": "'", "“": '"', "”": '"', "√": "sqrt", "µ": "u", "μ": "u",
}  # fmt: skip
_SURROGATE_BYTES = range(0xDC80, 0xDD00)
"""Code points that represent the bytes of file names that are not valid text (PEP 383)."""
_READER_GONE = (errno.EPIPE, errno.ECONNRESET, errno.ESHUTDOWN, errno.EBADF, errno.ENXIO)
"""Errors of a stream that nobody reads any more, which don't count as failures."""


class StandardStreams:
    """The standard output and error of a command while it runs."""

    def __init__(self, out: _Output | None) -> None:
        self._out = out

    def exit_code(self, code: int, *, failed: int) -> int:
        """Flush; return `code`, or `failed` with a message if a command that succeeded lost its output.

        Output whose reader has exited (``| head -1``) is not lost.
        """
        sys.stdout.flush()
        if code == 0 and self._out is not None and self._out.fault is not None and not self._out.reader_gone:
            print(
                f"error: standard output can't be written ({self._out.fault.strerror})\n"
                "  The command succeeded, but what it printed is lost; send its output elsewhere",
                file=sys.stderr,
            )
            code = failed
        sys.stderr.flush()
        return code


@contextlib.contextmanager
def standard_streams() -> Iterator[StandardStreams]:
    """Replace ``sys.stdout`` and ``sys.stderr`` by streams whose ``write`` never raises; restore them on exit.

    A stream without a descriptor, such as one set by a test or a notebook, is left unchanged.
    """
    codecs.register_error("substitute", _substitute)
    for descriptor in range(3):
        _reopen_if_closed(descriptor)
    before = sys.stdout, sys.stderr
    out, sys.stdout = _guarded(before[0], 1)
    _, sys.stderr = _guarded(before[1], 2)
    try:
        yield StandardStreams(out)
    finally:
        sys.stdout, sys.stderr = before


def reader_gone() -> bool:
    """Whether nobody reads the standard output any more, so that a command that only prints may end."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return isinstance(raw, _Output) and raw.reader_gone


class _Output(io.RawIOBase):
    """A writable file descriptor that, after its first error, accepts all output and discards it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._terminal = os.isatty(descriptor)
        self._device = stat.S_ISCHR(os.fstat(descriptor).st_mode)
        self.fault: OSError | None = None

    @property
    def reader_gone(self) -> bool:
        """Whether the error was a missing reader: the other end of a pipe, or a terminal that was closed."""
        if self.fault is None:
            return False
        return self.fault.errno in _READER_GONE or (self.fault.errno == errno.EIO and self._device)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return self._terminal and self.fault is None

    def write(self, data: ReadableBuffer) -> int:
        view = memoryview(data).cast("B")
        while self.fault is None:
            try:
                return os.write(self._descriptor, view)
            except BlockingIOError:  # a full pipe that another process made non-blocking
                select.select([], [self._descriptor], [])
            except OSError as error:
                self._discard_output(error)
        return len(view)

    def _discard_output(self, fault: OSError) -> None:
        self.fault = fault
        with contextlib.suppress(OSError):  # also for child processes and libraries that use the descriptor
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._descriptor)
            os.close(nowhere)


def _guarded(stream: TextIO | None, descriptor: int) -> tuple[_Output | None, TextIO]:
    """Return a stream that can't fail, for the descriptor of `stream`, or for `descriptor` if `stream` is None."""
    if stream is None:
        raw = _Output(descriptor)
        return raw, io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", errors="substitute")
    try:
        raw = _Output(stream.fileno())
    except (OSError, ValueError):
        return None, stream
    with contextlib.suppress(OSError):
        stream.flush()
    return raw, io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors="substitute",
        line_buffering=getattr(stream, "line_buffering", False),
        write_through=getattr(stream, "write_through", False),
    )


def _reopen_if_closed(descriptor: int) -> None:
    try:
        os.fstat(descriptor)
    except OSError:
        nowhere = os.open(os.devnull, os.O_RDWR)
        if nowhere != descriptor:
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
        os.set_inheritable(descriptor, True)


def _substitute(error: UnicodeError) -> tuple[str | bytes, int]:
    """Codec error handler: return substitutes for characters that the encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letter = error.object[error.start]
    if ord(letter) in _SURROGATE_BYTES:
        return bytes([ord(letter) - 0xDC00]), error.start + 1
    return _ascii(letter), error.start + 1


def _ascii(letter: str) -> str:
    plain = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()
    return _SUBSTITUTES.get(letter) or plain or "?"
