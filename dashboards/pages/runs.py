"""Runs: every planned run in a table, selected runs side by side, and figures of the runs in the table."""

from __future__ import annotations

from collections import Counter
from typing import Any

import dash_ag_grid as dag
import dash_mantine_components as dmc
import pandas as pd
from dash import ALL, ClientsideFunction, Dash, Input, Output, State, dcc, html
from dash.development.base_component import Component
from dash.exceptions import PreventUpdate

from dashboards.blocks import Block, FixedBlock, Page, Scene, aria
from dashboards.listing import Where, grid_model, in_words
from dashboards.pages import run
from dashboards.pages.side_by_side import CHOSEN_BLOCKS
from dashboards.rows import CHOSEN, available, columns, csv_text, listed, numeric, rows_of, shown_columns
from dashboards.site import Site
from sensitivity.figures.labels import capitalized
from sensitivity.figures.run_numbers import column_label
from sensitivity.store.schema import PARAM_PREFIX, metric_columns
from sensitivity.study.annotations import parse_tags
from sensitivity.study.metrics import named
from sensitivity.study.results import Status
from sensitivity.study.spec import StudySpec
from sensitivity.study.words import count

_GROUPS = ("Settings", "Results", "How it ran", "Notes")
_COSTS = ("status", "steps", "epochs", "train_seconds", "eval_seconds", "flops", "message")
_MAX_TAGS = 12
_STATUSES = (
    Status.COMPLETED, Status.DIVERGED, Status.STOPPED, Status.FAILED, Status.INTERRUPTED, Status.PENDING,
)  # fmt: skip
"""In the order in which they are offered."""


def _grid(scene: Scene) -> Component:
    runs, listing = scene.loaded.runs, scene.address.listing
    shown = shown_columns(runs, listing)
    sort = {name: ("desc" if descending else "asc", at) for at, (name, descending) in enumerate(listing.sort)}
    model = grid_model([one for one in listing.where if one.column in available(runs)], numeric(runs))
    return html.Section(
        [
            html.Div(
                [
                    html.H2("Every planned run", id="runs-title"),
                    html.Div(
                        [
                            html.Button(
                                "Download CSV", id="runs-csv", className="quiet", title="The rows and columns shown"
                            ),
                            dcc.Download(id="runs-download"),
                        ],
                        className="tools",
                    ),
                ],
                className="card-head apart",
            ),
            html.Div(id="runs-where"),
            _picker(runs, scene.results.spec, shown),
            dag.AgGrid(
                id="runs",
                columnDefs=[
                    _tick(),
                    *(
                        _column(runs, name, scene.results.spec) | {"hide": name not in shown} | _sorted(sort.get(name))
                        for name in available(runs)
                    ),
                ],
                defaultColDef={"sortable": True, "filter": True, "resizable": True, "minWidth": 90},
                rowModelType="infinite",
                getRowId="params.data.trial_id",
                columnSize="autoSize",
                dashGridOptions={
                    "initialState": {"filter": {"filterModel": model}} if model else {},
                    "suppressFieldDotNotation": True,
                    "cacheBlockSize": 100,
                    "maxBlocksInCache": 10,
                    "infiniteInitialRowCount": 1,
                    "ensureDomOrder": True,
                    "suppressColumnVirtualisation": True,
                },
                style={"height": "460px"},
            ),
            html.P(
                "Click a row, or press Enter on it, to open the run. Column headers sort and filter; the address"
                " stores what is shown.",
                className="note",
            ),
            dcc.Store(id="refreshed"),
            dcc.Store(id="listed"),
        ],
        className="card",
        **aria(labelledby="runs-title"),
    )


def _tick() -> dict[str, Any]:
    """Return the column that selects runs to compare side by side."""
    return {
        "field": CHOSEN,
        "headerName": "",
        "headerTooltip": "Side by side",
        "cellDataType": "boolean",
        "cellRenderer": "agCheckboxCellRenderer",
        "editable": True,
        "sortable": False,
        "filter": False,
        "resizable": False,
        "minWidth": 44,
        "width": 44,
        "suppressAutoSize": True,
    }


