"""Support for functions and classes passed as objects instead of ``"module:function"`` paths.

Objects that can be imported from a module are replaced by their import path. The source of objects defined in a
notebook or script is stored as the module `MODULE`, together with the globals it uses: imports, other functions and
classes, and plain constants. The module does not depend on the order of the cells, so that running a notebook again
continues the same study. Other globals (an array, a network) are rejected because they can't be recreated in another
process.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import PurePath
from types import FunctionType, ModuleType
from typing import Any

from pydantic import BaseModel

from sensitivity.study.errors import StudyFileError, UserError
from sensitivity.study.session_source import Definition, find_definition
from sensitivity.study.words import kind_of

MODULE = "study_code"
"""Name of the module that contains the session's definitions."""
_MOST_CONSTANT = 10_000
"""Maximum characters of a constant in the source."""
_FIX = "or move the function to a module next to the notebook and import it from there"


def with_import_paths(fields: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the fields of a study with an import path for every function, and the source of `MODULE` ("" for none).

    Raises:
        StudyFileError: lists the functions that can't be stored, each with its field.
    """
    code, mistakes = _SessionCode(), []

    def named(value: Any, field: str) -> Any:
        if isinstance(value, Mapping):
            return {name: named(each, f"{field}.{name}" if field else str(name)) for name, each in value.items()}
        if not callable(value) or isinstance(value, BaseModel):
            return value
        try:
            return _path(value) or f"{MODULE}:{code.add(value)}"
        except UserError as error:
            mistakes.append(f"{field}: {error}")
            return value

    ready = named(fields, "")
    if mistakes:
        raise StudyFileError("study", mistakes)
    return ready, code.text()


def _path(value: Any) -> str | None:
    """Return the import path of a function or class; None if it is defined in this session only."""
    module, name = getattr(value, "__module__", None), str(getattr(value, "__qualname__", ""))
    if module is None or not _is_importable(module) or getattr(sys.modules[module], name, None) is not value:
        return None
    return f"{module}:{name}"


def _is_importable(module: str) -> bool:
    return module != "__main__" and getattr(sys.modules.get(module), "__spec__", None) is not None


class _SessionCode:
    """Builds a module from definitions made in this session."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        """Value of each name."""
        self._imports: set[str] = set()
        self._constants: dict[str, str] = {}
        self._definitions: list[str] = []
        """Source texts, each after those it depends on, such as base classes and decorators."""
        self._postponed = False

    def text(self) -> str:
        """Return the source of the module."""
        future = ["from __future__ import annotations"] if self._postponed else []
        constants = [f"{name} = {text}" for name, text in sorted(self._constants.items())]
        blocks = [future, sorted(self._imports), constants]
        heads = ["\n".join(block) + "\n" for block in blocks if block]
        return "\n\n".join(["\n".join(heads), *self._definitions] if heads else self._definitions)

    def add(self, value: Any) -> str:
        """Add a function or class with its dependencies, and return its name.

        Raises:
            UserError: it or one of its dependencies can't be stored.
        """
        if not isinstance(value, (FunctionType, type)) and not hasattr(value, "__wrapped__"):
            raise UserError(f"got {kind_of(value)}; give a function or a class that builds it")
        name, qualified = str(value.__name__), str(value.__qualname__)
        if name == "<lambda>":
            raise UserError("a lambda has no name; write it as a function: def name(...)")
        if qualified != name:
            raise UserError(
                f"{qualified.replace('.<locals>', '')} is defined inside another function or class, on whose variables "
                "it may depend; define it at the top level"
            )
        if name in self._values:
            if self._values[name] is not value:
                raise UserError(f"two different objects are named {name!r}; run their cells again, or rename one")
            return name
        self._values[name] = value
        found = find_definition(value)
        if isinstance(found, str):
            raise UserError(f"{name}: {found}; {_FIX.removeprefix('or ')}")
        self._postponed |= found.postponed
        for needed in sorted(found.global_names() & found.namespace.keys() - {name}):
            self._need(needed, found.namespace[needed], found, by=name)
        self._definitions.append(found.text)
        return name

    def _need(self, name: str, value: Any, where: Definition, *, by: str) -> None:
        """Add the value of a name that a definition uses.

        Raises:
            UserError: the value can't be stored.
        """
        if name.startswith("__") and name.endswith("__"):
            return
        if (text := _literal(value)) is not None:
            self._add_constant(name, value, text, by=by)
        elif statements := _imports(name, value, where):
            self._imports |= statements
        elif isinstance(value, (FunctionType, type)) or hasattr(value, "__wrapped__"):
            if value.__name__ not in (name, "<lambda>"):
                raise UserError(f"{by} uses {name!r}, which was defined as {value.__name__!r}; use that name")
            try:
                self.add(value)
            except UserError as error:
                raise UserError(f"{by} uses {name!r}: {error}") from None
        else:
            kind = type(value)
            raise UserError(
                f"{by} uses {name!r}, a global variable of type {kind.__module__}.{kind.__qualname__}, which can't be "
                f"recreated in another process; create it inside {by}, {_FIX}"
            )

    def _add_constant(self, name: str, value: Any, text: str, *, by: str) -> None:
        if len(text) > _MOST_CONSTANT:
            raise UserError(
                f"{by} uses {name!r}, a constant of {len(text):,} characters; read it from a file inside {by}"
            )
        if self._values.setdefault(name, value) != value:
            raise UserError(f"two different objects are named {name!r}; rename one")
        self._constants[name] = text
        if isinstance(value, PurePath):
            self._imports.add(f"from pathlib import {type(value).__name__}")


def _imports(name: str, value: Any, where: Definition) -> set[str]:
    """Return the import statements that bind `value` to `name`; empty if none can."""
    if isinstance(value, ModuleType):
        if not _is_importable(value.__name__):
            return set()
        known = value.__name__
        renamed = f"import {known} as {name}" if name != known else f"import {known}"
        return {renamed, *(f"import {below}" for below in where.submodules(name, value))}
    if (path := _path(value)) is not None:
        module, _, own = path.partition(":")
        return {f"from {module} import {own}" + (f" as {name}" if name != own else "")}
    statement = where.import_statement(name, value)
    return set() if statement is None else {statement}


def _literal(value: Any) -> str | None:
    """Return a constant or a path as source text; None for any other value."""
    if value is None or type(value) in (bool, int, str, bytes) or (type(value) is float and math.isfinite(value)):
        return repr(value)
    if isinstance(value, PurePath):
        return repr(value)
    if type(value) in (list, tuple, dict):
        parts = [part for pair in value.items() for part in pair] if isinstance(value, dict) else value
        return repr(value) if all(_literal(p) is not None and not isinstance(p, PurePath) for p in parts) else None
    return None
