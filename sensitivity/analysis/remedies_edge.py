"""What to do about winners on the edge of what was looked at: the edit of the study file, and what it costs.

A grid gets one further value beyond each edge, as far from the last as its neighbour is, and keeps the cells that it
has. A box gets one more decade, and all its draws are made anew. Runs are priced at what those of the
same optimizer and batch size took.
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


def extend(runs: pd.DataFrame, optimizer: str, edges: Iterable[Edge]) -> tuple[Remedy, ...]:
    """Return the edit that takes all of `edges` of an optimizer away, and its price; nothing without edges."""
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
            wider = _longer(parameter, values, sides)
            growth *= len(wider) / len(values)
            edits.append((field, f"[{', '.join(map(_plain, wider))}]"))
        else:
            low, high = axis.bounds()
            low = _further(parameter, low, high, -1.0) if "low" in sides else low
            high = _further(parameter, high, axis.bounds()[0], 1.0) if "high" in sides else high
            edits.append((field, f"{{ {axis.scale} = [{_plain(low)}, {_plain(high)}] }}"))
    fields = " and ".join(f"{'.'.join(path)} = {value}" for path, value in edits)
    edit = f"set {fields} under [optimizers.{optimizer}] in the study file"
    share = 1.0 if boxed else growth - 1.0
    planned = own["batch_size"].value_counts()
    counts = {int(size): math.ceil(round(int(planned[size]) * share, 6)) for size in planned.index}
    runs_new, sizes = sum(counts.values()), len(counts)
    at = f"{sizes} batch size{'' if sizes == 1 else 's'}"
    if boxed:
        text = f"Widen {name}'s box: {edit}. Its {runs_new:,} runs at {at} are made anew."
    else:
        text = f"Extend {name}'s grid: {edit}. That adds {runs_new:,} runs at {at}, and keeps those that there are."
    return (
        Remedy(
            code="edge",
            text=text,
            runs=runs_new,
            device_seconds=_price(own, counts),
            edits=tuple((("optimizers", optimizer, *path), value) for path, value in edits),
        ),
    )


def _longer(parameter: str, values: Sequence[float], sides: Iterable[str]) -> list[float]:
    """Return a list of rising values with one more beyond each of `sides`."""
    longer = list(values)
    if "low" in sides:
        longer.insert(0, _beyond(parameter, values[0], values[1]))
    if "high" in sides:
        longer.append(_beyond(parameter, values[-1], values[-2]))
    return [value for value in longer if hyperparameter(parameter).allows(value)]


def _beyond(parameter: str, end: float, neighbour: float) -> float:
    """Return the value as far from `end` as its neighbour is on the other side, in decades where it has some."""
    declared = hyperparameter(parameter)
    at_end, beside = declared.decades([end, neighbour])
    if not math.isnan(at_end + beside):
        return declared.from_decades(float(2 * at_end - beside))
    return 2 * end - neighbour if end > neighbour else end / 2


def _further(parameter: str, bound: float, other: float, direction: float) -> float:
    """Return the bound of an interval moved outward by a decade, or by half of its width where it has no decades."""
    declared = hyperparameter(parameter)
    at = float(declared.decades(bound))
    if not math.isnan(at) and (moved := declared.from_decades(at + direction)) >= 0:
        return moved
    return max(bound + direction * abs(bound - other) / 2, 0.0)


def _price(own: pd.DataFrame, counts: dict[int, int]) -> float:
    """Return the device-seconds of so many runs at each batch size; NaN where one has no result."""
    each = own[own["status"].isin(OBSERVED)].groupby("batch_size")["seconds"].mean()
    return sum((count * float(each.get(size, math.nan)) for size, count in counts.items()), 0.0)


def _plain(value: float) -> str:
    return f"{value:.6g}"
