"""The temporary folder of a command's Ray: short enough for sockets, deleted on exit, or by the next command."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sensitivity.execution.environment import ray_environment
from sensitivity.study.errors import UserError

KILLED = """
import os, signal, sys
from pathlib import Path
from sensitivity.execution.environment import ray_environment
with ray_environment(local=True) as folder:
    (folder / "ray" / "logs").mkdir(parents=True)
    (folder / "ray" / "logs" / "raylet.out").write_text("x")
    print(folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def temporary(tmp_path_factory, monkeypatch):
    """Set the temporary folder, for this process and those that it starts."""
    for name in list(os.environ):
        if name.startswith("RAY_"):
            monkeypatch.delenv(name)

    def use(folder):
        monkeypatch.setenv("TMPDIR", str(folder))
        monkeypatch.setattr(tempfile, "tempdir", None)
        return folder

    return use


@pytest.fixture
def short():
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def test_what_a_killed_command_left_the_next_one_deletes_and_no_more(temporary, short):
    temporary(short)
    for name in ("sensitivity-no-owner", "another"):
        (short / name).mkdir()
    with ray_environment(local=True) as alive:
        killed = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, check=False)
        left = Path(killed.stdout.strip())
        assert left.parent == short
        assert (left / "ray/logs/raylet.out").exists()
        with ray_environment(local=True) as second:
            assert not left.exists()
            assert alive.exists()
            assert {os.environ[name] for name in ("RAY_TMPDIR",)} == {str(alive)}, "what is set stays"
        assert not second.exists()
        assert (Path(os.environ["RAY_AUTH_TOKEN_PATH"]).stat().st_mode & 0o777) == 0o600
    assert sorted(path.name for path in short.iterdir()) == ["another", "sensitivity-no-owner"]
    assert not {name for name in os.environ if name.startswith("RAY_")}


@pytest.mark.parametrize("length", [60, 200])
def test_a_long_temporary_folder_gives_way_to_one_that_sockets_can_be_in(temporary, tmp_path, length):
    long = tmp_path / ("x" * length)
    long.mkdir()
    temporary(long)
    with ray_environment(local=True) as folder:
        socket = f"{os.environ['RAY_TMPDIR']}/ray/session_2026-11-28_15-17-46_078612_4194304/sockets/plasma_store"
        assert len(socket) <= 107
        assert not list(long.iterdir())
    assert not folder.exists()
    with ray_environment(local=False) as folder:
        assert folder.parent == long, "a cluster has its sockets elsewhere"


def test_where_no_folder_is_short_enough_the_message_says_so(temporary, tmp_path, monkeypatch):
    temporary(tmp_path)
    monkeypatch.setattr("sensitivity.execution.environment._SHORT_FOLDERS", ())
    monkeypatch.setattr("sensitivity.execution.environment._MAX_SOCKET_PATH", 50)
    with (
        pytest.raises(UserError, match=r"too long for Ray(.|\n)*Set TMPDIR to a folder of at most"),
        ray_environment(local=True),
    ):
        pass
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/of-the-user")
    with pytest.raises(UserError, match="RAY_TMPDIR=/tmp/of-the-user: too long"), ray_environment(local=True):
        pass
