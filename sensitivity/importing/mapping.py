"""``ImportMapping``: how to read a source, as a small TOML file that users can correct. Guesses never overwrite it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from sensitivity.study.errors import StudyFileError, UserError
from sensitivity.study.load import parse_toml, read_study
from sensitivity.study.metrics import METRICS, MetricName, is_metric
from sensitivity.study.nearest import nearest
from sensitivity.study.section import AsList, Count, OneOrMore, Section, Seed
from sensitivity.study.toml_text import toml_text

Unit = Literal["fraction", "percent", "error", "error_percent", "as_is"]
"""fraction: an accuracy from 0 to 1; percent: an accuracy from 0 to 100; error: 1 - fraction; error_percent:
100 - percentage; as_is: a loss."""
Columns = Annotated[tuple[str, ...], AsList, OneOrMore]


class MetricColumn(Section):
    """The column of a metric, and its unit."""

    column: str
    unit: Unit


class KnownValues(Section):
    """Values that no column contains, equal for all runs."""

    optimizer: str | None = None
    batch_size: Count | None = None
    seed: Seed | None = None
    steps: Count | None = None
    """Number of steps of every run, if each run is one row and no column contains it."""
    steps_per_unit: Annotated[float, Field(gt=0)] = 1.0
    """Optimizer steps per unit of the column of steps, which may count reports."""
    train_size: Count | None = None
    """Number of examples in the training set, which converts epochs to steps."""


class ColumnRoles(Section):
    """The column of each property of a run. Several columns for the optimizer are joined to its name."""

    run: Columns = ()
    """Rows with equal values belong to one run; without such columns, rows with equal settings and seed do."""
    optimizer: Columns = ()
    batch_size: str | None = None
    seed: str | None = None
    step: str | None = None
    epoch: str | None = None
    status: str | None = None
    message: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    train_seconds: str | None = None
    eval_seconds: str | None = None
    flops: str | None = None
    confirmation: str | None = None

    def named(self) -> dict[str, tuple[str, ...]]:
        """Return the columns of the mapping, by role."""
        given = ((name, getattr(self, name)) for name in type(self).model_fields)
        return {name: (value,) if isinstance(value, str) else value for name, value in given if value}


class ImportMapping(Section):
    """Description of how to read a table of runs."""

    rows: Literal["runs", "evaluations"]
    columns: ColumnRoles = ColumnRoles()
    hyperparameters: dict[str, str] = Field(default_factory=dict)
    """Column by hyperparameter."""
    metrics: dict[MetricName, MetricColumn]
    statuses: dict[str, Literal["completed", "diverged", "stopped", "failed", "interrupted", "pending"]] = Field(
        default_factory=dict
    )
    """Status by the source's word for it."""
    constants: KnownValues = KnownValues()
    study: dict[str, Any] = Field(default_factory=dict)
    """Fields of a study file: description, targets, pairs, margins, and the design and box of an optimizer."""

    def used(self) -> set[str]:
        """Return the names of all columns that are read."""
        named = {name for names in self.columns.named().values() for name in names}
        return named | set(self.hyperparameters.values()) | {metric.column for metric in self.metrics.values()}


STUDY_FIELDS = ("description", "targets", "pairs", "primary", "margins", "optimizers")
"""Fields of a study file that a mapping may contain."""


def mapping_of(raw: Mapping[str, Any], *, source: str) -> ImportMapping:
    """Validate the content of a mapping; `source` names it in messages.

    Raises:
        StudyFileError: with every mistake found.
    """
    try:
        found = ImportMapping.model_validate(dict(raw))
    except ValidationError as error:
        raise StudyFileError(source, [_sentence(dict(item)) for item in error.errors(include_url=False)]) from None
    mistakes = [
        f"study.{name}: not a field of a study in a mapping; allowed: {', '.join(STUDY_FIELDS)}"
        for name in found.study
        if name not in STUDY_FIELDS
    ]
    mistakes += [
        f'metrics.{name}.unit: must be "as_is" for a loss; fraction, percent, error or error_percent for an accuracy'
        for name, metric in found.metrics.items()
        if is_metric(name) and METRICS[name].percent == (metric.unit == "as_is")
    ]
    mistakes += [
        f"metrics: unknown {name!r}{_hint(name)}. Allowed: {', '.join(METRICS)}"
        for name in found.metrics
        if not is_metric(name)
    ]
    if not found.metrics:
        mistakes.append(f"metrics: name the column of at least one of {', '.join(METRICS)}")
    if mistakes:
        raise StudyFileError(source, mistakes)
    return found


def _hint(name: str) -> str:
    meant = nearest(name, METRICS)
    return f" (did you mean {meant!r}?)" if meant else ""


def read_mapping(path: str | os.PathLike[str]) -> ImportMapping:
    """Read a mapping from a TOML file.

    Raises:
        UserError: the file can't be read, or has mistakes, all of which are listed.
    """
    file = Path(path)
    return mapping_of(parse_toml(read_study(file), source=str(file)), source=str(file))


def mapping_text(mapping: ImportMapping, remarks: tuple[str, ...] = ()) -> str:
    """Return a mapping as TOML, after `remarks` as comments."""
    content = mapping.model_dump(mode="json", exclude_defaults=True)
    content["metrics"] = {name: dict(metric) for name, metric in content["metrics"].items()}
    comments = [f"# {line}" for remark in remarks for line in remark.splitlines()]
    return "\n".join([*comments, toml_text(content)])


def check_columns(mapping: ImportMapping, columns: list[str], *, source: str) -> None:
    """Raise if a mapping names columns that the table does not have.

    Raises:
        UserError: the message lists these columns and those of the table.
    """
    if absent := sorted(mapping.used() - set(columns)):
        raise UserError(
            f"{source}: there is no column {', '.join(map(repr, absent))}\n  Columns: {', '.join(columns[:60])}"
        )


def _sentence(item: dict[str, Any]) -> str:
    place = ".".join(str(part) for part in item["loc"]) or "mapping"
    if item["type"] == "extra_forbidden":
        return f"{place}: unknown field"
    given = "" if item["type"] == "missing" else f" (got {item['input']!r})"
    return f"{place}: {item['msg'][:1].lower()}{item['msg'][1:]}{given}"
