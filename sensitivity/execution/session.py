"""Ray, started quietly in this process or joined by address."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

import ray

from sensitivity.study.errors import UserError

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # The study directory is the record; Tune's own snapshots are never read.
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    # Ctrl-C is ours: Tune's handler would wait for the packs in flight.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
_OBJECT_STORE_BYTES = 100 * 2**20


@contextlib.contextmanager
def session(*, address: str | None, workers: int | None, threads: int) -> Iterator[int]:
    """Have Ray for a while; yield how many packs may run at once.

    Without an address Ray starts in this process, on `workers` x `threads` cores, and is shut down at the end.

    Raises:
        UserError: nothing answers at `address`, or the cluster is too small.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    with tempfile.TemporaryDirectory(prefix="sensitivity-", ignore_cleanup_errors=True) as scratch:
        try:
            if address is None:
                _use_token(Path(scratch))
                ray.init(
                    num_cpus=(workers or 1) * threads,
                    include_dashboard=False,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
            else:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(
                f"no Ray cluster answers at {address!r} ({str(error).splitlines()[0]})\n"
                "  Start one with `ray start --head`, check the address, or leave --address out to use this machine"
            ) from None
        try:
            cores = int(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]
            if cores < threads:
                raise UserError(
                    f"execution.threads = {threads}, but the cluster has {cores} CPUs: no pack could ever start\n"
                    f"  Set threads to at most {cores}"
                )
            fit = cores // threads
            yield fit if workers is None else min(fit, workers)
        finally:
            ray.shutdown()


def _use_token(scratch: Path) -> None:
    """Give a local Ray a token of its own, so that it does not write one into the home directory."""
    if "RAY_AUTH_MODE" not in os.environ and "RAY_AUTH_TOKEN" not in os.environ:
        token = scratch / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
