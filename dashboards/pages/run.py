"""One run with everything known about it, in a drawer next to the table of runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import dash_mantine_components as dmc
import pandas as pd
from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html, no_update
from dash.development.base_component import Component
from dash.exceptions import PreventUpdate

from dashboards.address import parse
from dashboards.blocks import FigureBlock, Scene, place_block
from dashboards.pages.robustness import curves_exhibit
from dashboards.reproduce import reproduction
from dashboards.site import Site
from sensitivity.analysis.curves import compute_curves
from sensitivity.figures.exhibit import Computed
from sensitivity.figures.labels import metric_value, number, optimizer_name, parameter_name
from sensitivity.figures.nothing import NothingToShowError
from sensitivity.store.logs import read_lines
from sensitivity.store.notes import write_note
from sensitivity.store.schema import PARAM_PREFIX
from sensitivity.study.annotations import Noted, parse_tags
from sensitivity.study.errors import StorageError, UserError
from sensitivity.study.words import count, duration

_MAX_LINES = 200
"""Largest number of lines of a run's log."""


def drawer(scene: Scene) -> Component:
    """Return the place of a run that is opened."""
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
    """Connect the drawer."""
    _open_and_close(app)
    _show(app, site)
    _noting(app, site)


def scene_of(site: Site, pathname: str, search: str) -> Scene:
    """Return the scene of an address of the page of runs; on another page, cancel the update."""
    address = parse(site.inner(pathname), search)
    if address.page != "runs" or address.study is None:
        raise PreventUpdate
    try:
        return site.scene(address, None)[0]
    except UserError:
        raise PreventUpdate from None


def _open_and_close(app: Dash) -> None:
    app.clientside_callback(  # type: ignore[no-untyped-call]
        ClientsideFunction("sensitivity", "open"),
        Input("runs", "cellClicked"),
        prevent_initial_call=True,
    )
    app.clientside_callback(  # type: ignore[no-untyped-call]
        ClientsideFunction("sensitivity", "close"),
        Input("run", "opened"),
        State("run-shown", "data"),
        prevent_initial_call=True,
    )


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
    def show(search: str, version: str | None, pathname: str, before: dict[str, str] | None) -> tuple[Any, ...]:
        scene = scene_of(site, pathname, search)
        if scene.address.run is None:
            return False, no_update, no_update, None
        rows = _rows(scene)
        if not len(rows):
            return True, html.P("This study has no such run.", className="notice"), "Run", {"run": scene.address.run}
        run = {str(name): value for name, value in rows.iloc[0].items()}
        now = {"run": run["trial_id"], "finished_at": str(run["finished_at"])}
        if now == before:  # the new results are of other runs; keep zoom and scroll
            raise PreventUpdate
        title = f"{optimizer_name(str(run['optimizer']))}, batch size {run['batch_size']:,}, seed {run['seed']}"
        noted = site.catalog.note_of(scene.loaded.name, str(run["trial_id"]))
        return True, _run(scene, run, noted, may_note=site.may_note), title, now


def _rows(scene: Scene) -> pd.DataFrame:
    """Return the row of the run that the drawer shows; no row if none is open."""
    runs = scene.loaded.runs
    return runs[runs["trial_id"] == scene.address.run]


def _run(scene: Scene, run: Mapping[str, Any], noted: Noted, *, may_note: bool) -> list[Any]:
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
        outcome += [("trained on", f"{run['device']}, {run['host']}"), ("pack", count(int(run["pack_size"]), "run"))]
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
        *_log(scene, str(run["trial_id"])),
        place_block(CURVE, scene),
        html.Div(_notes(str(run["trial_id"]), noted) if may_note else _read(noted), id="run-notes"),
        html.H2("Reproduce this run"),
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


def _log(scene: Scene, run: str) -> list[Component]:
    """Return the last lines of the log of a run that is being recorded; empty if it has no log."""
    try:
        text = read_lines(scene.loaded.directory, run, _MAX_LINES)
    except StorageError as error:
        text = str(error)
    return [html.Details([html.Summary("Log"), html.Pre(text, tabIndex="0")])] if text else []


