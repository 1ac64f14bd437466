"""K-FAC's KL clip: where it binds, the learning rate cancels, and robustness to it is the clip's doing.

nu = min(1, sqrt(kappa / (lr^2 sum(v g)))) scales a step down to a fixed length whenever it is below 1, so a map that
is flat in lr there says nothing of K-FAC (docs/statistics.md, section 9). Runs carry the share of their steps that were
clipped, ``clip_share``, and curves the mean of nu lr, ``effective_lr``; both are NaN without a clip. Tables without
these columns have nothing to report.
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
    """Of steps that were clipped, mean over the runs that say."""
    effective_lr: float
    """Mean over evaluations and runs of nu lr; NaN where they don't say."""
    runs: int

    @property
    def binds(self) -> bool:
        """Whether most steps were clipped."""
        return self.share > BOUND


@dataclass(frozen=True, kw_only=True)
class Clipping:
    """What the clip of an optimizer did at a batch size."""

    optimizer: str
    batch_size: int
    cells: tuple[ClippedCell, ...]
    share: float
    """Of steps, mean over cells."""
    refused: Caution | None
    """Why claims of robustness are refused, where the clip binds in most cells that were run."""

    @property
    def binding(self) -> int:
        """Cells in which most steps were clipped."""
        return sum(cell.binds for cell in self.cells)


def compute_clipping(runs: pd.DataFrame, curves: pd.DataFrame) -> tuple[Clipping, ...]:
    """Return one for each optimizer, in the order of the plan, and batch size whose runs say how much was clipped."""
    if CLIPPED not in runs:
        return ()
    told = runs[runs[CLIPPED].notna()]
    said = curves if EFFECTIVE_LR in curves else curves.assign(**{EFFECTIVE_LR: math.nan})
    rates = said.groupby("trial_id", sort=False)[EFFECTIVE_LR].mean()
    told = told.assign(**{EFFECTIVE_LR: told["trial_id"].map(rates).astype(float)})
    return tuple(
        _clipping(rows, str(optimizer), int(str(batch_size)))
        for optimizer, of_optimizer in told.groupby("optimizer", sort=False)
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
            text=f"{at_batch_size(optimizer, batch_size)}: the KL clip bound on most steps of {binding:,} of"
            f" {len(cells):,} cells. There the learning rate cancels, and being robust to it is the clip's doing."
            " Compare an optimizer without kl_clip.",
        )
    return Clipping(
        optimizer=optimizer,
        batch_size=batch_size,
        cells=cells,
        share=float(table["share"].mean()),
        refused=refused,
    )
