"""Tests that hold at any stop: bets on blocks as they come, whose gains can't grow by chance.

A block gives the share of successes of both optimizers, `one` and `other`, each in [0, 1]. Under "the mean of `one` is
at most r times that of `other`" the payoff g = one - r other is at most zero on average, so the wealth

    E = product of (1 + lambda g),   lambda chosen before the block,

is a supermartingale: the probability that it ever reaches 1/alpha is at most alpha, however often one looks and
whenever one stops (Ville 1939; Waudby-Smith & Ramdas 2023, arXiv 2010.09686). So its largest value so far stands. It
asks nothing of the blocks but that each is independent of the earlier ones: within a block, batch sizes may share the
seed and the configuration, of which the mean is taken.

Stakes are mean(g) / mean(g^2) of the earlier blocks, at most .9 over the largest loss, and nothing on a losing side:
close to the best constant stake in the long run.

Arrays: [..., blocks]; leading dimensions are replicates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sensitivity.analysis.estimates import Floats
from sensitivity.analysis.paired import Answer

_BOLDEST = 0.9


@dataclass(frozen=True, kw_only=True)
class Anytime:
    """The largest e-values so far, of blocks in the order of their seeds; each null hypothesis has its own.

    A claim at level alpha takes 2 / alpha where one of two sides is claimed (better or worse), and 1 / alpha on both
    sides for equivalence: 40 and 20 at 5%.
    """

    blocks: int
    of: str
    """What a block is: seeds or configurations."""
    margin: float
    """The ratio of expected trials beyond which a difference matters."""
    better: float
    """Against "the candidate works at most `margin` times as often"."""
    worse: float
    """Against "the reference works at most `margin` times as often"."""
    not_better: float
    """Against "the candidate works at least `margin` times as often"."""
    not_worse: float
    """Against "the reference works at least `margin` times as often"."""
    easier: float
    """Against "the candidate works at most as often"."""
    harder: float
    """Against "the candidate works at least as often"."""

    def answer(self, alpha: float) -> Answer:
        """Return what may be claimed at level `alpha` whenever the study stops."""
        if self.better >= 2 / alpha:
            return "better"
        if self.worse >= 2 / alpha:
            return "worse"
        return "equivalent" if min(self.not_better, self.not_worse) >= 1 / alpha else "undetermined"

    def direction(self, alpha: float) -> Answer:
        """Return which one works more often, whether or not by the margin; better is the candidate."""
        if self.easier >= 2 / alpha:
            return "better"
        return "worse" if self.harder >= 2 / alpha else "undetermined"


def wealth(one: Floats, other: Floats, ratio: float, *, above: bool) -> Floats:
    """Return the wealth after each block [..., blocks], betting that one exceeds `ratio` times the other on average.

    With `above` false the bet is that it falls short of that.
    """
    payoff = one - ratio * other if above else ratio * other - one
    loss = ratio if above else 1.0  # the most that a block can take
    count = np.arange(1, payoff.shape[-1])
    mean = payoff.cumsum(axis=-1)[..., :-1] / count
    square = (payoff**2).cumsum(axis=-1)[..., :-1] / count
    stake = np.zeros_like(payoff)
    stake[..., 1:] = np.clip(mean / np.where(square > 0, square, 1.0), 0.0, _BOLDEST / loss)
    return np.asarray(np.exp(np.log1p(stake * payoff).cumsum(axis=-1)))


def bet(one: Floats, other: Floats, margin: float, of: str) -> Anytime:
    """Return the e-values of blocks [blocks] in the order in which they came."""

    def peak(ratio: float, *, above: bool) -> float:
        return float(max(1.0, wealth(one, other, ratio, above=above).max(initial=1.0)))

    return Anytime(
        blocks=len(one),
        of=of,
        margin=margin,
        better=peak(margin, above=True),
        worse=peak(1 / margin, above=False),
        not_better=peak(margin, above=False),
        not_worse=peak(1 / margin, above=True),
        easier=peak(1.0, above=True),
        harder=peak(1.0, above=False),
    )