def _notes(run: str, noted: Noted, message: str = "", typed: tuple[str, str] | None = None) -> list[Component]:
    """Return the form for a run's note and tags, with what was typed into it if it was not saved."""
    note, tags = typed or (noted.note, ", ".join(noted.tags))
    return [
        html.H2("Notes"),
        dmc.Textarea(
            id="note", label="Note", value=note, autosize=True, minRows=2, maxRows=10, size="sm",
        ),
        dmc.TextInput(
            id="tags", label="Tags, separated by commas", value=tags, size="sm", mt="xs",
            placeholder="such as: outlier, baseline",
        ),
        html.Div(
            [
                html.Button("Save", id="save-note", className="quiet"),
                html.Span(message, id="saved", role="status", className="note"),
            ],
            className="settle",
        ),
        dcc.Store(id="noted", data={"run": run, "ids": list(noted.ids), "note": noted.note, "tags": list(noted.tags)}),
    ]  # fmt: skip


def _read(noted: Noted) -> list[Component]:
    """Return a run's note and tags as text, where writing is not allowed."""
    if not (noted.note or noted.tags):
        return []
    tags = [html.P(f"Tags: {', '.join(noted.tags)}", className="note")] if noted.tags else []
    return [html.H2("Notes"), html.P(noted.note, style={"whiteSpace": "pre-wrap"}), *tags]


def _noting(app: Dash, site: Site) -> None:
    @app.callback(
        Output("run-notes", "children"),
        Output("version", "data", allow_duplicate=True),
        Input("save-note", "n_clicks"),
        State("note", "value"),
        State("tags", "value"),
        State("noted", "data"),
        State("url", "pathname"),
        State("url", "search"),
        prevent_initial_call=True,
    )
    def save(
        clicks: int | None,
        note: str | None,
        tags: str | None,
        before: dict[str, Any] | None,
        pathname: str,
        search: str,
    ) -> tuple[Any, Any]:
        scene = scene_of(site, pathname, search)
        rows = _rows(scene)
        if not site.may_note or not clicks or before is None or not len(rows) or before.get("run") != scene.address.run:
            raise PreventUpdate
        run, name = str(scene.address.run), scene.loaded.name
        seen = [one for one in before.get("ids", []) if isinstance(one, str)]
        had = [one for one in before.get("tags", []) if isinstance(one, str)]
        text = (note or "").strip()
        try:
            given = parse_tags(tags or "")
            write_note(
                scene.loaded.directory,
                run,
                note=text if text != before.get("note", "") else None,
                tags=[tag for tag in given if tag not in had],
                untag=[tag for tag in had if tag not in given],
                seen=seen,
            )
        except UserError as error:
            now = Noted(note=str(before.get("note", "")), ids=tuple(seen), tags=tuple(had))
            return _notes(run, now, str(error).replace("\n", ". "), (text, tags or "")), no_update
        site.catalog.renew(name)
        return _notes(run, site.catalog.note_of(name, run), "Saved in the study directory."), site.catalog.version(name)


def _facts(title: str, pairs: Sequence[tuple[str, object]]) -> Component:
    items = [item for name, value in pairs for item in (html.Dt(name), html.Dd(str(value)))]
    return html.Section([*([html.H2(title)] if title else []), html.Dl(items, className="facts")])


def _curve(scene: Scene) -> Computed[Any]:
    rows = _rows(scene)
    cells = [str(cell) for cell in rows["cell_id"]]
    found = compute_curves(rows, scene.results.tables.curves_of(rows["trial_id"]), scene.results.metric, cells)
    curves = [curve for curve in found if curve.times]
    if not curves:
        raise NothingToShowError("This run has no learning curve.")
    return Computed(curves_exhibit("run-curve", "this run", tuple(scene.results.spec.optimizers)), curves)


CURVE = FigureBlock(
    name="run-curve", label="Learning curve of the run", show=_curve, depends=("metric", "run"), width="half"
)
