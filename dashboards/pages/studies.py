"""Studies: every study below the root, its progress and its cost."""

from __future__ import annotations

import datetime
import logging
from typing import Any

import dash_mantine_components as dmc
from dash import ALL, Dash, Input, Output, State, callback_context, dcc, html
from dash.development.base_component import Component
from dash.exceptions import PreventUpdate

from dashboards import jobs
from dashboards.actions import actions, stop_button
from dashboards.address import Address, parse
from dashboards.blocks import aria
from dashboards.catalog import Entry
from dashboards.cluster import Job
from dashboards.progress import pace
from dashboards.shell import error_note, study_title
from dashboards.site import Site
from dashboards.top import TopPage
from sensitivity.figures.labels import optimizer_name
from sensitivity.figures.settled_words import standing_in_words
from sensitivity.store.lock import Holder
from sensitivity.study.errors import UserError
from sensitivity.study.words import ago, duration

logger = logging.getLogger(__name__)

_STATES = ("completed", "diverged", "stopped", "failed", "interrupted", "pending")


def studies_page(site: Site) -> TopPage:
    """Return the page."""

    def content(address: Address) -> list[Component]:
        return [
            html.H1("Studies"),
            html.P(["Study directories below ", html.Code(site.catalog.root.uri), "."], className="lead"),
            html.Div(id="studies", className="studies"),
        ]

    return TopPage(content=content, version=lambda _: _version(site))


def _version(site: Site) -> str:
    """Return a token that changes with any study, and every few seconds while one is running."""
    parts = []
    for name in site.catalog.places():
        try:
            version = site.catalog.version(name)
            holder = jobs.writer_of(site.catalog.place(name))
            parts.append(f"{name} {version} {holder.token if holder else ''}")
        except UserError as error:
            parts.append(f"{name} {error}")
    parts += site.started.failed()
    if site.cluster is not None:
        parts += [repr(sorted(site.cluster.jobs().items())), site.cluster.fault]
    return "\n".join(parts)


def register(app: Dash, site: Site) -> None:
    """Connect the list of studies."""

    @app.callback(
        Output("studies", "children"),
        Input("version", "data"),
        State("url", "pathname"),
    )
    def show(version: str | None, pathname: str) -> Any:
        if parse(site.inner(pathname), "").page != "studies":
            raise PreventUpdate
        names = list(site.catalog.places())
        failed = [error_note(site.started.failure(name)) for name in site.started.failed() if name not in names]
        if not names:
            return failed or html.P(
                [
                    "No studies here yet. ",
                    html.Code(f"sensitivity run quickstart --storage {site.catalog.root.uri}"),
                    " makes one.",
                ],
                className="notice",
            )
        now = datetime.datetime.now(tz=datetime.UTC)
        fault = "" if site.cluster is None else site.cluster.fault
        notes = [*([error_note(fault)] if fault else []), *failed]
        return [*notes, *(_card(site, name, now) for name in names)]

    @app.callback(
        Output("stopped", "children"),
        Output("version", "data", allow_duplicate=True),
        Input({"type": "stop", "study": ALL}, "n_clicks"),
        prevent_initial_call=True,
    )
    def stop(clicks: list[int | None]) -> tuple[str, None]:
        asked = callback_context.triggered_id
        if not site.may_run or not any(clicks) or not isinstance(asked, dict):
            raise PreventUpdate
        # No version: the one on the page may be newer than the stored one, which may not have changed at the next look.
        try:
            return _stop(site, str(asked["study"])), None
        except UserError as error:
            return str(error), None


def _stop(site: Site, name: str) -> str:
    directory = site.catalog.place(name)
    holder, job = jobs.writer_of(directory), _job(site, name)
    running = holder.job if holder is not None else job.id if job is not None and job.active else ""
    if site.cluster is not None and running:
        return site.cluster.stop(running)
    jobs.stop(directory)
    return f"{name} was asked to stop; it keeps every result."


def _job(site: Site, name: str) -> Job | None:
    """Return the last job of a study on the named cluster."""
    return None if site.cluster is None else site.cluster.jobs().get(name)


def _has_active_job(site: Site, name: str) -> bool:
    """Whether a job of a study is active on the named cluster."""
    job = _job(site, name)
    return job is not None and job.active


