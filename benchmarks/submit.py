"""How long a submitted study takes to its first result, and where the time goes.

    python benchmarks/submit.py [--rounds 3] [--record]

Starts a Ray cluster of this machine with its Jobs server, and submits the quickstart to it, each round in a new study
directory. Times count from the start of `sensitivity submit`. The goal on two quiet cores is 20 s to the first result.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from record import circumstances

from sensitivity.store.counting import read_counts
from sensitivity.store.directory import place

RECORD = Path(__file__).parent / "results" / "submit.md"
_STUDY = "quickstart"
_LONGEST_S = 180.0
MOMENTS = ("the job is accepted", "the study directory exists", "the first result is stored", "every run has one")


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Start Ray with its Jobs server, and yield the environment of commands that use it."""
    port, jobs = free_port(), free_port()
    scratch = Path(tempfile.gettempdir()) / f"sb-{secrets.token_hex(3)}"  # Ray's sockets need a short path
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{jobs}",
    }
    command = ["ray", "start", "--head", "--block", "--disable-usage-stats", f"--temp-dir={scratch}"]
    command += [f"--port={port}", f"--dashboard-port={jobs}", "--object-store-memory=100000000"]
    with (folder / "ray.txt").open("wb") as said:
        ray = subprocess.Popen(command, env=env, stdout=said, stderr=subprocess.STDOUT)
    try:
        wait(lambda: "Ray runtime started" in (folder / "ray.txt").read_text(), "Ray has not started")
        wait(lambda: serves(jobs), "the Jobs server has not started")
        yield env
    finally:
        ray.terminate()
        ray.wait()
        shutil.rmtree(scratch, ignore_errors=True)


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def serves(port: int) -> bool:
    """Whether something listens on a port."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def wait(condition: Callable[[], bool], what: str, pause: float = 0.02) -> float:
    """Return the time at which a condition holds; exits with `what` if it never does."""
    end = time.monotonic() + _LONGEST_S
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"{what} within {_LONGEST_S:.0f} s")
        time.sleep(pause)
    return time.monotonic()


def submitted(env: dict[str, str], storage: Path) -> list[float]:
    """Submit the study, and return the seconds from then to each of `MOMENTS`."""
    command = [sys.executable, "-m", "sensitivity.cli.main", "submit", _STUDY, "--storage", str(storage)]
    study, began = storage / _STUDY, time.monotonic()
    told = subprocess.run(
        [*command, "--address", env["RAY_API_SERVER_ADDRESS"]], env=env, capture_output=True, text=True, check=False
    )
    if told.returncode:
        raise SystemExit(f"{told.stdout}{told.stderr}")
    at = [time.monotonic()]
    at.append(wait(lambda: (study / "study.json").exists(), "the study directory does not exist"))
    at.append(wait(lambda: any(study.glob("runs/*.parquet")), "no result was stored"))
    at.append(wait(lambda: not read_counts(place(str(study))).by_status["pending"], "the study has not ended", 0.5))
    return [moment - began for moment in at]


def main() -> None:
    """Measure, print, and record on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    begun = circumstances("ray", "torch")
    with tempfile.TemporaryDirectory() as folder, cluster(Path(folder)) as env:
        rounds = [submitted(env, Path(folder, f"studies-{k}")) for k in range(arguments.rounds)]
    rows = [
        f"| {name} | {statistics.median(values):.1f} | {min(values):.1f} to {max(values):.1f} |"
        for name, values in zip(MOMENTS, zip(*rounds, strict=True), strict=True)
    ]
    text = "\n".join(
        [
            "# submit",
            "",
            f"{begun}. Seconds from the start of `sensitivity submit {_STUDY}`, {arguments.rounds} rounds.",
            "",
            "| until | median s | all |",
            "| --- | ---: | ---: |",
            *rows,
            "",
        ]
    )
    print(text)
    if arguments.record:
        RECORD.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
