"""The common form of other tools' stores: runs with settings and logged values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from sensitivity.importing.columns import ROLES, plain_name
from sensitivity.importing.tables import Source, flat
from sensitivity.study.errors import UserError

REPORTED = "reported"
"""The column of what a tool counts, which may be steps of the optimizer, epochs, or reports."""
SUMMARY = "summary."
"""Begins the names of numbers of a run as a whole where a tool has but one kind of number; they are no curves."""


@dataclass(frozen=True, kw_only=True)
class LoggedRun:
    """A run as another tool logged it."""

    run: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of the optimizer, and all else that was configured."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Columns that are no settings: status, times."""
    evaluations: Iterable[Mapping[str, Any]] = ()
    """What was logged, a mapping a step."""


def source_of(
    runs: Iterable[LoggedRun], description: str, *, reported: str = "", notes: tuple[str, ...] = ()
) -> Source:
    """Return runs as one table: a row per evaluation, and one for a run without any.

    Args:
        runs: of the store.
        description: where they come from.
        reported: what the column `REPORTED` counts, in words, which is asked if no column is named as steps are.
        notes: what has to be known of them.

    Raises:
        UserError: there are none.
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
        raise UserError(f"{description}: there are no runs in it")
    names = list(dict.fromkeys(name for row in rows for name in row))
    asks: tuple[str, ...] = ()
    if reported and not any(plain_name(name) in ROLES["step"] for name in names):
        asks = (
            f'does {REPORTED!r} ({reported}) count steps of the optimizer? Then add, in [columns], step = "{REPORTED}"'
            f' (and steps_per_unit in [constants], where one is several steps); if epochs, epoch = "{REPORTED}", and'
            " train_size in [constants]",
        )
    table = pa.table({name: _column([row.get(name) for row in rows]) for name in names})
    return Source(description=description, table=table, notes=notes, asks=asks, rows="evaluations")


def _column(values: list[Any]) -> pa.Array:
    """Return a column: numbers where all values are, else texts."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} and kinds:
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    try:
        return pa.array(values)
    except (pa.ArrowException, ValueError, TypeError):
        return pa.array([None if value is None else str(value) for value in values], pa.string())
