"""Which seeds choose the best of many configurations, and which judge it.

The best of many noisy configurations flatters itself by the runs that chose it (docs/statistics.md, section 2). So:

* split: of four seeds or more, the first half chooses and the others judge;
* cross-fitted: of two or three, each judges what the others choose. The judgements are then not quite independent,
  and intervals over them are widened. With more seeds that would not do: at ten, intervals of 95% cover 86%, and a
  test at 5% rejects 14% of true hypotheses (simulated with near-ties);
* same-runs: with one seed, or one a configuration, neither can be done, and results say so.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Method = Literal["confirmed", "split", "cross-fitted", "same-runs"]
"""How a winner was chosen and judged; confirmed is by fresh seeds that it alone was run on."""

_SPLIT_FROM = 4
_WIDENED = 1.15
"""By how much, so that three cross-fitted seeds cover 92 to 95% in simulations with and without near-ties."""
_STRICTER = 1.7
"""By how much where equivalence is claimed, which one of the tails alone decides: with 1.15 two or three cross-fitted
seeds claim it falsely in up to 8% of studies of equal cells, with this in 5% (``benchmarks/coverage.py``)."""


def method_for(n: int) -> Method:
    """Return how `n` seeds choose and judge."""
    if n >= _SPLIT_FROM:
        return "split"
    return "cross-fitted" if n > 1 else "same-runs"


def first_half(n: int) -> NDArray[np.bool_]:
    """Return which of `n` seeds, in order, choose in a split: [seeds]."""
    return np.arange(n) < n // 2


def widening(method: Method) -> float:
    """Return the factor on the width of intervals over the judging seeds."""
    return _WIDENED if method == "cross-fitted" else 1.0


def equivalence_widening(method: Method) -> float:
    """Return the factor on the standard error over the judging seeds in a test of equivalence."""
    return _STRICTER if method == "cross-fitted" else 1.0
