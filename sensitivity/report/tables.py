"""Tables of the report, as HTML. Every cell is escaped here."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sensitivity.analysis.cost import CostRatio
from sensitivity.analysis.designs import Parameters
from sensitivity.analysis.maps import Cell, RobustnessMap
from sensitivity.analysis.price import PriceRatio, TuningPrice
from sensitivity.analysis.summary import Group, StudySummary, Tally
from sensitivity.analysis.targets import TargetOutcome
from sensitivity.analysis.tuning import Tuning
from sensitivity.figures.exhibits.prices import price_text
from sensitivity.figures.labels import metric_value, number, optimizer_name, parameter_name, safe, target_label
from sensitivity.study.metrics import METRICS

_MOST_ROWS = 1000


def table(caption: str, header: Sequence[str], rows: Sequence[Sequence[object]], *, text_columns: int) -> str:
    """Return a table whose first `text_columns` columns are words and whose others are numbers."""
    kept = rows[:_MOST_ROWS]
    if len(rows) > _MOST_ROWS:
        caption += f" The first {_MOST_ROWS:,} of {len(rows):,} rows; `sensitivity export` writes all of them."
    kinds = [""] * text_columns + [' class="n"'] * (len(header) - text_columns)
    head = "".join(f'<th scope="col"{kind}>{safe(n)}</th>' for n, kind in zip(header, kinds, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{safe(value)}</td>" for value, kind in zip(row, kinds, strict=True)) + "</tr>"
        for row in kept
    )
    return (
        f'<div class="scroll"><table><caption>{safe(caption)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def best_table(maps: Sequence[RobustnessMap]) -> str:
    """Return the best cell of each map, and how its neighbours fare."""
    rows = []
    for map_ in maps:
        best, cells = map_.best_cell, len(map_.cells)
        inside = sum(cell.in_region for cell in map_.cells)
        found = [
            "nothing completed" if best is None else _settings(map_, best),
            "–" if best is None else metric_value(map_.metric, best.median),
            "–" if best is None else _range(map_, best),
            "–" if best is None else f"{best.completed}/{best.planned}",
        ]
        edges = ", ".join(f"{edge.side} {parameter_name(edge.parameter)}" for edge in map_.edges)
        shares = [f"{inside}/{cells}", f"{map_.count('diverged')}/{cells}"]
        rows.append([optimizer_name(map_.optimizer), map_.batch_size, *found, *shares, edges or "–"])
    metric = maps[0].metric
    header = (
        "optimizer", "batch size", "best cell", f"median {metric.label}", "seeds from–to", "seeds completed",
        "cells within tolerance", "cells all diverged", "on the edge of",
    )  # fmt: skip
    return table(f"Best cell by {metric.label}, each optimizer and batch size.", header, rows, text_columns=3)


def target_table(outcomes: Sequence[TargetOutcome]) -> str:
    """Return counts, and times to target in steps, epochs and seconds."""
    rows = []
    for o in outcomes:
        expected = f"> {number(o.spent_steps, 3)}" if math.isnan(o.expected_steps) else number(o.expected_steps, 3)
        interval = "–" if o.interval is None else f"{o.interval[0]:.0%} to {o.interval[1]:.0%}"
        rows.append(
            [
                target_label(METRICS[o.metric], o.target),
                optimizer_name(o.optimizer), o.batch_size, f"{o.reached}/{o.planned}", interval, o.censored,
                f"{o.diverged} ({o.diverged_after_meeting})", o.failed, o.waiting, o.fell_back, _steps(o),
                number(o.median_epochs, 3), number(o.median_seconds, 3), expected,
            ]
        )  # fmt: skip
    header = (
        "target", "optimizer", "batch size", "reached", "95% interval", "completed, not reached",
        "diverged (after meeting it)", "failed", "waiting", "fell back", "median steps", "median epochs",
        "median device-seconds", "expected running time in steps",
    )  # fmt: skip
    return table("Runs that reach each target. Medians are over the runs that reach it.", header, rows, text_columns=2)


def _steps(outcome: TargetOutcome) -> str:
    """Return the median steps as what is known of them: at most so many, or between two evaluations."""
    low, high = outcome.median_steps_after, outcome.median_steps
    if low == 0 < high:
        return f"≤ {number(high, 4)}"
    return number(high, 4) if not high - low > 1 else f"{number(low, 4)}–{number(high, 4)}"


def ratio_table(ratios: Sequence[CostRatio]) -> str:
    """Return what one optimizer costs as a multiple of another."""
    one, other = optimizer_name(ratios[0].candidate), optimizer_name(ratios[0].reference)
    rows = [
        [f"{r.batch_size:,}", *(f"{number(value, 3)}×" for value in (r.seconds, r.flops, r.total_seconds))]
        for r in ratios
    ]
    header = ("batch size", "seconds a step", "FLOPs a step", "device-seconds of the search")
    return table(f"What {one} costs as a multiple of {other}.", header, rows, text_columns=0)


def price_table(prices: Sequence[TuningPrice], target: str) -> str:
    """Return what it takes until a setting works, with the priors; empty without any."""
    rows = [
        [
            optimizer_name(p.optimizer), "all" if p.batch_size is None else f"{p.batch_size:,}", p.prior,
            f"{p.reached:,}/{p.draws:,}", f"{p.success.value:.1%}", *map(price_text, (p.trials, p.seconds, p.flops)),
        ]
        for p in prices
        if p.refused is None and p.success.known
    ]  # fmt: skip
    header = (
        "optimizer", "batch size", "settings are from", "work", "share", "expected trials", "device-seconds", "FLOPs",
    )  # fmt: skip
    caption = f"What it takes until a setting reaches {target}, with 95% intervals."
    return table(caption, header, rows, text_columns=3) if rows else ""


def price_ratio_table(ratios: Sequence[PriceRatio]) -> str:
    """Return the price of tuning of one optimizer as a multiple of another's; empty without any."""
    if not ratios:
        return ""
    one, other = optimizer_name(ratios[0].candidate), optimizer_name(ratios[0].reference)
    rows = [
        ["all" if r.batch_size is None else f"{r.batch_size:,}", *map(price_text, (r.trials, r.seconds, r.flops))]
        for r in ratios
    ]
    header = ("batch size", "expected trials", "device-seconds", "FLOPs")
    caption = f"The price of tuning {one} as a multiple of {other}'s, with 95% intervals."
    return table(caption, header, rows, text_columns=0)


