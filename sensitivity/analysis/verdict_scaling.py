"""Which of two optimizers scales further with batch size (``verdict``)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from sensitivity.analysis.critical import seed_log_sizes, shared_log_size
from sensitivity.analysis.estimates import Caution, Estimate, Floats, mean_over_seeds
from sensitivity.analysis.names import optimizer_name
from sensitivity.analysis.paired import PairedComparison, compare, holm, seeds_needed, sign_flip_p
from sensitivity.analysis.remedies import Remedy, confirm, extend, more_seeds
from sensitivity.analysis.scaling import ScalingCurve, ScalingPoint
from sensitivity.analysis.verdict import Margins, Verdict, conclude, priced_runs, unfinished


def compute_scaling_verdict(
    runs: pd.DataFrame,
    curves: Sequence[ScalingCurve],
    candidate: str,
    reference: str,
    *,
    margins: Margins | None = None,
) -> Verdict:
    """Answer whether `candidate` scales further than `reference`, from their ``scaling.compute_scaling`` in steps.

    `runs` prices the remedies.
    """
    margin = math.log((margins or Margins()).scaling_ratio)
    one, other = (_named(curves, name) for name in (candidate, reference))
    priced = priced_runs(runs, candidate, reference)
    blocks, remedies = _obstacles(priced, (one, other))
    by_batch = _batches(one, other, margin)
    primary = compare_sizes(one, other, margin)
    if primary is None:
        text = "Fewer than two batch sizes were reached by both with a shared seed, so no critical batch sizes compare."
        blocks.append(Caution(code="few-batch-sizes", text=text))
        mend = "Run both at three batch sizes or more, with shared seeds, to a target that both reach at each."
        remedies.append(Remedy(code="batch-sizes", text=mend))
    elif primary.answer == "undetermined":
        needed = seeds_needed(np.array(primary.differences))
        remedies.append(more_seeds(priced, int(priced["seed"].nunique()), None if needed is None else 2 * needed - 1))
        if needed is not None:  # of a split the second half judges, of fresh seeds all do
            remedies.append(confirm(priced, len(one.batch_sizes) + len(other.batch_sizes), needed))
    remarks = [
        Caution(code=warning.code, text=f"{optimizer_name(curve.optimizer)}: {warning.text}")
        for curve in (one, other)
        if curve.critical is not None
        for warning in curve.critical.size.warnings
        if warning.code == "lack-of-fit"
    ]
    ratio = size_ratio(one, other)
    return conclude("scaling", one.optimizer, other.optimizer, ratio, primary, by_batch, blocks, remedies, remarks)


def _named(curves: Sequence[ScalingCurve], name: str) -> ScalingCurve:
    return next(curve for curve in curves if curve.optimizer == name)


def _obstacles(priced: pd.DataFrame, both: tuple[ScalingCurve, ...]) -> tuple[list[Caution], list[Remedy]]:
    blocks, remedies = unfinished(priced)
    for curve in both:
        blocks += [warning for warning in curve.warnings if warning.code in ("edge", "budget", "unreliable", "winner")]
        remedies += extend(priced, curve.optimizer, [edge for point in curve.points for edge in point.edges])
        remedies += [_budget(curve, point) for point in curve.points if point.state in ("censored", "unreliable")]
    return blocks, remedies


def _budget(curve: ScalingCurve, point: ScalingPoint) -> Remedy:
    """Say by how much the budget falls short, where the fitted curve can tell."""
    where = f"{optimizer_name(curve.optimizer)} at batch size {point.batch_size:,}"
    size = math.nan if curve.critical is None else float(curve.critical.steps(np.array([point.batch_size]))[0])
    if point.state == "unreliable" or math.isnan(size) or size <= point.time.value:
        return Remedy(code="budget", text=f"A longer budget for {where}, or an easier target.")
    text = f"A budget of about {size:,.0f} steps for {where}, where {point.time.value:,.0f} were run."
    return Remedy(code="budget", text=text)


def _shared(one: ScalingCurve, other: ScalingCurve) -> tuple[list[int], list[int], list[int]]:
    """Return the seeds that both have, and their rows in each."""
    seeds = [seed for seed in one.seeds if seed in other.seeds]
    return seeds, [one.seeds.index(s) for s in seeds], [other.seeds.index(s) for s in seeds]


def _batches(one: ScalingCurve, other: ScalingCurve, margin: float) -> tuple[PairedComparison, ...]:
    seeds, rows, other_rows = _shared(one, other)
    sizes = [size for size in one.batch_sizes if size in other.batch_sizes]
    if not seeds:
        return ()
    columns = [
        one.log_times[rows, one.batch_sizes.index(size)] - other.log_times[other_rows, other.batch_sizes.index(size)]
        for size in sizes
    ]
    adjusted = holm([sign_flip_p(column) for column in columns])
    again = _resampled(one, other, sizes)
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
            widen=max(one.widen, other.widen),
            widen_equivalence=max(one.widen_equivalence, other.widen_equivalence),
            resampled=None if again is None else again[0][:, place] - again[1][:, place],
        )
        for place, (size, column, p) in enumerate(zip(sizes, columns, adjusted, strict=True))
    )


def _resampled(one: ScalingCurve, other: ScalingCurve, sizes: Sequence[int]) -> tuple[Floats, Floats] | None:
    """Return the resampled log S of both [resamples, batches] at `sizes`; None where they aren't paired."""
    if one.resampled is None or other.resampled is None or one.study_seeds != other.study_seeds:
        return None
    return (
        one.resampled[:, [one.batch_sizes.index(size) for size in sizes]],
        other.resampled[:, [other.batch_sizes.index(size) for size in sizes]],
    )


