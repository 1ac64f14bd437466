"""The button on the overview that settles a study (``overview``)."""

from __future__ import annotations

from typing import Any

from dash import Dash, Input, Output, State, dcc, html
from dash.exceptions import PreventUpdate

from dashboards import jobs
from dashboards.address import Address, parse
from dashboards.shell import error_note
from dashboards.site import Site
from sensitivity.study.errors import UserError


def register(app: Dash, site: Site) -> None:
    """Connect the button that settles a study."""

    @app.callback(
        Output("settling", "children"),
        Input("settle", "n_clicks"),
        State("url", "pathname"),
        prevent_initial_call=True,
    )
    def settle(clicks: int | None, pathname: str) -> Any:
        study = parse(site.inner(pathname), "").study
        if not site.may_run or not clicks or study is None:
            raise PreventUpdate
        try:
            spec, root = site.catalog.load(study).spec, site.catalog.root
            site.started.start(root, jobs.store_study_file(root, spec.to_toml(), spec), spec, command="settle")
        except UserError as error:
            return error_note(str(error))
        return html.P(
            [
                "Settling. Its steps and their costs are listed below as they happen; ",
                dcc.Link("Start", href=site.href(Address(page="start"))),
                " shows what it prints.",
            ],
            className="good",
        )
