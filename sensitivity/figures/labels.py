"""Names and numbers in words, for figures, tables and sentences."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from sensitivity.analysis.designs import Parameters
from sensitivity.analysis.estimates import Estimate
from sensitivity.analysis.maps import Cell, RobustnessMap
from sensitivity.analysis.names import optimizer_name as optimizer_name
from sensitivity.analysis.names import parameter_name as parameter_name
from sensitivity.analysis.view import Target
from sensitivity.study.metrics import METRICS, Metric
from sensitivity.study.words import count as count
from sensitivity.study.words import number as number


def safe(text: object) -> str:
    """Escape text that comes from users, for HTML and for Plotly's subset of it."""
    return html.escape(str(text))


def capitalized(text: str) -> str:
    """Return `text` with its first letter capitalized; the rest is unchanged, so abbreviations survive."""
    return text[:1].upper() + text[1:]


def optimizer_label(name: str) -> str:
    """Return the display name of an optimizer, escaped."""
    return safe(optimizer_name(name))


def parameter_label(name: str) -> str:
    """Return the display name of a hyperparameter, escaped."""
    return safe(parameter_name(name))


def tick_labels(values: Sequence[float]) -> list[str]:
    """Return the shortest labels that are distinct, with at least two significant digits."""
    for digits in range(2, 7):
        labels = [number(value, digits) for value in values]
        if len(set(labels)) == len(set(values)):
            return labels
    return [f"{value:g}" for value in values]


def metric_value(metric: Metric, value: float) -> str:
    """Return a metric's value with its unit."""
    if metric.percent and math.isfinite(value):
        return f"{100 * value:.1f}%"
    return f"{number(value, 3)} {metric.quantity.unit}".rstrip()


def target_label(metric: Metric, level: float) -> str:
    """Return a target in words, such as "test accuracy ≥ 95.0%"."""
    return f"{metric.label} {'≤' if metric.lower_is_better else '≥'} {metric_value(metric, level)}"


def target_in_words(target: Target | None) -> str:
    """Return a target in words, or an empty text without a target."""
    return "" if target is None else target_label(METRICS[target[0]], target[1])


def interval_text(estimate: Estimate, digits: int = 3) -> str:
    """Return an estimate with its interval; "≤" if it is only an upper bound, a dash if there is no value."""
    if not estimate.known or estimate.interval is None:
        return number(estimate.value, digits)
    if estimate.interval[0] == 0 < estimate.interval[1] == estimate.value:
        return f"≤ {number(estimate.value, digits)}"
    low, high = (number(end, digits) for end in estimate.interval)
    return f"{number(estimate.value, digits)} [{low}, {high}]"


def level_in_words(alpha: float) -> str:
    """Return the confidence level of an interval, such as "97.5%"."""
    return f"{100 * (1 - alpha):.4g}%"


def settings(parameters: Parameters) -> str:
    """Return hyperparameters in words, not escaped; a dash if there are none."""
    return ", ".join(f"{parameter_name(name)} {number(value, 3)}" for name, value in parameters) or "–"


def configuration(map_: RobustnessMap, cell: Cell) -> str:
    """Return a cell's hyperparameters in words."""
    pairs = [(map_.x_name, cell.x)]
    if map_.y_name is not None:
        pairs.append((map_.y_name, cell.y))
    return ", ".join(f"{parameter_label(name)} {number(value, 3)}" for name, value in [*pairs, *map_.slice_at])


def cell_hover(map_: RobustnessMap, cell: Cell) -> str:
    """Return the hover text of a cell, one line per fact."""
    n = cell.completed + cell.diverged
    lines = [
        f"<b>{optimizer_label(map_.optimizer)}, batch size {map_.batch_size}</b>",
        configuration(map_, cell),
    ]
    if n:
        label = map_.metric.label + (" (diverged runs as untrained)" if cell.diverged else "")
        lines.append(f"median {label}: <b>{metric_value(map_.metric, cell.median)}</b>")
        if n > 1:
            low, high = (metric_value(map_.metric, value) for value in (cell.low, cell.high))
            lines.append(f"seeds from {low} to {high}")
    lines.append(status_line(cell))
    if map_.best_cell is not None and cell.cell_id == map_.best_cell.cell_id:
        lines.append("★ best cell")
    elif cell.like_best:
        lines.append("○ indistinguishable from the best")
    if cell.in_region:
        lines.append(f"within {tolerance(map_)} of the best")
    return "<br>".join(lines)


def status_line(cell: Cell) -> str:
    """Return the counts of a cell: how many of its planned runs ended with which status."""
    parts = [f"{cell.completed} of {cell.planned} completed"]
    parts += [f"{n} {what}" for n, what in _other_statuses(cell) if n]
    return ", ".join(parts)


def tolerance(map_: RobustnessMap) -> str:
    """Return the width of the tolerance region in words."""
    if map_.metric.percent:
        return f"{100 * map_.epsilon:.3g} percentage point" + ("" if map_.epsilon == 0.01 else "s")
    return number(map_.epsilon, 2)


def map_counts(maps: Sequence[RobustnessMap]) -> str:
    """Return the counts of the runs behind `maps`, by status."""
    cells = [cell for map_ in maps for cell in map_.cells]
    planned, completed = sum(cell.planned for cell in cells), sum(cell.completed for cell in cells)
    parts = [f"n = {count(planned, 'run')} planned", f"{completed:,} completed"]
    for name in ("diverged", "failed", "waiting"):
        total = sum(getattr(cell, name) for cell in cells)
        parts += [f"{total:,} {name}"] if total else []
    return ", ".join(parts)


def _other_statuses(cell: Cell) -> tuple[tuple[int, str], ...]:
    return (cell.diverged, "diverged"), (cell.failed, "failed"), (cell.waiting, "waiting")
