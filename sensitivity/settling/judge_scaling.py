"""Group-sequential test of the scaling question: the ratio of two critical batch sizes, on fresh seeds of the winners.

Each look spends a share of the error rate, proportional to the square root of its seeds (``analysis.looks``). The
candidate is better if the interval at the look's level lies beyond the margin, and equivalent if the interval at twice
that error rate lies within it. Together these tests keep the error rate of the claim at every true ratio, whenever the
study stops. If the true ratio is beyond the margin, only "equivalent" and the opposite claim are false, and both need
an upper end below the margin, which has at most the whole rate. If it is within the margin, only "better" and "worse"
are false, at half the rate each.

After the first look, only the smallest and the largest batch size are run. log Smin and log Bc are two numbers, which
runs at the two ends determine best: with three batch sizes, the middle one has a twentieth of their weight. The first
look has all batch sizes, to test whether S(B) = Smin (1 + Bc/B) describes them.

The interval is Student's t of paired, linearised differences (``analysis.size_ratio``), widened by the possible bias
from the spacing of evaluations (``analysis.grain``), from the expected regret of the winners, and from runs that did
not reach the target.

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
from sensitivity.settling.sentences import misses_in_words
from sensitivity.study.amendments import Claim, Direction, Observation, SettledAnswer

MISSES = 0.05
"""Largest accepted share of judging runs at a batch size that miss the target; above it, T is too uncertain."""
_MISSES_P_VALUE = 0.01
"""p-value below which the share of misses is taken to be larger than `MISSES`."""
_MIN_STEPS = 0.5
"""Number of steps that replaces a lower end of 0."""


@dataclass
class Judged:
    """The judging runs of an arm."""

    runs: dict[int, list[Observation]]
    """Observations by batch size, in the order of the seeds."""

    def times(self, batch_sizes: Sequence[int], regret: Mapping[int, float]) -> Times:
        """Return the times to target at some batch sizes, which all have the same seeds."""
        rows = [self.runs[size] for size in batch_sizes]
        low, high = (np.array([[one.log_steps[end] for one in own] for own in rows]).T for end in (0, 1))
        kinds = np.array([[one.outcome for one in own] for own in rows]).T
        censored, reached = kinds == "censored", kinds == "reached"
        lost = ~censored & ~reached
        low = np.where(lost, 0.0, np.where(np.isneginf(low), math.log(_MIN_STEPS), low))
        high = np.where(reached, np.maximum(high, low), low)
        y, width = (low + high) / 2, high - low
        y = np.where(lost, y.sum(axis=0) / np.maximum((~lost).sum(axis=0), 1), y)
        grain = np.array([bias_bound(y[:, k], width[:, k]) for k in range(len(batch_sizes))])
        # The log T of a censored run exceeds the budget by about the standard deviation of the noise.
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
    """log T as interval midpoints, with bounds on the bias of their means from evaluations and the budget. A censored
    run has its budget as value, a diverged or failed one the mean of the others at its batch size."""
    regret: Floats
    """Expected regret of the winners, [batches]."""
    kept: int
    """Number of seeds without diverged and failed runs, at the batch size with the most of these."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """Result of one look at a pair."""

    seeds: int
    log_ratio: float
    interval: tuple[float, float]
    """Interval of the log ratio, at the level of "better or worse"."""
    inner: tuple[float, float]
    """Interval of the log ratio, at the level of "equivalent"."""
    error: float
    """Standard error of the log ratio at the estimate."""
    widened: float
    """Amount by which biases widen both intervals on either side."""
    levels: tuple[float, float]
    """One-sided error rates of the two intervals."""
    skewness: float
    answer: SettledAnswer
    reason: str = ""
    """Reason why the claim is blocked."""

    @property
    def direction(self) -> Direction:
        """Direction of the difference, whether or not it exceeds the margin."""
        if self.interval[0] > 0:
            return "better"
        return "worse" if self.interval[1] < 0 else "undetermined"

    def facts(self) -> dict[str, object]:
        """Return the result for the ledger, in ratios; None for unbounded ends."""

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
    """Return the batch sizes that a look runs: all at the first look, then the smallest and the largest."""
    return tuple(batch_sizes) if first else (min(batch_sizes), max(batch_sizes))


def look(
    claim: Claim,
    one: Judged,
    other: Judged,
    batch_sizes: Sequence[int],
    regrets: tuple[Mapping[int, float], Mapping[int, float]],
    rates: tuple[float, float],
) -> Look:
    """Compare the runs of the candidate and the reference, which have the same seeds.

    `regrets` are the expected regrets of their winners by batch size, and `rates` the one-sided error rates of
    `levels`.
    """
    ends = judged_sizes(batch_sizes, first=False)
    arms = [judged.times(ends, regret) for judged, regret in zip((one, other), regrets, strict=True)]
    n = len(arms[0].log.times)
    profile = profile_ratios(arms[0].log, arms[1].log)
    evaluations = sum(np.abs(weight) @ arm.log.bias for weight, arm in zip(profile.weights, arms, strict=True))
    # Regrets of different batch sizes and arms are independent, so they add in quadrature.
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
    reason = _misses_problem(claim, one, other) or _fit_problem(claim, one, other, regrets)
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


def _misses_problem(claim: Claim, one: Judged, other: Judged) -> str:
    """Return the reason why the target is not reached often enough to judge; empty if it is."""
    for name, judged in ((claim.candidate, one), (claim.reference, other)):
        for size, own in judged.runs.items():
            missed = sum(not run.success for run in own)
            if missed and float(bdtrc(missed - 1, len(own), MISSES)) < _MISSES_P_VALUE:
                return misses_in_words(own, f"judging runs of {optimizer_name(name)}", size)
    return ""


def _fit_problem(
    claim: Claim, one: Judged, other: Judged, regrets: tuple[Mapping[int, float], Mapping[int, float]]
) -> str:
    """Return the reason why S(B) has no critical batch size; empty if Smin (1 + Bc/B) fits both arms.

    Only the seeds of the first look are tested.
    """
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
