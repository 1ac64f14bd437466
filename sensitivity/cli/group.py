"""How a command ends when it is stopped, or when the machine fails."""

from __future__ import annotations

import errno
from typing import Any

import typer

from sensitivity.study.errors import UserError

_SYSTEM_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Faults of the machine that any system call may raise, anywhere in the code."""


class Stopped(Exception):  # noqa: N818
    """A command was stopped by a signal. Typer would turn a ``KeyboardInterrupt`` into an exit without a message."""


class Commands(typer.core.TyperGroup):
    """The commands; signals and faults of the machine are reported as messages."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command.

        Raises:
            Stopped: it was stopped by a signal.
            UserError: the machine lacks something, such as disk space.
        """
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Stopped from None
        except OSError as error:
            if error.errno not in _SYSTEM_ERRORS:
                raise
            where = f"{error.filename}: " if error.filename is not None else ""
            raise UserError(
                f"{where}{error.strerror}\n"
                "  Free what this machine lacks and repeat the command; stored data are intact"
            ) from None
