"""A named cluster: which of its jobs belong to studies here, and how they are submitted and stopped.

It is queried through the ``sensitivity`` command, like everything that runs studies, so that no page waits for Ray: the
known state is shown at once, and refreshed in the background when it is old.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from dashboards.jobs import run_command, temporary_study_file
from sensitivity.store.directory import Place
from sensitivity.study.errors import UserError
from sensitivity.study.spec import StudySpec

ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
"""Environment variable that passes the address to the commands, instead of ``--address``."""
_OLD_S = 20.0
_PATIENCE_S = 120.0
"""Seconds; a submission uploads this package's source and the user's code."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job of the cluster that runs a study."""

    id: str
    status: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    message: str

    @property
    def active(self) -> bool:
        """Whether it is waiting or running."""
        return self.status in ("PENDING", "RUNNING")


class Cluster:
    """The cluster whose Jobs server is at `address`, restricted to jobs of the studies below `root`."""

    def __init__(self, address: str, root: Place) -> None:
        self.address = address
        self._root = root
        self._lock = threading.Lock()
        self._refreshing = False
        self._refreshed_at = float("-inf")
        self._jobs: Mapping[str, Job] = {}
        self._fault = ""

    def jobs(self) -> Mapping[str, Job]:
        """Return the last job of each study, by study name, as far as known."""
        with self._lock:
            if not self._refreshing and time.monotonic() - self._refreshed_at > _OLD_S:
                self._refreshing = True
                threading.Thread(target=self.refresh, name="cluster", daemon=True).start()
            return self._jobs

    @property
    def fault(self) -> str:
        """Why the last query of the cluster failed; empty if it succeeded."""
        return self._fault

    def refresh(self) -> None:
        """Query the cluster for its jobs, and wait for the answer."""
        jobs, fault = self._jobs, ""
        try:
            reply = json.loads(self._run("status", "--json"))
            own = [job for job in reply if job["storage"].rstrip("/") == self._root.uri.rstrip("/")]
            jobs = {job["study"]: Job(id=job["id"], status=job["status"], message=job["message"]) for job in own}
        except UserError as error:
            fault = str(error)
        with self._lock:
            self._jobs, self._fault = jobs, fault
            self._refreshing, self._refreshed_at = False, time.monotonic()

    def submit(self, text: str, spec: StudySpec) -> str:
        """Submit a study, and return its job.

        Raises:
            UserError: the submission failed; the message is that of ``sensitivity submit``.
        """
        with temporary_study_file(self._root, text, spec) as file:
            job = json.loads(self._run("submit", str(file), "--storage", self._root.uri, "--json"))
        self._invalidate()
        return str(job["id"])

    def stop(self, job: str) -> str:
        """Stop a job, and return the command's output.

        Raises:
            UserError: the command failed; the message is that of ``sensitivity stop``.
        """
        output = self._run("stop", job)
        self._invalidate()
        return output.strip()

    def _run(self, *arguments: str) -> str:
        # In the environment: an address may contain a password, and arguments are visible in the list of processes.
        return run_command(arguments, _PATIENCE_S, env={ADDRESS_VARIABLE: self.address})

    def _invalidate(self) -> None:
        with self._lock:
            self._refreshed_at = float("-inf")
