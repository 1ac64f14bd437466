"""Common representation of runs in the stores of other tools: settings and logged values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from sensitivity.importing.columns import ROLES, plain_name
from sensitivity.importing.tables import Source, flat
from sensitivity.study.errors import UserError

REPORTED = "reported"
"""Column of a tool's own counter, which may count optimizer steps, epochs, or reports."""
SUMMARY = "summary."
"""Prefix of numbers that describe a run as a whole, in tools with only one kind of number; they are not curves."""


@dataclass(frozen=True, kw_only=True)
class LoggedRun:
    """A run logged by another tool."""

    run: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Configuration of the run, including the optimizer's."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Columns other than settings: status and times."""
    evaluations: Iterable[Mapping[str, Any]] = ()
    """Logged values, one mapping per step."""


def source_of(
    runs: Iterable[LoggedRun], description: str, *, reported: str = "", notes: tuple[str, ...] = ()
) -> Source:
    """Return runs as one table: one row per evaluation, and one row for a run without evaluations.

    Args:
        runs: runs of the store.
        description: description of the store.
        reported: description of the column `REPORTED`, for the question that is asked if no column has steps.
        notes: cautions about the runs.

    Raises:
        UserError: there are no runs.
    """
    rows: list[dict[str, Any]] = []
    for each in runs:
        shared = {f"config.{name}": value for name, value in flat(dict(each.settings)).items()}
        shared = {"run": each.run, **shared, **each.facts}
        before = len(rows)
        rows += [{**shared, **flat(dict(evaluation))} for evaluation in each.evaluations]
        if len(rows) == before:
            rows.append(shared)
    if not rows:
        raise UserError(f"{description}: contains no runs\n  Check that it is the right place")
    names = list(dict.fromkeys(name for row in rows for name in row))
    asks: tuple[str, ...] = ()
    if reported and not any(plain_name(name) in ROLES["step"] for name in names):
        asks = (
            f'does {REPORTED!r} ({reported}) count optimizer steps? Then add, in [columns], step = "{REPORTED}"'
            f" (and steps_per_unit in [constants] if one unit is several steps); if it counts epochs, add epoch = "
            f'"{REPORTED}", and train_size in [constants]',
        )
    table = pa.table({name: _column([row.get(name) for row in rows]) for name in names})
    return Source(description=description, table=table, notes=notes, asks=asks, rows="evaluations")


def _column(values: list[Any]) -> pa.Array:
    """Return a column of numbers if all values are numbers, otherwise of their own type or of texts."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} and kinds:
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    try:
        return pa.array(values)
    except (pa.ArrowException, ValueError, TypeError):
        return pa.array([None if value is None else str(value) for value in values], pa.string())
