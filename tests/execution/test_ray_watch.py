"""The end of Ray's daemons is noticed at once: sockets of this test stand for them."""

import contextlib
import socket
import tempfile
import threading
from pathlib import Path

import pytest

from sensitivity.execution.ray_watch import GCS_LOST, RAYLET_LOST, RayWatch


class Daemons:
    """A raylet that says nothing and a control store that greets, as Ray's do."""

    def __init__(self, folder):
        self.raylet = socket.socket(socket.AF_UNIX)
        self.raylet.bind(f"{folder}/raylet")
        self.raylet.listen()
        self.gcs = socket.create_server(("127.0.0.1", 0))
        self.addresses = {
            "raylet_socket_name": f"{folder}/raylet",
            "gcs_address": f"127.0.0.1:{self.gcs.getsockname()[1]}",
        }
        self._connected = []

    def connected(self, to):
        connection, _ = to.accept()
        self._connected.append(connection)
        if to is self.gcs:
            connection.sendall(b"settings")
        return connection

    def end(self, daemon):
        daemon.close()
        for connection in self._connected:
            connection.close()


@pytest.fixture
def daemons():
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        daemons = Daemons(folder)
        yield daemons
        daemons.end(daemons.raylet)
        daemons.end(daemons.gcs)


@pytest.fixture
def watch(daemons):
    lost, told = [], threading.Event()

    def on_loss(what):
        lost.append(what)
        told.set()

    @contextlib.contextmanager
    def start(**changes):
        with RayWatch(daemons.addresses | changes, on_loss, patience_s=0.0) as watch:
            yield watch, lambda: told.wait(60) and lost

    return start


def test_a_control_store_that_takes_no_connection_any_more_is_lost(daemons, watch):
    with watch() as (watching, lost):
        daemons.connected(daemons.raylet)
        daemons.connected(daemons.gcs).close()  # it closes what says nothing
        connection = daemons.connected(daemons.gcs)
        assert not watching.lost
        daemons.gcs.close()
        connection.close()
        assert lost() == [GCS_LOST]
    assert watching.lost


def test_a_raylet_that_ends_is_lost(daemons, watch):
    with watch() as (_, lost):
        connection = daemons.connected(daemons.raylet)
        daemons.connected(daemons.gcs)
        connection.close()
        assert lost() == [RAYLET_LOST]


def test_a_raylet_that_has_ended_before_is_lost(daemons, watch):
    Path(daemons.addresses["raylet_socket_name"]).unlink()
    with watch() as (_, lost):
        assert lost() == [RAYLET_LOST]


def test_leaving_is_no_loss(daemons, watch):
    with watch() as (watching, _):
        daemons.connected(daemons.gcs)
    assert not watching.lost
    with watch(raylet_socket_name=None, gcs_address=None) as (watching, _):
        pass
    assert not watching.lost
