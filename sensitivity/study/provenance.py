"""Provenance of a result: code, packages, machine. The user's own code is handled by ``snapshot``."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

CODE_VERSION_VARIABLE = "SENSITIVITY_CODE_VERSION"
"""Set by the sender when this source is shipped to a cluster, where there is no git checkout."""
_PACKAGES = (
    "sensitivity",
    "torch",
    "torchvision",
    "pillow",
    "ray",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "pydantic",
    "plotly",
    "scikit-learn",
)


def package_versions() -> dict[str, str]:
    """Return the installed version of each package that results depend on."""
    return {name: version for name in _PACKAGES if (version := _installed(name)) is not None}


@functools.cache
def _installed(name: str) -> str | None:
    """Return a package's version, cached because the loaded packages do not change within a process."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def code_version() -> str:
    """Return the package's version; for a git checkout also the commit, and ``.dirty`` if the code was modified."""
    if (reported := os.environ.get(CODE_VERSION_VARIABLE)) is not None:
        return reported
    return _version_at(package_versions().get("sensitivity", "unknown"), Path(__file__).resolve().parents[2])


def _version_at(version: str, root: Path) -> str:
    if not (root / ".git").exists():
        return version

    def git(*arguments: str) -> str:
        return subprocess.run(
            ("git", "--no-optional-locks", "-C", str(root), *arguments), capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        dirty = ".dirty" if git("status", "--porcelain", "--", "sensitivity") else ""
        return f"{version}+{git('rev-parse', '--short=12', 'HEAD')}{dirty}"
    except (OSError, subprocess.CalledProcessError):
        return version


def machine() -> dict[str, str]:
    """Describe the hardware and operating system."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return {
        "cpu": model,
        "cores": str(os.cpu_count()),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
