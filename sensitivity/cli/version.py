"""The ``--version`` option."""

from __future__ import annotations

import typer


def show_version(requested: bool) -> None:
    """Print the version of the code and exit, if `requested`."""
    if requested:
        from sensitivity.study.provenance import code_version  # here, because every command loads this module

        print(f"sensitivity {code_version()}")
        raise typer.Exit
