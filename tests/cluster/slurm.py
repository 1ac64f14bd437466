"""SLURM on one machine: munged, slurmctld and two slurmd on loopback ports, with their files in one folder."""

from __future__ import annotations

import contextlib
import os
import re
import runpy
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun")
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
NODES = ("n1", "n2")
START_S = 60
_machines = runpy.run_path(str(Path(__file__).with_name("machines.py")))


def obstacle() -> str:
    """Install SLURM where it is missing; return why it can't be used here, or nothing."""
    if os.name != "posix" or os.geteuid() != 0:
        return "slurmd runs jobs as root alone"
    if all(map(_program, PROGRAMS)):
        return ""
    if shutil.which("apt-get") is None:
        return f"{', '.join(PROGRAMS)} are not installed, and there is no apt-get"
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(["apt-get", "-q", *command], env=env, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return f"apt-get {command[0]} fails: {done.stderr.strip()[-300:]}"
    return ""


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


class Slurm:
    """Two nodes of one CPU and two pretended GPUs each."""

    def __init__(self, folder: Path, *, gpus: int = 2) -> None:
        self.folder = folder
        # Unix sockets lie here, and their paths may have 107 letters.
        self.scratch = Path("/tmp") / f"sl-{secrets.token_hex(3)}"
        self.scratch.mkdir(mode=0o755)
        self.config = folder / "slurm.conf"
        self.env = {
            **{name: v for name, v in os.environ.items() if not name.startswith(("RAY_", "SLURM_", "SBATCH_"))},
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
            "SLURM_CONF": str(self.config),
            "SENSITIVITY_VENV": str(Path(sys.prefix)),
            "HOME": str(folder),
            "XDG_CACHE_HOME": str(folder / "cache"),
        }
        self._started: list[subprocess.Popen[bytes]] = []
        socket_path = self.scratch / "munge"
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        controller, *ports = (_machines["free_port"]() for _ in range(1 + len(NODES)))
        host = socket.gethostname()
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1 RealMemory=1000 Gres=gpu:{gpus}"
            for name, port in zip(NODES, ports, strict=True)
        )
        self.config.write_text(
            f"""
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={socket_path}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
GresTypes=gpu
ReturnToService=2
MinJobAge=600
KillWait=30
SchedulerParameters=sched_interval=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
MpiDefault=none
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""
        )
        # Devices that are none: SLURM counts and lends them, and nothing opens them.
        (folder / "gres.conf").write_text(f"NodeName={NODES[0]},{NODES[-1]} Name=gpu File=/dev/tty[1-{gpus}]\n")
        (folder / "state").mkdir()
        self._munge = (
            f"--foreground --force --socket={socket_path} --key-file={key} --pid-file={folder}/munge.pid "
            f"--log-file={folder}/munge.log --seed-file={folder}/munge.seed"
        )

    @property
    def version(self) -> str:
        return self.run("sinfo", "--version").split()[-1]

    def start(self) -> None:
        self._start("munged", *self._munge.split())
        self._until(lambda: (self.scratch / "munge").exists())
        self._start("slurmctld", "-D", "-c")
        for name in NODES:
            self._start("slurmd", "-D", "-N", name)
        self._until(self._idle)

    def _idle(self) -> bool:
        with contextlib.suppress(subprocess.CalledProcessError):
            return self.run("sinfo", "--noheader", "--format=%D %T").split() == [str(len(NODES)), "idle"]
        return False

    def _start(self, name: str, *options: str) -> None:
        program = _program(name)
        assert program is not None, f"{name} is not installed"
        output = (self.folder / "daemons.txt").open("ab")
        with output:
            self._started.append(
                subprocess.Popen(
                    [program, *options], env=self.env, stdout=output, stderr=output, start_new_session=True
                )
            )

    def _until(self, condition) -> None:
        deadline = time.monotonic() + START_S
        while not condition():
            ended = [process.args for process in self._started if process.poll() is not None]
            hopeless = bool(ended) or time.monotonic() > deadline
            assert not hopeless, (ended, (self.folder / "daemons.txt").read_text())
            time.sleep(0.2)

    def run(self, *command: object) -> str:
        return subprocess.run(
            list(map(str, command)),
            env=self.env,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout

    def submit(self, *arguments: object) -> str:
        """Send a job with `sbatch`, and return its number."""
        return self.run("sbatch", "--parsable", "--output=%A_%a.txt", *arguments).strip()

    def state(self, job: str) -> dict[str, str]:
        """Return what SLURM says of a job, or of a task of an array."""
        return dict(re.findall(r"(\w+)=(\S*)", self.run("scontrol", "show", "job", job)))

    def close(self) -> None:
        """End all jobs, then the daemons."""
        with contextlib.suppress(subprocess.SubprocessError):
            self.run("scancel", "--quiet", "--full", "--signal=KILL", "--user=root")
            self.run("scancel", "--quiet", "--user=root")
            deadline = time.monotonic() + 30
            while self.run("squeue", "--noheader").strip() and time.monotonic() < deadline:
                time.sleep(0.2)
        for process in reversed(self._started):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.scratch, ignore_errors=True)