def _sorted(asked: tuple[str, int] | None) -> dict[str, Any]:
    return {} if asked is None else {"initialSort": asked[0], "initialSortIndex": asked[1]}


def _column(runs: pd.DataFrame, name: str, spec: StudySpec) -> dict[str, Any]:
    metric = named(name, spec.measured())
    found: dict[str, Any] = {"field": name, "headerName": column_label(name, spec.measured())}
    if name in numeric(runs):
        found |= {"filter": "agNumberColumnFilter", "type": "rightAligned"}
        if metric is not None and metric.percent:
            found["valueFormatter"] = {"function": "params.value == null ? '' : d3.format('.2%')(params.value)"}
        elif pd.api.types.is_float_dtype(runs[name]):
            found["valueFormatter"] = {"function": "params.value == null ? '' : d3.format('.4~g')(params.value)"}
    else:
        found |= {"filter": "agTextColumnFilter", "filterParams": {"maxNumConditions": len(Status) + 2}}
    if name in ("message", "note"):
        found["maxWidth"] = 320
    return found


def _picker(runs: pd.DataFrame, spec: StudySpec, shown: tuple[str, ...]) -> Component:
    """Return the checkboxes that show and hide columns, grouped by kind."""
    groups: dict[str, list[str]] = {group: [] for group in _GROUPS}
    for name in available(runs):
        groups[_group(name)].append(name)
    return html.Details(
        [
            html.Summary("Columns"),
            html.Div(
                [
                    dmc.CheckboxGroup(
                        html.Div(
                            [
                                dmc.Checkbox(
                                    label=capitalized(column_label(name, spec.measured())), value=name, size="xs"
                                )
                                for name in names
                            ],
                            className="checks",
                        ),
                        id={"type": "columns", "name": group},
                        label=group,
                        value=[name for name in names if name in shown],
                        size="xs",
                    )
                    for group, names in groups.items()
                    if names
                ],
                className="picker",
            ),
            dcc.Store(id="usual-columns", data=list(columns(runs))),
        ],
        className="boxes",
    )


def _group(name: str) -> str:
    if name in ("note", "tags"):
        return "Notes"
    if name.startswith(PARAM_PREFIX) or name in ("optimizer", "kind", "batch_size", "seed", "confirmation"):
        return "Settings"
    return "Results" if metric_columns([name]) or name in _COSTS else "How it ran"


def register(app: Dash, site: Site) -> None:
    """Connect the table and the drawer."""
    _table(app, site)
    _filters(app, site)
    run.register(app, site)


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
        scene = run.scene_of(site, pathname, search)
        found, count = rows_of(scene.results.runs, request, scene.address.listing.chosen)
        return {"rowData": found, "rowCount": count}

    @app.callback(
        Output("runs-download", "data"),
        Input("runs-csv", "n_clicks"),
        State("url", "pathname"),
        State("url", "search"),
        prevent_initial_call=True,
    )
    def download(clicks: int | None, pathname: str, search: str) -> dict[str, Any]:
        if not clicks:
            raise PreventUpdate
        scene = run.scene_of(site, pathname, search)
        text = csv_text(scene.results.runs, scene.address.listing)
        return {"content": text, "filename": f"{scene.loaded.spec.name}-runs.csv", "type": "text/csv"}

    # Sorting, filtering, ticking and showing columns change the address in the browser, as does choosing a cell.
    for function, *changed in (
        ("listed", Input("runs", "getRowsRequest")),
        ("tick", Input("runs", "cellValueChanged")),
        ("untick", Input({"type": "unchoose", "run": ALL}, "n_clicks")),
        ("columns", Input({"type": "columns", "name": ALL}, "value"), State("usual-columns", "data")),
    ):
        app.clientside_callback(  # type: ignore[no-untyped-call]
            ClientsideFunction("sensitivity", function),
            *changed,
            prevent_initial_call=True,
        )
    app.clientside_callback(  # type: ignore[no-untyped-call]
        ClientsideFunction("sensitivity", "refresh"),
        Output("refreshed", "data"),
        Input("version", "data"),
        Input("url", "search"),
        State("refreshed", "data"),
        prevent_initial_call=True,
    )


