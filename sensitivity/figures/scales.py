"""Positions of metric values on an axis or a colour bar.

The declaration of a metric determines its scale (``Quantity.scale``). Losses are placed at their logarithm. Accuracies
are placed at minus the logarithm of the error, 1 - accuracy, so that 98% and 99% are as far apart as 80% and 90%; the
axis is labelled in accuracy. The same holds for other metrics with a best value; all others have a linear scale.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from plotly.colors import sample_colorscale

from sensitivity.analysis.maps import RobustnessMap
from sensitivity.figures.labels import number
from sensitivity.study.metrics import Metric

_DECADES = 3.0
"""Largest range of a scale in decades; better values are drawn at its good end."""

_SMALLEST_ERROR = 1e-3
_STEPS = 64
_ACCURACIES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Positions from `bottom` to `top`, with labelled values."""

    metric: Metric
    bottom: float
    top: float
    tickvals: tuple[float, ...]
    ticktext: tuple[str, ...]

    def position(self, value: float) -> float:
        """Return the position of `value`, clipped to the scale; NaN for NaN."""
        return min(max(_raw(self.metric, value), self.bottom), self.top) if value == value else math.nan

    @property
    def colours(self) -> str:
        """The colour scale, yellow at the good end."""
        return "Cividis_r" if self.metric.lower_is_better else "Cividis"

    @property
    def bad_end(self) -> float:
        """The position of the worst values."""
        return self.top if self.metric.lower_is_better else self.bottom

    def ink_on(self, value: float) -> str:
        """Return black or white, whichever has more contrast with the colour of `value`."""
        fraction = (self.position(value) - self.bottom) / (self.top - self.bottom)
        return _text_colours(self.colours)[round(fraction * _STEPS)]


def metric_scale(metric: Metric, values: Iterable[float], *, worst: float = math.nan) -> Scale:
    """Return a scale over `values`, clipped at `worst` if that is finite; its end is then labelled with ≤ or ≥."""
    positions = [_raw(metric, value) for value in values if math.isfinite(value)]
    end = _raw(metric, worst) if math.isfinite(worst) else None
    bottom, top = min(positions, default=end or 0.0), max(positions, default=end or 0.0)
    if end is not None:
        bottom, top = (min(bottom, end), end) if metric.lower_is_better else (end, max(top, end))
    least = 0.02
    if metric.quantity.scale == "linear":
        least = 1e-3 * max(abs(top), 1e-9)
    else:
        bottom = max(bottom, top - _DECADES)
    if top - bottom < least:
        bottom, top = bottom - least / 2, bottom + least / 2
    ticks = _ticks(metric, bottom, top)
    if end is not None:
        ticks = [(at, text) for at, text in ticks if abs(at - end) > 0.06 * (top - bottom)]
        ticks.append((end, ("≥ " if metric.lower_is_better else "≤ ") + _label(metric, worst)))
    return Scale(
        metric=metric,
        bottom=bottom,
        top=top,
        tickvals=tuple(at for at, _ in ticks),
        ticktext=tuple(text for _, text in ticks),
    )


def map_scale(maps: Sequence[RobustnessMap]) -> Scale:
    """Return the common scale of maps of one metric, clipped at the value of the untrained network."""
    medians = [cell.median for map_ in maps for cell in map_.cells if cell.completed]
    return metric_scale(maps[0].metric, medians, worst=maps[0].untrained)


@functools.cache
def _text_colours(colours: str) -> tuple[str, ...]:
    """Return black or white text colours for `_STEPS` + 1 points of a colour scale, by luminance (WCAG 2.2)."""
    inks = []
    for rgb in sample_colorscale(colours, [k / _STEPS for k in range(_STEPS + 1)], colortype="tuple"):
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb)
        inks.append("#000000" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else "#ffffff")
    return tuple(inks)


def _raw(metric: Metric, value: float) -> float:
    quantity = metric.quantity
    if quantity.scale == "linear":
        return value
    if quantity.scale == "log":
        return math.log10(max(value, 1e-30))
    place = math.log10(max(quantity.distance(value), _SMALLEST_ERROR))
    return place if quantity.lower_is_better else -place


def _label(metric: Metric, value: float) -> str:
    if metric.percent:
        return f"{100 * value:.3g}%"
    return number(value, 2 if metric.quantity.scale == "log" else 3)


def _ticks(metric: Metric, bottom: float, top: float) -> list[tuple[float, str]]:
    kept: list[tuple[float, str]] = []
    for value in _tick_values(metric, bottom, top):
        at = _raw(metric, value)
        if bottom <= at <= top and (not kept or at - kept[-1][0] > 0.07 * (top - bottom)):
            kept.append((at, _label(metric, value)))
    return kept


def _tick_values(metric: Metric, bottom: float, top: float) -> list[float]:
    """Return round values from the bottom of the scale to its top."""
    quantity = metric.quantity
    if metric.percent:
        return list(_ACCURACIES)
    if quantity.scale == "linear":
        step = 10.0 ** math.floor(math.log10((top - bottom) / 4))
        step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= (top - bottom) / 8)
        return [k * step for k in range(math.ceil(bottom / step), math.floor(top / step) + 1)]
    decreasing = quantity.scale == "distance" and not quantity.lower_is_better  # a large distance is at the bottom
    low, high = (-top, -bottom) if decreasing else (bottom, top)
    decades = range(math.floor(low) - 1, math.ceil(high) + 1)
    steps: Sequence[int] = (1, 2, 5) if top - bottom < 2 else (1,)
    values = [step * 10.0**decade for decade in decades for step in steps]
    if top - bottom < 0.5:
        parts = 4 if quantity.scale == "log" else 2
        values = [step * 10.0**decade / parts for decade in decades for step in range(parts, 10 * parts)]
    if quantity.scale == "log":
        return values
    return (
        [quantity.perfect - value for value in reversed(values)]
        if decreasing
        else [quantity.perfect + v for v in values]
    )
