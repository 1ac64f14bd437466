"""Texts of the steps and answers of a settlement."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sensitivity.analysis.names import optimizer_name
from sensitivity.study.amendments import Claim, Observation, SettledAnswer
from sensitivity.study.words import count


def number(value: float | None) -> str:
    """Return a ratio as text, or "no bound"."""
    if value is None or not math.isfinite(value):
        return "no bound"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def interval(low: float | None, high: float | None, level: float) -> str:
    """Return an interval as text."""
    return f"{100 * level:.3g}% interval {number(low)} to {number(high)}, valid at any look"


def listed(names: list[str]) -> str:
    """Return names as a list in a sentence."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def misses_in_words(runs: Sequence[Observation], what: str, batch_size: int) -> str:
    """Return how many of some runs missed the target, and what to do about it."""
    missed = sum(not run.success for run in runs)
    diverged = sum(run.outcome == "diverged" for run in runs)
    where = f"{missed} of {len(runs)} {what} at batch size {batch_size:,}"
    if 2 * diverged >= missed:
        return (
            f"{where} missed the target, {diverged} of them by divergence, which counts even after the target was met:"
            " shorten the budget to what the target needs, or narrow the ranges"
        )
    return f"{where} missed the target: raise the budget or choose a target that is reached there"


def never_reached(tried: Mapping[tuple[str, int], tuple[int, int]], arms: Sequence[str]) -> str:
    """Return which optimizers have not reached the target in any run, at which batch sizes; empty if there are none.

    `tried` has the number of runs, and of those that reached the target, by optimizer and batch size.
    """
    texts = []
    for arm in arms:
        sizes = [size for name, size in tried if name == arm]
        missed = sorted(size for size in sizes if not tried[arm, size][1])
        runs = sum(tried[arm, size][0] for size in missed)
        if missed:
            noun = "batch size" if len(missed) == 1 else "batch sizes"
            where = "" if len(missed) == len(sizes) else f" at {noun} {listed([f'{size:,}' for size in missed])}"
            tried_so_far = "no run" if runs == 1 else f"none of {runs:,} runs"
            texts.append(f"{tried_so_far} of {optimizer_name(arm)}{where}")
    if not texts:
        return ""
    verb = "have" if len(texts) > 1 else "has"
    remedy = "other ranges, more steps per run or another target may be needed"
    said = f"{listed(texts)} {verb} reached the target yet: {remedy}"
    return said[0].upper() + said[1:]


def answer_sentence(
    claim: Claim,
    answer: SettledAnswer,
    *,
    estimate: float | None,
    ends: tuple[float | None, float | None],
    level: float,
    direction: str,
    basis: str,
    reason: str,
    next_runs: int | None,
) -> str:
    """Return the answer of a claim as text; `basis` describes its data, such as "16 judging seeds"."""
    one, other = optimizer_name(claim.candidate), optimizer_name(claim.reference)
    scaling = claim.question == "scaling"
    noun = "critical batch size" if scaling else "expected number of trials until a setting works"
    known = "" if estimate is None else f"{number(estimate)} times that of {other} ({interval(*ends, level)})"
    if answer == "blocked":
        return f"Whether {one} {_hypothesis(claim, other)} can't be judged: {reason}."
    if answer == "undetermined":
        text = f"Not settled: {reason}."
        ahead = {"better": "larger" if scaling else "smaller", "worse": "smaller" if scaling else "larger"}
        if estimate is not None and direction in ahead:
            text += (
                f" {one}'s {noun} is {ahead[direction]}, {known}; whether it differs by more than a factor of"
                f" {claim.margin:g} is open."
            )
        elif estimate is not None:
            text += f" {one}'s {noun} is {known}, so it may be larger or smaller."
        return text + ("" if next_runs is None else f" The next look costs {count(next_runs, 'run')}.")
    # Without an estimate, one of the two has no successful draws, and the interval is one-sided.
    measured = f"its {noun} " + (
        f"is {known}" if known else f"over that of {other} has no estimate ({interval(*ends, level)})"
    )
    if answer == "equivalent":
        verb = "scales as far as" if scaling else "is as sensitive to its hyperparameters as"
        low, high = (0.0 if ends[0] is None else ends[0]), (math.inf if ends[1] is None else ends[1])
        # Each of the two one-sided tests has the whole error rate, so its interval is narrower than the one shown.
        beyond = low < 1 / claim.margin or high > claim.margin
        tested = f", each side of which is tested by itself at {100 * claim.alpha:.3g}%" if beyond else ""
        return f"{one} {verb} {other}: {measured}, within the margin of {claim.margin:g}{tested}, by {basis}."
    verbs = {
        ("scaling", "better"): "scales further than",
        ("scaling", "worse"): "scales less far than",
        ("sensitivity", "better"): "is less sensitive to its hyperparameters than",
        ("sensitivity", "worse"): "is more sensitive to its hyperparameters than",
    }
    verb = verbs[claim.question, answer]
    return f"{one} {verb} {other}: {measured}, beyond the margin of {claim.margin:g}, by {basis}."


def _hypothesis(claim: Claim, other: str) -> str:
    if claim.question == "scaling":
        return f"scales further than {other}"
    return f"is less sensitive to its hyperparameters than {other}"
