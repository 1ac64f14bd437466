"""``create_app``: the dashboard of a root, put together."""

from __future__ import annotations

from collections.abc import Collection
from http import HTTPStatus

from dash import Dash
from flask import Flask, Response, request

from dashboards import callbacks, contents, shell
from dashboards.address import parse
from dashboards.catalog import Catalog
from dashboards.cluster import Cluster
from dashboards.pages import compare, runs, settle, start, studies
from dashboards.questions import refuse_malformed
from dashboards.security import protect
from dashboards.site import Site
from sensitivity.store.directory import Place


def create_app(
    root: Place,
    *,
    allow_run: bool = False,
    cluster: str | None = None,
    hosts: Collection[str] = (),
    token: str | None = None,
    prefix: str = "/",
    prefix_stripped: bool = False,
) -> Dash:
    """Return the dashboard of the studies below `root`.

    `cluster` is the address of a Jobs server that shows the jobs of these studies and, with `allow_run`, takes new
    ones. `hosts` are names, or addresses that a proxy shows (``https://lab.example``), by which the server is reached
    besides loopback; with `token` every request needs it.
    `prefix` is the path below which a proxy shows it; `prefix_stripped` says that the proxy removes it before asking.
    """
    jobs = None if cluster is None else Cluster(cluster, root)
    site = Site(catalog=Catalog(root), prefix=prefix, may_run=allow_run, cluster=jobs)
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
    _expect(app, site)
    protect(app.server, hosts=hosts, token=token, scripts=[f"'{value}'" for value in _hashes(app)])
    refuse_malformed(app)  # after the guard: strangers learn nothing of what is asked
    return app


def _expect(app: Dash, site: Site) -> None:
    server: Flask = app.server

    @server.after_request
    def expect(response: Response) -> Response:
        address = parse(site.inner(request.path), request.query_string.decode(errors="replace"))
        if address.study is not None and response.status_code == HTTPStatus.OK and request.method == "GET":
            site.expect(address)
        return response


def _hashes(app: Dash) -> list[str]:
    return [value.strip("'") for value in app.csp_hashes()]
