"""Which quantities a study measures: those of its loss, and those that ``problem.metrics`` declares."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, SerializerFunctionWrapHandler, model_serializer, model_validator
from pydantic_core import PydanticCustomError

from sensitivity.study.metrics import LOSS, QUANTITIES, Quantity
from sensitivity.study.nearest import nearest
from sensitivity.study.section import Section
from sensitivity.study.user_functions import IMPORT_PATH

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_TARGETS = {
    "cross_entropy": "classes",
    "binary_cross_entropy": "labels",
    "squared_error": "values",
    "huber": "values",
    "quadratic": "nothing",
}
"""What the targets of each shipped loss are. Those of one of the user's are known once the data are there."""
_NEEDS = {
    "classes": "one class a target",
    "labels": "classes or labels",
    "values": "targets that are numbers",
}


class MetricSpec(Section):
    """A quantity that is measured: a shipped one, written ``true``, or a function of the user's.

    The function is of one trial's outputs and targets of a whole split.
    """

    function: str = ""
    """Its import path; empty for a shipped quantity."""
    direction: Literal["max", "min"] = "max"
    """Which way is better."""
    low: float | None = None
    high: float | None = None
    """The ends of its range, where it has any."""
    label: str = ""
    """Its name in words; by default its own."""
    unit: str = ""

    @model_validator(mode="after")
    def _whole(self) -> MetricSpec:
        if self.model_fields_set and not IMPORT_PATH.fullmatch(self.function):
            raise PydanticCustomError("metric", 'function: give "module:function"')
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise PydanticCustomError("metric", "low must be below high")
        return self

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> Any:
        return {name: each for name, each in handler(self).items() if each not in (None, "")} if self.function else True

    @property
    def shipped(self) -> bool:
        """Whether it is a shipped quantity."""
        return not self.function

    def quantity(self, name: str) -> Quantity:
        """Return its declaration."""
        return Quantity(
            name=name,
            label=self.label or name.replace("_", " "),
            lower_is_better=self.direction == "min",
            low=-math.inf if self.low is None else self.low,
            high=math.inf if self.high is None else self.high,
            unit=self.unit,
        )


def _read(raw: Any) -> Any:
    if raw is True:
        return MetricSpec()
    if isinstance(raw, (Mapping, MetricSpec)):
        return raw if raw else {"function": ""}
    if isinstance(raw, str):
        return {"function": raw}
    raise PydanticCustomError(
        "metric", 'give true for a shipped one, "module:function", or a table with function, direction, low and high'
    )


MetricField = Annotated[MetricSpec, BeforeValidator(_read)]
"""``true`` for a shipped quantity; the import path of a function, or a table, for one of the user's."""


def metric_mistake(name: str, declared: MetricField, loss: str) -> str | None:
    """Return what is wrong with a declaration in ``problem.metrics``, and what is allowed."""
    shipped = [each for each in QUANTITIES if each != LOSS.name]
    if not declared.shipped:
        if name in QUANTITIES:
            return f"{name}: a shipped metric has this name; give another name, or {name} = true"
        if not _NAME.fullmatch(name):
            return f"{name}: a name is a small letter, then up to 39 of small letters, digits and _"
        return None
    if name not in shipped:
        meant = nearest(name, shipped)
        hint = f" (did you mean {meant!r}?)" if meant else ""
        return f'{name}: unknown metric{hint}. Shipped: {", ".join(shipped)}; your own is "module:function"'
    return needs_mistake(QUANTITIES[name], loss)


def needs_mistake(quantity: Quantity, loss: str) -> str | None:
    """Return why a quantity is not defined for a shipped loss; None where it is, or the loss is one of the user's."""
    targets = _TARGETS.get(loss)
    if quantity.name == "perplexity" and loss != "cross_entropy":
        return 'perplexity: the exponential of the cross-entropy, so that it needs loss = "cross_entropy"'
    if targets is None or quantity.needs in ("", targets) or (quantity.needs, targets) == ("labels", "classes"):
        return None
    return f'{quantity.name}: needs {_NEEDS[quantity.needs]}, which loss = "{loss}" has not'


def quantities_of(loss: str, declared: Mapping[str, MetricField]) -> tuple[Quantity, ...]:
    """Return what is measured: the loss, with cross-entropy the accuracy, and what is declared."""
    usual = (LOSS, QUANTITIES["accuracy"]) if loss == "cross_entropy" else (LOSS,)
    own = (QUANTITIES[name] if each.shipped else each.quantity(name) for name, each in declared.items())
    return tuple(dict.fromkeys((*usual, *own)))
