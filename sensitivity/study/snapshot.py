"""A snapshot of the user's code, so that every process imports exactly the code that was hashed.

The user's own problems and optimizers are named by import paths. ``take_snapshot`` reads those modules and every module
that they import (also inside functions) from the folder of the study file, or from the folder of a named module that is
located elsewhere. Each file is read once, and ``snapshot_imports`` serves these bytes to every training process, so
later changes to a file have no effect. Installed packages are not copied; their versions are recorded.

A module keeps its location: ``__file__`` is the path of the original file, so the code finds data files next to it.
Those files are not part of the snapshot; `training.identity` detects changes in the resulting data.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from sensitivity.study.errors import UserError
from sensitivity.study.problem import ProblemSpec
from sensitivity.study.session_code import MODULE

_OURS = ("sensitivity", "search_spaces", "dashboards")
_INSTALLED = {"site-packages", "dist-packages"}
_DYNAMIC = {"import_module", "__import__"}


@dataclass(frozen=True, kw_only=True)
class Module:
    """A module of the user's code."""

    name: str
    """Its full name, ``package.module``."""
    path: str
    """Path of the original file; empty for a folder without ``__init__.py``."""
    source: bytes
    locations: tuple[str, ...] | None
    """Folders of a package's submodules; None for a plain module."""

    @cached_property
    def sha256(self) -> bytes:
        """Digest of its source."""
        return hashlib.sha256(self.source).digest()


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The user's modules that a study needs, excluding installed packages."""

    roots: tuple[str, ...]
    """Folders of the user's modules: first that of the study file, then those of named modules located elsewhere."""
    modules: tuple[Module, ...] = ()
    """Sorted by name; empty for shipped problems."""
    installed: tuple[Module, ...] = ()
    """Named modules of installed packages; they are hashed, but imported from the package."""

    @cached_property
    def hash(self) -> str:
        """16 hex digits that identify the content of all modules; empty if there are none."""
        by_path = {module.path: module for module in (*self.modules, *self.installed) if module.path}
        if not by_path:
            return ""
        digest = hashlib.sha256()
        for path in sorted(by_path, key=Path):
            digest.update(by_path[path].sha256)
        return digest.hexdigest()[:16]

    @cached_property
    def files(self) -> dict[str, Module]:
        """Modules that have a file, by path relative to the study file's folder, or by name if outside it."""
        folder = Path(self.roots[0])
        named = {}
        for module in (*self.modules, *self.installed):
            path = Path(module.path)
            if module.path:
                inside = path.is_relative_to(folder)
                named[path.relative_to(folder).as_posix() if inside else f"{module.name}.py"] = module
        return named


def take_snapshot(
    problem: ProblemSpec, folder: str, optimizers: Mapping[str, str] | None = None, *, code: str = ""
) -> Snapshot:
    """Read the modules that a study names and the user's modules they import, without executing them.

    Args:
        problem: the problem of the study.
        optimizers: the kind of each of its optimizers, by name.
        folder: folder of the study file, where modules are searched first.
        code: source of the module `session_code.MODULE`, if the study was given functions rather than paths.

    Raises:
        UserError: a module is not found, is compiled, or has the name of an installed one.
    """
    importlib.invalidate_caches()
    named, modules, beside = _named(problem, optimizers or {}), dict[str, Module](), list[str]()
    if code and named.pop(MODULE, ""):
        path = str(Path(folder, f"{MODULE}.py"))
        modules[MODULE] = Module(name=MODULE, path=path, source=code.encode(), locations=None)
        beside = sorted({name.partition(".")[0] for _, name in imports(modules[MODULE])})
    places = {name: _root(name.partition(".")[0], folder, field) for name, field in named.items()}
    also = [place for name in beside if (place := _place(name, folder))]
    roots = tuple(dict.fromkeys([folder, *(place for place in places.values() if place is not None), *also]))
    for given in tuple(modules.values()):
        for line, name in sorted(imports(given)):
            _add(modules, name, roots, f"{given.path}:{line}")
    for name, field in sorted(named.items()):
        if places[name] is not None:
            _add(modules, name, roots, field)
            if name not in modules:
                raise _not_found(name, field)
    installed = [_read_installed(name, field) for name, field in sorted(named.items()) if places[name] is None]
    return Snapshot(roots=roots, modules=tuple(modules[name] for name in sorted(modules)), installed=tuple(installed))


def find_module(name: str, parent: Module | None, roots: Sequence[str], asked_by: str) -> Module | None:
    """Read a module of the user's code; None if there is no such module.

    Args:
        name: its full name.
        parent: the package it belongs to, if any.
        roots: folders in which top-level modules are searched.
        asked_by: the importing place, for messages.

    Raises:
        UserError: it is compiled, can't be read, or has the name of an installed module.
    """
    if parent is None:
        spec = None if "." in name else PathFinder.find_spec(name, list(roots))
    else:
        spec = PathFinder.find_spec(name, list(parent.locations or ()))
    if spec is None:
        return None
    if spec.origin is None:  # a folder without __init__.py; any other module of the same name takes precedence
        if parent is None and is_installed(name):
            return None
        return Module(name=name, path="", source=b"", locations=tuple(spec.submodule_search_locations or ()))
    path = Path(spec.origin).absolute()
    if parent is None and is_installed(name):
        raise UserError(
            f"{asked_by}: {path} has the name of an installed module, {name!r}\n"
            "  Rename yours, because one would be imported instead of the other"
        )
    if path.suffix != ".py":
        raise UserError(
            f"{asked_by}: {path} is compiled, so its source can't be stored with the study\n"
            "  Install it as a package in this environment, on every node, and import it from there"
        )
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UserError(f"{asked_by}: {path} can't be read ({error.strerror}); allow reading, or remove it") from None
    locations = None if spec.submodule_search_locations is None else tuple(spec.submodule_search_locations)
    return Module(name=name, path=str(path), source=source, locations=locations)


