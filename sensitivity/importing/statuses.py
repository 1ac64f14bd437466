"""Statuses of runs, from their source and their values, with counts of contradictions."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from sensitivity.importing.columns import STATUSES
from sensitivity.importing.mapping import ImportMapping
from sensitivity.study.errors import UserError
from sensitivity.study.results import Status

_SHORT = 0.999
"""A run ended early if its steps are below this fraction of the longest run of its optimizer and batch size."""


@dataclass
class Defects:
    """Defects of imported runs, one sentence with a count each."""

    found: list[str] = field(default_factory=list)

    def add(self, what: str, count: int, follows: str) -> None:
        """Add a defect as "`what`: `count`. `follows`"; does nothing for a count of 0."""
        if count:
            self.found.append(f"{what}: {count:,}. {follows}")


def texts(table: pa.Table, column: str | None, rows: NDArray[np.int_]) -> list[str]:
    """Return some rows of a column as texts; empty texts without a column."""
    if column is None:
        return [""] * len(rows)
    return ["" if text is None else str(text) for text in table[column].take(pa.array(rows)).to_pylist()]


def add_statuses(
    runs: pd.DataFrame,
    measured: pd.DataFrame,
    table: pa.Table,
    mapping: ImportMapping,
    last: NDArray[np.int_],
    diverged: NDArray[np.bool_],
    defects: Defects,
) -> None:
    """Add the status of each run, from its source and its values."""
    words = texts(table, mapping.columns.status, last)
    known: dict[str, str] = {**{word: status.value for word, status in STATUSES.items()}, **mapping.statuses}
    unknown = sorted({word for word in words if word and word not in known and word.lower() not in known})
    if unknown:
        raise UserError(
            f"the status {', '.join(map(repr, unknown[:10]))} is unknown\n  Map it in [statuses] of the mapping to "
            "completed, failed, diverged, stopped, interrupted or pending"
        )
    given = pd.Series([known.get(word) or known.get(word.lower(), "") for word in words])
    has_value = pd.Series(np.isin(runs.index, measured["run"].unique()))
    status = given.where(given != "", Status.COMPLETED.value)
    ended_well = status.isin([Status.COMPLETED.value, Status.STOPPED.value])
    status[ended_well & diverged] = Status.DIVERGED.value
    longest = runs.groupby(["optimizer", "batch_size"])["steps"].transform("max")
    short = (status == Status.COMPLETED.value) & (runs["steps"] < _SHORT * longest) & ~diverged
    early = short & (given == "")
    status[early] = Status.STOPPED.value
    nothing = status.isin([Status.COMPLETED.value, Status.STOPPED.value]) & ~has_value
    status[nothing] = Status.FAILED.value
    runs["status"] = status
    blank = runs["message"] == ""
    runs.loc[nothing & blank, "message"] = "it measured nothing"
    runs.loc[(status == Status.DIVERGED.value) & blank, "message"] = "a loss is not finite"
    runs.loc[early & blank, "message"] = "its metrics end before those of comparable runs"
    runs["steps"] = runs["steps"].fillna(0).round().astype("int64")
    word = pd.Series([word.lower() for word in words])
    running = status.eq(Status.INTERRUPTED.value)
    runs.loc[running & blank, "message"] = "it was " + word.where(word != "", "interrupted") + " when it was imported"
    crashed = int((status == Status.FAILED.value).sum() - nothing.sum())
    defects.add("Crashed or failed runs", crashed, "They have no value.")
    defects.add("Runs that measured nothing", int(nothing.sum()), "They count as failed, whatever their status.")
    defects.add("Runs still running, or interrupted", int(running.sum()), "They have no result yet.")
    defects.add(
        "Runs whose metrics stop early",
        int(early.sum()),
        "They end before the longest run of their optimizer and batch size, without a status that explains it. They"
        " count as stopped, with the values at their end.",
    )
    defects.add(
        "Completed runs with fewer steps than others of their optimizer and batch size",
        int((short & ~early).sum()),
        "Their budgets differ, so values at the end of runs are not comparable.",
    )
    whole = runs[runs["status"] == Status.COMPLETED.value].groupby(["batch_size", "optimizer"])["steps"].max()
    uneven = whole.groupby("batch_size").agg(lambda each: each.min() < _SHORT * each.max())
    defects.add(
        "Batch sizes at which optimizers trained for different numbers of steps",
        int(uneven.sum()),
        "Optimizers that trained longer had more time to reach a target.",
    )
