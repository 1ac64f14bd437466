"""Cost of an optimizer's runs at a batch size in device-seconds and FLOPs, in total and per step.

The total cost is the aggregate computation of the search and counts every run, including diverged ones. The cost per
step compares the steps of two optimizers. Runs of one pack share its time, so the unit of repetition of the time per
step is the pack, not the run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from sensitivity.analysis.estimates import Caution, Estimate
from sensitivity.analysis.intervals import exponential, t_half_width
from sensitivity.analysis.names import at_batch_size
from sensitivity.analysis.outcomes import OBSERVED
from sensitivity.study.results import Status


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of an optimizer's runs at a batch size."""

    optimizer: str
    batch_size: int
    planned: int
    """Number of planned runs."""
    runs: int
    """Number of runs with a result (completed or diverged); the totals are over these."""
    steps: int
    train_seconds: float
    """Device-seconds of training: sum over runs of each run's share of its pack's time."""
    eval_seconds: float
    flops: float
    seconds_a_run: Estimate
    """Mean device-seconds of training per run; a diverged run counts with the time until it stopped."""
    seconds_a_step: Estimate
    """Device-seconds per step of one run: geometric mean over packs of completed runs."""
    flops_a_step: float
    """NaN without a step."""
    pack_size: float
    """Median size of the packs; NaN if the table has no pack sizes."""
    warnings: tuple[Caution, ...]

    @property
    def device_seconds(self) -> float:
        """Device-seconds of training and evaluation."""
        return self.train_seconds + self.eval_seconds


@dataclass(frozen=True, kw_only=True)
class CostRatio:
    """Cost of `candidate` as a multiple of the cost of `reference` at a batch size."""

    candidate: str
    reference: str
    batch_size: int
    seconds: float
    """Ratio of device-seconds per step."""
    flops: float
    """Ratio of FLOPs per step."""
    total_seconds: float
    """Ratio of the training device-seconds of all runs."""
    warnings: tuple[Caution, ...]


def compute_cost(runs: pd.DataFrame) -> tuple[Cost, ...]:
    """Return the cost of each optimizer, in the order of the plan, at each batch size, ascending."""
    return tuple(
        _cost(rows, str(optimizer), int(str(batch_size)))
        for optimizer, of_optimizer in runs.groupby("optimizer", sort=False)
        for batch_size, rows in of_optimizer.groupby("batch_size")
    )


def total(costs: pd.Series[float]) -> float:
    """Return the sum of costs; NaN if there are runs and none of them has a cost."""
    return math.nan if len(costs) and costs.isna().all() else float(costs.sum())


def _cost(rows: pd.DataFrame, optimizer: str, batch_size: int) -> Cost:
    observed = rows[rows["status"].isin(OBSERVED)]
    steps = int(observed["steps"].sum())
    seconds = observed["train_seconds"].dropna().to_numpy(dtype=float)
    half = float(t_half_width(seconds.std(ddof=1), len(seconds))) if len(seconds) > 1 else math.nan
    mean = float(seconds.mean()) if len(seconds) else math.nan
    sizes = observed["pack_size"].dropna() if "pack_size" in observed else pd.Series(dtype=float)
    return Cost(
        optimizer=optimizer,
        batch_size=batch_size,
        planned=len(rows),
        runs=len(observed),
        steps=steps,
        train_seconds=total(observed["train_seconds"]),
        eval_seconds=total(observed["eval_seconds"]),
        flops=total(observed["flops"]),
        seconds_a_run=Estimate(
            value=mean,
            interval=None if math.isnan(half) else (max(mean - half, 0.0), mean + half),
            n=len(seconds),
            of="runs",
            covers="" if math.isnan(half) else "the scatter between runs (Student's t)",
        ),
        seconds_a_step=_seconds_a_step(observed),
        flops_a_step=total(observed["flops"]) / steps if steps else math.nan,
        pack_size=float(sizes.median()) if len(sizes) else math.nan,
        warnings=_warnings(observed, at_batch_size(optimizer, batch_size)),
    )


def _seconds_a_step(observed: pd.DataFrame) -> Estimate:
    done = observed[(observed["status"] == Status.COMPLETED.value) & (observed["steps"] > 0)]
    done = done[done["train_seconds"] > 0]
    rate = (done["train_seconds"] / done["steps"]).map(math.log)
    packed = "pack_id" in done and done["pack_id"].notna().all()
    means = (rate.groupby(done["pack_id"]).mean() if packed else rate).to_numpy()
    of = "packs" if packed else "runs"
    if not len(means):
        return Estimate(value=math.nan, of=of)
    centre, half = float(means.mean()), float(t_half_width(means.std(ddof=1), len(means))) if len(means) > 1 else 0.0
    return Estimate(
        value=exponential(centre),
        interval=(exponential(centre - half), exponential(centre + half)) if half else None,
        n=len(means),
        of=of,
        covers=f"the scatter between {of} (Student's t)" if half else "",
    )


def _warnings(observed: pd.DataFrame, where: str) -> tuple[Caution, ...]:
    mixed = [
        f"{observed[column].nunique():,} {what}"
        for column, what in (("device", "devices"), ("host", "hosts"), ("pack_size", "pack sizes"))
        if column in observed and len(observed[column].dropna().unique()) > 1
    ]
    if not mixed:
        return ()
    return (Caution(code="mixed", text=f"{where}: times are from {' and '.join(mixed)}; compare FLOPs instead."),)


def compute_cost_ratios(costs: tuple[Cost, ...], candidate: str, reference: str) -> tuple[CostRatio, ...]:
    """Return `candidate` over `reference` at each batch size that both have."""
    own: Mapping[int, Cost] = {cost.batch_size: cost for cost in costs if cost.optimizer == reference}
    ratios = []
    for cost in (cost for cost in costs if cost.optimizer == candidate and cost.batch_size in own):
        other = own[cost.batch_size]
        warnings = list(cost.warnings + other.warnings)
        if cost.pack_size != other.pack_size and not math.isnan(cost.pack_size + other.pack_size):
            warnings.append(
                Caution(
                    code="pack-size",
                    text=f"Batch size {cost.batch_size:,}: packs of {cost.pack_size:g} versus {other.pack_size:g}"
                    " trials, which changes a run's share of the time.",
                )
            )
        ratios.append(
            CostRatio(
                candidate=candidate,
                reference=reference,
                batch_size=cost.batch_size,
                seconds=cost.seconds_a_step.value / other.seconds_a_step.value,
                flops=cost.flops_a_step / other.flops_a_step if other.flops_a_step else math.nan,
                total_seconds=cost.train_seconds / other.train_seconds if other.train_seconds else math.nan,
                warnings=tuple(warnings),
            )
        )
    return tuple(ratios)
