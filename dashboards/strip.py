"""The strip above every page of a study: its state, its progress, and the available actions."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from dash import ALL, Dash, Input, Output, State, callback_context, html
from dash.development.base_component import Component
from dash.exceptions import PreventUpdate
from flask import Flask, Response

from dashboards import jobs
from dashboards.actions import actions, stop_button
from dashboards.address import parse
from dashboards.catalog import Entry
from dashboards.progress import pace
from dashboards.shell import error_note
from dashboards.site import Site
from sensitivity.store.lock import Holder, live_holder
from sensitivity.study.errors import UserError
from sensitivity.study.words import duration

_OUTCOMES = ("diverged", "stopped", "failed", "interrupted")


def register(app: Dash, site: Site, routes: str) -> None:
    """Connect the strip; `routes` is the prefix of this server's paths."""
    _shown(app, site)
    _resume(app, site)
    _report(app, site, routes)


def _shown(app: Dash, site: Site) -> None:
    @app.callback(
        Output("strip", "children"),
        Output("stripped", "data"),
        Input("tick", "n_intervals"),
        Input("version", "data"),
        Input("url", "pathname"),
        State("stripped", "data"),
    )
    def show(_: int | None, version: str | None, pathname: str, before: str | None) -> tuple[Any, str]:
        study = parse(site.inner(pathname), "").study
        if study is None or version is None:
            failed = "" if study is None else site.started.failure(study)  # perhaps before it had a directory
            if failed == (before or ""):
                raise PreventUpdate
            return [error_note(failed)] if failed else None, failed
        try:
            entry, directory = site.catalog.entry(study), site.catalog.place(study)
            holder = jobs.writer_of(directory)
            own = holder is not None and live_holder(directory) is not None
        except UserError:  # the page itself reports it
            return None, ""
        now = datetime.datetime.now(tz=datetime.UTC)
        texts = status_texts(entry, holder, now, settling=holder is not None and not own)
        failed = "" if holder is not None else site.started.failure(study)
        key = f"{study} {texts} {holder} {failed}"
        if key == before:
            raise PreventUpdate
        return [*_strip(site, entry, holder, texts), *([error_note(failed)] if failed else [])], key


def status_texts(entry: Entry, holder: Holder | None, now: datetime.datetime, *, settling: bool) -> tuple[str, ...]:
    """Return the state of a study, its counts, and the time left, one text each."""
    total = entry.summary.total
    done = total.planned - total.waiting
    counts = [f"{done:,} of {total.planned:,} runs"]
    counts += [f"{n:,} {outcome}" for outcome in _OUTCOMES if (n := getattr(total, outcome))]
    if holder is None:
        return ("Complete" if entry.summary.complete else "Not running", *counts)
    if settling:
        return ("Settling", *counts)
    left = pace(entry.times, total.waiting, now).seconds_left
    return ("Running", *counts, "time left not known yet" if left is None else f"about {_rounded(left)} left")


def _rounded(seconds: float) -> str:
    """Return a time left, rounded so that its digits don't change all the time."""
    return duration(round(seconds / 10) * 10) if seconds >= 20 else f"{round(seconds)} s"


def _strip(site: Site, entry: Entry, holder: Holder | None, texts: tuple[str, ...]) -> Iterator[Component]:
    state, *counts = texts
    badge_class = "live-badge" if holder is not None else "good" if state == "Complete" else ""
    yield html.Span(state, className=f"badge {badge_class}", title="" if holder is None else str(holder))
    yield html.Span(" · ".join(counts), className="counted")
    if site.may_run and holder is not None:
        yield stop_button(entry.name)
    yield from actions(site, entry, busy=holder is not None)


def _resume(app: Dash, site: Site) -> None:
    @app.callback(
        Output("stopped", "children", allow_duplicate=True),
        Input({"type": "resume", "study": ALL, "at": ALL}, "n_clicks"),
        prevent_initial_call=True,
    )
    def resume(clicks: list[int | None]) -> str:
        asked = callback_context.triggered_id
        if not site.may_run or not any(clicks) or not isinstance(asked, dict):
            raise PreventUpdate
        try:
            spec, root = site.catalog.load(str(asked["study"])).spec, site.catalog.root
            site.started.start(root, jobs.store_study_file(root, spec.to_toml(), spec), spec)
        except UserError as error:
            return str(error)
        return f"{spec.name} continues with its missing runs."


def _report(app: Dash, site: Site, routes: str) -> None:
    server: Flask = app.server

    def report(name: str) -> Response:
        from sensitivity.report import render_report  # imported here because pages don't need it

        try:
            tables = site.catalog.load(name).results.tables
            with site.compute_queue.take(late=True):
                html_ = render_report([tables]).html
        except UserError as error:
            return Response(f"{error}\n", HTTPStatus.NOT_FOUND, mimetype="text/plain")
        made = Response(html_, mimetype="application/octet-stream")
        made.headers["Content-Disposition"] = "attachment"  # its scripts must not run on this server's origin
        return made

    server.add_url_rule(f"{routes}report/<name>.html", "report", report)
