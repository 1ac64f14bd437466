"""Start a study: choose a study file, edit it in a form or as text, see the plan and its price, and run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dash_mantine_components as dmc
from dash import ALL, Dash, Input, Output, State, callback_context, dcc, html, no_update
from dash.development.base_component import Component
from dash.exceptions import PreventUpdate

from dashboards import jobs
from dashboards.address import Address, parse
from dashboards.blocks import html_table
from dashboards.cluster import Cluster
from dashboards.shell import error_note
from dashboards.site import Site
from dashboards.study_form import form_of, set_value, value_of, with_form
from dashboards.top import TopPage
from sensitivity.analysis.remedies import Edit
from sensitivity.figures.labels import optimizer_name
from sensitivity.figures.tables import Table
from sensitivity.study.errors import StudyFileError, UserError
from sensitivity.study.load import parse_toml, read_study
from sensitivity.study.redaction import redacted
from sensitivity.study.spec import StudySpec
from sensitivity.study.toml_text import toml_text
from sensitivity.study.words import count, duration

_FIRST = "shipped: quickstart"
_STUDY = "study: "
"""Prefix of the name of a source that is a study's own file."""


def start_page(site: Site) -> TopPage:
    """Return the page."""

    def content(address: Address) -> list[Component]:
        known = [*jobs.sources(site.catalog.root), *(f"{_STUDY}{name}" for name in site.catalog.places())]
        asked = f"{_STUDY}{address.others[0]}" if address.others else _FIRST
        changed = [html.P(sentence, className="notice") for sentence in address.unread]
        if asked not in known:
            changed += [html.P(f"There is no study {address.others[0]!r} here.", className="notice")]
            asked = _FIRST
        elif address.edits and not address.others:
            changed.append(html.P("The link has changes, but no study=NAME that they apply to.", className="notice"))
        elif address.edits:
            changed += [html.P(_changes(site, address), className="notice")]
        return [
            html.H1("Start a study"),
            *changed,
            html.P(
                f"Choose a study file, change it, see what it costs, and run it on {_where(site)}.", className="lead"
            ),
            html.Div(
                [
                    html.Section(
                        [
                            dmc.Select(
                                id="source",
                                label="Study file",
                                data=known,
                                value=asked,
                                allowDeselect=False,
                                searchable=True,
                            ),
                            html.Div(id="fields", className="fields"),
                        ],
                        className="card half",
                    ),
                    html.Section(
                        [
                            html.Label("The study file, as text", htmlFor="study-text", className="label"),
                            dcc.Textarea(id="study-text", className="editor", spellCheck=False),
                            html.Div(id="mistakes", role="status"),
                        ],
                        className="card half",
                    ),
                    html.Section(
                        [
                            html.Button("Plan and price it", id="plan", className="quiet"),
                            html.Button("Start it on this machine", id="start", className="main-button"),
                            *_cluster_button(site),
                            dcc.Loading(html.Div(id="priced", role="status"), type="dot"),
                            dcc.Loading(html.Div(id="submitted", role="status"), type="dot"),
                            html.Div(id="started", role="status"),
                        ],
                        className="card wide start",
                    ),
                ],
                className="grid",
            ),
        ]

    return TopPage(content=content, version=lambda _: repr(site.started.outputs()))


def _copy(site: Site, name: str, edits: Sequence[Edit] = ()) -> str:
    """Return a study's file with another name and with `edits`; raise UserError if it can't be read."""
    spec = site.catalog.load(name).spec
    text = spec.model_copy(update={"name": f"{spec.name}-copy"}).to_toml()
    if not edits:
        return text
    raw = parse_toml(text, source=name)
    for path, value in edits:
        set_value(raw, path, value_of(value))
    return toml_text(raw)