def _card(site: Site, name: str, now: datetime.datetime) -> Component:
    href = site.href(Address(page="overview", study=name))
    try:
        entry, holder = site.catalog.entry(name), jobs.writer_of(site.catalog.place(name))
    except UserError as error:
        return html.Article([html.H2(study_title(name)), error_note(str(error))], className="card")
    except Exception:  # a bug that affects one study must not hide the others
        logger.exception("the study %s can't be summarised", name)
        text = "This study can't be summarised, because of a bug in this program; the log has the traceback."
        return html.Article([html.H2(study_title(name)), error_note(text)], className="card")
    failed = "" if holder is not None else site.started.failure(name)
    return html.Article(
        [
            html.Div(
                [html.H2(dcc.Link(entry.spec.name, href=href)), *_running(site, entry, holder), _compare(site, name)],
                className="card-head",
            ),
            html.P(entry.spec.description or "No description.", className="note"),
            _progress(entry),
            *([error_note(failed)] if failed else []),
            html.Div(
                list(actions(site, entry, busy=holder is not None or _has_active_job(site, name))), className="actions"
            ),
            html.Dl([item for pair in _facts(site, entry, holder, now) for item in pair], className="facts"),
        ],
        className="card",
    )


def _compare(site: Site, name: str) -> Component:
    href = site.href(Address(page="compare", others=(name,)))
    return dcc.Link("Compare", href=href, className="beside", title="Compare with others")


def _running(site: Site, entry: Entry, holder: Holder | None) -> list[Component]:
    job = _job(site, entry.name)
    stop = [stop_button(entry.name)] if site.may_run else []
    if holder is not None:
        return [html.Span(f"running: {holder}", className="badge live-badge"), *stop]
    if job is not None and _has_active_job(site, entry.name):
        return [html.Span(f"{job.status.lower()} on the cluster", className="badge live-badge"), *stop]
    settled = entry.ledger is not None and entry.ledger.standing == "settled"
    done = "settled" if settled else "complete" if entry.summary.complete else ""
    return [html.Span(done or "not running", className="badge" + (" good" if done else ""))]


def _progress(entry: Entry) -> Component:
    total = entry.summary.total
    sections = [
        dmc.ProgressSection(
            value=100 * getattr(total, state) / max(total.planned, 1),
            className=f"state {state}",
            **aria(label=f"{state}: {getattr(total, state):,} of {total.planned:,} runs"),
        )
        for state in _STATES
        if getattr(total, state) and state != "pending"
    ]
    counts = [
        html.Li([html.Span(className=f"dot {state}"), f"{getattr(total, state):,} {state}"])
        for state in _STATES
        if getattr(total, state)
    ]
    done = total.planned - total.waiting
    share = html.Li(f"{done:,} of {total.planned:,} runs ({done / max(total.planned, 1):.0%})", className="strong")
    return html.Div([dmc.ProgressRoot(sections, size="lg", radius="sm"), html.Ul([share, *counts], className="counts")])


def _facts(
    site: Site, entry: Entry, holder: Holder | None, now: datetime.datetime
) -> list[tuple[Component, Component]]:
    total = entry.summary.total
    facts = [("device time spent", duration(total.train_seconds + total.eval_seconds))]
    if len(entry.times):
        facts.append(("last result", ago(entry.times["finished_at"].max().to_pydatetime(), now)))
    if holder is not None:
        at = pace(entry.times, total.waiting, now)
        facts.append(("rate", f"{at.rate:.2g} runs/s"))
        facts.append(("time left, about", "not known yet" if at.seconds_left is None else duration(at.seconds_left)))
    if (job := _job(site, entry.name)) is not None:
        facts.append(("job", f"{job.id}: {job.status.lower()}"))
        if not job.active and job.message and not entry.summary.complete:
            facts.append(("last message", job.message.strip().splitlines()[-1]))
    if (ledger := entry.ledger) is not None:
        facts.append(("settlement", standing_in_words(ledger.standing, ledger.cost.runs)))
    spec = entry.spec
    facts.append(("optimizers", ", ".join(map(optimizer_name, spec.optimizers))))
    facts.append(("batch sizes", ", ".join(f"{size:,}" for size in sorted(spec.batch_sizes))))
    return [(html.Dt(name), html.Dd(value)) for name, value in facts]
