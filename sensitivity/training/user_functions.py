"""Functions of the user's own code, by import path."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from sensitivity.study.errors import UserError


def import_function(path: str, field: str) -> Callable[..., Any]:
    """Return the function that ``"module:function"`` names; `field` of the study file names it in messages.

    Raises:
        UserError: there is none, or importing its module raises.
    """
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{field}: {path}: {error}\n  Put the module beside the study file, or install it in this environment"
        ) from None
    except Exception as error:
        raise UserError(f"{field}: {path}: importing it raises {type(error).__name__}: {error}") from None
    found = getattr(module, name, None)
    if not callable(found):
        raise UserError(f"{field}: {module_name} has no function {name!r}")
    function: Callable[..., Any] = found
    return function
