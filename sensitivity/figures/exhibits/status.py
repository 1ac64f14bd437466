"""All planned runs by status and cost, and the effect of a KL clip on their steps."""

from __future__ import annotations

from collections.abc import Sequence

from sensitivity.analysis.clipping import Clipping
from sensitivity.analysis.names import optimizer_name
from sensitivity.analysis.study_results import StudyResults
from sensitivity.analysis.summary import Group, StudySummary, Tally
from sensitivity.figures.data import Data
from sensitivity.figures.exhibit import Exhibit
from sensitivity.figures.labels import number
from sensitivity.figures.nothing import NothingToShowError, refusals
from sensitivity.figures.tables import Table
from sensitivity.study.words import duration

_COUNTS = ("planned", "completed", "diverged", "stopped", "failed", "interrupted", "pending", "steps")
_COSTS = ("train_seconds", "eval_seconds", "flops")


def status_table(summary: StudySummary) -> Table:
    """Return planned runs by status, and their cost."""
    rows = [[optimizer_name(g.optimizer), f"{g.batch_size:,}", _cells(g), *_tally(g.tally)] for g in summary.groups]
    rows.append(["all", "", "", *_tally(summary.total)])
    header = (
        "optimizer", "batch size", "cells × seeds", "planned", "completed", "diverged", "stopped early",
        "failed", "interrupted", "pending", "steps", "device time", "FLOPs",
    )  # fmt: skip
    caption = "Planned runs by status, and their cost. Every run is counted."
    return Table(caption=caption, header=header, rows=rows, text_columns=1)


def _cells(group: Group) -> str:
    """Return how configurations and seeds are combined: crossed, or with separate configurations for each seed."""
    crossed = group.tally.planned == group.cells * group.seeds
    return f"{group.cells:,} × {group.seeds}" if crossed else f"{group.cells:,} of {group.seeds} seeds"


def _tally(tally: Tally) -> list[str]:
    ended = (tally.completed, tally.diverged, tally.stopped, tally.failed)
    counts = (tally.planned, *ended, tally.interrupted, tally.pending)
    return [*(f"{n:,}" for n in (*counts, tally.steps)), duration(tally.train_seconds), number(tally.flops, 3)]


def status_data(summary: StudySummary) -> Data:
    """Return planned runs by status, and their cost."""
    return Data(
        columns=("optimizer", "batch_size", "cells", "seeds", *_COUNTS, *_COSTS),
        rows=[
            (g.optimizer, g.batch_size, g.cells, g.seeds, *(getattr(g.tally, name) for name in (*_COUNTS, *_COSTS)))
            for g in summary.groups
        ],
    )


STATUS = Exhibit(
    name="status",
    section="runs",
    title="Every planned run, and its cost",
    compute=lambda results: results.summary,
    data=status_data,
    tables=lambda summary: [status_table(summary)],
    depends=("filters",),
)


def compute_clips(results: StudyResults) -> tuple[Clipping, ...]:
    """Return the effect of KL clips.

    Raises:
        NothingToShowError: no optimizer has a KL clip.
    """
    if not results.clipping:
        raise NothingToShowError("No optimizer here has a KL clip.")
    return results.clipping


def clipping_table(clippings: Sequence[Clipping]) -> Table:
    """Return how often the KL clip was active."""
    return Table(
        caption="The KL clip. Where it is active, the learning rate cancels, and robustness to it is due to the clip.",
        header=("optimizer", "batch size", "steps clipped", "cells clipped in most steps"),
        rows=[
            [optimizer_name(c.optimizer), f"{c.batch_size:,}", f"{c.share:.0%}", f"{c.binding:,}/{len(c.cells):,}"]
            for c in clippings
        ],
        text_columns=1,
    )


def clipping_data(clippings: Sequence[Clipping]) -> Data:
    """Return the share of clipped steps of each cell."""
    return Data(
        columns=("optimizer", "batch_size", "cell_id", "share_of_steps", "effective_lr", "runs"),
        rows=[
            (c.optimizer, c.batch_size, cell.cell_id, cell.share, cell.effective_lr, cell.runs)
            for c in clippings
            for cell in c.cells
        ],
    )


CLIPPING = Exhibit(
    name="clipping",
    section="runs",
    title="Effect of the KL clip",
    compute=compute_clips,
    data=clipping_data,
    tables=lambda clippings: [clipping_table(clippings)],
    notes=lambda clippings: refusals(clipping.refused for clipping in clippings),
    depends=("filters",),
)
