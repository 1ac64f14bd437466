"""The output of ``list --json``."""

from __future__ import annotations

from pydantic import Field

from sensitivity.cli.json_output.base import Count, Output
from sensitivity.study.ledger import Standing
from sensitivity.study.results import Status


class StudyOutput(Output):
    """A study with the number of its runs by status."""

    study: str = Field(description="Name of the study.")
    directory: str = Field(description="Path or URI of the study directory.")
    planned: Count = Field(description="Runs in the plan.")
    pending: Count = Field(description="Runs without a result.")
    completed: Count = Field(description="Runs that trained to their budget with a finite loss.")
    diverged: Count = Field(description="Runs whose loss was not finite, or above the divergence bound.")
    stopped: Count = Field(description="Runs that were stopped early for being worse than their pack's median.")
    failed: Count = Field(description="Runs whose code raised an error; not retried.")
    interrupted: Count = Field(description="Runs under which the machine failed; the next `run` retries them.")
    settlement: Standing | None = Field(
        description="How far `settle` has come, whose runs are none of the plan: under_way, stopped by a budget,"
        " settled, or open at its end. Null where nobody has begun."
    )
    settlement_runs: Count = Field(description="Runs that its steps took.")
    settlement_by_status: dict[Status, Count] = Field(
        description="Number of its runs by status, without those that none has; empty where it has no runs."
    )


class UnreadableOutput(Output):
    """A study directory that can't be read."""

    study: str = Field(description="Name of the directory.")
    directory: str = Field(description="Path or URI of the study directory.")
    error: str = Field(description="What is wrong with it and how to fix it.")
