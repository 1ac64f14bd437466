"""Runs: every planned run in a table, their parallel coordinates, and one run with all that is known of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import dash_ag_grid as dag
import dash_mantine_components as dmc
import numpy as np
import pandas as pd
import plotly.graph_objects as go
from dash import ClientsideFunction, Dash, Input, Output, State, callback_context, dcc, html, no_update
from dash.development.base_component import Component
from dash.exceptions import PreventUpdate

from dashboards.blocks import Block, FigureBlock, FixedBlock, Page, Scene, Table, place_block
from dashboards.flatten import flatten
from dashboards.pages.robustness import narrow_curves
from dashboards.reproduce import reproduction
from dashboards.rows import columns, rows_of
from dashboards.site import Site
from dashboards.view import parse, search_of
from sensitivity.analysis.curves import CellCurves, compute_curves
from sensitivity.analysis.designs import varying
from sensitivity.figures.exhibits.parallel import draw_parallel
from sensitivity.figures.labels import metric_value, number, optimizer_name, parameter_name
from sensitivity.store.schema import PARAM_PREFIX
from sensitivity.study.errors import UserError
from sensitivity.study.metrics import METRICS
from sensitivity.study.results import Status
from sensitivity.study.words import duration

MOST_LINES = 2_000
"""Runs in parallel coordinates: more make a browser stutter."""
_FRACTIONS = [name for name, metric in METRICS.items() if metric.is_fraction]


def _blocks(scene: Scene) -> Sequence[Block]:
    return (
        FixedBlock(content=_grid),
        FigureBlock(
            name="parallel",
            label="Completed runs across their hyperparameters and the metric",
            draw=_parallel,
            table=_parallel_table,
            depends=("filters", "metric"),
        ),
        FixedBlock(content=_drawer),
    )


def _grid(scene: Scene) -> Component:
    runs = scene.results.loaded.runs
    said = "Filter and sort in the header; select a row (click, or Space) to open the run."
    return html.Section(
        [
            html.H2("Every planned run"),
            html.P(said, className="note"),
            dag.AgGrid(
                id="runs",
                columnDefs=[_column(runs, name) for name in columns(runs)],
                defaultColDef={"sortable": True, "filter": True, "resizable": True, "minWidth": 90},
                rowModelType="infinite",
                getRowId="params.data.trial_id",
                columnSize="autoSize",
                dashGridOptions={
                    "rowSelection": {"mode": "singleRow", "enableClickSelection": True, "checkboxes": False},
                    "suppressFieldDotNotation": True,
                    "cacheBlockSize": 100,
                    "maxBlocksInCache": 10,
                    "infiniteInitialRowCount": 1,
                    "ensureDomOrder": True,
                    "suppressColumnVirtualisation": True,
                },
                style={"height": "460px"},
            ),
            dcc.Store(id="refreshed"),
        ],
        className="card",
    )


def _column(runs: pd.DataFrame, name: str) -> dict[str, Any]:
    title = parameter_name(name.removeprefix(PARAM_PREFIX)) if name.startswith(PARAM_PREFIX) else name.replace("_", " ")
    found: dict[str, Any] = {"field": name, "headerName": title}
    if pd.api.types.is_numeric_dtype(runs[name]):
        found |= {"filter": "agNumberColumnFilter", "type": "rightAligned"}
        if name in _FRACTIONS:
            found["valueFormatter"] = {"function": "params.value == null ? '' : d3.format('.2%')(params.value)"}
        elif pd.api.types.is_float_dtype(runs[name]):
            found["valueFormatter"] = {"function": "params.value == null ? '' : d3.format('.4~g')(params.value)"}
    else:
        found["filter"] = "agTextColumnFilter"
    if name == "message":
        found["maxWidth"] = 320
    return found


def _chosen(scene: Scene) -> tuple[pd.DataFrame, int, str]:
    """Return the runs in parallel coordinates, of how many they are, and how they were taken."""
    results = scene.results
    metric, runs = results.metric, results.runs
    measured = (runs["status"] == Status.COMPLETED.value) & np.isfinite(runs[metric.name].to_numpy(dtype=float))
    done = runs[measured].sort_values(metric.name, ascending=metric.lower_is_better, kind="stable")
    if len(done) <= MOST_LINES:
        return done, len(done), ""
    best = MOST_LINES // 2
    rest = done.iloc[best:]
    spread = np.linspace(0, len(rest) - 1, MOST_LINES - best).round().astype(int)
    said = f": the best {best:,}, and every {len(rest) / (MOST_LINES - best):.1f}th of the others by rank"
    return pd.concat([done.iloc[:best], rest.iloc[spread]]), len(done), said


def _parallel(scene: Scene) -> go.Figure | str:
    chosen, of, said = _chosen(scene)
    if not len(chosen):
        return "No run has completed yet."
    names = varying(scene.results.runs)
    return draw_parallel(chosen, scene.results.metric, names, of=of, said=said, theme=scene.theme)


def _parallel_table(scene: Scene) -> Table:
    chosen, _, _ = _chosen(scene)
    shown = columns(chosen)
    return Table(
        header=shown,
        rows=[
            [str(v) if isinstance(v, pd.Timestamp) else v for v in row]
            for row in chosen[list(shown)].itertuples(index=False)
        ],
    )


def _drawer(scene: Scene) -> Component:
    drawer = dmc.Drawer(
        id="run",
        title="Run",
        opened=False,
        position="right",
        size="min(680px, 100%)",
        closeButtonProps={"aria-label": "Close"},
    )
    return html.Div([drawer, dcc.Store(id="run-shown")])


def register(app: Dash, site: Site) -> None:
    """Connect the table and the drawer."""
    _table(app, site)
    _open_and_close(app, site)
    _show(app, site)


def _scene(site: Site, pathname: str, search: str) -> Scene:
    view = parse(site.inner(pathname), search)
    if view.page != "runs" or view.study is None:
        raise PreventUpdate
    try:
        return site.scene(view, None)[0]
    except UserError:
        raise PreventUpdate from None


def _table(app: Dash, site: Site) -> None:

    @app.callback(
        Output("runs", "getRowsResponse"),
        Input("runs", "getRowsRequest"),
        State("url", "pathname"),
        State("url", "search"),
    )
    def rows(request: dict[str, Any] | None, pathname: str, search: str) -> dict[str, Any]:
        if not isinstance(request, dict):
            raise PreventUpdate
        found, count = rows_of(_scene(site, pathname, search).results.runs, request)
        return {"rowData": found, "rowCount": count}

    app.clientside_callback(  # type: ignore[no-untyped-call]
        ClientsideFunction("sensitivity", "refresh"),
        Output("refreshed", "data"),
        Input("version", "data"),
        Input("url", "search"),
        prevent_initial_call=True,
    )


def _open_and_close(app: Dash, site: Site) -> None:
    @app.callback(
        Output("url", "search", allow_duplicate=True),
        Output("shown", "data", allow_duplicate=True),
        Input("runs", "selectedRows"),
        Input("run", "opened"),
        State("url", "pathname"),
        State("url", "search"),
        State("shown", "data"),
        prevent_initial_call=True,
    )
    def choose(
        selected: list[dict[str, Any]] | None, opened: bool, pathname: str, search: str, shown: dict[str, str] | None
    ) -> tuple[Any, ...]:
        view = parse(site.inner(pathname), search)
        if callback_context.triggered_id == "run":
            name = view.run if opened else None
        else:
            name = str(selected[0].get("trial_id")) if selected else view.run
        written = search_of(replace(view, run=name))
        if written == search_of(view):
            raise PreventUpdate
        return written, {**(shown or {}), "search": written}


def _show(app: Dash, site: Site) -> None:
    @app.callback(
        Output("run", "opened"),
        Output("run", "children"),
        Output("run", "title"),
        Output("run-shown", "data"),
        Input("url", "search"),
        Input("version", "data"),
        State("url", "pathname"),
        State("run-shown", "data"),
    )
    def show(search: str, version: str | None, pathname: str, before: str | None) -> tuple[Any, ...]:
        scene = _scene(site, pathname, search)
        if scene.view.run is None:
            return False, no_update, no_update, None
        rows = _rows(scene)
        if not len(rows):
            return True, html.P("This study has no such run.", className="notice"), "Run", None
        run = {str(name): value for name, value in rows.iloc[0].items()}
        now = f"{run['trial_id']} {run['finished_at']}"
        if now == before:  # new results are of other runs; zoom and scroll stay
            raise PreventUpdate
        title = f"{optimizer_name(str(run['optimizer']))}, batch size {run['batch_size']:,}, seed {run['seed']}"
        return True, _run(scene, run), title, now


def _rows(scene: Scene) -> pd.DataFrame:
    """Return the row of the run that the drawer shows; none without one."""
    runs = scene.results.loaded.runs
    return runs[runs["trial_id"] == scene.view.run]


def _run(scene: Scene, run: Mapping[str, Any]) -> list[Any]:
    loaded = scene.results.loaded
    settings = [
        (parameter_name(name), number(float(run[PARAM_PREFIX + name]), 6))
        for name in loaded.spec.optimizers[str(run["optimizer"])].hyperparameter_names
    ]
    outcome = [("status", run["status"])]
    outcome += [
        (metric.label, metric_value(metric, float(run[metric.name])))
        for metric in METRICS.values()
        if run[metric.name] == run[metric.name]
    ]
    if run["steps"] == run["steps"]:
        outcome += [("steps", f"{int(run['steps']):,}"), ("device time", duration(float(run["train_seconds"])))]
        outcome += [("trained on", f"{run['device']}, {run['host']}"), ("pack", f"{run['pack_size']:.0f} runs")]
    made = loaded.manifest.specs.get(str(run["spec_hash"]), {})
    packages = made.get("packages", {})
    machine = made.get("machine", {})
    environment = [
        ("code version", str(run["code_version"])),
        *((str(name), str(value)) for name, value in machine.items()),
        *((str(name), str(value)) for name, value in packages.items()),
    ]
    command = reproduction(loaded, run)
    return [
        _facts("Configuration", settings),
        _facts("Outcome", outcome),
        *([html.P(str(run["message"]), className="notice")] if run["message"] else []),
        *([html.Details([html.Summary("Traceback"), html.Pre(str(run["traceback"]))])] if run["traceback"] else []),
        place_block(_CURVE, scene),
        html.H2("Reproduce it"),
        html.Pre(command, tabIndex="0")
        if command
        else html.P("The study file that made this run isn't kept, so no command is known.", className="note"),
        html.P(
            f"With code version {run['code_version']}; the run has the same id there: {run['trial_id']}",
            className="note",
        )
        if run["code_version"] == run["code_version"]
        else None,
        html.Details([html.Summary("Environment"), _facts("", environment)]),
    ]


def _facts(title: str, pairs: Sequence[tuple[str, object]]) -> Component:
    items = [item for name, value in pairs for item in (html.Dt(name), html.Dd(str(value)))]
    return html.Section([*([html.H2(title)] if title else []), html.Dl(items, className="facts")])


def _curves(scene: Scene) -> list[CellCurves]:
    rows = _rows(scene)
    cells = [str(cell) for cell in rows["cell_id"]]
    return [*compute_curves(rows, scene.results.loaded.curves_of(rows["trial_id"]), scene.results.metric, cells)]


def _draw_curve(scene: Scene) -> go.Figure | str:
    curves = [curve for curve in _curves(scene) if curve.epochs]
    return narrow_curves(curves, scene, "this run") if curves else "This run has no learning curve."


_CURVE = FigureBlock(
    name="run-curve",
    label="Learning curve of the run",
    draw=_draw_curve,
    table=lambda scene: flatten([s for c in _curves(scene) for s in c.seeds], columns=("epochs", "measured")),
    depends=("metric", "run"),
    width="half",
)

RUNS = Page(
    name="runs",
    title="Runs",
    lead="Every planned run, and all that is known of it.",
    blocks=_blocks,
    further=(_CURVE,),
)
