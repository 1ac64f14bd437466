"""``create_app``: assembles the dashboard of a root."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from http import HTTPStatus

from dash import Dash
from flask import Flask, Response, request

from dashboards import callbacks, contents, shell, strip
from dashboards.address import parse
from dashboards.catalog import Catalog
from dashboards.cluster import Cluster
from dashboards.pages import compare, pages, runs, settle, start, studies
from dashboards.security import protect
from dashboards.site import Site
from sensitivity.store.directory import Place
from sensitivity.study.errors import StorageError

_PLOTLY = "_dash-component-suites/plotly/package_data/plotly.min.js"
"""Path at which Dash serves the script that draws figures."""


def create_app(
    root: Place,
    *,
    allow_run: bool = False,
    allow_notes: bool = True,
    cluster: str | None = None,
    hosts: Collection[str] = (),
    token: str | None = None,
    prefix: str = "/",
    prefix_stripped: bool = False,
) -> Dash:
    """Return the dashboard of the studies below `root`.

    `cluster` is the address of a Jobs server; the dashboard shows its jobs of these studies and, with `allow_run`,
    submits new ones. With `allow_notes`, anyone who reaches it may write notes and tags. `hosts` are names, or
    addresses that a proxy shows (``https://lab.example``), by which the server is reached besides loopback; with
    `token` every request needs it. `prefix` is the path below which a proxy shows it; `prefix_stripped` says that the
    proxy removes it from requests.
    """
    jobs = None if cluster is None else Cluster(cluster, root)
    site = Site(catalog=Catalog(root), prefix=prefix, may_run=allow_run, may_note=allow_notes, cluster=jobs)
    app = Dash(
        __name__,
        server=Flask(__name__),  # type: ignore[arg-type]
        title="Sensitivity",
        update_title="",
        requests_pathname_prefix=prefix,
        routes_pathname_prefix="/" if prefix_stripped else prefix,
        suppress_callback_exceptions=True,
        enable_mcp=False,
        meta_tags=[{"name": "viewport", "content": "width=device-width, initial-scale=1"}],
    )
    app.index_string = app.index_string.replace("<html>", '<html lang="en">')
    app.layout = shell.layout()
    tops = {"studies": studies.studies_page(site), "compare": compare.compare_page(site)}
    if allow_run:
        tops["start"] = start.start_page(site)
        start.register(app, site)
    callbacks.register(app, site, tops)
    contents.register(app, site)
    studies.register(app, site)
    settle.register(app, site)
    runs.register(app, site)
    compare.register(app, site)
    strip.register(app, site, "/" if prefix_stripped else prefix)
    _preload(app, site, tops)
    protect(app.server, hosts=hosts, token=token, scripts=[f"'{value}'" for value in _hashes(app)])
    return app


def _preload(app: Dash, site: Site, tops: Collection[str]) -> None:
    """Start reading the study when its page is requested; a page that doesn't exist gets the corresponding status."""
    server: Flask = app.server

    @server.after_request
    def preload(response: Response) -> Response:
        opened = request.method == "GET" and response.mimetype == "text/html"
        if not opened or response.status_code != HTTPStatus.OK:
            return response
        address = parse(site.inner(request.path), request.query_string.decode(errors="replace"))
        if address.page not in (tops if address.study is None else pages()):
            response.status_code = HTTPStatus.NOT_FOUND
        elif address.study is not None:
            with contextlib.suppress(StorageError):  # the page itself reports it
                if address.study not in site.catalog.places():
                    response.status_code = HTTPStatus.NOT_FOUND
                else:
                    site.preload(address)
                    drawing = f"<{site.prefix}{_PLOTLY}>; rel=preload; as=script"
                    response.headers["Link"] = drawing  # by far the largest script, requested last by a page
        return response


def _hashes(app: Dash) -> list[str]:
    return [value.strip("'") for value in app.csp_hashes()]
