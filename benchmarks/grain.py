"""Effect of the spacing of evaluations on S(B) and Bc: the quickstart's problem, trained three times.

    python benchmarks/grain.py [--judges N] [--record]

The quickstart's optimizers, batch sizes, budget and target, with two settings each that reach the target within the
budget at every batch size. They are trained with the default spacing of evaluations (each 10% later than the last),
with an evaluation at every step, and with one per epoch; training is otherwise the same. Some seeds choose the winners
and fresh ones judge them; values, intervals and verdicts are those of the product.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from record import circumstances

from sensitivity.analysis.estimates import Estimate
from sensitivity.analysis.names import optimizer_name, parameter_name
from sensitivity.analysis.scaling import ScalingCurve, compute_scaling
from sensitivity.analysis.scaling_points import ScalingPoint
from sensitivity.analysis.times import compute_times
from sensitivity.analysis.verdict import Verdict
from sensitivity.analysis.verdict_scaling import compute_scaling_verdict
from sensitivity.store.schema import CURVE_COLUMNS, PARAM_PREFIX
from sensitivity.store.writer import result_row
from sensitivity.study.load import load_study
from sensitivity.study.metrics import MetricName
from sensitivity.study.results import RunResult
from sensitivity.study.spec import StudySpec
from sensitivity.study.trials import expand, group
from sensitivity.training.loop import train_pack
from sensitivity.training.memory import keep_freed_memory
from sensitivity.training.problems import load_problem

FOLDER = Path(__file__).parents[1] / "search_spaces"
PAIR = ("kfac", "sgd")
TARGET: tuple[MetricName, float] = ("test_accuracy", 0.90)
GRIDS = {
    "kfac": {"lr": 0.006, "damping": [0.005, 0.02]},
    "sgd": {"lr": 0.2, "momentum": [0.5, 0.75]},
}
CHOOSING = 4
"""Number of seeds that choose the winners."""
SPACINGS: Mapping[str, Mapping[str, float]] = {
    "default": {"growth": 0.1},
    "every step": {"every_steps": 1},
    "every epoch": {"every_epochs": 1},
}
PACK = 64


@dataclass(frozen=True)
class Measured:
    """A study evaluated with one spacing."""

    times: pd.DataFrame
    """Result of ``times.compute_times``, by trial."""
    curves: Mapping[str, ScalingCurve]
    verdict: Verdict
    evaluations: int
    """Number of evaluations of a run at the smallest batch size."""
    seconds: float


def study(seeds: int, spacing: Mapping[str, float]) -> StudySpec:
    """Return the quickstart on small grids, evaluated with `spacing`."""
    raw = load_study(FOLDER / "quickstart.toml").model_dump(mode="json", exclude_none=True)
    for name, grid in GRIDS.items():
        raw["optimizers"][name].update(design="grid", **grid)
        del raw["optimizers"][name]["samples"]
    del raw["search"], raw["evaluation"]["growth"]
    return StudySpec.model_validate(raw | {"seeds": seeds, "evaluation": raw["evaluation"] | spacing})


def train(spec: StudySpec) -> Iterator[RunResult]:
    """Yield the result of every run of a study."""
    problem = load_problem(spec.required_problem, folder=FOLDER)
    for pack in group(expand(spec), PACK):
        yield from train_pack(pack, problem)


def tables(results: list[RunResult]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables of runs and curves, as in a study directory."""
    runs = pd.DataFrame(
        {
            "trial_id": run.trial.id,
            "cell_id": run.trial.cell_id,
            "optimizer": run.trial.arm,
            "batch_size": run.trial.batch_size,
            "seed": run.trial.seed,
            "confirmation": run.trial.seed >= CHOOSING,
            **{PARAM_PREFIX + name: value for name, value in run.trial.hyperparameters},
            **result_row(run),
        }
        for run in results
    )
    names = [name for name in CURVE_COLUMNS if name != "trial_id"]
    curves = pd.DataFrame(
        {"trial_id": run.trial.id, **{name: getattr(at, name) for name in names}}
        for run in results
        for at in run.measurements
    )
    return runs, curves


def measure(spec: StudySpec) -> Measured:
    """Train a study and analyse it."""
    started = time.perf_counter()
    results = list(train(spec))
    seconds = time.perf_counter() - started
    runs, curves = tables(results)
    times = compute_times(runs, curves, *TARGET)
    found = compute_scaling(times, designs=spec.designs, axes=spec.axes)
    return Measured(
        times=times,
        curves={curve.optimizer: curve for curve in found},
        verdict=compute_scaling_verdict(runs, found, *PAIR),
        evaluations=max(len(run.measurements) for run in results),
        seconds=seconds,
    )


def words(estimate: Estimate) -> str:
    """Return a value with its interval."""
    if not estimate.known:
        return "–"
    low, high = estimate.interval or (math.nan, math.nan)
    return f"{estimate.value:.3g}" + ("" if math.isnan(low) else f" [{low:.3g}, {high:.3g}]")


def point_words(point: ScalingPoint) -> str:
    """Return S(B) with its interval, and its state unless every seed reached the target."""
    return words(point.time) + ("" if point.state == "reached" else f" ({point.state})")


def size_of(curve: ScalingCurve) -> Estimate:
    """Return the critical batch size."""
    assert curve.critical is not None
    return curve.critical.size


