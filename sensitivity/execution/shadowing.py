"""Detection of files that would shadow installed packages if their folder came first on Python's path."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.machinery import PathFinder
from pathlib import Path

_HARMLESS = {"test", "tests", "setup", "conftest", "this", "antigravity"}
"""Names of installed modules that nothing imports and that are common names of scripts."""
_INSTALLED = {"site-packages", "dist-packages"}


def shadowing_files(files: Iterable[Path], folder: Path) -> tuple[Path, ...]:
    """Return modules and packages directly below `folder` with the name of a standard or installed module.

    Args:
        files: files in `folder`, at any depth.
        folder: folder that would come first on the path.
    """
    modules: dict[str, Path] = {}
    for file in files:
        parts = file.relative_to(folder).parts
        if len(parts) == 1 and file.suffix == ".py":
            modules[file.stem] = file
        elif len(parts) == 2 and parts[1] == "__init__.py":
            modules[parts[0]] = file.parent
    return tuple(path for name, path in sorted(modules.items()) if name not in _HARMLESS and _is_installed(name))


def _is_installed(name: str) -> bool:
    if name in sys.stdlib_module_names:
        return True
    spec = PathFinder.find_spec(name, [place for place in sys.path if _INSTALLED & set(Path(place).parts)])
    return spec is not None and spec.origin is not None