def _changes(site: Site, address: Address) -> str:
    """Describe the changes to a study's file."""
    made = [f"{'.'.join(path)} = {value}" for path, value in address.edits if value and path != ("name",)]
    made += [f"no {'.'.join(path)}" for path, value in address.edits if not value]
    changed = f" with {', '.join(made)}" if made else ""
    own = site.catalog.load(address.others[0]).spec.name
    same = (("name",), f'"{own}"') in address.edits
    adds = " Starting it adds to that study and keeps the runs that still belong to it." if same else ""
    return f"The file of {address.others[0]}{changed}.{adds}"


def _where(site: Site) -> str:
    if site.cluster is None:
        return "this machine"
    return f"this machine or on the cluster at {redacted(site.cluster.address)}"


def _cluster_button(site: Site) -> list[Component]:
    if site.cluster is None:
        return []
    return [html.Button("Submit it to the cluster", id="submit", className="main-button other")]


def register(app: Dash, site: Site) -> None:
    """Connect the page; only a dashboard that may run studies has it."""
    _editing(app, site)
    _running(app, site)
    if site.cluster is not None:
        _submitting(app, site, site.cluster)


def _editing(app: Dash, site: Site) -> None:
    @app.callback(
        Output("study-text", "value"),
        Input("source", "value"),
        Input({"type": "field", "path": ALL}, "value"),
        State({"type": "field", "path": ALL}, "id"),
        State("study-text", "value"),
        State("url", "search"),
    )
    def write(
        source: str | None, values: list[Any], names: list[dict[str, str]], text: str | None, search: str | None
    ) -> Any:
        if callback_context.triggered_id == "source" or text is None:
            found = jobs.sources(site.catalog.root).get(source or "")
            if found is None and not (source or "").startswith(_STUDY):
                raise PreventUpdate
            asked = parse("/start", search)
            edits = asked.edits if source in [f"{_STUDY}{name}" for name in asked.others[:1]] else ()
            try:
                return _copy(site, str(source).removeprefix(_STUDY), edits) if found is None else read_study(found.path)
            except UserError as error:  # shown in place of the file
                return "".join(f"# {line}\n" for line in str(error).splitlines())
        try:
            raw = parse_toml(text, source="study")
        except StudyFileError:
            raise PreventUpdate from None
        changed = with_form(raw, {name["path"]: value for name, value in zip(names, values, strict=True)})
        return no_update if changed == raw else toml_text(changed)

    @app.callback(
        Output("fields", "children"),
        Output({"type": "field", "path": ALL}, "error"),
        Output("mistakes", "children"),
        Input("study-text", "value"),
        State({"type": "field", "path": ALL}, "id"),
        State({"type": "field", "path": ALL}, "value"),
    )
    def check(text: str | None, names: list[dict[str, str]], values: list[Any]) -> tuple[Any, Any, Any]:
        raw, spec, mistakes = jobs.read_text(text or "")
        as_they_are = [no_update] * len(names)
        if not raw:
            return no_update, as_they_are, _mistake_list(mistakes)
        fields, left = form_of(raw, mistakes)
        message = _validation_message(site, spec, left)
        there = [(name["path"], value_of(str(value or ""))) for name, value in zip(names, values, strict=True)]
        if there == [(field.id["path"], value_of(field.value)) for field in fields]:
            # The fields show this already: replacing them would disturb typing.
            return no_update, [field.error for field in fields], message
        return fields, as_they_are, message


def _validation_message(site: Site, spec: StudySpec | None, mistakes: Sequence[str]) -> Component:
    """Return the message on a study file as a whole."""
    if spec is None:
        return _mistake_list(mistakes or ("See the messages next to the fields.",))
    absent = jobs.absent_modules(site.catalog.root, spec)
    return _mistake_list(absent) if absent else html.P(f"A valid study of {size(spec)}.", className="note good")


def size(spec: StudySpec) -> str:
    """Return the number of runs of a study in words; a search limited by time alone has no known number."""
    runs = sum(arm.most_cells() for arm in spec.optimizers.values()) * len(spec.batch_sizes) * len(spec.seeds)
    timed = [name for name, arm in spec.optimizers.items() if arm.open_ended]
    counted = [count(runs, "run")] if runs else []
    return " and ".join(counted + [f"as many of {optimizer_name(name)} as its device-hours allow" for name in timed])


