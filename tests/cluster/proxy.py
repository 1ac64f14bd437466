"""A proxy in front of an object store that misbehaves on request."""

from __future__ import annotations

import http.client
import http.server
import threading
import time
from collections import Counter

FAULTS = ("throttled", "cut", "slow", "expired", "stale")
SLOW_S = 4.0
"""Longer than the three seconds without a byte after which the AWS SDK's own default gives up."""


Answer = tuple[int, list[tuple[str, str]], bytes]
"""Status, headers and body."""


class Proxy:
    """Forwards HTTP requests to a port of this machine; `fault` is one of `FAULTS`, or nothing."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.fault = ""
        self.faults: Counter[str] = Counter()
        self.listings: dict[str, Answer] = {}
        """The latest answer to each request for a list of files, which a "stale" store repeats."""
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Say nothing: clients that have given up are what these tests are about."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def do_GET(self) -> None:
        body, fault = _body(self), self.proxy.fault
        listing = self.command == "GET" and "list-type=2" in self.path
        if fault and (listing or fault != "stale"):
            self.proxy.faults[fault] += 1
        if fault == "throttled":
            self._refuse(503, "SlowDown", "Please reduce your request rate.", {"Retry-After": "1"})
        elif fault == "expired":
            self._refuse(400, "ExpiredToken", "The provided token has expired.", {})
        else:
            time.sleep(SLOW_S if fault == "slow" else 0)
            known = self.proxy.listings.get(self.path) if fault == "stale" and listing else None
            answer = known or self._answer(body)
            if listing:
                self.proxy.listings[self.path] = answer
            self._send(answer, cut=fault == "cut")

    def do_PUT(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        self.do_GET()

    def do_HEAD(self) -> None:
        self.do_GET()

    def _answer(self, body: bytes) -> Answer:
        upstream = http.client.HTTPConnection("127.0.0.1", self.proxy.target, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name != "Transfer-Encoding"}
        upstream.request(self.command, self.path, body=body, headers={**headers, "Content-Length": len(body)})
        answer = upstream.getresponse()
        found = answer.status, answer.getheaders(), answer.read()
        upstream.close()
        return found

    def _send(self, answer: Answer, *, cut: bool) -> None:
        status, headers, data = answer
        if cut and self.proxy.faults["cut"] % 2:  # done, but the client does not hear of it
            self.close_connection = True
            return
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding"):
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)
        self.close_connection = cut

    def _refuse(self, status: int, code: str, message: str, headers: dict[str, str]) -> None:
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        self.send_response_only(status)
        for name, value in {**headers, "Content-Type": "application/xml", "Content-Length": len(text)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


def _body(request: http.server.BaseHTTPRequestHandler) -> bytes:
    if request.headers["Transfer-Encoding"] != "chunked":
        return request.rfile.read(int(request.headers["Content-Length"] or 0))
    parts = []
    while size := int(request.rfile.readline(), 16):
        parts.append(request.rfile.read(size))
        request.rfile.read(2)
    while request.rfile.readline().strip():
        pass
    return b"".join(parts)
