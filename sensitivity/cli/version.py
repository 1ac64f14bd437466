"""What ``--version`` prints."""

from __future__ import annotations

import typer


def show_version(asked: bool) -> None:
    """Print the version of the code and end, if that was asked for."""
    if asked:
        from sensitivity.study.provenance import code_version  # here, as every command loads this

        print(f"sensitivity {code_version()}")
        raise typer.Exit
