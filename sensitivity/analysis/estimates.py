"""``Estimate``: a number with its interval, its n, what the interval covers, and why there may be none.

Failure is a value: a quantity that would mislead has ``value`` NaN and ``refused`` saying why, and what to do
instead. ``Caution`` is one such reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sensitivity.analysis.intervals import LEVEL, t_half_width

Floats = NDArray[np.float64]
Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Caution:
    """A reason not to conclude too much."""

    code: str
    """A stable name, such as edge, few-seeds, adaptive."""
    text: str


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A quantity with its 95% interval."""

    value: float
    """NaN where there is none, or where it was refused."""
    interval: Interval | None = None
    """None where it can't be had; a side without a bound is infinite."""
    n: int = 0
    of: str = "seeds"
    """What n counts: seeds, runs, configurations."""
    covers: str = ""
    """What the interval covers; empty without one."""
    warnings: tuple[Caution, ...] = ()
    refused: Caution | None = None

    @property
    def known(self) -> bool:
        """Whether there is a value."""
        return not math.isnan(self.value)


SEED_NOISE = "seed noise (Student's t)"


def refuse(code: str, text: str) -> Estimate:
    """Return the estimate that is refused for `text`."""
    return Estimate(value=math.nan, refused=Caution(code=code, text=text))


NO_SCATTER = Caution(
    code="no-scatter",
    text="All seeds agree exactly, as coarse measurements do, so their scatter says nothing of the uncertainty.",
)


def mean_over_seeds(
    per_seed: Floats,
    back: Callable[[float], float] = float,
    *,
    widen: float = 1.0,
    bias: float = 0.0,
    level: float = LEVEL,
) -> Estimate:
    """Return the mean of one value a seed with Student's t interval, each carried through the rising `back`.

    `per_seed` is [seeds]; `widen` is a factor on the interval's width, for seeds that aren't independent; `bias` is how
    far the mean may be off besides, which the interval holds too. There is no interval with one seed, with values that
    are not finite, and where all seeds agree exactly and `bias` is 0.
    """
    n = len(per_seed)
    if n == 0:
        return Estimate(value=math.nan)
    mean = float(per_seed.mean())
    if n == 1 or not np.isfinite(per_seed).all():
        return Estimate(value=back(mean), n=n)
    alike = bool(np.ptp(per_seed) <= 1e-12 * abs(mean))
    warnings = (NO_SCATTER,) if alike else ()
    if alike and bias == 0:
        return Estimate(value=back(mean), n=n, warnings=warnings)
    half = bias + widen * float(t_half_width(per_seed.std(ddof=1), n, level))
    covers = SEED_NOISE + (" and the spacing of evaluations" if bias else "")
    return Estimate(
        value=back(mean), interval=(back(mean - half), back(mean + half)), n=n, covers=covers, warnings=warnings
    )
