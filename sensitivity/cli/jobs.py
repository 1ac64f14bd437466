"""The commands ``submit``, ``status``, ``logs`` and ``stop``: a study on a cluster, followed from this machine."""

from __future__ import annotations

import contextlib
import importlib.util
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sensitivity.cli.exit_codes import DONE, FAULT, STOPPED
from sensitivity.cli.json_output.base import json_text
from sensitivity.cli.json_output.jobs import JobOutput, submit_output
from sensitivity.cli.streams import reader_gone
from sensitivity.execution.environment import ray_environment
from sensitivity.execution.shipment import refuse_local, shipment
from sensitivity.store.directory import place
from sensitivity.study.errors import UserError
from sensitivity.study.redaction import redacted
from sensitivity.study.words import count, duration, size

if TYPE_CHECKING:
    from sensitivity.execution.jobs import Cluster, Job


def submit_study(
    study: str,
    *,
    address: str,
    storage: str,
    workers: int | None,
    with_package: bool,
    include: Sequence[str],
    command: Sequence[str],
    as_json: bool,
) -> None:
    """Send a study to a cluster to run `command` on it there, and print how to follow it."""
    refuse_local(storage)
    storage = place(storage).uri  # refuses invalid URIs and credentials; gives each place one name
    with shipment(study, with_package=with_package, include=include) as ready, _cluster(address) as cluster:
        job = cluster.submit(ready, storage=storage, workers=workers, command=command)
        files, sent = ready.extent()
    if as_json:
        print(json_text(submit_output(job, files=files, sent=sent)))
        return
    at = f"--address {shlex.quote(redacted(address))}"
    print(f"job:    {job.id}")
    print(f"sent:   {count(files, 'file')} ({size(sent, 'B')}){' and this package' * with_package}")
    print(f"follow: sensitivity logs -f {job.id} {at}")
    print(f"state:  sensitivity status {job.id} {at}")
    print(f"stop:   sensitivity stop {job.id} {at}")
    print(f"report: sensitivity report {shlex.quote(place(storage).child(job.study).uri)}")


def show_status(id_: str | None, *, address: str, as_json: bool) -> None:
    """Print one job, or all of the cluster's jobs that run studies."""
    with _cluster(address) as cluster:
        jobs = cluster.jobs() if id_ is None else (cluster.job(id_),)
    if as_json:
        outputs = [JobOutput.model_validate(job) for job in jobs]
        print(json_text(outputs if id_ is None else outputs[0]))
        return
    if not jobs:
        print(f"no studies on the cluster at {redacted(address)}; `sensitivity submit` sends one")
    for job in jobs:
        print(_line(job))
    if id_ is not None and not jobs[0].active and jobs[0].message:
        print(jobs[0].message.strip())


def show_logs(id_: str, *, address: str, follow: bool) -> int:
    """Print the output of a job, with `follow` until its end; return the exit code."""
    with _cluster(address) as cluster:
        if not follow:
            print(cluster.logs(id_), end="")
            return DONE
        try:
            job = cluster.follow(id_, _show)
        except _ReaderGone:
            return DONE
        except KeyboardInterrupt:
            print(f"\n{id_} is still running; `sensitivity stop {id_}` ends it", file=sys.stderr)
            return STOPPED
    print(f"{job.id}: {job.status.lower()}", file=sys.stderr)
    return DONE if job.status == "SUCCEEDED" else FAULT


class _ReaderGone(Exception):  # noqa: N818
    """Nobody reads the output any more, so the rest of it isn't needed."""


def _show(text: str) -> None:
    print(text, end="", flush=True)
    if reader_gone():
        raise _ReaderGone


def stop_job(id_: str, *, address: str) -> None:
    """Ask a job to stop."""
    with _cluster(address) as cluster:
        stopped = cluster.stop(id_)
    if stopped:
        print(f"{id_}: asked to stop; every reported result is kept. To resume, submit the study again")
    else:
        print(f"{id_}: had already ended")


@contextlib.contextmanager
def _cluster(address: str) -> Iterator[Cluster]:
    for module in ("aiohttp", "requests"):
        if importlib.util.find_spec(module) is None:
            raise UserError("a cluster's Jobs server needs an extra of Ray\n  pip install 'ray[default]'")
    with ray_environment(local=False):
        from sensitivity.execution.jobs import Cluster

        yield Cluster(address)


def _line(job: Job) -> str:
    ended = job.ended_at or time.time()
    lasted = f", {duration(ended - job.started_at)}" if job.started_at else ""
    return f"{job.id}: {job.status.lower()}{lasted}; {job.study} (spec {job.spec_hash}) in {job.storage}"