def compare_sizes(one: ScalingCurve, other: ScalingCurve, margin: float) -> PairedComparison | None:
    """Compare critical batch sizes over the batch sizes that both reached; None where they can't be compared."""
    seeds, rows, other_rows = _shared(one, other)
    sizes = [size for size in one.batch_sizes if size in other.batch_sizes]
    if len(sizes) < 2 or not seeds:
        return None
    batches = np.array(sizes, dtype=float)
    times = one.log_times[np.ix_(rows, [one.batch_sizes.index(size) for size in sizes])]
    others = other.log_times[np.ix_(other_rows, [other.batch_sizes.index(size) for size in sizes])]
    at = shared_log_size([(times.mean(axis=0), batches), (others.mean(axis=0), batches)])
    again = _resampled(one, other, sizes)
    return compare(
        seed_log_sizes(times, batches, at) - seed_log_sizes(others, batches, at),
        seeds,
        candidate=one.optimizer,
        reference=other.optimizer,
        label="log ratio of critical batch sizes",
        margin=margin,
        larger_is_better=True,
        widen=max(one.widen, other.widen),
        widen_equivalence=max(one.widen_equivalence, other.widen_equivalence),
        resampled=None
        if again is None
        else seed_log_sizes(again[0], batches, at) - seed_log_sizes(again[1], batches, at),
    )


def size_ratio(one: ScalingCurve, other: ScalingCurve) -> Estimate:
    """Return the ratio of critical batch sizes, each linearised at its own fit; bounds alone where one is unbounded."""
    if one.critical is None or other.critical is None:
        return Estimate(value=math.nan)
    a, b = one.critical.size, other.critical.size
    if not (0 < a.value < math.inf and 0 < b.value < math.inf):
        if a.interval is None or b.interval is None:
            return Estimate(value=math.nan)
        low = a.interval[0] / b.interval[1] if b.interval[1] > 0 else math.nan
        high = a.interval[1] / b.interval[0] if b.interval[0] > 0 else math.inf
        covers = "seed noise, from the two intervals (conservative)"
        return Estimate(value=math.nan, interval=(low, high), n=min(a.n, b.n), covers=covers)
    _, rows, other_rows = _shared(one, other)
    batches, other_batches = (np.array(curve.batch_sizes, dtype=float) for curve in (one, other))
    differences = seed_log_sizes(one.log_times[rows], batches, math.log(a.value)) - seed_log_sizes(
        other.log_times[other_rows], other_batches, math.log(b.value)
    )
    return mean_over_seeds(differences, math.exp, widen=max(one.widen, other.widen))