def _filters(app: Dash, site: Site) -> None:
    @app.callback(
        Output("runs-where", "children"),
        Input("url", "search"),
        Input("version", "data"),
        State("url", "pathname"),
    )
    def show(search: str, version: str | None, pathname: str) -> Component:
        return _filter_row(run.scene_of(site, pathname, search))

    app.clientside_callback(  # type: ignore[no-untyped-call]
        ClientsideFunction("sensitivity", "quick"),
        Output("listed", "data"),
        Input({"type": "quick", "column": ALL, "value": ALL}, "n_clicks"),
        prevent_initial_call=True,
    )


def _filter_row(scene: Scene) -> Component:
    """Return buttons for each status and tag, with their numbers of runs, and for the other filters that are set."""
    runs, where = scene.results.runs, scene.address.listing.where
    left = len(listed(runs, scene.address.listing)) if where else len(runs)
    counted = f"{left:,} of {len(runs):,} runs" if where else count(len(runs), "run")
    counts = runs["status"].value_counts()
    statuses = [(status.value, int(counts[status.value])) for status in _STATUSES if status.value in counts]
    tags = Counter(tag for text in runs["tags"].unique() if text for tag in parse_tags(text))
    for tag in tags:
        tags[tag] = int(runs["tags"].str.split(", ").map(lambda found, tag=tag: tag in found).sum())
    buttons = [
        *(_quick("status", name, f"{name} {count:,}", where, dot=True) for name, count in statuses),
        *(_quick("tags", tag, f"{tag} {count:,}", where) for tag, count in tags.most_common(_MAX_TAGS)),
    ]
    offered = {(c, v) for c, names in (("status", dict(statuses)), ("tags", tags)) for v in names}
    others = [one for one in where if one.column in available(runs) and not _is_quick(one, offered)]
    measured = scene.results.spec.measured()
    chips = [
        html.Button(
            [in_words(one, column_label(one.column, measured)), html.Span(" ×", **aria(hidden="true"))],
            id={"type": "quick", "column": one.column, "value": ""},
            className="quiet pressed",
            title="Remove this filter",
        )
        for one in {one.column: one for one in others}.values()
    ]
    return html.Div([*buttons, *chips, html.Span(counted, className="counted", role="status")], className="quick")


def _is_quick(where: Where, offered: set[tuple[str, str]]) -> bool:
    return all(each.kind == "equals" and (where.column, each.operands[0]) in offered for each in where.any_of)


def _quick(column: str, value: str, text: str, where: tuple[Where, ...], *, dot: bool = False) -> Component:
    pressed = any(
        one.column == column and any(each.kind == "equals" and each.operands == (value,) for each in one.any_of)
        for one in where
    )
    return html.Button(
        [*([html.Span(className=f"dot {value}")] if dot else []), text],
        id={"type": "quick", "column": column, "value": value},
        className="quiet pressed" if pressed else "quiet",
        title=f"Only runs {'that are' if dot else 'tagged'} {value}",
        **aria(pressed=str(pressed).lower()),
    )


_FIRST: tuple[Block, ...] = (
    FixedBlock(name="grid", content=_grid),
    *CHOSEN_BLOCKS,
    FixedBlock(name="drawer", content=run.drawer),
)

RUNS = Page(
    name="runs",
    title="Runs",
    lead="Every planned run, with everything known about it.",
    parts=("scatter", "slices", "timeline", "parallel", "runs"),
    first=_FIRST,
    further=(run.CURVE,),
)
