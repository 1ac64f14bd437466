"""The command for a machine with an accelerator runs in its smallest form, with what a bare machine has."""

import importlib
import json
import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
CARRIED = {"pydantic", "torch", "numpy", "scipy", "scikit-learn"}
"""What docs/accelerator.md asks for; the machine has no other dependency."""
IMPORTED_AS = {"pillow": "PIL", "tensorboardx": "tensorboardX"}


def test_every_part_runs_on_the_host(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    command = importlib.import_module("accelerator")
    workloads = importlib.import_module("accelerator_parts.workloads")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for part in command.PARTS:
            record = command.Record(tmp_path, part, time.monotonic() + 600)
            module = importlib.import_module(f"accelerator_parts.{part}")
            module.run(record, workloads.Workloads(torch.device("cpu"), tiny=True))
    finally:
        torch.set_num_threads(threads)
    cases = command.cases_in(tmp_path)
    assert [case for case in cases if case.get("ok") is False or "skipped" in case] == []
    assert list(dict.fromkeys(case["part"] for case in cases)) == list(command.PARTS)
    text = (tmp_path / "accelerator.md").read_text()
    assert text.startswith(f"# Accelerator\n\n{len(cases)} cases, 0 failed.\n")


def test_the_command_needs_only_what_a_bare_machine_has(tmp_path):
    project = tomllib.loads((BENCHMARKS.parent / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[\[>=<]", each)[0] for each in project["dependencies"]} - CARRIED
    for name in (IMPORTED_AS.get(name, name.replace("-", "_")) for name in names):
        (tmp_path / "absent" / name).mkdir(parents=True)
        (tmp_path / "absent" / name / "__init__.py").write_text(f"raise ImportError({name!r})")
    command = [sys.executable, str(BENCHMARKS / "accelerator.py"), "--device", "cpu", "--tiny", "--out", str(tmp_path)]
    done = subprocess.run(
        [*command, "--only", "small_study"],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "absent"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    cases = json.loads((tmp_path / "accelerator.json").read_text())
    assert {case["part"] for case in cases} == {"small_study"}


def test_a_case_that_fails_is_written_down_and_the_next_one_runs(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    command = importlib.import_module("accelerator")

    def fails():
        raise RuntimeError("CUDA error: misaligned address\nand more")

    record = command.Record(tmp_path, "steps", time.monotonic() + 5)
    record.case("one", fails)
    assert record.case("two", lambda: {"ms": 1.23456}) == {"ms": 1.23456}
    assert record.case("three", lambda: {"ms": 1.0}, takes=60) is None
    text = (tmp_path / "accelerator.md").read_text()
    assert "3 cases, 1 failed" in text
    assert "RuntimeError: CUDA error: misaligned address (test_accelerator.py:" in text
    assert "| two | ms 1.235 |" in text
    assert "| three | skipped 5 s left, and it takes about 60 |" in text


@pytest.mark.parametrize("how", ["hangs", "dies"])
def test_a_part_that_ends_badly_leaves_the_others(tmp_path, monkeypatch, how):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    command = importlib.import_module("accelerator")
    asked = []

    def run(arguments, *, timeout, **_):
        asked.append((arguments[arguments.index("--part") + 1], timeout))
        if how == "hangs":
            raise subprocess.TimeoutExpired(arguments, timeout)
        return subprocess.CompletedProcess(arguments, -11)

    monkeypatch.setattr(command.subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["accelerator.py", "--minutes", "8", "--out", str(tmp_path)])
    assert command.main() == 1
    assert [part for part, _ in asked] == list(command.PARTS)
    assert sum(limit for _, limit in asked) > 480
    assert {case["ok"] for case in command.cases_in(tmp_path)} == {False}
