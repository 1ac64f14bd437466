"""Looks at the scaling question: the ratio of two critical batch sizes, by fresh seeds of the frozen winners.

Every look has a share of the error rate that is proportional to the square root of its seeds (``analysis.looks``). The
candidate is better where the interval at the look's level lies beyond the margin, and equivalent where the interval at
twice that error rate lies within it. Both together keep to the claim's error rate at every true ratio, whenever the
study stops: beyond the margin only "equivalent" and the opposite claim are false, and both need an upper end below the
margin, at most the whole rate; within the margin only "better" and "worse" are, at half the rate each.

Only the smallest and the largest batch size are judged to the end. log Smin and log Bc are two numbers, which runs at
the two ends tell most of: at three batch sizes the middle one has a weight of a twentieth of theirs. The first look has
all batch sizes, to see whether S(B) = Smin (1 + Bc/B) describes them at all.

The interval is Student's t of paired, linearised differences (``analysis.size_ratio``), widened by what their mean may
be off for the spacing of evaluations (``analysis.grain``), for the expected regret of the winners, and for runs that
didn't reach the target.

Arrays are [seeds, batches].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import bdtrc

from sensitivity.analysis.critical import LACK_OF_FIT, fit_log_size, lack_of_fit
from sensitivity.analysis.estimates import Floats
from sensitivity.analysis.grain import bias_bound
from sensitivity.analysis.looks import planned_share
from sensitivity.analysis.names import optimizer_name
from sensitivity.analysis.size_ratio import LogTimes, profile_ratios
from sensitivity.study.amendments import Claim, Direction, Observation, SettledAnswer

MISSES = 0.05
"""Share of judging runs at a batch size that may miss the target; beyond it, T is not known well enough to judge."""
_SURE = 0.01
"""p-value at which more runs than that miss it."""
_SHORTEST = 0.5
"""Steps that stand in for a lower end of 0."""


@dataclass
class Judged:
    """The judging runs of an arm."""

    runs: dict[int, list[Observation]]
    """By batch size, in the order of the seeds."""

    def times(self, batch_sizes: Sequence[int], regret: Mapping[int, float]) -> Times:
        """Return the runs at some batch sizes, all of which have the same seeds."""
        rows = [self.runs[size] for size in batch_sizes]
        low, high = (np.array([[one.log_steps[end] for one in own] for own in rows]).T for end in (0, 1))
        kinds = np.array([[one.outcome for one in own] for own in rows]).T
        censored, reached = kinds == "censored", kinds == "reached"
        lost = ~censored & ~reached
        low = np.where(lost, 0.0, np.where(np.isneginf(low), math.log(_SHORTEST), low))
        high = np.where(reached, np.maximum(high, low), low)
        y, width = (low + high) / 2, high - low
        y = np.where(lost, y.sum(axis=0) / np.maximum((~lost).sum(axis=0), 1), y)
        grain = np.array([bias_bound(y[:, k], width[:, k]) for k in range(len(batch_sizes))])
        # A censored run's log T lies above the budget by about the noise's deviation.
        grain = grain + censored.mean(axis=0) * y.std(axis=0, ddof=1)
        return Times(
            log=LogTimes(y, np.array(batch_sizes, dtype=float), grain),
            regret=np.array([regret[size] for size in batch_sizes]),
            kept=len(y) - int(lost.sum(axis=0).max()),
        )


@dataclass(frozen=True)
class Times:
    """The times to target of an arm's judging runs."""

    log: LogTimes
    """log T by interval midpoints, and by how much evaluations and the budget may put their means off. A censored run
    counts as its budget, a lost one as the mean of the others at its batch size."""
    regret: Floats
    """[batches]: expected regret of the winners."""
    kept: int
    """Seeds that weren't lost, at the batch size where most were."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """One look at a pair."""

    seeds: int
    log_ratio: float
    interval: tuple[float, float]
    """Of the log ratio, at the level of "better or worse"."""
    inner: tuple[float, float]
    """The same at the level of "equivalent"."""
    error: float
    """Standard error at the estimate."""
    widened: float
    """By how much both intervals are wider on either side than the seeds' noise alone would have them."""
    levels: tuple[float, float]
    """One-sided error rates of the two intervals."""
    skewness: float
    answer: SettledAnswer
    reason: str = ""
    """Why it is blocked."""

    @property
    def direction(self) -> Direction:
        """Which one is ahead, whether or not by the margin."""
        if self.interval[0] > 0:
            return "better"
        return "worse" if self.interval[1] < 0 else "undetermined"

    def facts(self) -> dict[str, object]:
        """Return it for the ledger, in ratios; None for ends that are not bounded."""

        def ratio(log: float) -> float | None:
            return math.exp(log) if abs(log) < 50 else None

        return {
            "seeds": self.seeds,
            "ratio": ratio(self.log_ratio),
            "interval": [ratio(end) for end in self.interval],
            "inner_interval": [ratio(end) for end in self.inner],
            "log_standard_error": self.error,
            "log_widening": self.widened,
            "levels": list(self.levels),
            "skewness": self.skewness,
            "answer": self.answer,
        }


