"""Selected runs side by side: their learning curves in one figure, and the values in which they differ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sensitivity.analysis.curves import CurveTime, curve_time
from sensitivity.analysis.outcomes import LARGEST
from sensitivity.analysis.study_results import StudyResults
from sensitivity.figures.data import Data
from sensitivity.figures.exhibit import Exhibit
from sensitivity.figures.labels import capitalized, count, optimizer_label, safe
from sensitivity.figures.nothing import NothingToShowError
from sensitivity.figures.run_numbers import column_label, column_value
from sensitivity.figures.scales import metric_scale
from sensitivity.figures.theme import Theme
from sensitivity.store.schema import PARAM_PREFIX, metric_columns
from sensitivity.study.metrics import Metric

_SETTINGS = ("optimizer", "batch_size", "seed")
_FOLLOWING = (
    "steps", "epochs", "train_seconds", "flops", "clip_share", "pack_size", "device", "host", "code_version", "message",
    "tags", "note",
)  # fmt: skip
_LONG = ("message", "note", "host", "code_version")
"""Columns with long values, which are not used to label lines of a figure."""


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """Selected runs, in the order of selection."""

    runs: pd.DataFrame
    curves: tuple[tuple[np.ndarray, np.ndarray], ...]
    """Times, in `unit`, and finite values of the metric of each run."""
    unit: CurveTime
    metric: Metric
    measured: tuple[Metric, ...]
    differing: tuple[str, ...]
    """Columns in which they differ: settings, then results, then provenance."""
    alike: tuple[str, ...]

    def label(self, column: str) -> str:
        """Return the label of a column."""
        return column_label(column, self.measured)

    def values(self, column: str) -> list[str]:
        """Return the value of each run as text."""
        return [column_value(column, value, self.measured) for value in self.runs[column].tolist()]


def compute_side_by_side(results: StudyResults, chosen: Sequence[str]) -> SideBySide:
    """Return the selected runs of a study, regardless of the filters, with their curves.

    Raises:
        NothingToShowError: the study has none of them.
    """
    table = results.tables.runs.set_index("trial_id", drop=False)
    ids = [run for run in chosen if run in table.index]
    if not ids:
        raise NothingToShowError(
            "Tick runs in the first column of the table, 12 at most, to see them side by side here."
        )
    runs, metric = table.loc[ids], results.metric
    rows = results.tables.curves_of(ids)
    rows = rows[np.isfinite(rows[metric.name].to_numpy(dtype=float))].sort_values("step")
    by_run = {str(name): own for name, own in rows.groupby("trial_id", observed=True)}
    unit, curves = curve_time(rows), []
    for run in ids:
        own = by_run.get(run, rows.iloc[:0]).drop_duplicates("step", keep="last")
        values = own[metric.name].to_numpy(dtype=float).clip(-LARGEST, LARGEST)
        curves.append((own[unit].to_numpy(dtype=float), values))
    columns = [name for name in _columns(runs) if runs[name].notna().any() and (runs[name].astype(str) != "").any()]
    differing = [name for name in columns if len({str(value) for value in runs[name].tolist()}) > 1]
    return SideBySide(
        runs=runs,
        curves=tuple(curves),
        unit=unit,
        metric=metric,
        measured=tuple(results.spec.measured()),
        differing=tuple(differing),
        alike=tuple(name for name in columns if name not in differing),
    )


def _columns(runs: pd.DataFrame) -> Iterable[str]:
    params = [str(name) for name in runs if str(name).startswith(PARAM_PREFIX)]
    metrics = metric_columns(map(str, runs.columns))
    return (*_SETTINGS, *params, "status", *metrics, *(name for name in _FOLLOWING if name in runs))


def line_names(found: SideBySide) -> list[str]:
    """Return a name for each run: its number, and the settings in which it differs from the others."""
    telling = [name for name in found.differing if name in _SETTINGS or name.startswith(PARAM_PREFIX)]
    names = []
    for place, run in enumerate(found.runs.to_dict("records"), 1):
        parts = [
            optimizer_label(run[name])
            if name == "optimizer"
            else f"{safe(found.label(name))} {column_value(name, run[name], found.measured)}"
            for name in telling
            if run[name] == run[name]
        ]
        names.append(f"{place}: {', '.join(parts) or 'the only one'}")
    return names


def draw_side_by_side(found: SideBySide, theme: Theme) -> go.Figure:
    """Draw the curves of selected runs.

    Raises:
        NothingToShowError: none of them has a curve.
    """
    if not any(len(times) for times, _ in found.curves):
        raise NothingToShowError(f"No chosen run has a learning curve of {found.metric.label}.")
    scale = metric_scale(found.metric, (value for _, values in found.curves for value in values.tolist()))
    figure = go.Figure()
    names = line_names(found)
    for position, ((times, values), name) in enumerate(zip(found.curves, names, strict=True)):
        style = theme.style(position)
        figure.add_scatter(
            x=times, y=[scale.position(value) for value in values.tolist()], mode="lines+markers", name=name,
            line={"color": style.colour, "dash": style.dash, "width": 2}, showlegend=True,
            marker={"symbol": style.symbol, "size": 5 if len(times) < 40 else 1},
            hovertext=[column_value(found.metric.name, value, found.measured) for value in values.tolist()],
            hovertemplate=f"%{{hovertext}} at {found.unit} %{{x:.4~g}}<extra>%{{fullData.name}}</extra>",
        )  # fmt: skip
    rows = -(-sum(len(name) * 6.2 + 60 for name in names) // 800)
    bottom = int(60 + 20 * rows)
    with_curve = sum(len(times) > 0 for times, _ in found.curves)
    figure.update_layout(
        template=theme.template(),
        title={
            "text": f"{capitalized(found.metric.label)} of the chosen runs by {found.unit}",
            "subtitle": {"text": f"n = {with_curve} of {count(len(found.runs), 'chosen run')} with a curve"},
        },
        xaxis={"title": {"text": f"{found.unit}s"}},
        yaxis={"title": {"text": found.metric.label}, "tickvals": scale.tickvals, "ticktext": scale.ticktext},
        height=92 + 320 + bottom,
        margin={"t": 92, "b": bottom, "l": 70, "r": 20},
        hovermode="closest",
    )
    return figure


def side_by_side_data(found: SideBySide) -> Data:
    """Return the differences between the runs: one row per quantity, one column per run."""
    header = ("quantity", *(f"{place}: {run}" for place, run in enumerate(found.runs["trial_id"], 1)))
    rows = [[found.label(name), *(_scalar(value) for value in found.runs[name].tolist())] for name in found.differing]
    return Data(columns=header, rows=rows)


def curve_data(found: SideBySide) -> Data:
    """Return the curves."""
    return Data(
        columns=("run", "trial_id", found.unit, found.metric.name),
        rows=[
            (place, str(run), float(time), float(value))
            for place, (run, (times, values)) in enumerate(zip(found.runs["trial_id"], found.curves, strict=True), 1)
            for time, value in zip(times, values, strict=True)
        ],
    )


def _scalar(value: object) -> str | float | int | None:
    return value if isinstance(value, (str, int, float)) else None if value is None else str(value)


def chosen_exhibit(chosen: Sequence[str], *, table: bool) -> Exhibit[SideBySide]:
    """Return the exhibit of selected runs: their curves, or the table of their differences."""
    return Exhibit(
        name="differences" if table else "chosen-curves",
        section="",
        title="Differences between the chosen runs" if table else "Learning curves of the chosen runs",
        compute=lambda results: compute_side_by_side(results, chosen),
        draw=None if table else draw_side_by_side,
        data=side_by_side_data if table else curve_data,
        depends=("metric",),
        in_report=False,
    )
