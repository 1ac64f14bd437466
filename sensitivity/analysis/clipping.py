"""Activity of K-FAC's KL clip. Where it is active, the learning rate cancels, and any robustness is due to the clip.

nu = min(1, sqrt(kappa / (lr^2 sum(v g)))) scales a step to a fixed length whenever it is below 1, so a map that is flat
in lr there is no evidence about K-FAC (docs/statistics.md, section 9). Runs have the fraction of clipped steps,
``clip_share``, and curves the mean of nu lr, ``effective_lr``; both are NaN without a clip. Without these columns,
there are no results.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from sensitivity.analysis.estimates import Caution
from sensitivity.analysis.names import at_batch_size

CLIPPED = "clip_share"
EFFECTIVE_LR = "effective_lr"
BOUND = 0.5


@dataclass(frozen=True, kw_only=True)
class ClippedCell:
    """A cell whose optimizer has a clip."""

    cell_id: str
    share: float
    """Fraction of steps that were clipped, mean over the runs that recorded it."""
    effective_lr: float
    """Mean of nu lr over evaluations and runs; NaN if it was not recorded."""
    runs: int
    """Number of runs that recorded the fraction."""

    @property
    def binds(self) -> bool:
        """Whether most steps were clipped."""
        return self.share > BOUND


@dataclass(frozen=True, kw_only=True)
class Clipping:
    """Activity of an optimizer's clip at a batch size."""

    optimizer: str
    batch_size: int
    cells: tuple[ClippedCell, ...]
    share: float
    """Fraction of steps that were clipped, mean over cells."""
    refused: Caution | None
    """Reason why claims of robustness are refused, if most steps were clipped in most cells; else None."""

    @property
    def binding(self) -> int:
        """Number of cells in which most steps were clipped."""
        return sum(cell.binds for cell in self.cells)


def compute_clipping(runs: pd.DataFrame, curves: pd.DataFrame) -> tuple[Clipping, ...]:
    """Return one result per optimizer, in the order of the plan, and batch size with runs that have a clip."""
    if CLIPPED not in runs:
        return ()
    clipped = runs[runs[CLIPPED].notna()]
    evaluations = curves if EFFECTIVE_LR in curves else curves.assign(**{EFFECTIVE_LR: math.nan})
    rates = evaluations.groupby("trial_id", sort=False)[EFFECTIVE_LR].mean()
    clipped = clipped.assign(**{EFFECTIVE_LR: clipped["trial_id"].map(rates).astype(float)})
    return tuple(
        _clipping(rows, str(optimizer), int(str(batch_size)))
        for optimizer, of_optimizer in clipped.groupby("optimizer", sort=False)
        for batch_size, rows in of_optimizer.groupby("batch_size")
    )


def _clipping(rows: pd.DataFrame, optimizer: str, batch_size: int) -> Clipping:
    table = rows.groupby("cell_id", sort=False).agg(
        share=(CLIPPED, "mean"), effective_lr=(EFFECTIVE_LR, "mean"), runs=(CLIPPED, "size")
    )
    cells = tuple(
        ClippedCell(
            cell_id=str(row["cell_id"]),
            share=float(row["share"]),
            effective_lr=float(row["effective_lr"]),
            runs=int(row["runs"]),
        )
        for row in table.reset_index().to_dict("records")
    )
    binding = sum(cell.binds for cell in cells)
    refused = None
    if binding > len(cells) / 2:
        refused = Caution(
            code="kl-clip",
            text=f"{at_batch_size(optimizer, batch_size)}: the KL clip was active on most steps of {binding:,} of"
            f" {len(cells):,} cells. There the learning rate cancels, so robustness to it is due to the clip."
            " Compare an optimizer without kl_clip.",
        )
    return Clipping(
        optimizer=optimizer,
        batch_size=batch_size,
        cells=cells,
        share=float(table["share"].mean()),
        refused=refused,
    )
