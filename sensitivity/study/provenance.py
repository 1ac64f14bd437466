"""What made a result: code, packages, machine, and the user's own source."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
from pathlib import Path

from sensitivity.study.errors import UserError
from sensitivity.study.spec import IMAGE_FOLDER, ProblemSpec
from sensitivity.study.users_code import users_code

CODE_VERSION_VARIABLE = "SENSITIVITY_CODE_VERSION"
"""Where this source was sent to a cluster, it has no git checkout there; its sender tells what it is."""
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
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def code_version() -> str:
    """Return the package's version; from a git checkout also the commit, and ``.dirty`` if its code is changed."""
    if (told := os.environ.get(CODE_VERSION_VARIABLE)) is not None:
        return told
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
    """Return the hardware and system, in words."""
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


def modules_found(problem: ProblemSpec) -> tuple[Path, ...]:
    """Return the files of the modules that the problem's import paths name, without importing them.

    Raises:
        UserError: a module is not found.
    """
    files = []
    named = {"model": problem.model, "dataset": problem.dataset}  # the data set's field is told where both name one
    fields = {
        path.partition(":")[0]: field
        for field, path in named.items()
        if ":" in path and not path.startswith(IMAGE_FOLDER)
    }
    for module, field in sorted(fields.items()):
        with users_code(f"problem.{field}: importing the package of {module}"):
            try:
                found = importlib.util.find_spec(module)
            except (ModuleNotFoundError, ValueError):  # of a parent package; __main__ has no spec
                found = None
        if found is None or found.origin is None or not Path(found.origin).is_file():
            raise UserError(
                f"problem.{field}: module {module!r} is not found\n"
                "  Put it beside the study file, or install it in this environment"
            )
        files.append(Path(found.origin).resolve())
    return tuple(files)


def source_hash(problem: ProblemSpec, folder: str) -> str:
    """Return the hash of the user's own code; empty for a shipped problem.

    It covers the modules that the problem names and every module that is loaded from below `folder`, where the study
    file lies: those that they import, once they have been imported. Files that they read are not covered.

    Raises:
        UserError: a module is not found.
    """
    named = modules_found(problem)
    if not named:
        return ""
    # The study file may lie in a checkout of this package, or above a virtual environment.
    others = (Path(__file__).resolve().parents[1], Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve())
    named_files = [Path(str(m.__file__)) for m in list(sys.modules.values()) if getattr(m, "__file__", None)]
    # torch.classes calls its file "_classes.py", which in the study's own folder would be one of the user's.
    loaded = {file.resolve() for file in named_files if file.is_absolute()}
    beside = {
        path
        for path in loaded
        if path.suffix == ".py"
        and path.is_relative_to(Path(folder).resolve())
        and not any(path.is_relative_to(other) for other in others)
    }
    digest = hashlib.sha256()
    for path in sorted({*named, *beside}):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]
