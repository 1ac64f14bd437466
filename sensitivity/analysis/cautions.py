"""Cautions of a study: limitations that a reader must know before concluding, in one or two sentences each."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from sensitivity.analysis.designs import edge_words
from sensitivity.analysis.estimates import Caution
from sensitivity.analysis.intervals import LEVEL, smallest_sign_flip_p
from sensitivity.analysis.maps import RobustnessMap
from sensitivity.analysis.names import at_batch_size, parameter_name
from sensitivity.analysis.outcomes import made_elsewhere
from sensitivity.analysis.scaling import ScalingCurve
from sensitivity.analysis.summary import StudySummary
from sensitivity.study.results import Status
from sensitivity.study.words import count

__all__ = ["Caution", "compute_cautions"]


def compute_cautions(
    runs: pd.DataFrame,
    summary: StudySummary,
    maps: Sequence[RobustnessMap],
    curves: Sequence[ScalingCurve] = (),
    *,
    running: bool = False,
) -> tuple[Caution, ...]:
    """Return the cautions that apply to a study, to the maps of one metric, and to the times to one target.

    The most serious come first. `running` is whether the study's results are being written.
    """
    own = not made_elsewhere(runs)
    fix = "Run the study again to complete them." if own else "Complete these runs, and import the study again."
    fix = "The study is running and will complete them." if running else fix
    total = summary.total
    cautions = []
    if total.waiting:
        cautions.append(
            Caution(
                code="incomplete",
                text=f"{total.waiting:,} of {total.planned:,} planned runs have no result yet"
                f" ({total.pending:,} pending, {total.interrupted:,} interrupted). Everything below can"
                f" change. {fix}",
            )
        )
    if total.failed:
        first = runs.loc[runs["status"] == Status.FAILED.value, "message"].iloc[0]
        cautions.append(
            Caution(
                code="failed",
                text=f"{total.failed:,} of {total.planned:,} planned runs failed with an exception, which says"
                f" nothing about the optimizer. They have no value here. The first: {first or 'no message'}",
            )
        )
    if total.stopped:
        why = " because others of their pack were better" if own else ""
        cautions.append(
            Caution(
                code="stopped",
                text=f"{total.stopped:,} of {total.planned:,} planned runs were stopped early{why}."
                " They count with their results up to then, so success rates are lower bounds, and regions"
                " and medians may be too pessimistic.",
            )
        )
    cautions += _divergence(maps)
    cautions += _edges(maps, curves)
    cautions += _slices(maps)
    cautions += _seeds(runs, maps)
    cautions += _mixed(runs)
    return tuple(cautions)


def _divergence(maps: Sequence[RobustnessMap]) -> list[Caution]:
    return [
        Caution(
            code="diverged",
            text=f"{at_batch_size(map_.optimizer, map_.batch_size)}: no run completed"
            f" ({sum(cell.diverged for cell in map_.cells)} of {sum(cell.planned for cell in map_.cells)}"
            " diverged), so it has no best cell. Try smaller learning rates.",
        )
        for map_ in maps
        if map_.best is None and map_.count("diverged")
    ]


def _edges(maps: Sequence[RobustnessMap], curves: Sequence[ScalingCurve]) -> list[Caution]:
    """Return cautions on best cells, by the metric or by time to the target, at an edge of what was searched."""
    cells = [(map_.optimizer, map_.batch_size, map_.edges, f"best cell by {map_.metric.label}") for map_ in maps]
    cells += [(c.optimizer, p.batch_size, p.edges, "fastest cell to the target") for c in curves for p in c.points]
    found: dict[tuple[str, tuple[str, str]], list[str]] = {}
    for optimizer, size, edges, which in cells:
        if edges:
            found.setdefault((at_batch_size(optimizer, size), edge_words(edges)), []).append(which)
    return [
        Caution(
            code="edge",
            text=f"{where}: the {' and the '.join(which)} {'have' if len(which) > 1 else 'has'} {has}. The optimum may"
            f" lie outside: extend {extend} before comparing it.",
        )
        for (where, (has, extend)), which in found.items()
    ]


def _slices(maps: Sequence[RobustnessMap]) -> list[Caution]:
    sliced = [map_ for map_ in maps if map_.slice_at]
    names = sorted({name for map_ in sliced for name, _ in map_.slice_at})
    if not sliced:
        return []
    return [
        Caution(
            code="slice",
            text=f"More than two hyperparameters vary. Each map is the slice through its best cell, with"
            f" {', '.join(map(parameter_name, names))} fixed there; the other"
            f" {sum(map_.cells_outside for map_ in sliced):,} cells are in the exported table.",
        )
    ]


def _seeds(runs: pd.DataFrame, maps: Sequence[RobustnessMap]) -> list[Caution]:
    seeds = int(runs["seed"].nunique())
    cautions = []
    if seeds > 1 and all(cell.planned == 1 for map_ in maps for cell in map_.cells):
        cautions.append(
            Caution(
                code="single-seed",
                text="Every setting ran once, with its own seed: the runs show how often a random setting succeeds,"
                " but not that one cell is better than its neighbours.",
            )
        )
    elif seeds == 1:
        cautions.append(
            Caution(
                code="single-seed",
                text="One seed: nothing here shows how much a result would change with another"
                " initialisation and data order. No cell can be distinguished from its neighbours.",
            )
        )
    elif seeds > 1 and smallest_sign_flip_p(seeds) > 1 - LEVEL:
        paired = (
            f" A sign-flip test of {seeds} paired differences between optimizers can't give a two-sided p below"
            f" {smallest_sign_flip_p(seeds):g}."
            if len(set(runs["optimizer"])) > 1
            else ""
        )
        cautions.append(
            Caution(
                code="few-seeds",
                text=f"{count(seeds, 'seed')}: ranges are the smallest and largest seed, not confidence intervals."
                f"{paired}",
            )
        )
    largest = max((len(map_.cells) + map_.cells_outside for map_ in maps if map_.best is not None), default=0)
    if largest > 1:
        cautions.append(
            Caution(
                code="winner",
                text=f"A best cell is the best of up to {largest} by the same runs that are shown, so its value"
                " is biased towards better results. Confirm it on fresh seeds.",
            )
        )
    return cautions


def _mixed(runs: pd.DataFrame) -> list[Caution]:
    done = runs[runs["status"] != Status.PENDING.value]
    mixed = {
        what: int(done[column].nunique())
        for column, what in (("code_version", "code versions"), ("host", "hosts"), ("device", "devices"))
    }
    named = ", ".join(f"{count} {what}" for what, count in mixed.items() if count > 1)
    if not named:
        return []
    return [Caution(code="mixed", text=f"The runs come from {named}: see the provenance before comparing times.")]
