"""Checks of lists in a study file: seeds and target levels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic_core import PydanticCustomError

from sensitivity.study.metrics import METRICS, Metric, MetricName, is_metric, named
from sensitivity.study.nearest import nearest
from sensitivity.study.section import MOST_SEEDS


def repeated(values: Iterable[float]) -> list[float]:
    """Return the values that occur more than once, sorted."""
    return sorted(value for value, times in Counter(values).items() if times > 1)


def seed_list(raw: Any) -> Any:
    """Expand a number of seeds to a list; a list is unchanged."""
    if isinstance(raw, int) and not isinstance(raw, bool):
        if not 1 <= raw <= MOST_SEEDS:
            raise PydanticCustomError(
                "seeds", "give a number of seeds from 1 to {most}, or a list of seeds", {"most": MOST_SEEDS}
            )
        return tuple(range(raw))
    if not isinstance(raw, (list, tuple)):
        raise PydanticCustomError("seeds", "give a number of seeds, or a list of seeds")
    return raw


def unmeasured(name: str, measured: tuple[Metric, ...]) -> str | None:
    """Return why a study lacks a metric, and how to add it; None if the metric is in `measured`."""
    if name in measured:
        return None
    allowed = ", ".join(measured)
    if not is_metric(name):
        meant = nearest(name, measured)
        hint = f" (did you mean {meant!r}?)" if meant else ""
        return f"unknown {name!r}{hint}. Allowed: {allowed}"
    metric = METRICS[name]
    if metric.on == "validation" and not any(each.on == "validation" for each in measured):
        return f"{name}: there are no validation data; give problem.validation_fraction. Measured metrics: {allowed}"
    if metric.quantity.name == "accuracy":
        return f"{name} can't be measured, because this loss has no classes. Measured metrics: {allowed}"
    how = f"add problem.metrics.{metric.quantity.name} = true"
    return f"{name} is not measured; {how}, if the loss allows it. Measured metrics: {allowed}"


def target_mistakes(name: MetricName, levels: tuple[float, ...], measured: tuple[Metric, ...]) -> Iterator[str]:
    """Yield the mistakes in a metric's target levels, given the `measured` metrics."""
    if (mistake := unmeasured(name, measured)) is not None:
        yield mistake
    if not levels:
        yield f"{name}: the list is empty; give at least one level, or remove it"
    if twice := repeated(levels):
        yield f"{name}: repeated: {', '.join(f'{level:g}' for level in twice)}"
    metric = named(name, measured) or METRICS.get(name)
    if metric is not None:
        yield from (mistake for level in levels if (mistake := metric.target_mistake(level)) is not None)
