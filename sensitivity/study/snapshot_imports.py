"""Import from a snapshot, in the process that checks a study and in those that train.

The folder of the study file need not be on the path, and its files are used only through the snapshot: a file never
shadows an installed package of the same name, and importing a module that the snapshot lacks is an error rather than
reading its current content.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import linecache
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from sensitivity.study.errors import UserError
from sensitivity.study.snapshot import Module, Snapshot, find_module, is_installed, spec_elsewhere


def use_snapshot(snapshot: Snapshot) -> SnapshotFinder:
    """Restrict this process's imports of user code to a snapshot; another call replaces the snapshot.

    Modules of the same names that were imported from elsewhere or from an earlier version are imported again.
    """
    if (current := _current()) is not None:
        if current.snapshot == snapshot:
            return current
        sys.meta_path.remove(current)
        _forget({module.name for module in current.snapshot.modules} - _same(current.snapshot, snapshot))
    finder = SnapshotFinder(snapshot)
    if snapshot.modules or snapshot.installed:
        _forget({module.name for module in snapshot.modules if not _is_loaded_from(module)})
        sys.meta_path.insert(0, finder)
    return finder


@contextlib.contextmanager
def own_imports_kept() -> Iterator[None]:
    """Restore this process's imports on exit from the block.

    Thus a notebook keeps the modules it has imported, and can import others.
    """
    before, loaded = _current(), dict(sys.modules)
    try:
        yield
    finally:
        current = _current()
        if current is not None and current is not before:
            sys.meta_path.remove(current)
            for module in current.snapshot.modules:
                sys.modules.pop(module.name, None)
            sys.modules.update({name: loaded[name] for name in loaded.keys() - sys.modules.keys()})


def _current() -> SnapshotFinder | None:
    return next((each for each in sys.meta_path if isinstance(each, SnapshotFinder)), None)


def _same(one: Snapshot, other: Snapshot) -> set[str]:
    """Return the names of all modules if both snapshots are equal, otherwise none: any change may affect all."""
    return {module.name for module in one.modules} if one.modules == other.modules else set()


def _is_loaded_from(module: Module) -> bool:
    loaded = sys.modules.get(module.name)
    return loaded is None or getattr(getattr(loaded, "__loader__", None), "module", None) == module


def _forget(names: set[str]) -> None:
    for name in names:
        sys.modules.pop(name, None)


class SnapshotFinder(importlib.abc.MetaPathFinder):
    """An import finder for the modules of a snapshot, which takes precedence over all others."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._roots = snapshot.roots
        self._installed = snapshot.installed
        self._modules = {module.name: module for module in snapshot.modules}
        self._recording = False

    @property
    def snapshot(self) -> Snapshot:
        """The current snapshot, including recorded modules."""
        modules = tuple(self._modules[name] for name in sorted(self._modules))
        return Snapshot(roots=self._roots, modules=modules, installed=self._installed)

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Inside the block, add modules of the study's folder to the snapshot when they are imported.

        This is used while a study is checked, because imports of names computed at run time can't be found statically.
        Outside the block, such imports are refused.
        """
        self._recording = True
        try:
            yield
        finally:
            self._recording = False

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of a module in the snapshot; None defers to Python's finders.

        Raises:
            UserError: the module is in the study's folder but not part of the snapshot.
        """
        if (module := self._modules.get(name)) is not None:
            return _spec(module)
        package = name.rpartition(".")[0]
        if package:
            if package not in self._modules:
                return None
        elif importlib.machinery.PathFinder.find_spec(name, list(self._roots)) is None:
            return None
        elif (elsewhere := spec_elsewhere(name, self._roots)) is not None or is_installed(name):
            return elsewhere  # not the file of the same name here, even if this folder is first on the path
        found = find_module(name, self._modules.get(package), self._roots, f"import {name}")
        if found is None:
            return None
        if not self._recording:
            raise UserError(
                f"{found.path or found.name}: imported only now, so it was not checked when the study was "
                f'planned\n  Name it in an import statement: "import {name}", in a module that the study names'
            )
        self._modules[name] = found
        return _spec(found)


def _spec(module: Module) -> importlib.machinery.ModuleSpec | None:
    if not module.path:
        spec = importlib.machinery.ModuleSpec(module.name, None, is_package=True)
        spec.submodule_search_locations = list(module.locations or ())
        return spec
    locations = None if module.locations is None else list(module.locations)
    return importlib.util.spec_from_file_location(
        module.name, module.path, loader=_Loader(module), submodule_search_locations=locations
    )


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a module's source from the snapshot; other files of its package are read from disk."""

    def __init__(self, module: Module) -> None:
        super().__init__(module.name, module.path)
        self.module = module

    def get_data(self, path: str) -> bytes:
        """Return the module's source; other files are read from disk."""
        return self.module.source if Path(path) == Path(self.module.path) else super().get_data(path)

    def path_stats(self, path: str) -> Any:
        """Prevent Python from reading or writing bytecode files, which would belong to the current file."""
        raise OSError

    def exec_module(self, module: ModuleType) -> None:
        """Run the module; tracebacks and `inspect` show the lines of the snapshot."""
        text = importlib.util.decode_source(self.module.source)
        linecache.cache[self.module.path] = (len(text), None, text.splitlines(keepends=True), self.module.path)
        super().exec_module(module)
