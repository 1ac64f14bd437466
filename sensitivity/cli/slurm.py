"""``submit --slurm``: a study as a job of SLURM, which starts Ray on the job's nodes."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from sensitivity.cli.json_output.base import json_text
from sensitivity.cli.json_output.jobs import SubmitOutput
from sensitivity.execution.shipment import refuse_local
from sensitivity.store.directory import place
from sensitivity.store.manifest import spec_hash
from sensitivity.study.errors import UserError
from sensitivity.study.load import find_study, load_study

SCRIPT = Path(__file__).with_name("study.sbatch")
_ENVIRONMENT = "SENSITIVITY_VENV"


def submit_to_slurm(study: str, *, storage: str, options: str, command: Sequence[str], as_json: bool) -> None:
    """Send a study to SLURM to run `command` on it there, and print how to follow it.

    Args:
        study: path of a study file that all nodes share, or name of a shipped study.
        storage: place below which the study directory is, shared by all nodes.
        options: options of ``sbatch``, as on its command line.
        command: command and its options, such as ``["settle", "--within", "8h"]``.
        as_json: whether to print JSON instead of lines.

    Raises:
        UserError: the study has mistakes, the storage is local to one machine, or ``sbatch`` refuses the job.
    """
    refuse_local(storage)
    storage = place(storage).uri  # refuses invalid URIs and credentials; gives each place one name
    path = find_study(study).resolve()
    spec = load_study(path)
    words = _words(options)
    job = _sent(words, [str(path), storage, "--", *command])
    if as_json:
        output = SubmitOutput(
            id=job,
            status="PENDING",
            message="",
            study=spec.name,
            storage=storage,
            spec_hash=spec_hash(spec),
            started_at=None,
            ended_at=None,
            files=0,
            bytes=0,
        )
        print(json_text(output))
        return
    print(f"job:    {job}")
    print(f"state:  squeue --jobs={job}")
    if not any(word.startswith(("--output", "-o")) for word in words):
        print(f"follow: tail -F slurm-{job}.out")
    print(f"stop:   scancel --batch --signal=TERM {job}")
    print(f"report: sensitivity report {shlex.quote(place(storage).child(spec.name).uri)}")


def _words(options: str) -> list[str]:
    try:
        return shlex.split(options)
    except ValueError as error:
        raise UserError(
            f"--slurm {options!r}: {error}\n  Give options of sbatch, such as '--nodes=2 --time=8:00:00'"
        ) from None


def _sent(options: Sequence[str], arguments: Sequence[str]) -> str:
    """Send the script with `arguments`, and return the job's number."""
    if (program := shutil.which("sbatch")) is None:
        raise UserError(
            "--slurm: no `sbatch` here\n  Run this where you send SLURM's jobs from, such as its login node"
        )
    # Jobs get the variables of `sbatch`, and so this environment.
    variables = {_ENVIRONMENT: sys.prefix, **os.environ}
    done = subprocess.run(
        [program, "--parsable", *options, str(SCRIPT), *arguments],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UserError(f"sbatch refuses the job: {done.stderr.strip()}")
    return done.stdout.strip().partition(";")[0]  # with several clusters, their name follows
