"""The frame of every page: header, navigation, filter bar, and placeholders that callbacks fill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import dash_mantine_components as dmc
from dash import dcc, html
from dash.development.base_component import Component

from dashboards.address import Address
from dashboards.blocks import Page, Scene, aria, place_block
from dashboards.catalog import ROOT_STUDY
from dashboards.pages import blocks_of, pages
from dashboards.site import Site

LIVE_MS = 2_000
"""Interval in milliseconds at which a page asks for new results."""


def layout() -> Component:
    """Return the page before its address is known."""
    page: Component = dmc.MantineProvider(
        [
            dcc.Location(id="url", refresh=False),
            dcc.Store(id="theme", storage_type="local"),
            dcc.Store(id="arrived"),
            dcc.Store(id="shown"),
            dcc.Store(id="asked"),
            dcc.Store(id="version"),
            dcc.Store(id="marked"),
            dcc.Store(id="stripped"),
            dcc.Interval(id="tick", interval=LIVE_MS),
            html.A("Skip to the content", href="#content", className="skip"),
            html.Header(
                [
                    html.Div("Sensitivity", className="brand"),
                    html.Nav(id="nav", **aria(label="Pages")),
                    html.Button("Dark", id="theme-switch", className="quiet", title="Change between light and dark"),
                ],
                className="top",
            ),
            html.Main(
                [
                    html.P(id="trouble", role="alert", className="notice trouble"),
                    html.Div(id="strip", className="strip"),
                    html.P(id="stopped", className="note", role="status"),
                    html.Div(id="bar"),
                    html.Div(id="page"),
                    html.P(id="live", role="status", className="live"),
                ],
                id="content",
                tabIndex="-1",
            ),
        ],
        id="mantine",
        theme={"fontFamily": "inherit", "primaryColor": "blue", "respectReducedMotion": True},
    )
    return page


def navigation(site: Site, address: Address) -> list[Component]:
    """Return the navigation links for an address; links to pages of the same study keep its filters."""
    here = (address.study, address.page)
    general = [("studies", "Studies"), ("compare", "Compare"), *([("start", "Start a study")] if site.may_run else [])]
    links = [_link(site, Address(page=name), title, here) for name, title in general]
    if address.study is not None:
        title = study_title(address.study)
        links.append(html.Span(title, className="crumb", title=title))
        for name, page in pages().items():
            links.append(_link(site, replace(address, page=name, run=None), page.title, here))
    return links


def _link(site: Site, address: Address, title: str, here: tuple[str | None, str]) -> Component:
    current = (address.study, address.page) == here
    place: dict[str, Any] = {} if address.study is None else {"id": {"type": "to", "page": address.page}}
    return dcc.Link(
        html.Span(title, **aria(current="page") if current else {}),
        href=site.href(address),
        className="here" if current else "",
        **place,
    )


def study_title(name: str) -> str:
    """Return the display name of a study."""
    return "this study" if name == ROOT_STUDY else name


def study_page(page: Page, scene: Scene, missing: Sequence[str]) -> list[Component]:
    """Return the places of a page's blocks."""
    notices = [html.P(text, className="notice", role="alert") for text in missing]
    name = scene.loaded.spec.name
    return [
        html.H1([html.Span(page.title), html.Span(name, className="of")]),
        html.P(page.lead, className="lead"),
        *notices,
        html.Div(
            [
                html.Div([place_block(block, scene) for block in blocks_of(page, scene)], className="grid"),
                *_dock(page, scene),
            ],
            className="docked" if page.dock else "",
        ),
    ]


def _dock(page: Page, scene: Scene) -> list[Component]:
    if not page.dock:
        return []
    return [html.Aside([place_block(b, scene) for b in page.dock], className="dock", **aria(label="What was chosen"))]


def error_page(title: str, text: str) -> list[Component]:
    """Return a page with an error message."""
    return [html.H1(title), error_note(text)]


def error_note(text: str) -> Component:
    """Return a paragraph with an error message, keeping its line breaks."""
    return html.P(text, className="notice", role="alert", style={"whiteSpace": "pre-wrap"})
