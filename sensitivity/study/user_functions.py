"""Functions of the user's own code, by import path."""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Callable, Iterator
from typing import Any

from sensitivity.study.errors import UserError
from sensitivity.study.nearest import nearest
from sensitivity.study.users_code import users_code

IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
"""Something in the user's code: "module:name"."""


def import_function(path: str, field: str) -> Callable[..., Any]:
    """Return the function that ``"module:function"`` names; `field` of the study file names it in messages.

    Raises:
        UserError: there is none, or importing its module raises.
    """
    module_name, _, name = path.partition(":")
    with users_code(f"{field}: {path}: importing it"), _missing_told(module_name, f"{field}: {path}"):
        module = importlib.import_module(module_name)
        found = getattr(module, name, None)
        known = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
    if found is None:
        close = nearest(name, known)
        hint = f" (did you mean {close!r}?)" if close else ""
        raise UserError(
            f"{field}: {module_name} has no function {name!r}{hint}\n  It was imported from {module.__file__}"
        )
    if not callable(found):
        raise UserError(f"{field}: {name!r} of {module_name} is a {type(found).__name__}; name a function")
    function: Callable[..., Any] = found
    return function


@contextlib.contextmanager
def _missing_told(module_name: str, where: str) -> Iterator[None]:
    """Tell a module that is not there from one that imports what is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            fix = "Put the module beside the study file, or install it in this environment"
        else:
            fix = "Its own import fails; install what it needs in this environment"
        raise UserError(f"{where}: {error}\n  {fix}") from None
