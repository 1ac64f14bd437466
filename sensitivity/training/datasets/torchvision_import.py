"""Import of torchvision's data sets, even if its compiled operators can't be loaded.

The torchvision on PyPI is built for a CUDA build of torch. With a CPU build its operators (such as nms) are missing and
importing it fails, although its data sets do not need them.
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
"""Kept alive, because operators are unregistered when their library is garbage-collected."""


@functools.cache
def torchvision_datasets() -> ModuleType:
    """Import ``torchvision.datasets``, declaring the missing operators so that the import succeeds.

    A declared operator has no implementation, so calling it still fails.

    Raises:
        UserError: torchvision is not installed or is incompatible with this torch.
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
    raise _misfit("its operators are missing")


def _misfit(reason: str) -> UserError:
    return UserError(
        f"torchvision can't be imported ({reason.splitlines()[0]})\n"
        f"  Install the release for torch {torch.__version__}: python -m pip install --upgrade torchvision"
    )
