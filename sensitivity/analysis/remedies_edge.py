"""Remedy for winners at the edge of the searched range: the edit of the study file that extends it, and its cost.

A grid is extended by one value beyond each edge, at the spacing of its last two values, and keeps its runs. A box is
extended by one decade, and all its draws are repeated. Runs are priced at the mean of those of the same optimizer and
batch size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import pandas as pd

from sensitivity.analysis.designs import Edge, levels
from sensitivity.analysis.names import optimizer_name
from sensitivity.analysis.outcomes import OBSERVED
from sensitivity.analysis.remedies import Edit, Remedy
from sensitivity.store.schema import PARAM_PREFIX
from sensitivity.study.hyperparameters import hyperparameter
from sensitivity.study.section import CONFIRMATION_SEEDS
from sensitivity.study.words import count


def extend(runs: pd.DataFrame, optimizer: str, edges: Iterable[Edge]) -> tuple[Remedy, ...]:
    """Return the edit that extends an optimizer's range beyond all of `edges`, and its price; empty without edges."""
    own = runs[(runs["optimizer"] == optimizer) & (runs["seed"] < CONFIRMATION_SEEDS)]
    by_name: dict[str, dict[str, Edge]] = {}
    for edge in edges:
        by_name.setdefault(edge.parameter, {})[edge.side] = edge
    if not by_name:
        return ()
    name, growth = optimizer_name(optimizer), 1.0
    edits: list[Edit] = []
    boxed = any(edge.of == "box" for sides in by_name.values() for edge in sides.values())
    for parameter, sides in by_name.items():
        field = hyperparameter(parameter).path
        axis = next((edge.axis for edge in sides.values()), None)
        if axis is None or axis.scale == "values":
            values = list(levels(own[PARAM_PREFIX + parameter]) if axis is None else sorted(axis.values))
            wider = _extended(parameter, values, sides)
            growth *= len(wider) / len(values)
            edits.append((field, f"[{', '.join(map(_plain, wider))}]"))
        else:
            low, high = axis.bounds()
            low = _outward(parameter, low, high, -1.0) if "low" in sides else low
            high = _outward(parameter, high, axis.bounds()[0], 1.0) if "high" in sides else high
            edits.append((field, f"{{ {axis.scale} = [{_plain(low)}, {_plain(high)}] }}"))
    fields = " and ".join(f"{'.'.join(path)} = {value}" for path, value in edits)
    edit = f"set {fields} under [optimizers.{optimizer}] in the study file"
    share = 1.0 if boxed else growth - 1.0
    planned = own["batch_size"].value_counts()
    counts = {int(size): math.ceil(round(int(planned[size]) * share, 6)) for size in planned.index}
    runs_new, sizes = sum(counts.values()), len(counts)
    at = count(sizes, "batch size")
    if boxed:
        text = f"Widen {name}'s box: {edit}. Its {runs_new:,} runs at {at} are repeated."
    else:
        text = f"Extend {name}'s grid: {edit}. That adds {count(runs_new, 'run')} at {at}, and keeps the existing runs."
    return (
        Remedy(
            code="edge",
            text=text,
            runs=runs_new,
            device_seconds=_price(own, counts),
            edits=tuple((("optimizers", optimizer, *path), value) for path, value in edits),
        ),
    )


def _extended(parameter: str, values: Sequence[float], sides: Iterable[str]) -> list[float]:
    """Return ascending `values` with one more beyond each of `sides`."""
    extended = list(values)
    if "low" in sides:
        extended.insert(0, _next_value(parameter, values[0], values[1]))
    if "high" in sides:
        extended.append(_next_value(parameter, values[-1], values[-2]))
    return [value for value in extended if hyperparameter(parameter).allows(value)]


def _next_value(parameter: str, end: float, neighbour: float) -> float:
    """Return the reflection of `neighbour` at `end`, on the log scale if the hyperparameter has one."""
    declared = hyperparameter(parameter)
    at_end, beside = declared.decades([end, neighbour])
    if not math.isnan(at_end + beside):
        return declared.from_decades(float(2 * at_end - beside))
    return 2 * end - neighbour if end > neighbour else end / 2


def _outward(parameter: str, bound: float, other: float, direction: float) -> float:
    """Return the bound of an interval moved outward by a decade, or by half of its width without a log scale."""
    declared = hyperparameter(parameter)
    at = float(declared.decades(bound))
    if not math.isnan(at) and (moved := declared.from_decades(at + direction)) >= 0:
        return moved
    return max(bound + direction * abs(bound - other) / 2, 0.0)


def _price(own: pd.DataFrame, counts: dict[int, int]) -> float:
    """Return the device-seconds of `counts` runs per batch size; NaN if a batch size has no result."""
    each = own[own["status"].isin(OBSERVED)].groupby("batch_size")["seconds"].mean()
    return sum((count * float(each.get(size, math.nan)) for size, count in counts.items()), 0.0)


def _plain(value: float) -> str:
    return f"{value:.6g}"
