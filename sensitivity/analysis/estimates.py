"""``Estimate``: a number with its confidence interval, its n, and the source of uncertainty that the interval covers.

An estimate that would be misleading is refused: its ``value`` is NaN, and ``refused`` states the reason and what to do
instead. ``Caution`` is such a reason, or a warning.
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
    """A limitation of a result, or the reason why it is refused."""

    code: str
    """Stable identifier, such as "edge", "few-seeds" or "adaptive"."""
    text: str
    """The limitation in words, with what to do about it."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A quantity with its 95% confidence interval."""

    value: float
    """The estimate; NaN if there is none, or if it is refused."""
    interval: Interval | None = None
    """Lower and upper end, infinite if unbounded; None without an interval."""
    n: int = 0
    """Number of observations."""
    of: str = "seeds"
    """Kind of observation that n counts: seeds, runs, configurations."""
    covers: str = ""
    """Source of uncertainty that the interval covers; empty without an interval."""
    warnings: tuple[Caution, ...] = ()
    refused: Caution | None = None
    """Reason why there is no value; None if there is one."""

    @property
    def known(self) -> bool:
        """Whether there is a value."""
        return not math.isnan(self.value)


SEED_NOISE = "seed noise (Student's t)"


def refuse(code: str, text: str) -> Estimate:
    """Return an estimate without a value, refused for the reason `text`."""
    return Estimate(value=math.nan, refused=Caution(code=code, text=text))


NO_SCATTER = Caution(
    code="no-scatter",
    text="All seeds agree exactly, as coarse measurements do, so their scatter does not show the uncertainty.",
)


def mean_over_seeds(
    per_seed: Floats,
    back: Callable[[float], float] = float,
    *,
    widen: float = 1.0,
    bias: float = 0.0,
    level: float = LEVEL,
) -> Estimate:
    """Return the mean over seeds with Student's t interval, both transformed by the increasing function `back`.

    `per_seed` is [seeds], one value each. `widen` is a factor on the width of the interval, for seeds that aren't
    independent; `bias` bounds the bias of the mean and is added to the interval. There is no interval with one seed,
    with values that are not finite, or if all seeds agree exactly and `bias` is 0.
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
