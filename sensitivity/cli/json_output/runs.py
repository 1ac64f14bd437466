"""The outputs of ``run --json`` and ``verify --json``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError

from sensitivity.cli.json_output.base import Count, Number, Output, Part
from sensitivity.study.results import Status

if TYPE_CHECKING:
    from sensitivity.execution.launch import Outcome
    from sensitivity.execution.verification import Comparison


class ComparisonPart(Part):
    """A recorded pack of runs that was trained again, compared with its record."""

    optimizer: str = Field(description="Name of the optimizer in the study file.")
    batch_size: Count = Field(description="Batch size in examples.")
    runs: Count = Field(description="Runs that were trained again.")
    steps: Count = Field(description="Steps for which they were trained again.")
    of_steps: Count = Field(description="Total steps of their training.")
    unlike: str = Field(description='Why losses may differ, such as "on another machine than NAME"; or empty.')
    largest: Number = Field(description="Largest relative difference of a loss; null if it is infinite.")
    faults: tuple[str, ...] = Field(description="Unexpected differences, one text per run; empty if there are none.")
    seconds: float = Field(description="Seconds taken to train them again.")
    sentence: str = Field(description="The result in words.")
    host: str = Field(description="Name of the machine on which they were trained again.")
    code_version: str = Field(description="Version of the code with which they were trained again.")
    at: float = Field(description="When they were trained again, in seconds since the epoch (UTC).")


class VerifyOutput(ComparisonPart, Output):
    """One of the packs that `verify` trained again."""


class RunOutput(Output):
    """State of a study at the end of `run`."""

    study: str = Field(description="Name of the study.")
    directory: str = Field(description="Path or URI of the study directory.")
    planned: Count = Field(description="Runs in the plan.")
    statuses: dict[Status, Count] = Field(description="Runs by status; a status without runs is left out.")
    causes: dict[str, Count] = Field(
        description="Messages of failed and interrupted runs with their counts: the three most frequent."
    )
    interrupted: bool = Field(description="Whether the command was stopped; the same command resumes it.")
    determinism: ComparisonPart | None = Field(
        description="Some runs trained again by the last command that trained any; null without a readable record."
    )


def verify_output(comparison: Comparison) -> VerifyOutput:
    """Return one item of the output of ``verify --json``."""
    return VerifyOutput.model_validate(comparison.content())


def run_output(outcome: Outcome) -> RunOutput:
    """Return the output of ``run --json``."""
    return RunOutput(
        study=outcome.study,
        directory=outcome.directory,
        planned=outcome.planned,
        statuses={Status(name): count for name, count in outcome.statuses.items()},
        causes=outcome.causes,
        interrupted=outcome.interrupted,
        determinism=None if outcome.determinism is None else _recorded(outcome.determinism),
    )


def _recorded(content: dict[str, Any]) -> ComparisonPart | None:
    """Return a comparison stored in study.json; None if another version wrote it in another format."""
    try:
        return ComparisonPart.model_validate({name: content.get(name) for name in ComparisonPart.model_fields})
    except ValidationError:
        return None
