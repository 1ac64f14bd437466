"""torchvision's data sets, also where its compiled operators do not load.

The torchvision of a package index is built for an accelerator's torch. Beside a torch for CPUs its operators (boxes,
regions) are absent, and importing it fails, although its data sets need none of them.
"""

from __future__ import annotations

import functools
import importlib
import re
from types import ModuleType

import torch

from sensitivity.study.errors import UserError

_ABSENT = re.compile(r"operator torchvision::(\w+) does not exist")
_MOST_OPERATORS = 100
_named: list[torch.library.Library] = []
"""Kept, because a library that is collected takes its operators with it."""


@functools.cache
def torchvision_datasets() -> ModuleType:
    """Import ``torchvision.datasets``, naming the operators that do not load, so that their mention does no harm.

    A named operator has no implementation: calling one still fails.

    Raises:
        UserError: it is not installed, or does not fit this torch.
    """
    for _ in range(_MOST_OPERATORS):
        try:
            return importlib.import_module("torchvision.datasets")
        except RuntimeError as error:
            absent = _ABSENT.search(str(error))
            if absent is None:
                raise _misfit(str(error)) from None
            library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
            library.define(f"{absent[1]}() -> ()")  # type: ignore[no-untyped-call]
            _named.append(library)
        except ImportError as error:
            raise _misfit(str(error)) from None
    raise _misfit("its operators are absent")


def _misfit(reason: str) -> UserError:
    return UserError(
        f"torchvision can't be imported ({reason.splitlines()[0]})\n"
        f"  Install the release that fits torch {torch.__version__}: python -m pip install --upgrade torchvision"
    )
