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
    interrupted: Count = Field(description="Runs that ended because the machine failed; the next `run` retries them.")
    settlement: Standing | None = Field(
        description="State of the settlement, whose runs are not part of the plan: under_way, stopped by a budget,"
        " settled, or open at its end. Null if it has not begun."
    )
    settlement_runs: Count = Field(description="Runs of the settlement's steps so far.")
    settlement_by_status: dict[Status, Count] = Field(
        description="Number of the settlement's runs by status, without statuses that have none."
    )


class UnreadableOutput(Output):
    """A study directory that can't be read."""

    study: str = Field(description="Name of the directory.")
    directory: str = Field(description="Path or URI of the study directory.")
    error: str = Field(description="What is wrong with it and how to fix it.")
