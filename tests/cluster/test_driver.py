"""What a job says on a cluster whose Python lacks what a study needs."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from sensitivity.cli import driver

ROOT = Path(__file__).parents[2]


def test_a_bare_python_is_told_what_to_install():
    command = [sys.executable, "-S", "-m", "sensitivity.cli.driver", "run", "mine.toml"]  # -S: no installed packages
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: the cluster's Python, {sys.executable}, is without filelock, numpy, ")
    assert "Install that on every node" in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_is_lacking_here():
    assert driver.missing_requirements() == ""


def test_an_old_python_is_named(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    assert driver.missing_requirements().endswith("a study needs 3.11 or later")


def test_what_is_looked_for_is_what_the_package_depends_on():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.match(r"[\w-]+", line)[0] for line in project["dependencies"]}
    assert {re.match(r"[\w-]+", source)[0] for source in driver._NEEDED.values()} <= names
    oldest = re.search(r"(\d+)\.(\d+)", project["requires-python"])
    assert (int(oldest[1]), int(oldest[2])) == driver._OLDEST_PYTHON
