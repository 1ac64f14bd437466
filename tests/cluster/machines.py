"""A Ray cluster on one machine: a head without CPUs and two nodes of one CPU each, on ports and folders of their own.

Each node has one folder that is its own although it has the same path everywhere, as a local disk has, where mount
namespaces are allowed. An S3 server on loopback is what the nodes share.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

START_S = 180


class Machines:
    def __init__(self, folder: Path, *, own_disks: bool) -> None:
        self.folder, self.own_disks = folder, own_disks
        # Ray's sockets lie below these, and their paths may have 107 letters.
        self.scratch = Path("/tmp") / f"sc-{secrets.token_hex(3)}"
        self.scratch.mkdir()
        self.own_disk = folder / "own-disk"
        self.own_disk.mkdir()
        token = folder / "token"
        token.write_text(secrets.token_hex(32))
        self.s3_port, self.gcs_port, self.dashboard_port = free_port(), free_port(), free_port()
        self.address = f"http://127.0.0.1:{self.dashboard_port}"
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_"))},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_API_SERVER_ADDRESS": self.address,
            "XDG_CACHE_HOME": str(folder / "cache"),
            **self.s3_env,
        }
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def s3_env(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.s3_port}",
            "AWS_ACCESS_KEY_ID": "a-key-of-the-test",
            "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-test",
            "AWS_REGION": "us-east-1",
        }

    def start_s3(self) -> None:
        server = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.s3_port)]
        self._start("s3", server, env={name: v for name, v in self.env.items() if not name.startswith("AWS_")})
        bucket = urllib.request.Request(f"http://127.0.0.1:{self.s3_port}/studies", method="PUT")
        self._until(lambda: urllib.request.urlopen(bucket, timeout=5).close(), "s3")

    def start_head(self) -> None:
        self._start_node(
            "head", "--head", f"--port={self.gcs_port}", f"--dashboard-port={self.dashboard_port}", "--num-cpus=0",
            f"--ray-client-server-port={free_port()}",
        )  # fmt: skip
        self._until(self._said("head"), "head")

    def start_nodes(self, *names: str) -> None:
        host = socket.gethostbyname(socket.gethostname())
        for name in names:
            self._start_node(name, f"--address={host}:{self.gcs_port}", "--num-cpus=1", own_disk=self.own_disks)
        for name in names:
            self._until(self._said(name), name)

    def _start_node(self, name: str, *options: str, own_disk: bool = False) -> None:
        command = [
            *("ray", "start", "--block", "--disable-usage-stats", "--object-store-memory=100000000"),
            *(f"--temp-dir={self.scratch / name}", f"--dashboard-agent-listen-port={free_port()}", *options),
        ]
        if own_disk:
            mount = f'mount -t tmpfs none "{self.own_disk}" && exec "$@"'
            command = ["unshare", "--mount", "sh", "-c", mount, "sh", *command]
        self._start(name, command, env=self.env)

    def _start(self, name: str, command: list[str], *, env: dict[str, str]) -> None:
        with self._output(name).open("wb") as output:
            self._started[name] = subprocess.Popen(
                command, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, cwd=self.folder
            )

    def _output(self, name: str) -> Path:
        return self.folder / f"{name}.txt"

    def _said(self, name: str):
        def check() -> None:
            if "Ray runtime started" not in self._output(name).read_text():
                raise OSError("not yet")

        return check

    def _until(self, check, name: str) -> None:
        deadline = time.monotonic() + START_S
        while True:
            try:
                return check()
            except OSError:
                assert self._started[name].poll() is None, self._output(name).read_text()
                assert time.monotonic() < deadline, self._output(name).read_text()
                time.sleep(0.2)

    def kill(self, name: str) -> None:
        """Take a node's power away: every process that it has started."""
        process = self._started.pop(name)
        for pid in _session(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()

    def end(self, name: str) -> None:
        """End a node with notice: its processes get SIGTERM."""
        process = self._started[name]
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=START_S)
        self.kill(name)

    def close(self) -> None:
        for name in reversed(list(self._started)):
            self.kill(name)
        shutil.rmtree(self.scratch, ignore_errors=True)

    def command(self, *arguments: object, timeout: float = 400) -> subprocess.CompletedProcess[str]:
        """Run a command of ours on "the laptop"."""
        return subprocess.run(
            [sys.executable, "-m", "sensitivity.cli.main", *map(str, arguments)],
            **{"env": self.env, "cwd": self.folder, "capture_output": True, "text": True, "timeout": timeout},
        )


def own_disks_can_be_made() -> bool:
    """Whether this user may mount."""
    unshare = shutil.which("unshare")
    probe = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs none /mnt"]
    return unshare is not None and subprocess.run(probe, capture_output=True, check=False).returncode == 0


def _session(leader: int) -> list[int]:
    """Return the processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader:
                found.append(int(stat.parent.name))
    return found


_given: set[int] = set()


def free_port() -> int:
    """Return a free port outside the ranges that Ray's workers and the kernel draw from."""
    for port in range(20_000 + os.getpid() * 17 % 9_000, 32_000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            if port not in _given:
                probe.bind(("0.0.0.0", port))
                _given.add(port)
                return port
    raise OSError("no free port")
