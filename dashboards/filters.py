"""The filter bar: controls shared by all pages, and the view that their values select.

Each side of a prior box is a slider over positions: the sorted values of a grid or list, or a hundred steps of an
interval on its own scale.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import dash_mantine_components as dmc
from dash import html
from dash.development.base_component import Component

from dashboards.address import Address, parse_target, target_text
from dashboards.blocks import aria
from sensitivity.analysis.study_results import StudyResults
from sensitivity.analysis.view import Narrowed, View
from sensitivity.figures.labels import capitalized, number, optimizer_name, parameter_name, target_in_words
from sensitivity.study.axes import Axis
from sensitivity.study.spec import StudySpec

_STEPS = 100


def positions(axis: Axis) -> tuple[float, ...]:
    """Return the values at which a slider over `axis` stops, in increasing order."""
    if axis.scale == "values" or axis.points is not None:
        return tuple(sorted(axis.grid()))
    return tuple(axis.quantile(k / _STEPS) for k in range(_STEPS + 1))


def filter_bar(results: StudyResults) -> Component:
    """Return the controls of a study, set to the values of its view."""
    view, spec = results.view, results.spec
    metrics = [{"value": metric.name, "label": capitalized(metric.label)} for metric in spec.measured()]
    target = results.target
    targets = [{"value": target_text(one), "label": target_in_words(one)} for one in results.targets]
    controls = [
        _select("metric", "Metric", metrics, results.metric.name, 170),
        _tolerance(results),
        _multi_select("optimizers", "Optimizers", spec.optimizers, view.optimizers, optimizer_name),
        _multi_select("batch_sizes", "Batch sizes", sorted(spec.batch_sizes), view.batch_sizes, lambda b: f"{b:,}"),
        _select("target", "Target", targets, target_text(target) if target else None, 210),
    ]
    boxes = html.Details(
        [html.Summary("Narrow the prior box"), _boxes(spec, view)], className="boxes", open=bool(view.box)
    )
    return html.Section(
        [
            html.Details(
                [html.Summary("Filters"), html.Div(controls, className="controls"), boxes],
                className="filters",
                open=True,  # page.js folds them on a phone
            ),
            html.P(filtered_words(results), id="filtered", className="note"),
        ],
        className="bar",
        **aria(label="Filters"),
    )


def _select(name: str, label: str, data: Sequence[Any], value: str | None, width: int) -> Any:
    return dmc.Select(
        id={"type": "filter", "name": name},
        label=label,
        data=data,
        value=value,
        allowDeselect=False,
        placeholder="none declared" if not data else None,
        disabled=not data,
        size="xs",
        w=width,
    )


def _multi_select(name: str, label: str, values: Any, chosen: Sequence[object], words: Any) -> Any:
    return dmc.MultiSelect(
        id={"type": "filter", "name": name},
        label=label,
        data=[{"value": str(value), "label": words(value)} for value in values],
        value=[str(value) for value in chosen],
        placeholder="" if chosen else "all",
        clearable=True,
        size="xs",
        miw=150,
        clearButtonProps={"aria-label": f"Clear {label.lower()}"},
    )


def _tolerance(results: StudyResults) -> Component:
    metric = results.metric
    default = 100 * metric.quantity.usual_tolerance
    unit = "percentage points" if metric.percent else f"% of the untrained network's {metric.quantity.label}"
    if metric.is_loss:
        unit = "% of the untrained loss"
    return html.Div(
        [
            html.Div(f"Tolerance, {unit}", className="label"),
            dmc.Slider(
                id={"type": "filter", "name": "tolerance"},
                value=default if results.view.tolerance is None else results.view.tolerance,
                min=0,
                max=10,
                step=0.25,
                marks=[{"value": k, "label": str(k)} for k in (0, 5, 10)],
                thumbLabel=f"Tolerance, {unit}",
                updatemode="mouseup",
                size="sm",
                mb="md",
            ),
        ],
        className="slider",
    )


def _boxes(spec: StudySpec, view: View) -> Component:
    sides = {(side.optimizer, side.parameter): side for side in view.box}
    return html.Div(
        [
            html.Div(
                [
                    html.Div(optimizer_name(name), className="label strong"),
                    *(
                        _side(name, parameter, axis, sides.get((name, parameter)))
                        for parameter, axis in axes.items()
                        if axis.varies
                    ),
                ],
                className="box",
            )
            for name, axes in spec.axes.items()
        ],
        className="sides",
    )


def _side(optimizer: str, parameter: str, axis: Axis, narrowed: Narrowed | None) -> Component:
    values = positions(axis)
    last = len(values) - 1
    low = bisect.bisect_left(values, narrowed.low * (1 - 1e-5)) if narrowed else 0
    high = bisect.bisect_right(values, narrowed.high * (1 + 1e-5)) - 1 if narrowed else last
    words = [number(value, 3) for value in values]
    name = f"{optimizer_name(optimizer)}: {parameter_name(parameter)}"
    return html.Div(
        [
            html.Div(parameter_name(parameter), className="label"),
            dmc.RangeSlider(
                id={"type": "side", "optimizer": optimizer, "parameter": parameter},
                value=[min(low, last), max(min(high, last), min(low, last))],
                min=0,
                max=last,
                step=1,
                minRange=0,
                marks=[{"value": 0, "label": words[0]}, {"value": last, "label": words[-1]}],
                label={"function": "valueAt", "options": {"words": words}},
                thumbFromLabel=f"{name}, from",
                thumbToLabel=f"{name}, to",
                updatemode="mouseup",
                size="sm",
                mb="md",
            ),
        ],
        className="slider",
    )


def filtered_words(results: StudyResults) -> str:
    """Describe in words which runs the filters keep."""
    left, all_ = len(results.runs), len(results.tables.runs)
    if left == all_:
        return f"All {all_:,} planned runs."
    sides = "".join(
        f" · {optimizer_name(s.optimizer)} {parameter_name(s.parameter)} {number(s.low, 3)} to {number(s.high, 3)}"
        for s in results.view.box
    )
    return f"{left:,} of {all_:,} planned runs{sides}."


def with_controls(
    address: Address, values: Mapping[str, Any], sides: Mapping[tuple[str, str], Any], spec: StudySpec
) -> Address:
    """Return the address with the controls' values; invalid values are ignored."""
    changes: dict[str, Any] = {}
    for name, value in values.items():
        if name == "optimizers":
            changes[name] = tuple(o for o in spec.optimizers if o in (value or ()))
        elif name == "batch_sizes":
            changes[name] = tuple(b for b in spec.batch_sizes if str(b) in (value or ()))
        elif name == "metric" and value in spec.measured():
            changes[name] = value
        elif name == "target" and isinstance(value, str):
            changes[name] = parse_target(value)
        elif name == "tolerance" and isinstance(value, (int, float)) and math.isfinite(value):
            changes[name] = float(value)
    box = [*(_side_of(spec, *key, value) for key, value in sides.items())]
    if sides:
        changes["box"] = tuple(sorted(side for side in box if side is not None))
    return address.under(**changes)


def _side_of(spec: StudySpec, optimizer: str, parameter: str, value: Any) -> Narrowed | None:
    axis = spec.axes.get(optimizer, {}).get(parameter)
    if axis is None or not isinstance(value, (list, tuple)) or len(value) != 2:
        return None
    values = positions(axis)
    low, high = (min(max(int(at), 0), len(values) - 1) for at in value)
    if low == 0 and high == len(values) - 1:
        return None
    return Narrowed(optimizer, parameter, values[low], values[high])
