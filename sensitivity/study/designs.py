"""Designs: which configurations of an optimizer are run.

A configuration is a tuple of (name, value) pairs in the order of the arm's hyperparameters.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sensitivity.study.arms import Arm
from sensitivity.study.hyperparameters import HYPERPARAMETERS
from sensitivity.study.observed import OBSERVED

Configuration = tuple[tuple[str, float], ...]

_TOGETHER = 4
"""Number of leading Sobol dimensions that are scrambled together."""
_OWN = 48
"""Dimension of the first undeclared hyperparameter; leaves room for future declared ones."""


def configurations(arm: Arm, seed: int = 0) -> tuple[Configuration, ...]:
    """Return the distinct configurations of an arm's design that run with `seed`; deterministic.

    A grid is the full factorial, whatever the seed. With random designs every seed has its own draws, so that each run
    is a joint draw of configuration and seed; shares of runs then estimate probabilities, and seeds are independent.
    "random" draws are independent and uniform on the axes' own scales; "sobol" draws are a scrambled Sobol sequence
    (Owen 1998), one randomised replicate per seed. If two arms have the same `design_seed`, hyperparameters of
    the same name get the same quantiles, which pairs their draws. The first n draws do not depend on the total number,
    so a design can be extended by samples or seeds and keeps its runs. For searches and observed arms the result is
    empty, because their configurations are unknown before runs exist.
    """
    axes = arm.axes()
    if arm.adaptive or arm.design == OBSERVED:
        return ()
    if arm.design == "grid":
        rows = itertools.product(*(axis.grid() for axis in axes.values()))
        return tuple(tuple(zip(axes, row, strict=True)) for row in rows)
    varying = [name for name, axis in axes.items() if axis.varies]
    draws = _quantiles(arm, seed, varying)
    cells = []
    for row in draws:
        position = dict(zip(varying, row, strict=True))
        cells.append(tuple((name, axis.quantile(float(position.get(name, 0.0)))) for name, axis in axes.items()))
    return tuple(dict.fromkeys(cells))


def _quantiles(arm: Arm, seed: int, names: Sequence[str]) -> NDArray[np.float64]:
    """Return the quantiles of draws on the axes of `names`: [samples, names], in [0, 1]."""
    count = arm.samples or 0
    places = _places(names, tuple(arm.axes()))
    if arm.design == "random":
        return np.stack([_stream(arm.design_seed, seed, place).random(count) for place in places], axis=1)
    return np.stack([_sobol(arm.design_seed, seed, place, count) for place in places], axis=1)


def quantiles(names: Sequence[str], among: Sequence[str], seed: int) -> list[float]:
    """Return the quantile in [0, 1] of each hyperparameter in a seed's first random draw.

    The quantiles are those of design "random" with ``design_seed`` 0: the same for every arm that has a hyperparameter
    of that name. `among` lists all hyperparameters of the arm in order.
    """
    return [float(_stream(0, seed, place).random()) for place in _places(names, among)]


def _places(names: Sequence[str], among: Sequence[str]) -> list[int]:
    """Return the dimension of each of `names` among the arm's hyperparameters `among`."""
    order = {name: place for place, name in enumerate(HYPERPARAMETERS)}  # equal for all arms
    own = [name for name in among if name not in HYPERPARAMETERS]
    order |= {name: _OWN + place for place, name in enumerate(own)}
    return [order[name] for name in names]


def _stream(design_seed: int, seed: int, place: int) -> np.random.Generator:
    return np.random.default_rng([design_seed, seed, place])


def _sobol(design_seed: int, seed: int, place: int, count: int) -> NDArray[np.float64]:
    """Return one dimension of a scrambled Sobol sequence [count].

    Dimensions are scrambled independently, so each can be drawn alone and does not depend on the number of others. Only
    the first four are scrambled together, for compatibility with earlier draws.
    """
    from scipy.stats import qmc  # imported here because it takes a second, which workers of a grid don't need to spend

    stream = [design_seed, seed] if place < _TOGETHER else [design_seed, seed, place]
    # Drawing 2^m points and truncating keeps the prefix property and avoids scipy's warning about unbalanced counts.
    sampler = qmc.Sobol(max(place + 1, _TOGETHER), scramble=True, rng=np.random.default_rng(stream))
    points: NDArray[np.float64] = sampler.random_base2(max(count - 1, 0).bit_length())[:count, place]
    return points


def stand_ins(arm: Arm, count: int) -> tuple[Configuration, ...]:
    """Return up to `count` configurations spread over a search's box, to estimate its cost."""
    return configurations(arm.model_copy(update={"design": "sobol", "device_hours": None, "samples": count}))
