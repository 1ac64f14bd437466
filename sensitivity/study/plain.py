"""Convert NumPy scalars and arrays, tensors and fractions to plain numbers and lists."""

from __future__ import annotations

import numbers
from decimal import Decimal
from typing import Any

_PLAIN = (bool, int, float, str, type(None))


def plain(value: Any) -> Any:
    """Return `value` with every number converted to a Python int or float; other values are unchanged.

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
    except (ArithmeticError, ValueError):  # too large for a float; validation reports it
        return value
    if isinstance(getattr(value, "ndim", None), int) and hasattr(value, "tolist"):
        listed = value.tolist()
        return listed if type(listed) is type(value) else plain(listed)
    return value