def rows_of(name: str, measured: Measured) -> Iterator[str]:
    """Yield a table row for each optimizer."""
    for optimizer, curve in measured.curves.items():
        points = " | ".join(point_words(point) for point in curve.points)
        judges = size_of(curve).n
        yield f"| {name} | {optimizer_name(optimizer)} | {points} | **{words(size_of(curve))}** | {judges} |"


def winners(measured: Measured) -> str:
    """Return the winning settings."""
    return "; ".join(
        f"{optimizer_name(optimizer)} "
        + ", ".join(
            f"B = {point.batch_size}: "
            + " ".join(f"{parameter_name(key)} {value:g}" for key, value in point.parameters)
            for point in curve.points
        )
        for optimizer, curve in measured.curves.items()
    )


def compare(one: Measured, other: Measured) -> Iterator[str]:
    """Yield, for each quantity, both estimates and whether each lies in the other's interval."""
    for optimizer, curve in one.curves.items():
        twin = other.curves[optimizer]
        pairs = [
            (f"S({a.batch_size})", a.time, b.time)
            for a, b in zip(curve.points, twin.points, strict=True)
            if a.state == b.state == "reached"
        ]
        for label, a, b in [*pairs, ("Bc", size_of(curve), size_of(twin))]:
            yield (
                f"| {optimizer_name(optimizer)} | {label} | {words(a)} | {words(b)} | {within(b, a)} | {within(a, b)} |"
            )


def within(value: Estimate, interval: Estimate) -> str:
    """Return in words whether a value lies in another's interval."""
    if interval.interval is None or not value.known:
        return "–"
    return "yes" if interval.interval[0] <= value.value <= interval.interval[1] else "NO"


def enclosed(coarse: Measured, fine: Measured) -> str:
    """Count the runs whose first crossing, evaluated at every step, lies in the interval from coarse evaluations."""
    keys = ["optimizer", "batch_size", "seed", *(c for c in fine.times if str(c).startswith(PARAM_PREFIX))]
    both = coarse.times.merge(fine.times, on=keys, suffixes=("", "_fine"), validate="1:1")
    hit = both[both["outcome"] == "reached"]
    true = hit["steps_fine"]
    inside = int(((hit["after.steps"] < true) & (true <= hit["steps"])).sum())
    earlier = int((true <= hit["after.steps"]).sum())
    missed = int(((both["outcome"] != "reached") & (both["outcome_fine"] == "reached")).sum())
    return (
        f"of {len(hit):,} runs that reached the target, {inside:,} cross it first within their interval, {earlier:,}"
        f" crossed it before, between two evaluations that failed it, and {len(hit) - inside - earlier:,} count as"
        f" diverged where every step is looked at; {missed:,} further runs crossed it between evaluations only"
    )


def verdict_words(verdict: Verdict) -> str:
    """Return the verdict's answer and what prevents a claim."""
    codes = sorted({block.code for block in verdict.blocks})
    return f"{verdict.answer}; ratio of critical batch sizes {words(verdict.effect)}" + (
        f"; blocked by: {', '.join(codes)}" if codes else ""
    )


def main() -> None:
    """Print the tables, and record them on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judges", type=int, default=8, help="seeds that judge the winners; default: 8")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/grain.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    begun = circumstances("torch")
    found = {name: measure(study(CHOOSING + options.judges, spacing)) for name, spacing in SPACINGS.items()}
    default, fine, epoch = (found[name] for name in SPACINGS)
    sizes = [point.batch_size for point in default.curves[PAIR[0]].points]
    spent = ", ".join(f"{name} {m.seconds:.0f} s ({m.evaluations} evaluations)" for name, m in found.items())
    lines = [
        "# grain",
        "",
        f"{begun}; one math thread. {len(default.times):,} runs "
        f"at each spacing: {' and '.join(optimizer_name(name) for name in PAIR)} on digits, 2 settings each, "
        f"{CHOOSING} seeds that choose and {options.judges} that judge; target: test accuracy {TARGET[1]:.0%}. "
        f"{spent}.",
        "",
        f"| evaluated | optimizer | {' | '.join(f'S({size})' for size in sizes)} | Bc | seeds that judge |",
        "| --- | --- |" + " --- |" * len(sizes) + " --- | --- |",
        *(row for name, measured in found.items() for row in rows_of(name, measured)),
        "",
        "The default against every step:",
        "",
        "| optimizer | | default | every step | every step's value in the default's interval | and the reverse |",
        "| --- | --- | --- | --- | --- | --- |",
        *compare(default, fine),
        "",
        f"First crossings, default: {enclosed(default, fine)}.",
        f"An epoch apart: {enclosed(epoch, fine)}.",
        "",
        "Winners:",
        "",
        *(f"* {name}: {winners(measured)}" for name, measured in found.items()),
        "",
        "Verdicts on scaling:",
        "",
        *(f"* {name}: {verdict_words(measured.verdict)}" for name, measured in found.items()),
        "",
        "With two values a hyperparameter every winner is on an edge, by design; the rest are faults of the spacing, or"
        " of a target that takes fewer than 20 steps.",
    ]
    print("\n".join(lines))
    if options.record:
        (Path(__file__).parent / "results" / "grain.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
