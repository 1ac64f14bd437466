"""Files that would take the place of installed packages where their folder comes first on Python's path."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.machinery import PathFinder
from pathlib import Path

_STANDARD = sys.stdlib_module_names - {"test", "this", "antigravity"}
"""Modules of Python itself; those left out are imported by nobody, and `test.py` is what many call a script."""


def shadowing_files(files: Iterable[Path], folder: Path) -> tuple[Path, ...]:
    """Return the modules and packages right below `folder` that have the name of a standard or installed module.

    Args:
        files: in `folder`, at any depth.
        folder: that would come first.
    """
    modules: dict[str, Path] = {}
    for file in files:
        parts = file.relative_to(folder).parts
        if len(parts) == 1 and file.suffix == ".py":
            modules[file.stem] = file
        elif len(parts) == 2 and parts[1] == "__init__.py":
            modules[parts[0]] = file.parent
    places = [place for place in sys.path if Path(place or ".").resolve() != folder.resolve()]
    return tuple(path for name, path in sorted(modules.items()) if name in _STANDARD or _is_found(name, places))


def _is_found(name: str, places: list[str]) -> bool:
    spec = PathFinder.find_spec(name, places)
    return spec is not None and spec.origin is not None
