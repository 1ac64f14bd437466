"""Actions on a study, next to its results: run what is missing, stop, duplicate, change its file, report.

A server that may not run studies shows no actions that it would refuse.
"""

from __future__ import annotations

from collections.abc import Iterator

from dash import dcc, html
from dash.development.base_component import Component

from dashboards.address import Address
from dashboards.blocks import Scene
from dashboards.catalog import Entry
from dashboards.site import Site
from sensitivity.figures.labels import count
from sensitivity.figures.verdict_words import Proposal
from sensitivity.study.spec import StudySpec

_NOT_DONE_HERE = ("look", "settle")
"""Remedies that don't change a study file: a later look, and the settlement, which has its own button."""


def run_button(name: str, *, begun: bool, missing: int, at: str) -> Component:
    """Return the button that runs the missing runs of a study; `at` distinguishes the buttons of a page."""
    message = f"{'Resume' if begun else 'Run it'}: {count(missing, 'run')}"
    return html.Button(message, id={"type": "resume", "study": name, "at": at}, className="quiet")


def actions(site: Site, entry: Entry, *, busy: bool) -> Iterator[Component]:
    """Yield the actions on a study; `busy` says that it is running or waiting on a cluster."""
    total = entry.summary.total
    if site.may_run and entry.spec.observed is None:
        if not busy and total.waiting and site.can_run(entry.spec):
            yield run_button(entry.name, begun=entry.summary.begun, missing=total.waiting, at="study")
        copy = site.href(Address(page="start", others=(entry.name,)))
        yield dcc.Link("Duplicate", href=copy, className="quiet", title="Start a study from this one's file")
    path, file = f"{site.prefix}report/{entry.name}.html", f"{entry.spec.name}.html"
    yield html.A("Report", href=path, className="quiet", download=file, title="Download the report")


def stop_button(name: str) -> Component:
    """Return the button that stops a study."""
    return html.Button("Stop", id={"type": "stop", "study": name}, className="quiet")


def can_run_here(scene: Scene) -> bool:
    """Whether this server may run the study and nobody is running it now."""
    return scene.may_run and not scene.results.tables.running


def proposal_item(scene: Scene, proposal: Proposal, at: str) -> Component:
    """Return a proposal that would settle a question, with the button or link that carries it out."""
    done = _proposal_action(scene, proposal, at)
    return html.Li(proposal.text if done is None else [proposal.text, " ", done])


def _proposal_action(scene: Scene, proposal: Proposal, at: str) -> Component | None:
    if not can_run_here(scene) or proposal.code in _NOT_DONE_HERE:
        return None
    name, summary = scene.loaded.name, scene.loaded.results.summary
    if proposal.code == "finish":
        return run_button(name, begun=summary.begun, missing=summary.total.waiting, at=at)
    href = scene.href(Address(page="start", others=(name,), edits=(*_same_study(scene.loaded.spec), *proposal.edits)))
    words = "Apply to the study file" if proposal.edits else "Edit the study file"
    return dcc.Link(words, href=href, className="quiet", title="Opens the form; nothing runs before you start it")


def _same_study(spec: StudySpec) -> tuple[tuple[tuple[str, ...], str], ...]:
    """Return the edit that makes a copied file the study itself, to which it adds runs, instead of a duplicate."""
    return ((("name",), f'"{spec.name}"'),)
