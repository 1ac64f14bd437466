"""Studies as jobs of a Ray cluster, submitted to its Jobs server. The driver runs on the cluster."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from sensitivity.execution.shipment import Shipment
from sensitivity.store.manifest import spec_hash
from sensitivity.study.errors import UserError
from sensitivity.study.hashing import content_hash

OLDEST_RAY = (2, 55)
"""Lower bound of Ray in pyproject.toml."""
_CONNECT_S = 5.0
_REQUEST_S = 60.0
_OVERRIDES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
"""Environment variables that would redirect Ray to another cluster than the requested one."""
_CHATTY = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
"""Verbose loggers of Ray's client, each of which sets its own level."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job on a cluster."""

    id: str
    status: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    message: str
    study: str
    storage: str
    spec_hash: str
    started_at: float | None
    """Seconds since the epoch."""
    ended_at: float | None

    @property
    def active(self) -> bool:
        """Whether the job is pending or running."""
        return not JobStatus(self.status).is_terminal()


class _Client(JobSubmissionClient):
    """Ray's job client with a timeout on every request."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        return super()._do_request(method, endpoint, timeout=_REQUEST_S, **options)


class Cluster:
    """Client of a Ray cluster's Jobs server.

    Raises:
        UserError: raised by the constructor and every method if no Jobs server answers at the address.
    """

    def __init__(self, address: str) -> None:
        self._address = address = address.rstrip("/") if "://" in address else f"http://{address.rstrip('/')}"
        try:
            parts = urlsplit(address)
            host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            host = None
        if not host or parts.scheme not in ("http", "https"):
            raise UserError(
                f"--address {address!r}: not the address of a Jobs server\n  Use one such as http://HEAD:8265"
            )
        with self._reachable():
            socket.create_connection((host, port), timeout=_CONNECT_S).close()  # Ray's client waits for minutes
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)
        with self._reachable(), _without(*_OVERRIDES):
            self._client = _Client(address)
        self._require_version()

    def submit(
        self, shipment: Shipment, *, storage: str, workers: int | None, command: Sequence[str] = ("run",)
    ) -> Job:
        """Submit a study; if an earlier job of the same study has ended, the new job resumes it.

        Args:
            shipment: the files to send.
            storage: place of the study directories.
            workers: number of packs at a time; None for as many as fit.
            command: command of the job, "run" or "settle", with its options.

        Raises:
            UserError: a job of the study is pending or running already, or the shipment is incomplete or too large.
        """
        study, spec = shipment.spec.name, spec_hash(shipment.spec)
        with self._reachable():
            if (fault := shipment.fault()) is not None:
                raise UserError(fault)
        jobs = self.jobs()
        for job in jobs:
            if job.active and (job.study, job.storage) == (study, storage):
                raise _running(job.id, study, storage)
        key = f"{study}-{content_hash({'spec': spec, 'storage': storage})[:12]}"
        earlier = {job.id for job in jobs}
        number = next(n for n in range(1, len(earlier) + 2) if _job_id(key, n) not in earlier)
        id_ = _job_id(key, number)
        with self._reachable(taken=_running(id_, study, storage)):
            self._client.submit_job(
                entrypoint=_entrypoint(command, shipment.file_name, storage=storage, workers=workers),
                submission_id=id_,
                runtime_env=shipment.runtime_env(job=id_),
                metadata={"sensitivity.study": study, "sensitivity.spec": spec, "sensitivity.storage": storage},
            )
        return self.job(id_)

    def job(self, id_: str) -> Job:
        """Return the state of a job.

        Raises:
            UserError: there is no such job.
        """
        with self._reachable(job=id_):
            return _job(self._client.get_job_info(id_))

    def jobs(self) -> tuple[Job, ...]:
        """Return the cluster's jobs that run studies, in the order of their start."""
        with self._reachable():
            found = [_job(details) for details in self._client.list_jobs() if details.submission_id]
        return tuple(sorted((job for job in found if job.study), key=lambda job: job.started_at or 0.0))

    def logs(self, id_: str) -> str:
        """Return a job's output so far.

        Raises:
            UserError: there is no such job.
        """
        with self._reachable(job=id_):
            return str(self._client.get_job_logs(id_))

    def follow(self, id_: str, show: Callable[[str], None]) -> Job:
        """Stream a job's output until it ends, and return its final state.

        Raises:
            UserError: there is no such job, or the connection to the cluster was lost.
        """
        storage = self.job(id_).storage

        async def tail() -> None:
            async for text in self._client.tail_job_logs(id_):
                show(text)

        try:
            with self._reachable(job=id_):
                asyncio.run(tail())
            job = self.job(id_)
        except UserError as error:
            raise self._lost(id_, storage, error) from None
        if job.active:
            raise self._lost(id_, storage, UserError("the connection was closed before the job's end"))
        return job

    def stop(self, id_: str) -> bool:
        """Request that a job stop, and return whether it was running. Its results so far are kept.

        Raises:
            UserError: there is no such job.
        """
        with self._reachable(job=id_):
            return bool(self._client.stop_job(id_))

    def _lost(self, id_: str, storage: str, error: UserError) -> UserError:
        return UserError(
            f"the cluster at {self._address} was lost while following {id_} ({str(error).splitlines()[0]})\n"
            f"  If its head node is lost, so is the job; reported results are in {storage}. Submit the study again to "
            "continue it"
        )

    def _require_version(self) -> None:
        version = str(self._client._server_ray_version)
        if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_RAY:
            needed = ".".join(map(str, OLDEST_RAY))
            raise UserError(
                f"the cluster at {self._address} runs Ray {version}; a study needs {needed} or later\n"
                "  Upgrade Ray on every node, or use the --address of another cluster"
            )

    @contextlib.contextmanager
    def _reachable(self, *, job: str = "", taken: UserError | None = None) -> Iterator[None]:
        """Convert errors of Ray's client to a `UserError` with a fix."""
        try:
            yield
        except AuthenticationError as error:
            wrong = "requires another token" if "Forbidden" in str(error) else "requires a token"
            raise UserError(
                f"the cluster at {self._address} {wrong}\n"
                "  Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file with what `ray get-auth-token` prints "
                "on its head"
            ) from None
        except (OSError, ValueError, RuntimeError, requests.RequestException, aiohttp.ClientError) as error:
            text = str(error)
            if isinstance(error, OSError) and error.filename is not None:
                raise UserError(
                    f"{error.filename}: {error.strerror}\n"
                    "  It would be sent with the job. Make it readable, or name it in a .rayignore beside the study"
                ) from None
            if job and "status code 404" in text:
                raise UserError(
                    f"no job {job!r} on the cluster at {self._address}\n  `sensitivity status` lists its jobs"
                ) from None
            if taken is not None and "already exists" in text:
                raise taken from None
            cause = (text.splitlines() or [type(error).__name__])[0][:200]
            raise UserError(
                f"no Jobs server answers at {self._address} ({cause})\n"
                "  Use the address of the cluster's dashboard, such as http://HEAD:8265; behind a firewall, forward "
                "its port: ssh -L 8265:localhost:8265 HEAD"
            ) from None


