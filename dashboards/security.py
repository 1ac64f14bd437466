"""Who may ask, and what a page may do.

* Only requests that name a known host are answered, so that a page of another site can't reach this server under a
  name of its own (DNS rebinding); what changes something must come from a page of this server.
* Beyond loopback a token is asked for: once in the address, or in each request as ``Authorization: Bearer TOKEN``.
* The content-security policy lets a page load and ask nothing but this server.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection
from http import HTTPStatus
from urllib.parse import urlencode, urlsplit

from dash.exceptions import DependencyException
from flask import Flask, Request, Response, abort, redirect, request
from werkzeug.wrappers import Response as AnyResponse

LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")
COOKIE = "sensitivity_token"
MOST_BYTES = 2_000_000
"""Of a request's body: a study file as text, with room."""
_MOST_QUERY = 16_000


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine only."""
    return host in LOOPBACK or host.startswith("127.")


def protect(server: Flask, *, hosts: Collection[str], token: str | None, scripts: Collection[str]) -> None:
    """Guard every request to `server`.

    `hosts` are names that it is reached by, besides loopback; `scripts` are the hashes of inline scripts.
    """
    named = {host.lower() for host in hosts}
    allowed = {*LOOPBACK, *named}
    policy = "; ".join(
        (
            "default-src 'self'",
            f"script-src 'self' {' '.join(scripts)}",
            "style-src 'self' 'unsafe-inline'",  # Plotly and Mantine set styles of elements
            "img-src 'self' data: blob:",
            "font-src 'self' data:",
            "connect-src 'self'",
            "worker-src 'none'",
            "object-src 'none'",
            "base-uri 'none'",
            "form-action 'self'",
            "frame-ancestors 'none'",
        )
    )
    server.config["MAX_CONTENT_LENGTH"] = MOST_BYTES

    def ours(origin: str) -> bool:
        """Whether a page is of this server: another port of this machine is another server, maybe another user's."""
        netloc = urlsplit(origin).netloc.lower()
        return netloc == request.host.lower() or _name(netloc) in named

    @server.before_request
    def check() -> AnyResponse | None:
        if _name(request.host) not in allowed:
            abort(400, "This server is not known by that name; start it with --host-name NAME.")
        if len(request.query_string) > _MOST_QUERY:
            abort(414)
        origin = request.headers.get("Origin")
        if request.method not in ("GET", "HEAD") and origin is not None and not ours(origin):
            abort(403, "Requests from pages of other sites are refused.")
        if token is not None and (refusal := _admit(request, token)) is not None:
            return refusal
        return None

    @server.errorhandler(DependencyException)
    def missing(error: DependencyException) -> tuple[str, int]:
        return "There is no such file.", HTTPStatus.NOT_FOUND

    @server.after_request
    def harden(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = policy
        response.headers["X-Frame-Options"] = "DENY"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
        return response


def _name(netloc: str) -> str:
    """Return a host without its port, in lower case."""
    host = netloc.lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.rpartition(":")[0] if ":" in host else host


def _admit(asked: Request, token: str) -> AnyResponse | None:
    scheme, _, bearer = asked.headers.get("Authorization", "").partition(" ")
    held = (asked.cookies.get(COOKIE, ""), bearer if scheme.lower() == "bearer" else "")
    if any(_same(one, token) for one in held):
        return None
    if asked.method == "GET" and _same(asked.args.get("token", ""), token):
        rest = urlencode([(name, value) for name, value in asked.args.items(multi=True) if name != "token"])
        answer = redirect(f"{asked.script_root}{asked.path}{'?' + rest if rest else ''}")
        answer.set_cookie(COOKIE, token, httponly=True, samesite="Strict", secure=asked.is_secure)
        return answer
    return abort(401, "Open the address that the dashboard printed when it was started; it holds a token.")


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())
