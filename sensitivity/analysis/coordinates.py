"""Hyperparameters in decades: the coordinates in which a box is log-uniform and a width means something.

Learning rate, damping and weight decay are measured by log10. Momentum m is measured by -log10(1 - m), because a
step's reach in time is 1 / (1 - m): 0.9 and 0.99 are a decade apart, as lr / (1 - m) has it. A zero of a
hyperparameter that log10 measures has no place.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from sensitivity.analysis.estimates import Floats


def decades(name: str, values: ArrayLike) -> Floats:
    """Return `values` of the hyperparameter `name` in decades; NaN where it has none."""
    array = np.asarray(values, dtype=float)
    positive = 1.0 - array if name == "momentum" else array
    found = np.log10(np.where(positive > 0, positive, np.nan))
    return -found if name == "momentum" else found


def from_decades(name: str, value: float) -> float:
    """Return the hyperparameter's value at `value` decades."""
    return 1.0 - math.pow(10.0, -value) if name == "momentum" else math.pow(10.0, value)
