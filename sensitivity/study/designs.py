"""Designs: which configurations of an optimizer are run.

A configuration is a tuple of (name, value) pairs in the order of the arm's hyperparameters.
"""

from __future__ import annotations

import itertools

import numpy as np

from sensitivity.study.arms import Arm

Configuration = tuple[tuple[str, float], ...]


def configurations(arm: Arm) -> tuple[Configuration, ...]:
    """Return the configurations of an arm's design, without repeats, the same on every call.

    A grid is the full factorial. Random draws are independent and uniform on the axes' own scales; Sobol
    draws are scrambled (Owen 1998) with `design_seed`. In both, the first n of a longer draw are the
    draws of a shorter one, so that a design can be extended and re-uses its runs. A search has none yet.
    """
    axes = arm.axes()
    if arm.adaptive:
        return ()
    if arm.design == "grid":
        rows = itertools.product(*(axis.grid() for axis in axes.values()))
        return tuple(tuple(zip(axes, row, strict=True)) for row in rows)
    varying = [name for name, axis in axes.items() if axis.varies]
    count = arm.samples or 0
    if arm.design == "random":
        draws = np.random.default_rng(arm.design_seed).random((count, len(varying)))
    else:
        from scipy.stats import qmc  # here: a second of import that every worker of a grid would wait for

        # Sobol points come in powers of two; drawing 2^m and cutting keeps the prefix property without
        # scipy's warning about unbalanced counts.
        sampler = qmc.Sobol(len(varying), scramble=True, rng=np.random.default_rng(arm.design_seed))
        draws = sampler.random_base2(max(count - 1, 0).bit_length())[:count]
    cells = []
    for row in draws:
        position = dict(zip(varying, row, strict=True))
        cells.append(tuple((name, axis.quantile(float(position.get(name, 0.0)))) for name, axis in axes.items()))
    return tuple(dict.fromkeys(cells))


def stand_ins(arm: Arm, count: int) -> tuple[Configuration, ...]:
    """Return `count` configurations all over the box of a search, or all there are: they show what it may cost."""
    return configurations(arm.model_copy(update={"design": "sobol", "device_hours": None, "samples": count}))
