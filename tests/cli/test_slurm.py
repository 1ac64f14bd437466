"""``submit --slurm`` up to what ``sbatch`` gets; tests/cluster/test_slurm.py sends studies to a real SLURM."""

import json
import os
import sys
from pathlib import Path

import pytest

from sensitivity.cli.slurm import SCRIPT
from sensitivity.store.manifest import spec_hash
from sensitivity.study.load import load_study

SBATCH = """#!/bin/sh
printf '%s\\n' "$SENSITIVITY_VENV" "$@" > "$0.said"
echo "{output}"
exit {code}
"""


@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """Stand in for `sbatch`: prints a text, ends with a code, and returns what it got."""

    def stand_in(output="42;cluster", code=0):
        path = tmp_path / "bin/sbatch"
        path.parent.mkdir(exist_ok=True)
        path.write_text(SBATCH.format(output=output, code=code).replace("echo", "echo >&2" if code else "echo"))
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")
        return lambda: Path(f"{path}.said").read_text().splitlines()

    monkeypatch.delenv("SENSITIVITY_VENV", raising=False)
    return stand_in


def test_sbatch_gets_the_script_the_study_and_this_environment(command, study_file, sbatch):
    said = sbatch()
    answer = command("submit", study_file, "--storage", "/shared/my studies", "--slurm", "--nodes=2 --time=60")
    assert answer.code == 0, answer.err
    sent = ["--parsable", "--nodes=2", "--time=60", str(SCRIPT), str(study_file), "/shared/my studies", "--", "run"]
    assert said() == [sys.prefix, *sent]
    lines = dict(line.split(maxsplit=1) for line in answer.out.splitlines())
    assert lines["job:"] == "42"
    assert lines["follow:"] == "tail -F slurm-42.out"
    assert lines["report:"] == "sensitivity report '/shared/my studies/small'"


def test_a_settlement_is_sent_with_its_limits(command, study_file, sbatch):
    said = sbatch()
    limits = ("--settle", "--within", "8h", "--workers", 2)
    answer = command("submit", study_file, "--storage", "/s", "--slurm", "--output=log.txt", *limits, "--json")
    assert said()[-6:] == ["--", "settle", "--within", "8h", "--workers", "2"]
    content = json.loads(answer.out)
    known = {"id": "42", "study": "small", "storage": "/s", "spec_hash": spec_hash(load_study(study_file)), "files": 0}
    assert known.items() <= content.items()
    assert "follow" not in command("submit", study_file, "--storage", "/s", "--slurm", "-o log.txt").out


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--slurm", "--nodes='2"), "No closing quotation"),
        (("--slurm", "", "--address", "http://head:8265"), "--address: for a Ray cluster, not for --slurm"),
        (("--slurm", "", "--installed"), "--installed: for a Ray cluster"),
        (("--slurm", "", "--storage", "studies"), "--storage 'studies'"),
        (("--slurm", "--nodes=9999"), "sbatch refuses the job: invalid node count"),
    ],
)
def test_what_cannot_be_sent_is_said(command, study_file, sbatch, options, expected):
    sbatch("invalid node count", code=1)
    answer = command("submit", study_file, "--storage", "/shared", *options)
    assert (answer.code, answer.out) == (2, "")
    assert expected in answer.err


def test_a_machine_without_slurm_is_told_so(command, study_file, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    answer = command("submit", study_file, "--storage", "/shared", "--slurm", "")
    assert answer.code == 2
    assert "no `sbatch` here" in answer.err
