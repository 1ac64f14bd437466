"""What Ray reads from the environment. It reads it when it is imported, so this comes first and imports none of it."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sensitivity.study.whole_files import write_output

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # The study directory is the record; Tune's own snapshots are never read.
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    # Ctrl-C is ours: Tune's handler would wait for the packs in flight.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}


@contextlib.contextmanager
def ray_environment(*, local: bool) -> Iterator[None]:
    """Prepare the environment for Ray; to be entered before Ray is imported.

    What the user has set stays. For a `local` Ray, which guards itself with a token, the token is kept in a
    temporary folder rather than in the home directory.
    """
    with tempfile.TemporaryDirectory(prefix="sensitivity-", ignore_cleanup_errors=True) as scratch:
        wanted = dict(_QUIET)
        if local and not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
            token = Path(scratch) / "token"
            write_output(token, secrets.token_hex(32).encode(), mode=0o600)
            wanted |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        added = {name: value for name, value in wanted.items() if name not in os.environ}
        os.environ.update(added)
        try:
            yield
        finally:
            for name in added:
                os.environ.pop(name, None)
