"""Runs: every planned run in a table, their parallel coordinates, and one run with all that is known of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import dash_ag_grid as dag
import dash_mantine_components as dmc
import pandas as pd
from dash import ClientsideFunction, Dash, Input, Output, State, callback_context, dcc, html, no_update
from dash.development.base_component import Component
from dash.exceptions import PreventUpdate

from dashboards.address import parse, search_of
from dashboards.blocks import FigureBlock, FixedBlock, Page, Scene, place_block
from dashboards.pages.robustness import curves_exhibit
from dashboards.reproduce import reproduction
from dashboards.rows import columns, rows_of
from dashboards.site import Site
from sensitivity.analysis.curves import compute_curves
from sensitivity.figures.exhibit import Computed
from sensitivity.figures.labels import metric_value, number, optimizer_name, parameter_name
from sensitivity.figures.nothing import NothingToShowError
from sensitivity.store.schema import PARAM_PREFIX
from sensitivity.study.errors import UserError
from sensitivity.study.metrics import named
from sensitivity.study.spec import StudySpec
from sensitivity.study.words import duration


def _grid(scene: Scene) -> Component:
    runs = scene.loaded.runs
    said = "Filter and sort in the header; select a row (click, or Space) to open the run."
    return html.Section(
        [
            html.H2("Every planned run"),
            html.P(said, className="note"),
            dag.AgGrid(
                id="runs",
                columnDefs=[_column(runs, name, scene.results.spec) for name in columns(runs)],
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


def _column(runs: pd.DataFrame, name: str, spec: StudySpec) -> dict[str, Any]:
    metric = named(name, spec.measured())
    title = name.replace("_", " ") if metric is None else metric.label
    title = parameter_name(name.removeprefix(PARAM_PREFIX)) if name.startswith(PARAM_PREFIX) else title
    found: dict[str, Any] = {"field": name, "headerName": title}
    if pd.api.types.is_numeric_dtype(runs[name]):
        found |= {"filter": "agNumberColumnFilter", "type": "rightAligned"}
        if metric is not None and metric.percent:
            found["valueFormatter"] = {"function": "params.value == null ? '' : d3.format('.2%')(params.value)"}
        elif pd.api.types.is_float_dtype(runs[name]):
            found["valueFormatter"] = {"function": "params.value == null ? '' : d3.format('.4~g')(params.value)"}
    else:
        found["filter"] = "agTextColumnFilter"
    if name == "message":
        found["maxWidth"] = 320
    return found


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
    address = parse(site.inner(pathname), search)
    if address.page != "runs" or address.study is None:
        raise PreventUpdate
    try:
        return site.scene(address, None)[0]
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
        address = parse(site.inner(pathname), search)
        if callback_context.triggered_id == "run":
            name = address.run if opened else None
        else:
            name = str(selected[0].get("trial_id")) if selected else address.run
        written = search_of(replace(address, run=name))
        if written == search_of(address):
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
        if scene.address.run is None:
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
    runs = scene.loaded.runs
    return runs[runs["trial_id"] == scene.address.run]


def _run(scene: Scene, run: Mapping[str, Any]) -> list[Any]:
    loaded = scene.loaded
    settings = [
        (parameter_name(name), number(float(run[PARAM_PREFIX + name]), 6))
        for name in loaded.spec.optimizers[str(run["optimizer"])].hyperparameter_names
    ]
    outcome = [("status", run["status"])]
    outcome += [
        (metric.label, metric_value(metric, float(run[metric.name])))
        for metric in loaded.spec.measured()
        if run.get(metric.name, math.nan) == run.get(metric.name, math.nan)
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


def _curve(scene: Scene) -> Computed[Any]:
    rows = _rows(scene)
    cells = [str(cell) for cell in rows["cell_id"]]
    found = compute_curves(rows, scene.results.tables.curves_of(rows["trial_id"]), scene.results.metric, cells)
    curves = [curve for curve in found if curve.epochs]
    if not curves:
        raise NothingToShowError("This run has no learning curve.")
    return Computed(curves_exhibit("run-curve", "this run", tuple(scene.results.spec.optimizers)), curves)


_CURVE = FigureBlock(
    name="run-curve", label="Learning curve of the run", show=_curve, depends=("metric", "run"), width="half"
)

RUNS = Page(
    name="runs",
    title="Runs",
    lead="Every planned run, and all that is known of it.",
    parts=("parallel", "runs"),
    first=(FixedBlock(name="grid", content=_grid), FixedBlock(name="drawer", content=_drawer)),
    further=(_CURVE,),
)
