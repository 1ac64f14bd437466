"""Access control: who may send requests, and what a page may do.

* Only requests for a known host name are answered, so that a page of another site can't reach this server under a name
  of its own (DNS rebinding).
* A request that may change something must come from a page of this server. Its origin (scheme, host and port) is
  compared exactly: another port of this machine is another server, possibly another user's. The origin is the one that
  the request itself addresses, or a declared one if a proxy shows this server at another address.
* Beyond loopback, and wherever studies can be started, a token is required: once in the address, which sets a cookie,
  or in each request as ``Authorization: Bearer TOKEN``.
* The content-security policy lets a page connect to this server only.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Collection
from http import HTTPStatus
from urllib.parse import urlencode, urlsplit

from dash.exceptions import DependencyException
from flask import Flask, Request, Response, abort, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from sensitivity.study.errors import UserError

LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")
COOKIE = "sensitivity_token"
MAX_BYTES = 2_000_000
"""Largest size of a request's body: a study file as text, with room to spare."""
_MAX_QUERY = 16_000
_PORTS = {"http": 80, "https": 443}
_ADDRESS = re.compile(
    r"(?:(?P<scheme>https?)://)?(?P<host>\[[0-9a-f:.]+\]|[0-9a-z._-]+)(?::(?P<port>[0-9]{1,5}))?/?", re.IGNORECASE
)


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine only."""
    return host in LOOPBACK or host.startswith("127.")


def origin_of(named: str) -> str:
    """Return the origin of an address such as ``https://lab.example:8443``, without the scheme's default port.

    A name without a scheme is one that a proxy serves over TLS.

    Raises:
        UserError: it isn't the address of a server.
    """
    address = _ADDRESS.fullmatch(f"[{named}]" if re.fullmatch("[0-9a-f:]*:[0-9a-f:]*:[0-9a-f:.]*", named) else named)
    if address is None:
        raise UserError(
            f"--host-name {named!r}: give a name such as lab.example, or the address that a proxy shows, such as "
            "https://lab.example:8443 (without a path: that is --prefix; letters beyond ASCII as xn--...)"
        )
    scheme, host, port = (address["scheme"] or "https").lower(), address["host"].lower(), int(address["port"] or 0)
    return f"{scheme}://{host}" + ("" if port in (0, _PORTS[scheme]) else f":{port}")


def protect(server: Flask, *, hosts: Collection[str], token: str | None, scripts: Collection[str]) -> None:
    """Guard every request to `server`.

    `hosts` are names, or origins such as ``https://lab.example``, by which it is reached besides loopback. Pages of
    these origins count as its own; for a plain name, a page counts if it was loaded from that name and this port.
    `scripts` are the hashes of inline scripts.

    Raises:
        UserError: one of `hosts` is not an origin.
    """
    declared = {origin_of(host) for host in hosts if "://" in host}
    allowed = {*LOOPBACK, *(host.lower() for host in hosts if "://" not in host), *map(_host_of, declared)}
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
    server.config["MAX_CONTENT_LENGTH"] = MAX_BYTES

    @server.before_request
    def check() -> AnyResponse | None:
        if _name(request.host) not in allowed:
            abort(400, "This server doesn't answer to that host name; start it with --host-name NAME.")
        if len(request.query_string) > _MAX_QUERY:
            abort(414)
        if token is not None and (refusal := _authenticate(request, token)) is not None:
            return refusal
        if request.method not in ("GET", "HEAD") and not _from_own_page(request, declared, token):
            abort(
                403,
                "Only pages of this server may request this. If a proxy shows it at another address, start it with "
                "--host-name ADDRESS, such as https://lab.example; a program gives the token as Authorization: Bearer.",
            )
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


def _host_of(origin: str) -> str:
    return _name(urlsplit(origin).netloc)


def _from_own_page(incoming: Request, declared: Collection[str], token: str | None) -> bool:
    """Whether a request comes from a page of this server, or from a program that sends the token itself.

    Browsers send the cookie with requests of any page of this machine, on any port, so the cookie proves nothing here.
    """
    sender = incoming.headers.get("Origin")
    if sender is None and (page := incoming.headers.get("Referer")) is not None:
        scheme, _, rest = page.partition("://")
        sender = f"{scheme}://{rest.partition('/')[0]}"
    if sender is None:
        return token is not None and _same(_bearer(incoming), token)
    return sender.lower() in {f"{incoming.scheme}://{incoming.host.lower()}", *declared}


def _authenticate(incoming: Request, token: str) -> AnyResponse | None:
    if any(_same(one, token) for one in (incoming.cookies.get(COOKIE, ""), _bearer(incoming))):
        return None
    if incoming.method == "GET" and _same(incoming.args.get("token", ""), token):
        rest = urlencode([(name, value) for name, value in incoming.args.items(multi=True) if name != "token"])
        answer = redirect(f"{incoming.script_root}{incoming.path}{'?' + rest if rest else ''}")
        answer.set_cookie(COOKIE, token, httponly=True, samesite="Strict", secure=incoming.is_secure)
        return answer
    return abort(401, "Open the address that the dashboard printed when it started; it contains a token.")


def _bearer(incoming: Request) -> str:
    scheme, _, bearer = incoming.headers.get("Authorization", "").partition(" ")
    return bearer if scheme.lower() == "bearer" else ""


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())
