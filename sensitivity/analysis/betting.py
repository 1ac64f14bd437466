"""Anytime-valid tests by betting: e-values of a sequence of blocks that remain valid under optional stopping.

A block yields the success rates of both optimizers, `one` and `other`, each in [0, 1]. Under the null hypothesis that
the mean of `one` is at most r times that of `other`, the payoff g = one - r other has a mean of at most zero, so the
wealth

    E = product of (1 + lambda g),   lambda chosen before the block,

is a supermartingale: the probability that it ever reaches 1/alpha is at most alpha, for any number of looks and any
stopping time (Ville 1939; Waudby-Smith & Ramdas 2023, arXiv 2010.09686). The largest wealth so far is therefore valid
evidence. The only assumption is that each block is independent of the earlier ones: within a block, batch sizes may
share the seed and the configuration, and the mean over them is taken. If the batch sizes of a block are independent
too, each with its own draw and seed, each of them is a separate bet at the block's stake: the product of
1 + lambda mean(g_B) over them is at most (1 + lambda mean(g))^batches, so the null hypothesis is still that of the mean
over batch sizes, and log wealth grows faster by about the number of batch sizes.

The stake is mean(g) / mean(g^2) over the earlier blocks, clipped to [0, .9 / largest loss], which approaches the best
constant stake. If every bet is on a single draw, the averages start from six pseudo-blocks in which both optimizers
succeed in a quarter of their draws, or whose mean payoff is zero if it would be negative. These prevent a large stake
after the first few draws; their weight vanishes as blocks accumulate.

Arrays: [..., blocks], or [..., blocks, batches] where batch sizes are independent; leading dimensions are replicates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sensitivity.analysis.estimates import Floats, Interval
from sensitivity.analysis.paired import Answer
from sensitivity.study.amendments import Direction

_BOLDEST = 0.9
_BEFORE = 6.0
"""Number of pseudo-blocks before the first block, if every bet is on a single draw."""
_WORKS = 0.25
"""Success rate in the pseudo-blocks."""
_RATIOS = np.geomspace(1 / 64, 64, 121)
"""Ratios that are tested for the ends of an interval; 1 is one of them."""


@dataclass(frozen=True, kw_only=True)
class Anytime:
    """The largest e-value so far for each null hypothesis, over blocks in the order of their seeds.

    At level alpha, "better" or "worse" requires an e-value of 2 / alpha, and equivalence 1 / alpha on both sides: 40
    and 20 at 5%.
    """

    blocks: int
    of: str
    """Kind of block: seeds or configurations."""
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

    def direction(self, alpha: float) -> Direction:
        """Return which optimizer succeeds more often, by any amount; "better" means the candidate."""
        if self.easier >= 2 / alpha:
            return "better"
        return "worse" if self.harder >= 2 / alpha else "undetermined"


def wealth(one: Floats, other: Floats, ratio: float, *, above: bool, independent: bool = False) -> Floats:
    """Return the wealth after each block [..., blocks] of bets that the mean of `one` exceeds `ratio` times `other`'s.

    With `above` false, the bets are that it is smaller. `independent` means that the last dimension is that of batch
    sizes, which are independent within a block.
    """
    return np.asarray(np.exp(_log_wealth(_Bets.on(one, other, ratio, above, independent))))


def next_stake(one: Floats, other: Floats, ratio: float, *, above: bool, independent: bool = False) -> float:
    """Return the stake of ``wealth`` on the next block."""
    return float(_stakes(_Bets.on(one, other, ratio, above, independent))[..., -1])


@dataclass(frozen=True, eq=False)
class _Bets:
    """The bets on one side of a ratio."""

    payoff: Floats
    """[..., blocks, bets]"""
    loss: Floats
    """Largest possible loss of a bet [..., 1]."""
    mean: Floats
    """Sum of the payoffs of the pseudo-blocks [..., 1]; `square` is the sum of their squares."""
    square: Floats

    @classmethod
    def on(cls, one: Floats, other: Floats, ratio: float | Floats, above: bool, independent: bool) -> _Bets:
        """Return the bets at `ratio`, a number or [..., 1]."""
        r, sign = np.asarray(ratio, dtype=float).reshape(*np.shape(ratio)[:-1], 1), 1.0 if above else -1.0
        payoff = sign * (one - (r[..., None] if independent else r) * other)
        before, p = (_BEFORE if independent else 0.0), _WORKS
        return cls(
            payoff=payoff if independent else payoff[..., None],
            loss=r if above else np.ones_like(r),
            mean=before * np.maximum(sign * (1 - r) * p, 0.0),
            square=before * ((1 + r**2) * p - 2 * r * p**2),
        )


def _stakes(bets: _Bets) -> Floats:
    """Return the stake on each block and on the next one [..., blocks + 1]."""
    first = np.zeros((*bets.payoff.shape[:-2], 1))
    mean, square = (
        np.concatenate([first, each.mean(axis=-1).cumsum(axis=-1)], axis=-1) + before
        for each, before in ((bets.payoff, bets.mean), (bets.payoff**2, bets.square))
    )
    return np.asarray(np.clip(mean / np.where(square > 0, square, 1.0), 0.0, _BOLDEST / bets.loss))


def _log_wealth(bets: _Bets) -> Floats:
    """Return the logarithm of the wealth after each block [..., blocks]."""
    stake = _stakes(bets)[..., :-1]
    return np.asarray(np.log1p(stake[..., None] * bets.payoff).sum(axis=-1).cumsum(axis=-1))


def bet(one: Floats, other: Floats, margin: float, of: str, *, independent: bool = False) -> Anytime:
    """Return the e-values of blocks [blocks], or [blocks, batches], in chronological order."""

    def peak(ratio: float, *, above: bool) -> float:
        found = wealth(one, other, ratio, above=above, independent=independent)
        return float(max(1.0, found.max(initial=1.0)))

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


def ratio_bounds(one: Floats, other: Floats, alpha: float, *, independent: bool = False) -> Interval:
    """Return an anytime-valid confidence interval of the ratio of the means of `one` and `other`.

    It is the hull of the ratios on a grid for which neither side's wealth has ever reached 2 / `alpha`, extended to the
    next rejected ratio; its widest ends are 0 and infinity.
    """
    peaks = [
        _log_wealth(_Bets.on(one, other, _RATIOS[:, None], above, independent)).max(axis=-1, initial=0.0)
        for above in (True, False)
    ]
    kept = np.maximum(*peaks) < math.log(2 / alpha)
    places = np.flatnonzero(kept)
    if not len(places):
        return 0.0, math.inf
    first, last = int(places[0]), int(places[-1])
    low = 0.0 if first == 0 else float(_RATIOS[first - 1])
    return low, math.inf if last == len(_RATIOS) - 1 else float(_RATIOS[last + 1])
