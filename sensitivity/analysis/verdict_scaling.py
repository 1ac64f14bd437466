"""Verdict on which of two optimizers scales further with batch size (see ``verdict``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from sensitivity.analysis.estimates import Caution, Estimate, Floats
from sensitivity.analysis.intervals import exponential
from sensitivity.analysis.names import optimizer_name
from sensitivity.analysis.paired import ALPHA, PairedComparison, claim_p, compare, holm, seeds_needed
from sensitivity.analysis.remedies import Remedy
from sensitivity.analysis.remedies_scaling import evaluation_remedy, seeds_remedies
from sensitivity.analysis.scaling import ScalingCurve
from sensitivity.analysis.scaling_obstacles import scaling_obstacles
from sensitivity.analysis.size_ratio import LogTimes, compare_sizes
from sensitivity.analysis.verdict import Margins, Verdict, conclude, priced_runs

_SKEWED = 1.0
"""Skewness of differences from which their mean and its tests are unreliable; eight normal values reach it in 8%."""
_FEWEST_FOR_SKEW = 8


def compute_scaling_verdict(
    runs: pd.DataFrame,
    curves: Sequence[ScalingCurve],
    candidate: str,
    reference: str,
    *,
    margins: Margins | None = None,
    alpha: float = ALPHA,
) -> Verdict:
    """Return the verdict on whether `candidate` scales further than `reference`.

    Args:
        runs: runs that the prices of remedies are based on.
        curves: scaling curves in steps, from ``scaling.compute_scaling``.
        candidate: optimizer that the answer is about.
        reference: optimizer that it is compared with.
        margins: equivalence margins.
        alpha: two-sided level of the claim and of the tests of equivalence; intervals are at 1 - `alpha`.
    """
    margin = math.log((margins or Margins()).scaling_ratio)
    both = tuple(next(curve for curve in curves if curve.optimizer == name) for name in (candidate, reference))
    one, other = both
    priced = priced_runs(runs, candidate, reference)
    found = scaling_obstacles(priced, both, margin, alpha=alpha)
    primary = _sizes(one, other, margin, alpha)
    model_free = _speed_ups(one, other, margin, alpha)
    if primary is None:
        text = (
            "Fewer than two batch sizes were timed for both with a shared seed, so critical batch sizes can't be"
            " compared."
        )
        found.blocks.append(Caution(code="few-batch-sizes", text=text))
        remedy = "Run both at three batch sizes or more, with shared seeds, to a target that both reach at each."
        found.remedies.append(Remedy(code="batch-sizes", text=remedy))
    elif primary.answer == "undetermined":
        needed = seeds_needed(np.array(primary.differences), margin, bias=primary.bias, alpha=alpha)
        found.remedies += seeds_remedies(priced, both, needed)
        distance = abs(abs(float(np.mean(primary.differences))) - margin)
        widest = max((p for c in both for p in c.points if p.state == "reached"), key=lambda point: point.grain)
        asked = any(remedy.code == "evaluation" for remedy in found.remedies)
        if needed is None and 0 < distance < primary.bias and not asked:
            grain = widest.grain * distance / primary.bias / 2
            if grain * widest.time.value >= 1:  # evaluations can't be closer than a whole step
                found.remedies.append(evaluation_remedy(priced, grain))
    if primary is not None:
        found.remarks += _skewed(primary)
    if model_free is not None:
        found.remarks.append(_model_free(model_free, alpha))
    return conclude(
        "scaling",
        one.optimizer,
        other.optimizer,
        _effect(one, other, primary),
        primary,
        _batches(one, other, margin, alpha),
        found.blocks,
        found.remedies,
        found.remarks,
        alpha=alpha,
        model_free=model_free,
    )


def _effect(one: ScalingCurve, other: ScalingCurve, primary: PairedComparison | None) -> Estimate:
    """Return the ratio of critical batch sizes; only its interval if the data don't bound one of them."""
    if primary is None:
        return Estimate(value=math.nan)
    found = _ratio(primary.effect)
    sizes = [curve.critical.size.value for curve in (one, other) if curve.critical is not None]
    return found if all(0 < size < math.inf for size in sizes) else replace(found, value=math.nan)


def _ratio(effect: Estimate) -> Estimate:
    interval = None if effect.interval is None else (exponential(effect.interval[0]), exponential(effect.interval[1]))
    return replace(effect, value=exponential(effect.value), interval=interval)


def _shared(one: ScalingCurve, other: ScalingCurve) -> tuple[list[int], list[int], list[int]]:
    """Return the common seeds of two curves, and their rows in each."""
    seeds = [seed for seed in one.seeds if seed in other.seeds]
    return seeds, [one.seeds.index(s) for s in seeds], [other.seeds.index(s) for s in seeds]