def tuning_table(tunings: Sequence[Tuning]) -> str:
    """Return the one setting for all batch sizes, and what has to be tuned at each; empty without any."""
    rows = [
        [
            optimizer_name(t.optimizer), f"{at.batch_size:,}", settings(t.default), settings(at.best),
            "–" if at.effective_dimension is None else f"{at.effective_dimension}",
            ", ".join(map(parameter_name, at.to_tune)) or "–",
        ]
        for t in tunings
        for at in t.tunability
    ]  # fmt: skip
    header = (
        "optimizer", "batch size", "one setting for all batch sizes", "best here", "effective dimension", "to tune",
    )  # fmt: skip
    if not rows:
        return ""
    caption = (
        "What has to be tuned. Effective dimension: the fewest hyperparameters to tune, from the one setting, for 95%"
        " of what the best gains over the untrained network."
    )
    return table(caption, header, rows, text_columns=6)


def settings(parameters: Parameters) -> str:
    """Return hyperparameters in words."""
    return ", ".join(f"{parameter_name(name)} {number(value, 3)}" for name, value in parameters) or "–"


def status_table(summary: StudySummary) -> str:
    """Return planned runs by status, and their cost."""
    rows = [[optimizer_name(g.optimizer), f"{g.batch_size:,}", _cells(g), *_tally(g.tally)] for g in summary.groups]
    rows.append(["all", "", "", *_tally(summary.total)])
    header = (
        "optimizer", "batch size", "cells × seeds", "planned", "completed", "diverged", "stopped early",
        "failed", "interrupted", "pending", "steps", "device-seconds", "FLOPs",
    )  # fmt: skip
    return table("Planned runs by status, and what they cost.", header, rows, text_columns=1)


def _cells(group: Group) -> str:
    """Return how configurations and seeds are combined: crossed, or each seed with draws of its own."""
    crossed = group.tally.planned == group.cells * group.seeds
    return f"{group.cells:,} × {group.seeds}" if crossed else f"{group.cells:,} of {group.seeds} seeds"


def pairs_table(caption: str, pairs: Sequence[tuple[str, object]]) -> str:
    """Return names and values."""
    return table(caption, ("what", "value"), pairs, text_columns=2)


def _tally(tally: Tally) -> list[str]:
    ended = (tally.completed, tally.diverged, tally.stopped, tally.failed)
    counts = (tally.planned, *ended, tally.interrupted, tally.pending)
    return [*(f"{n:,}" for n in (*counts, tally.steps)), f"{tally.train_seconds:,.1f}", number(tally.flops, 3)]


def _settings(map_: RobustnessMap, cell: Cell) -> str:
    return settings(((map_.x_name, cell.x), *(((map_.y_name, cell.y),) if map_.y_name else ()), *map_.slice_at))


def _range(map_: RobustnessMap, cell: Cell) -> str:
    if cell.completed + cell.diverged < 2:
        return "one seed"
    return f"{metric_value(map_.metric, cell.low)}–{metric_value(map_.metric, cell.high)}"
