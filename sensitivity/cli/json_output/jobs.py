"""The outputs of ``submit --json`` and ``status --json``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from pydantic import Field

from sensitivity.cli.json_output.base import Count, Output

if TYPE_CHECKING:
    from sensitivity.execution.jobs import Job


class JobOutput(Output):
    """A study as a job of a Ray cluster, or of SLURM."""

    id: str = Field(description="Id of the job, as `status`, `logs` and `stop` expect it; of SLURM, as `scancel` does.")
    status: str = Field(description="PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED, as Ray names them.")
    message: str = Field(description="Ray's message on the status; may be empty.")
    study: str = Field(description="Name of the study; empty if the job runs none.")
    storage: str = Field(description="Path or URI below which its study directory is; empty if the job runs none.")
    spec_hash: str = Field(description="Hash of the study file; empty if the job runs none.")
    started_at: float | None = Field(description="Start in seconds since the epoch (UTC); null before it.")
    ended_at: float | None = Field(description="End in seconds since the epoch (UTC); null before it.")


class SubmitOutput(JobOutput):
    """The job that `submit` created."""

    files: Count = Field(description="Files that were sent; SLURM needs none.")
    bytes: Count = Field(description="Their size in bytes.")


def submit_output(job: Job, *, files: int, sent: int) -> SubmitOutput:
    """Return the output of ``submit --json`` for a job with `files` files of `sent` bytes."""
    return SubmitOutput(**asdict(job), files=files, bytes=sent)
