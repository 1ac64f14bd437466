"""When each run ran, how long it took and how it ended: one line per run, ordered by start.

For a study that was settled but whose own design has not been run, the runs are those of the settlement.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sensitivity.analysis.study_results import StudyResults
from sensitivity.figures.data import Data
from sensitivity.figures.exhibit import Exhibit
from sensitivity.figures.exhibits.scatter import evenly
from sensitivity.figures.labels import optimizer_label
from sensitivity.figures.nothing import NothingToShowError
from sensitivity.figures.theme import Theme
from sensitivity.study.results import Status
from sensitivity.study.words import duration

MAX_LINES = 2_000
_COLOURS = {
    Status.COMPLETED: 0, Status.DIVERGED: 4, Status.STOPPED: 2, Status.FAILED: 3, Status.INTERRUPTED: 5,
}  # fmt: skip
"""Status -> index of its colour among the categories of a theme."""


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """Runs with a known start and end, ordered by start."""

    runs: pd.DataFrame
    of: int
    """Planned runs in the current view, or those of the settlement."""
    timed: int
    """Number of runs with known times; of very many, `runs` is an even sample."""
    seconds: float
    """Time from the first start to the last end."""
    settling: bool
    """Whether they are runs of the settlement, which are not in the study's table of runs."""


def compute_timeline(results: StudyResults) -> Timeline:
    """Return the runs ordered by start.

    Raises:
        NothingToShowError: no run has a start and an end.
    """
    runs, settling = results.runs, False
    timed = _timed(runs)
    if not len(timed) and results.tables.ledger is not None and (own := results.tables.settling_runs) is not None:
        runs, settling = results.view.filtered(own), True
        timed = _timed(runs)
    if not len(timed):
        raise NothingToShowError("No run has ended yet, so there is no time to show.")
    ordered = timed.sort_values(["started_at", "finished_at", "trial_id"], kind="stable")
    span = ordered["finished_at"].max() - ordered["started_at"].min()
    return Timeline(
        runs=evenly(ordered, MAX_LINES),
        of=len(runs),
        timed=len(timed),
        seconds=span.total_seconds(),
        settling=settling,
    )


def _timed(runs: pd.DataFrame) -> pd.DataFrame:
    return runs[runs["started_at"].notna() & runs["finished_at"].notna()] if "started_at" in runs else runs.iloc[:0]


def draw_timeline(timeline: Timeline, theme: Theme) -> go.Figure:
    """Draw a line from the start of each run's pack to its result, with a point at the result."""
    figure = go.Figure()
    runs = timeline.runs.reset_index(drop=True)
    starts = runs["started_at"].dt.tz_localize(None).to_numpy()
    ends = runs["finished_at"].dt.tz_localize(None).to_numpy()
    ids = runs["trial_id"].to_numpy(dtype=object)
    width = max(1, min(6, 320 // len(runs)))
    for status, colour in _COLOURS.items():
        own = np.flatnonzero((runs["status"] == status.value).to_numpy())
        if not len(own):
            continue
        xs = np.full((len(own), 3), np.datetime64("NaT"), dtype="datetime64[us]")
        xs[:, 0], xs[:, 1] = starts[own], ends[own]
        ys = np.full((len(own), 3), np.nan)
        ys[:, 0] = ys[:, 1] = own + 1
        figure.add_scatter(
            x=xs.ravel(), y=ys.ravel(), mode="lines", hoverinfo="skip", showlegend=False, opacity=0.6,
            line={"color": theme.category(colour), "width": width},
        )  # fmt: skip
        figure.add_scatter(
            x=ends[own], y=own + 1, mode="markers", name=status.value, showlegend=True,
            customdata=None if timeline.settling else ids[own],  # a click looks them up in the study's table of runs
            marker={"color": theme.category(colour), "size": max(4, width)}, hoverinfo="text",
            hovertext=[_words(runs.iloc[at]) for at in own],
        )  # fmt: skip
    shown = "" if len(runs) == timeline.timed else f", evenly sampled from {timeline.timed:,}"
    what = "runs of the settlement" if timeline.settling else "planned runs"
    figure.update_layout(
        template=theme.template(),
        title={
            "text": "When each run ran",
            "subtitle": {
                "text": f"n = {len(runs):,} of {timeline.of:,} {what}{shown} · {duration(timeline.seconds)} from"
                " the first start to the last result · from the start of a run's pack to its result"
            },
        },
        xaxis={"title": {"text": "time (UTC)"}},
        yaxis={"title": {"text": "run, by start"}, "autorange": "reversed"},
        height=460,
        margin={"t": 92, "b": 84, "l": 70, "r": 20},
        hovermode="closest",
    )
    return figure


def _words(run: pd.Series) -> str:
    took = (run["finished_at"] - run["started_at"]).total_seconds()
    return (
        f"<b>{optimizer_label(run['optimizer'])}, batch size {run['batch_size']:,}, seed {run['seed']}</b><br>"
        f"{run['status']} after {duration(took)}<br>{run['started_at']:%Y-%m-%d %H:%M:%S} to"
        f" {run['finished_at']:%H:%M:%S}"
    )


def timeline_data(timeline: Timeline) -> Data:
    """Return the runs that are drawn, with times in UTC."""
    runs = timeline.runs
    times = {name: runs[name].dt.strftime("%Y-%m-%dT%H:%M:%S.%fZ") for name in ("started_at", "finished_at")}
    table = runs.assign(**times, seconds=(runs["finished_at"] - runs["started_at"]).dt.total_seconds())
    columns = ["started_at", "finished_at", "seconds", "status", "optimizer", "batch_size", "seed", "host", "trial_id"]
    return Data.of(table, columns)


TIMELINE = Exhibit(
    name="timeline",
    section="runs",
    title="When each run ran, how long, and how it ended",
    compute=compute_timeline,
    draw=draw_timeline,
    data=timeline_data,
    depends=("filters", "rows"),
    of_runs=True,
    in_report=False,
)
