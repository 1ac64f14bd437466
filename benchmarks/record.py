"""What every record of a benchmark states first."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from pathlib import Path

from sensitivity.study.provenance import machine, package_versions


def circumstances(*packages: str) -> str:
    """Return this command, the machine with its load at this moment, and the versions of Python and `packages`."""
    known, versions = machine(), package_versions()
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    found = ", ".join([f"Python {platform.python_version()}", *(f"{name} {versions[name]}" for name in packages)])
    return f"`{command}`; {known['cpu']}, {known['cores']} cores, load {os.getloadavg()[0]:.1f} at the start; {found}"