def _mistake_list(mistakes: Sequence[str]) -> Component:
    return html.Ul([html.Li(mistake) for mistake in mistakes], className="mistakes")


def _was_pressed(button: str) -> bool:
    """Whether a button was pressed; otherwise the study file changed, and earlier messages no longer apply."""
    return any(one["prop_id"] == f"{button}.n_clicks" and one["value"] for one in callback_context.triggered)


def _running(app: Dash, site: Site) -> None:
    @app.callback(
        Output("priced", "children"),
        Input("plan", "n_clicks"),
        Input("study-text", "value"),
        prevent_initial_call=True,
    )
    def price(clicks: int | None, text: str | None) -> Any:
        if not _was_pressed("plan"):
            return None
        _, spec, mistakes = jobs.read_text(text or "")
        if spec is None:
            return _mistake_list(mistakes)
        try:
            return _priced(jobs.plan(site.catalog.root, jobs.store_study_file(site.catalog.root, text or "", spec)))
        except UserError as error:
            return html.Pre(str(error), tabIndex="0")

    @app.callback(
        Output("started", "children"),
        Input("start", "n_clicks"),
        Input("study-text", "value"),
        Input("version", "data"),
        prevent_initial_call=True,
    )
    def start(clicks: int | None, text: str | None, version: str | None) -> Any:
        if _was_pressed("start"):
            _, spec, mistakes = jobs.read_text(text or "")
            if spec is None:
                return _mistake_list(mistakes)
            try:
                site.started.start(site.catalog.root, jobs.store_study_file(site.catalog.root, text or "", spec), spec)
            except UserError as error:
                return [html.P(str(error), className="notice"), *_command_outputs(site)]
        return _command_outputs(site)


def _submitting(app: Dash, site: Site, cluster: Cluster) -> None:
    @app.callback(
        Output("submitted", "children"),
        Input("submit", "n_clicks"),
        Input("study-text", "value"),
        prevent_initial_call=True,
    )
    def submit(clicks: int | None, text: str | None) -> Any:
        if not _was_pressed("submit"):
            return None
        _, spec, mistakes = jobs.read_text(text or "")
        if spec is None:
            return _mistake_list(mistakes)
        try:
            job = cluster.submit(text or "", spec)
        except UserError as error:
            return error_note(str(error))
        link = dcc.Link("Studies", href=site.href(Address()))
        return html.P([f"Submitted as job {job}. It appears under ", link, " once it has begun."], className="good")


def _priced(content: Mapping[str, Any]) -> Component:
    rows = [
        [
            optimizer_name(line["optimizer"]),
            line["batch_size"],
            f"{line['missing']:,} of {line['planned']:,}",
            line["cost"]["steps"],
            f"{1e3 * line['cost']['step_seconds']:.3g}",
            line["cost"]["pack_size"],
            duration(line["device_seconds"]),
        ]
        for line in content["lines"]
    ]
    header = ("optimizer", "batch size", "runs to do", "steps per run", "ms per step", "pack", "device time")
    summary = (
        f"About {duration(content['device_seconds'])} of device time, less where runs diverge:"
        f" {duration(content['wall_seconds'])} with"
        f" {content['workers']} workers."
    )
    table = Table(caption="The plan's price.", header=header, rows=rows, text_columns=1)
    return html.Div([html.P(summary, className="strong"), html_table(table)])


def _command_outputs(site: Site) -> list[Component]:
    return [
        html.Article(
            [
                html.H2([dcc.Link(name, href=site.href(Address(page="overview", study=name))), f": {state}"]),
                html.Pre(text or "No output yet.", tabIndex="0"),
            ]
        )
        for name, state, text in site.started.outputs()
    ]
