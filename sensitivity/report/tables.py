"""Tables of the report, as HTML. Every cell is escaped here."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sensitivity.analysis.curves import CellCurves
from sensitivity.analysis.maps import Cell, RobustnessMap
from sensitivity.analysis.summary import StudySummary, Tally
from sensitivity.analysis.targets import TargetOutcome
from sensitivity.figures.labels import metric_value, number, optimizer_name, parameter_name, safe
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


def map_table(maps: Sequence[RobustnessMap]) -> str:
    """Return every cell of maps of one optimizer."""
    first = maps[0]
    rows = [
        [
            map_.batch_size,
            number(cell.x, 6),
            *([number(cell.y, 6)] if first.y_name else []),
            *(number(value, 4) for value in (cell.median, cell.low, cell.high)),
            cell.completed, cell.diverged, cell.failed, cell.waiting, cell.planned,
            _marks(map_, cell),
        ]
        for map_ in maps
        for cell in map_.cells
    ]  # fmt: skip
    header = [
        "batch size",
        parameter_name(first.x_name),
        *([parameter_name(first.y_name)] if first.y_name else []),
        "median", "smallest", "largest", "completed", "diverged", "failed", "waiting", "planned", "remarks",
    ]  # fmt: skip
    return table(f"{optimizer_name(first.optimizer)}: {first.metric.label}, each cell.", header, rows, text_columns=0)


def curve_table(cells: Sequence[CellCurves]) -> str:
    """Return the median and range of learning curves, thinned to some 25 evaluations a cell."""
    rows = [
        [
            optimizer_name(cell.optimizer), cell.batch_size, number(cell.epochs[k], 4),
            *(number(values[k], 4) for values in (cell.median, cell.low, cell.high)), cell.n,
        ]
        for cell in cells
        for k in range(0, len(cell.epochs), -(-len(cell.epochs) // 25))
    ]  # fmt: skip
    header = ("optimizer", "batch size", "epoch", "median", "smallest", "largest", "n")
    return table(f"{cells[0].metric.label.capitalize()} over epochs.", header, rows, text_columns=1)


def target_table(outcomes: Sequence[TargetOutcome]) -> str:
    """Return counts, and times to target in steps, epochs and seconds."""
    rows = []
    for o in outcomes:
        metric = METRICS[o.metric]
        expected = f"> {number(o.spent_steps, 3)}" if math.isnan(o.expected_steps) else number(o.expected_steps, 3)
        interval = "–" if o.interval is None else f"{o.interval[0]:.0%} to {o.interval[1]:.0%}"
        rows.append(
            [
                f"{metric.label} {'≤' if metric.lower_is_better else '≥'} {metric_value(metric, o.target)}",
                optimizer_name(o.optimizer), o.batch_size, f"{o.reached}/{o.planned}", interval, o.censored,
                f"{o.diverged} ({o.diverged_after_meeting})", o.failed, o.waiting, number(o.median_steps, 4),
                number(o.median_epochs, 3), number(o.median_seconds, 3), expected,
            ]
        )  # fmt: skip
    header = (
        "target", "optimizer", "batch size", "reached", "95% interval", "completed, not reached",
        "diverged (after meeting it)", "failed", "waiting", "median steps", "median epochs",
        "median device-seconds", "expected running time in steps",
    )  # fmt: skip
    return table("Runs that reach each target. Medians are over the runs that reach it.", header, rows, text_columns=2)


def status_table(summary: StudySummary) -> str:
    """Return planned runs by status, and their cost."""
    rows = [
        [optimizer_name(g.optimizer), f"{g.batch_size:,}", f"{g.cells:,} × {g.seeds}", *_tally(g.tally)]
        for g in summary.groups
    ]
    rows.append(["all", "", "", *_tally(summary.total)])
    header = (
        "optimizer", "batch size", "cells × seeds", "planned", "completed", "diverged", "failed",
        "interrupted", "pending", "steps", "device-seconds", "FLOPs",
    )  # fmt: skip
    return table("Planned runs by status, and what they cost.", header, rows, text_columns=1)


def pairs_table(caption: str, pairs: Sequence[tuple[str, object]]) -> str:
    """Return names and values."""
    return table(caption, ("what", "value"), pairs, text_columns=2)


def _tally(tally: Tally) -> list[str]:
    counts = (tally.planned, tally.completed, tally.diverged, tally.failed, tally.interrupted, tally.pending)
    return [*(f"{n:,}" for n in (*counts, tally.steps)), f"{tally.train_seconds:,.1f}", number(tally.flops, 3)]


def _settings(map_: RobustnessMap, cell: Cell) -> str:
    pairs = [(map_.x_name, cell.x), *([(map_.y_name, cell.y)] if map_.y_name else []), *map_.slice_at]
    return ", ".join(f"{parameter_name(name)} {number(value, 3)}" for name, value in pairs)


def _range(map_: RobustnessMap, cell: Cell) -> str:
    if cell.completed + cell.diverged < 2:
        return "one seed"
    return f"{metric_value(map_.metric, cell.low)}–{metric_value(map_.metric, cell.high)}"


def _marks(map_: RobustnessMap, cell: Cell) -> str:
    marks = [
        ("best", map_.best_cell is not None and map_.best_cell.cell_id == cell.cell_id),
        ("within tolerance", cell.in_region),
        ("can't be told from the best", cell.like_best),
    ]
    return ", ".join(text for text, applies in marks if applies)