def levels(claim: Claim, looks: Sequence[int]) -> tuple[tuple[float, float], ...]:
    """Return the one-sided error rates of "better or worse" and of "equivalent" at each look."""
    shares = [planned_share(n, looks) for n in looks]
    return tuple((claim.alpha / 2 * share, claim.alpha * share) for share in shares)


def judged_sizes(batch_sizes: Sequence[int], first: bool) -> tuple[int, ...]:
    """Return the batch sizes at which a look has seeds: all of them at the first, and then the two ends."""
    return tuple(batch_sizes) if first else (min(batch_sizes), max(batch_sizes))


def look(
    claim: Claim,
    one: Judged,
    other: Judged,
    batch_sizes: Sequence[int],
    regrets: tuple[Mapping[int, float], Mapping[int, float]],
    rates: tuple[float, float],
) -> Look:
    """Look at the candidate's runs and the reference's, of the same seeds; `regrets` are those of their winners."""
    ends = judged_sizes(batch_sizes, first=False)
    arms = [judged.times(ends, regret) for judged, regret in zip((one, other), regrets, strict=True)]
    n = len(arms[0].log.times)
    profile = profile_ratios(arms[0].log, arms[1].log)
    evaluations = sum(np.abs(weight) @ arm.log.bias for weight, arm in zip(profile.weights, arms, strict=True))
    # Regrets of different batch sizes and arms are independent of each other: they add up in quadrature.
    choices = sum((weight**2) @ arm.regret**2 for weight, arm in zip(profile.weights, arms, strict=True))
    bias = np.asarray(evaluations + np.sqrt(choices))
    widen = math.sqrt(n / max(min(arm.kept for arm in arms), 2))
    interval, inner = (profile.interval(1 - 2 * rate, bias, widen) for rate in rates)
    value = profile.estimate()
    at = int(np.abs(profile.log_ratios - np.clip(value, -9, 9)).argmin())
    spread = profile.differences[at]
    deviation = float(spread.std())
    margin = math.log(claim.margin)
    answer: SettledAnswer = "undetermined"
    if interval[0] > margin:
        answer = "better"
    elif interval[1] < -margin:
        answer = "worse"
    elif inner[0] > -margin and inner[1] < margin:
        answer = "equivalent"
    reason = _missed(claim, one, other) or _no_law(claim, one, other, regrets)
    return Look(
        seeds=n,
        log_ratio=value,
        interval=interval,
        inner=inner,
        error=widen * float(spread.std(ddof=1)) / math.sqrt(n),
        widened=float(bias[at]),
        levels=rates,
        skewness=float((((spread - spread.mean()) / deviation) ** 3).mean()) if deviation > 0 else 0.0,
        answer="blocked" if reason else answer,
        reason=reason,
    )


def _missed(claim: Claim, one: Judged, other: Judged) -> str:
    """Return why the target isn't reached often enough to judge; empty if it is."""
    for name, judged in ((claim.candidate, one), (claim.reference, other)):
        for size, own in judged.runs.items():
            n, missed = len(own), sum(not run.success for run in own)
            if missed and float(bdtrc(missed - 1, n, MISSES)) < _SURE:
                return (
                    f"{missed} of {n} judging runs of {optimizer_name(name)} at batch size {size:,} missed the target:"
                    " raise the budget"
                    " or choose a target that is reached there"
                )
    return ""


def _no_law(claim: Claim, one: Judged, other: Judged, regrets: tuple[Mapping[int, float], Mapping[int, float]]) -> str:
    """Return why S(B) has no critical batch size; empty if Smin (1 + Bc/B) describes both arms at the first look."""
    for name, judged, regret in zip((claim.candidate, claim.reference), (one, other), regrets, strict=True):
        fewest = min(len(own) for own in judged.runs.values())
        first = Judged({size: own[:fewest] for size, own in judged.runs.items()})
        times = first.times(tuple(sorted(first.runs)), regret)
        size = float(fit_log_size(times.log.times.mean(axis=0, keepdims=True), times.log.batch_sizes)[0])
        _, p = lack_of_fit(times.log.times, times.log.batch_sizes, size, times.log.bias + times.regret)
        if p < LACK_OF_FIT / 2:
            return (
                f"S(B) = Smin (1 + Bc/B) doesn't describe the steps of {optimizer_name(name)} (F test, p = {p:.2g}), so"
                " its critical batch size is no property of it: settle it for fewer or other batch sizes"
            )
    return ""
