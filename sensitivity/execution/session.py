"""Ray, started quietly in this process or joined by address."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import ray

from sensitivity.study.errors import UserError
from sensitivity.study.spec import ExecutionSpec

_OBJECT_STORE_BYTES = 100 * 2**20


@contextlib.contextmanager
def session(*, address: str | None, workers: int | None, execution: ExecutionSpec) -> Iterator[int]:
    """Have Ray for a while; yield how many packs may run at once.

    Without an address Ray starts in this process, on `workers` x `threads` cores, and is shut down at the end.

    Raises:
        UserError: nothing answers at `address`, or the cluster is too small.
    """
    threads = execution.threads
    try:
        if address is None:
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
        cause = str(error).splitlines()[0]
        if address is None:
            raise UserError(
                f"Ray does not start on this machine ({cause})\n  `ray stop --force` ends old ones"
            ) from None
        raise UserError(
            f"no Ray cluster answers at {address!r} ({cause})\n"
            "  Start one with `ray start --head`, check the address, or leave --address out to use this machine"
        ) from None
    try:
        if execution.device == "cuda" and not ray.cluster_resources().get("GPU"):  # type: ignore[no-untyped-call]
            raise UserError(
                'execution.device = "cuda", but Ray sees no accelerator: no pack could ever start\n'
                '  Set device = "cpu", or give the --address of a cluster that has one'
            )
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
