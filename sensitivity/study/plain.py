"""Plain numbers and lists from what Python callers have: NumPy's scalars and arrays, tensors, fractions."""

from __future__ import annotations

import numbers
from decimal import Decimal
from typing import Any

_PLAIN = (bool, int, float, str, type(None))


def plain(value: Any) -> Any:
    """Return `value` with every number in it as Python's own int or float; what is no number stays as it is.

    Arrays and tensors, of any library whose arrays have `tolist`, become numbers or lists.
    """
    if type(value) in _PLAIN:
        return value
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(plain, value)) if type(value) in (list, tuple) else value
    try:
        if isinstance(value, numbers.Integral):
            return int(value)
        if isinstance(value, (numbers.Real, Decimal)):
            return float(value)
    except (ArithmeticError, ValueError):  # beyond every float: named where it is validated
        return value
    if isinstance(getattr(value, "ndim", None), int) and hasattr(value, "tolist"):
        listed = value.tolist()
        return listed if type(listed) is type(value) else plain(listed)
    return value