def _sizes(one: ScalingCurve, other: ScalingCurve, margin: float, alpha: float) -> PairedComparison | None:
    """Compare critical batch sizes; None if one was timed at fewer than two batch sizes, or no seed is shared."""
    seeds, *rows = _shared(one, other)
    if not seeds or min(len(one.batch_sizes), len(other.batch_sizes)) < 2:
        return None
    times, others = (
        LogTimes(curve.log_times[own], np.array(curve.batch_sizes, dtype=float), curve.bias)
        for curve, own in zip((one, other), rows, strict=True)
    )
    return compare_sizes(
        times,
        others,
        seeds,
        candidate=one.optimizer,
        reference=other.optimizer,
        margin=margin,
        widen=max(one.widen, other.widen),
        widen_equivalence=max(one.widen_equivalence, other.widen_equivalence),
        alpha=alpha,
    )


def _columns(one: ScalingCurve, other: ScalingCurve, size: int) -> tuple[Floats, float]:
    """Return log T of `one` minus that of `other` at a batch size [seeds], and a bound on the bias of its mean."""
    _, rows, other_rows = _shared(one, other)
    place, other_place = one.batch_sizes.index(size), other.batch_sizes.index(size)
    return (
        one.log_times[rows, place] - other.log_times[other_rows, other_place],
        float(one.bias[place] + other.bias[other_place]),
    )


def _batches(one: ScalingCurve, other: ScalingCurve, margin: float, alpha: float) -> tuple[PairedComparison, ...]:
    seeds, *_ = _shared(one, other)
    sizes = [size for size in one.batch_sizes if size in other.batch_sizes]
    if not seeds:
        return ()
    columns = [_columns(one, other, size) for size in sizes]
    widen = max(one.widen, other.widen)
    adjusted = holm([claim_p(column, margin, bias=bias, widen=widen) for column, bias in columns])
    return tuple(
        compare(
            column,
            seeds,
            candidate=one.optimizer,
            reference=other.optimizer,
            label=f"log ratio of steps to the target at batch size {size:,}",
            margin=margin,
            larger_is_better=False,
            batch_size=size,
            adjusted_p=p,
            widen=widen,
            widen_equivalence=max(one.widen_equivalence, other.widen_equivalence),
            bias=bias,
            alpha=alpha,
        )
        for size, (column, bias), p in zip(sizes, columns, adjusted, strict=True)
    )


def _speed_ups(one: ScalingCurve, other: ScalingCurve, margin: float, alpha: float) -> PairedComparison | None:
    """Compare the speed-ups: steps at the smallest over steps at the largest batch size that both reached."""
    seeds, *_ = _shared(one, other)
    sizes = [size for size in one.batch_sizes if size in other.batch_sizes]
    if not seeds or len(sizes) < 2:
        return None
    (small, small_bias), (large, large_bias) = (_columns(one, other, size) for size in (sizes[0], sizes[-1]))
    return compare(
        small - large,
        seeds,
        candidate=one.optimizer,
        reference=other.optimizer,
        label=f"log ratio of speed-ups from batch size {sizes[0]:,} to {sizes[-1]:,}",
        margin=margin,
        larger_is_better=True,
        widen=max(one.widen, other.widen),
        widen_equivalence=max(one.widen_equivalence, other.widen_equivalence),
        bias=small_bias + large_bias,
        alpha=alpha,
    )


def _model_free(found: PairedComparison, alpha: float) -> Caution:
    effect = _ratio(found.effect)
    interval = "" if effect.interval is None else f" [{effect.interval[0]:.3g}, {effect.interval[1]:.3g}]"
    words = {
        "better": "larger by more than the margin",
        "worse": "smaller by more than the margin",
        "equivalent": "equal within the margin",
        "undetermined": "neither beyond the margin nor within it",
    }
    where = found.label.split("speed-ups ")[1]
    text = (
        f"Without a model of S(B): {where}, {optimizer_name(found.candidate)}'s speed-up is"
        f" {effect.value:.3g}{interval}"
        f" times {optimizer_name(found.reference)}'s, {words[found.answer]} at {100 * alpha:.3g}%."
    )
    return Caution(code="model-free", text=text)


def _skewed(primary: PairedComparison) -> list[Caution]:
    values = np.array(primary.differences)
    deviation = float(values.std())
    if len(values) < _FEWEST_FOR_SKEW or deviation <= 1e-9:
        return []
    skewness = float((((values - values.mean()) / deviation) ** 3).mean())
    if abs(skewness) < _SKEWED:
        return []
    text = (
        f"The differences by seed are skewed ({skewness:+.1f}): a few seeds dominate their mean, and its tests"
        " and intervals are less reliable. Inspect the seeds one by one."
    )
    return [Caution(code="skew", text=text)]
