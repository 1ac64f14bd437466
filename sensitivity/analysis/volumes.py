"""Volume of the region where a function on a rectangular grid is at most zero, by linear interpolation.

The length inside along the last axis is exact for the interpolant; the other axes are refined between grid points and
summed. The error is of the order of the squared spacing, whereas counting cells has one of the order of the spacing.

Arrays: values are [replicates, *grid].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sensitivity.analysis.estimates import Floats

_REFINEMENT = {2: 16, 3: 4}
"""Number of parts of each interval along every axis but the last, by dimension; 2 in higher dimensions."""


def volume_below_zero(values: Floats, axes: Sequence[Floats]) -> Floats:
    """Return the volume of {values <= 0} for each replicate [replicates].

    `axes` contains the ascending positions of the grid along each axis. Values must be finite.
    """
    dimension = len(axes)
    pieces = _REFINEMENT.get(dimension, 2)
    weights = []
    for number, axis in enumerate(axes[:-1], start=1):
        values, weight = _refined(values, axis, number, pieces)
        weights.append(weight)
    lengths = _inside(values) @ np.diff(axes[-1])
    for weight in reversed(weights):
        lengths = lengths @ weight
    return np.asarray(lengths)


def _inside(values: Floats) -> Floats:
    """Return the fraction of each interval of the last axis on which the interpolant is at most zero."""
    left, right = values[..., :-1], values[..., 1:]
    below = np.maximum(-left, 0.0) + np.maximum(-right, 0.0)
    total = np.abs(left) + np.abs(right)
    return np.where(total > 0, below / np.where(total > 0, total, 1.0), 1.0)


def _refined(values: Floats, axis: Floats, number: int, pieces: int) -> tuple[Floats, Floats]:
    """Return `values` interpolated along axis `number` at the midpoints of `pieces` parts per interval, and widths."""
    share = (np.arange(pieces) + 0.5) / pieces
    moved = np.moveaxis(values, number, -1)[..., None]
    between = moved[..., :-1, :] * (1 - share) + moved[..., 1:, :] * share
    flat = between.reshape(*between.shape[:-2], -1)
    return np.moveaxis(flat, -1, number), np.repeat(np.diff(axis) / pieces, pieces)
