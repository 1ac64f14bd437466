"""Time of an optimizer's steps by phase.

Phases are the columns ``seconds.<phase>`` of the runs (``store.schema``): parts of a run's training time, NaN if they
were not measured. The rest is the time that no phase covers.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from sensitivity.store.schema import PHASE_PREFIX


@dataclass(frozen=True, kw_only=True)
class TimeSplit:
    """Device-seconds per step of an optimizer at a batch size by phase, over the runs that measured phases."""

    optimizer: str
    batch_size: int
    phases: tuple[tuple[str, float], ...]
    """Name and device-seconds per step of each phase, in the order of the columns, without phases that took no time."""
    rest: float
    """Device-seconds per step that no phase covers."""
    runs: int
    steps: int

    @property
    def seconds(self) -> float:
        """Total device-seconds per step."""
        return sum(seconds for _, seconds in self.phases) + self.rest


def compute_time_split(runs: pd.DataFrame) -> tuple[TimeSplit, ...]:
    """Return the time split per optimizer, in the order of the plan, and batch size with a run that measured phases."""
    columns = [str(name) for name in runs if str(name).startswith(PHASE_PREFIX)]
    if not columns:
        return ()
    measured = runs[runs[columns].notna().any(axis=1) & (runs["steps"] > 0)]
    return tuple(
        _split(rows, columns, str(optimizer), int(str(batch_size)))
        for optimizer, of_optimizer in measured.groupby("optimizer", sort=False)
        for batch_size, rows in of_optimizer.groupby("batch_size")
    )


def _split(rows: pd.DataFrame, columns: list[str], optimizer: str, batch_size: int) -> TimeSplit:
    steps = int(rows["steps"].sum())
    totals = {name.removeprefix(PHASE_PREFIX): float(rows[name].sum()) for name in columns}
    covered = sum(totals.values())
    return TimeSplit(
        optimizer=optimizer,
        batch_size=batch_size,
        phases=tuple((name, seconds / steps) for name, seconds in totals.items() if seconds > 0),
        rest=max(float(rows["train_seconds"].sum()) - covered, 0.0) / steps,
        runs=len(rows),
        steps=steps,
    )