def _job(details: JobDetails) -> Job:
    known = details.metadata or {}
    return Job(
        id=str(details.submission_id or details.job_id),
        status=str(details.status.value if isinstance(details.status, JobStatus) else details.status),
        message=str(details.message or ""),
        study=known.get("sensitivity.study", ""),
        storage=known.get("sensitivity.storage", ""),
        spec_hash=known.get("sensitivity.spec", ""),
        started_at=details.start_time / 1e3 if details.start_time else None,
        ended_at=details.end_time / 1e3 if details.end_time else None,
    )


def _job_id(key: str, number: int) -> str:
    return key if number == 1 else f"{key}-{number}"


def _running(job: str, study: str, storage: str) -> UserError:
    return UserError(
        f"{study!r} in {storage} is already being run by the job {job}\n"
        f"  Follow it with `sensitivity logs -f {job}`, or stop it with `sensitivity stop {job}` and submit again"
    )


def _entrypoint(command: Sequence[str], file_name: str, *, storage: str, workers: int | None) -> str:
    options = [] if workers is None else ["--workers", str(workers)]
    words = [command[0], file_name, *command[1:], "--storage", storage, "--address", "auto", *options]
    # `exec`: a stop then reaches the driver itself, not a shell that dies before it.
    return "exec python3 -m sensitivity.cli.driver " + shlex.join(words)


@contextlib.contextmanager
def _without(*names: str) -> Iterator[None]:
    taken = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(taken)
