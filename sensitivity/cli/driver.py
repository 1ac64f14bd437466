"""Entry point of a job on the cluster: checks the packages of its Python, then runs a command.

Only the standard library is imported before the check, so that missing packages can be reported.
"""

from __future__ import annotations

import importlib.util
import sys

_NEEDED = {
    "filelock": "filelock",
    "numpy": "numpy",
    "optuna": "optuna",
    "pandas": "pandas",
    "pyarrow": "pyarrow",
    "pydantic": "pydantic",
    "ray": "ray[default,tune]",
    "rich": "rich",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "torch": "torch",
    "torchvision": "torchvision",
    "typer": "typer",
}
"""Module that running a study imports -> distribution that contains it."""
_OLDEST_PYTHON = (3, 11)


def missing_requirements() -> str:
    """Return in words what this Python lacks to run a study; empty if nothing."""
    if sys.version_info < _OLDEST_PYTHON:
        return f"Python {sys.version.split()[0]}; a study needs {'.'.join(map(str, _OLDEST_PYTHON))} or later"
    missing = [source for module, source in _NEEDED.items() if importlib.util.find_spec(module) is None]
    return f"without {', '.join(missing)}" if missing else ""


def main() -> None:
    """Run the command, or report what to install."""
    if what := missing_requirements():
        print(
            f"error: the cluster's Python, {sys.executable}, is {what}\n"
            "  Install that on every node (best in its image), and start Ray with that environment first in PATH",
            file=sys.stderr,
        )
        sys.exit(2)
    from sensitivity.cli.main import main as command

    command()


if __name__ == "__main__":
    main()
