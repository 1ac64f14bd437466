"""Import of the user's functions by path."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from importlib.machinery import NamespaceLoader
from typing import Any

from sensitivity.study.errors import UserError
from sensitivity.study.nearest import nearest
from sensitivity.study.users_code import users_code
from sensitivity.study.words import kind_of

IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
"""Path of an object in the user's code: "module:name"."""


def import_function(path: str, field: str) -> Callable[..., Any]:
    """Return the function ``"module:function"``; `field` is its place in the study file, for messages.

    Raises:
        UserError: there is no such function, or importing its module fails.
    """
    module_name, _, name = path.partition(":")
    with users_code(f"{field}: {path}: importing it"), _missing_modules_named(module_name, f"{field}: {path}"):
        module = importlib.import_module(module_name)
        if isinstance(module.__loader__, NamespaceLoader):  # a folder without code, such as one of results
            raise ModuleNotFoundError(f"No module named {module_name!r}", name=module_name)
        found = getattr(module, name, None)
        known = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
    if found is None:
        close = nearest(name, known)
        hint = f" (did you mean {close!r}?)" if close else ""
        raise UserError(
            f"{field}: {module_name} has no function {name!r}{hint}\n  It was imported from {module.__file__}"
        )
    if not callable(found):
        raise UserError(f"{field}: {name!r} of {module_name} is {kind_of(found)}; give a function")
    function: Callable[..., Any] = found
    return function


@contextlib.contextmanager
def _missing_modules_named(module_name: str, where: str) -> Iterator[None]:
    """Distinguish a missing module from one that imports a missing package."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            fix = "Put the module next to the study file, or install it in this environment"
        else:
            fix = "The module imports a missing package; install it in this environment"
        raise UserError(f"{where}: {error}\n  {fix}") from None


def signature(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return a function's parameters by name; empty for classes implemented in C, which have no signature."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def fitted_arguments(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Convert arguments to int or tuple if the function's defaults have these types.

    Values written as ``{ fixed = ... }`` in a study file are unwrapped.
    """
    known, fitted = signature(function), {}
    for name, value in given.items():
        plain = value["fixed"] if isinstance(value, Mapping) else value
        default = known[name].default if name in known else None
        if isinstance(plain, float) and plain == int(plain) and type(default) is int:
            plain = int(plain)
        elif isinstance(plain, list) and isinstance(default, tuple):
            plain = tuple(plain)
        fitted[name] = plain
    return fitted


def check_arguments(
    function: Callable[..., Any],
    path: str,
    arguments: Mapping[str, Any],
    *,
    given: int,
    also: Mapping[str, tuple[str, ...]] | None = None,
) -> None:
    """Reject unknown arguments and missing required ones.

    Args:
        function: the function to call.
        path: its name in messages.
        arguments: the arguments by name, in addition to the positional ones.
        given: number of positional arguments.
        also: further argument names that a study file may use.

    Raises:
        UserError: names the first such argument.
    """
    named = [
        each
        for each in list(signature(function).values())[given:]
        if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
    ]
    open_ended = any(each.kind is each.VAR_KEYWORD for each in signature(function).values())
    if not signature(function):  # a class implemented in C: the call reports what is wrong
        return
    names = [name for each in named for name in (also or {}).get(each.name, (each.name,))]
    taken = {each.name for each in named}
    for name in arguments:
        if name not in taken and not open_ended:
            meant = nearest(name, names)
            hint = f" (did you mean {meant!r}?)" if meant else ""
            takes = f"It takes: {', '.join(names)}" if names else "It takes no arguments"
            raise UserError(f"{name}: unknown argument of {path}{hint}. {takes}")
    for each in named:
        if each.default is each.empty and each.name not in arguments:
            raise UserError(f"{each.name}: missing; {path} has no default for it")