def is_installed(name: str) -> bool:
    """Whether a top-level module belongs to the standard library, an installed package, or this one."""
    if name in _OURS or name in sys.stdlib_module_names:
        return True
    places = [entry for entry in sys.path if _in_environment(Path(entry or ".").resolve())]
    spec = PathFinder.find_spec(name, places)
    return spec is not None and spec.origin is not None


def spec_elsewhere(name: str, roots: Sequence[str]) -> ModuleSpec | None:
    """Return the spec of a top-level module on the path outside the user's folders; None if there is none."""
    places = [entry for entry in sys.path if str(Path(entry or ".").resolve()) not in roots]
    spec = PathFinder.find_spec(name, places)
    return None if spec is None or spec.origin is None else spec


def _named(problem: ProblemSpec, optimizers: Mapping[str, str]) -> dict[str, str]:
    """Return the modules that a study names, each with its field, or the last field that names it."""
    named = {f"optimizers.{name}.kind": kind for name, kind in optimizers.items()}
    named |= {f"problem.{field}": path for field, path in problem.named_code().items()}
    return {path.partition(":")[0]: field for field, path in named.items() if ":" in path}


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: k + 1]) for k in range(len(parts))]


def _not_found(name: str, field: str) -> UserError:
    return UserError(
        f"{field}: module {name!r} is not found\n  Put it next to the study file, or install it in this environment"
    )


def _read_installed(name: str, field: str) -> Module:
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, SyntaxError, ValueError):  # from importing a parent package; __main__ has no spec
        found = None
    if found is None or found.origin is None or not Path(found.origin).is_file():
        raise _not_found(name, field)
    path = Path(found.origin).resolve()
    return Module(name=name, path=str(path), source=path.read_bytes(), locations=None)


def _root(name: str, folder: str, field: str) -> str | None:
    """Return the folder of a named top-level module; None if it belongs to an installed package."""
    place = _place(name, folder)
    if place == "":
        raise _not_found(name, field)
    return place


def _place(name: str, folder: str) -> str | None:
    """Return the folder of a user's top-level module; None if it is installed, "" if it does not exist."""
    spec = PathFinder.find_spec(name, [folder])
    if spec is not None and not (spec.origin is None and is_installed(name)):
        return folder
    if name in sys.stdlib_module_names or name in _OURS:
        return None
    for finder in sys.meta_path:  # editable installs may use their own finder
        found = finder.find_spec(name, None)
        if found is not None and found.origin is not None:
            path = Path(found.origin).resolve()
            above = path.parents[1 if found.submodule_search_locations is not None else 0]
            return None if _in_environment(path) else str(above)
        if found is not None and found.submodule_search_locations:
            above = Path(next(iter(found.submodule_search_locations))).resolve().parent
            return None if _in_environment(above) else str(above)
    return ""


def _in_environment(path: Path) -> bool:
    """Whether a path belongs to the standard library or to the installed packages."""
    library = [Path(sysconfig.get_paths()[name]).resolve() for name in ("stdlib", "platstdlib")]
    return bool(_INSTALLED & set(path.parts)) or any(path.is_relative_to(each) for each in library)


def _add(modules: dict[str, Module], name: str, roots: Sequence[str], asked_by: str) -> None:
    """Add a module, its parent packages, and everything they import."""
    waiting = [(prefix, asked_by) for prefix in reversed(_prefixes(name))]
    while waiting:
        each, by = waiting.pop()
        package = each.rpartition(".")[0]
        if each in modules or (package and package not in modules):
            continue
        if (module := find_module(each, modules.get(package), roots, by)) is None:
            continue
        modules[each] = module
        for line, imported in sorted(imports(module)):
            waiting += [(prefix, f"{module.path}:{line}") for prefix in reversed(_prefixes(imported))]


def imports(module: Module) -> Iterator[tuple[int, str]]:
    """Yield line and full name of each possible import, from import statements and dynamic imports of literal names.

    ``from a import b`` yields ``a`` and ``a.b``, which may not be a module.
    """
    try:
        tree = ast.parse(module.source)
    except (SyntaxError, ValueError):  # reported when the module is imported
        return
    package = module.name if module.locations is not None else module.name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, package)
            if base:
                yield node.lineno, base
                yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names if alias.name != "*")
        elif isinstance(node, ast.Call) and (name := _literal(node)):
            yield node.lineno, name


def _base(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    return ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])


def _literal(node: ast.Call) -> str:
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    first: Sequence[ast.expr] = node.args[:1]
    if called in _DYNAMIC and first and isinstance(first[0], ast.Constant) and isinstance(first[0].value, str):
        return first[0].value.lstrip(".")
    return ""
