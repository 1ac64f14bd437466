"""Assignment of seeds to selecting the best configuration and to evaluating it.

The best of many noisy configurations looks too good on the runs that selected it, the winner's curse
(docs/statistics.md, section 2). The method depends on the number of seeds:

* split: with four seeds or more, the first half selects and the second half evaluates;
* cross-fitted: with two or three, each seed evaluates the configuration that the others select. The evaluations are
  not quite independent, and intervals over them are widened. With more seeds this would not be valid: with ten, 95%
  intervals cover 86%, and a test at 5% rejects 14% of true hypotheses (simulations with near-ties);
* same-runs: with one seed, or one seed per configuration, neither is possible, and results have a caution.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Method = Literal["confirmed", "split", "cross-fitted", "same-runs"]
"""How a winner was selected and evaluated; "confirmed" means on fresh seeds that only winners were run on."""

_SPLIT_FROM = 4
_WIDENED = 1.15
"""Factor on intervals of cross-fitted seeds: three seeds then cover 92 to 95% in simulations, with or without
near-ties."""
_STRICTER = 1.7
"""Factor in tests of equivalence with cross-fitted seeds, which depend on a single tail: with 1.15, two or three seeds
falsely claim equivalence in up to 8% of studies of equal cells; with this, in 5% (``benchmarks/coverage.py``)."""


def method_for(n: int) -> Method:
    """Return how `n` seeds select and evaluate."""
    if n >= _SPLIT_FROM:
        return "split"
    return "cross-fitted" if n > 1 else "same-runs"


def first_half(n: int) -> NDArray[np.bool_]:
    """Return which of `n` ordered seeds select in a split: [seeds]."""
    return np.arange(n) < n // 2


def widening(method: Method) -> float:
    """Return the factor on the width of intervals over the evaluating seeds."""
    return _WIDENED if method == "cross-fitted" else 1.0


def equivalence_widening(method: Method) -> float:
    """Return the factor on the standard error over the evaluating seeds in a test of equivalence."""
    return _STRICTER if method == "cross-fitted" else 1.0
