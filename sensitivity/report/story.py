"""The sentences of the report: what was run, its status, what was found, and cautions."""

from __future__ import annotations

from collections.abc import Sequence

from sensitivity.analysis.maps import RobustnessMap
from sensitivity.analysis.summary import StudySummary
from sensitivity.figures.labels import count, metric_value, number, optimizer_name, tolerance
from sensitivity.study.spec import StudySpec
from sensitivity.study.words import duration


def design_sentences(spec: StudySpec, *, begun: bool) -> str:
    """Return sentences on the study's design or, if it hasn't begun, on what the study file declares."""
    names = _listed([optimizer_name(name) for name in spec.optimizers])
    batches = _listed([f"{size:,}" for size in sorted(spec.batch_sizes)])
    drawn = [name for name, arm in spec.optimizers.items() if arm.design in ("random", "sobol")]
    seeds = f"with {count(len(spec.seeds), 'seed')}" + ("" if drawn else " per configuration")
    if drawn:
        seeds += f", each with its own sampled settings for {_listed([optimizer_name(name) for name in drawn])}"
    at = f"at batch size{'s' * (len(spec.batch_sizes) > 1)} {batches}, {seeds}."
    if spec.problem is None or spec.budget is None:
        return f"{names} were {spec.problem_in_words()} {at} The model and the budget are not known here."
    did = f"{names} trained" if begun else f"The study file declares that {names} train"
    return (
        f"{did} the model {spec.problem.model} on the data set {spec.problem.dataset}"
        f" ({spec.problem.loss.replace('_', ' ')} loss) {at}"
        f" Every optimizer {'had' if begun else 'has'} the same budget: {spec.budget.words()}."
    )


def status_sentences(summary: StudySummary) -> str:
    """Return sentences on the runs by status and their cost."""
    total = summary.total
    if not total.planned:
        return "No run is planned in this directory, so there is nothing to show yet. Run the study first."
    parts = [f"{total.completed:,} completed"]
    parts += [
        f"{n:,} {what} ({n / total.planned:.1%})"
        for n, what in (
            (total.diverged, "diverged"),
            (total.stopped, "were stopped early"),
            (total.failed, "failed"),
            (total.interrupted, "were interrupted"),
            (total.pending, "are pending"),
        )
        if n
    ]
    sentences = f"Of {count(total.planned, 'planned run')}, {_listed(parts)}."
    if total.train_seconds > 0:
        operations = f" ({number(total.flops, 2)} floating-point operations)" if total.flops > 0 else ""
        sentences += (
            f" Training took {duration(total.train_seconds)} of device time{operations} and"
            f" {duration(summary.elapsed_seconds)} from the first start to the last result."
        )
    return sentences


def findings(maps: Sequence[RobustnessMap]) -> list[str]:
    """Return one or two sentences on each optimizer's maps of one metric."""
    sentences = []
    for optimizer in dict.fromkeys(map_.optimizer for map_ in maps):
        own = [map_ for map_ in maps if map_.optimizer == optimizer]
        found = [map_ for map_ in own if map_.best_cell is not None]
        if not found:
            sentences.append(f"{optimizer_name(optimizer)}: no run has completed, so it has no best cell.")
            continue
        best = _listed(
            [
                f"{metric_value(map_.metric, map_.best_cell.median)} at batch size {map_.batch_size:,}"
                for map_ in found
                if map_.best_cell is not None
            ]
        )
        inside = _listed([str(sum(cell.in_region for cell in map_.cells)) for map_ in found])
        lost = _listed([str(map_.count("diverged")) for map_ in found])
        cells = _listed(list(dict.fromkeys(f"{len(map_.cells)}" for map_ in found)))
        each = ", in that order" if len(found) > 1 else ""
        sentences.append(
            f"{optimizer_name(optimizer)}: the best cell's median {found[0].metric.label} is {best}. Within"
            f" {tolerance(found[0])} of it are {inside} of {cells} cells{each}; in {lost}, every seed diverged."
        )
    return sentences


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
