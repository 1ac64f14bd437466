"""The ``dashboard`` command: serve the dashboard until it is stopped."""

from __future__ import annotations

import logging
import secrets
import signal
import socket
import threading
from collections.abc import Sequence

from werkzeug.serving import BaseWSGIServer, make_server

from dashboards.app import create_app
from dashboards.security import is_loopback, origin_of
from sensitivity.store.directory import place
from sensitivity.study.errors import UserError

_MAX_PORT = 65535


def serve(
    root: str,
    *,
    host: str,
    port: int,
    host_names: Sequence[str],
    prefix: str,
    strip_prefix: bool,
    allow_run: bool,
    allow_notes: bool,
    cluster: str | None,
) -> None:
    """Serve the dashboard of the studies below `root` until the process is stopped.

    Raises:
        UserError: the root, the prefix, a host name or the port is invalid.
        KeyboardInterrupt: it was stopped, after the requests in progress were answered.
    """
    path = normal_prefix(prefix)
    own = socket.gethostname() if host in ("0.0.0.0", "::") else host
    proxied = [origin_of(name) for name in host_names]
    # Also on loopback: other users of this machine must not start studies as this user.
    token = None if is_loopback(host) and not allow_run else secrets.token_urlsafe(24)
    app = create_app(
        place(root),
        allow_run=allow_run,
        allow_notes=allow_notes,
        cluster=cluster,
        hosts=[own, *proxied],
        token=token,
        prefix=path,
        prefix_stripped=strip_prefix,
    )
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = _bind(app.server, host, port)
    shown = host_names[0] if host_names else own
    name = f"[{shown}]" if ":" in shown else shown
    address = proxied[0] if host_names and ":" in shown else f"http://{name}:{server.port}"
    print(f"dashboard: {address}{path}{'' if token is None else f'?token={token}'}", flush=True)
    if not is_loopback(host):
        print("Anyone with this address can reach it from other machines; put a TLS proxy in front of it.", flush=True)
    print("Ctrl-C stops it; studies that it started continue.", flush=True)

    def stop(number: int, frame: object) -> None:
        threading.Thread(target=server.shutdown, daemon=True).start()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)
    server.serve_forever()
    server.server_close()
    raise KeyboardInterrupt


def normal_prefix(prefix: str) -> str:
    """Return `prefix` with a slash at both ends.

    Raises:
        UserError: it isn't a valid path.
    """
    parts = [part for part in prefix.split("/") if part]
    if any(
        part in (".", "..") or not part.replace("-", "").replace("_", "").replace(".", "").isalnum() for part in parts
    ):
        raise UserError(f"--prefix {prefix!r}: give a path of letters, digits, - _ and ., such as /dashboard/")
    return "/" + "".join(f"{part}/" for part in parts)


def _bind(server: object, host: str, port: int) -> BaseWSGIServer:
    # make_server ends the process itself if the port is taken, so the port is checked first.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"can't listen on {host}:{port} ({error.strerror})\n"
                f"  Give another --port from 1 to {_MAX_PORT}, or 0 for a free one"
            ) from None
    return make_server(host, port, server, threaded=True)  # type: ignore[arg-type]
