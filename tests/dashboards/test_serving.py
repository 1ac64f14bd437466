"""The command that serves a dashboard: where it listens, what it prints, how it ends."""

import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from sensitivity.cli import dashboard as command
from sensitivity.cli.exit_codes import STOPPED
from sensitivity.study.errors import UserError

ARGUMENTS = [sys.executable, "-m", "sensitivity.cli.main", "dashboard"]


def status(address, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers)) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_printed_address_has_the_token_and_a_signal_stops_the_server(tmp_path):
    asked = [*ARGUMENTS, str(tmp_path), "--host", "0.0.0.0", "--port", "0", "--prefix", "lab"]
    with subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            start, _, token = line.removeprefix("dashboard: ").strip().partition("?token=")
            assert start.startswith(f"http://{socket.gethostname()}:")
            assert start.endswith("/lab/")
            assert "put a TLS proxy in front of it" in process.stdout.readline()
            local = f"http://127.0.0.1:{start.rpartition(':')[2]}"
            assert status(local) == 401
            assert status(local, Authorization=f"Bearer {token}") == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == STOPPED
            assert process.stderr.read() == "stopped; what is stored stays as it was\n"
        finally:
            process.kill()


def test_taken_port_gives_a_message(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"can't listen on 127.0.0.1:{port}"):
            command._bind(None, "127.0.0.1", port)
    with pytest.raises(UserError, match="can't listen on no-such-host"):
        command._bind(None, "no-such-host.invalid", 0)


@pytest.mark.parametrize(("given", "path"), [("", "/"), ("/", "/"), ("lab", "/lab/"), ("/a/b_c/", "/a/b_c/")])
def test_prefix_has_a_slash_at_both_ends(given, path):
    assert command.normal_prefix(given) == path


@pytest.mark.parametrize("given", ["..", "a/../b", "a b", "<x>", "a?b", "/%2e%2e/"])
def test_invalid_prefix_is_refused(given):
    with pytest.raises(UserError, match="--prefix"):
        command.normal_prefix(given)


@pytest.mark.parametrize(
    ("host", "runs", "has_token", "own"),
    [
        ("127.0.0.1", False, False, "127.0.0.1"),
        ("127.0.0.1", True, True, "127.0.0.1"),  # other users of the machine can reach it
        ("192.0.2.1", False, True, "192.0.2.1"),
        ("::", True, True, socket.gethostname()),
    ],
)
def test_options_reach_the_application(tmp_path, monkeypatch, host, runs, has_token, own):
    asked = {}

    def stop_here(root, **options):
        asked.update(options, root=root)
        raise UserError("enough")

    monkeypatch.setattr(command, "create_app", stop_here)
    with pytest.raises(UserError, match="enough"):
        command.serve(
            str(tmp_path), host=host, port=0, host_names=["lab", "http://b:81"], prefix="p", strip_prefix=True,
            allow_run=runs, allow_notes=not runs, cluster="http://head:8265",
        )  # fmt: skip
    assert (asked["token"] is not None) is has_token
    assert has_token is False or len(asked["token"]) >= 32
    assert asked["hosts"] == [own, "https://lab", "http://b:81"], "pages of `own` count as its own at its port only"
    assert (asked["prefix"], asked["prefix_stripped"]) == ("/p/", True)
    assert (asked["allow_run"], asked["cluster"]) == (runs, "http://head:8265")
    assert asked["allow_notes"] is not runs
