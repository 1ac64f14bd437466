"""The quantities that a study measures: those of its loss, and those declared in ``problem.metrics``."""

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
"""Kind of targets of each shipped loss. For a user's loss, it is known only once the data are loaded."""
_NEEDS = {
    "classes": "targets that are single classes",
    "labels": "targets that are classes or labels",
    "values": "targets that are numbers",
}


class MetricSpec(Section):
    """A measured quantity: a shipped one, written ``true``, or a user's function.

    The function receives the outputs and targets of one trial on a whole split.
    """

    function: str = ""
    """Import path of the function; empty for a shipped quantity."""
    direction: Literal["max", "min"] = "max"
    """Whether larger or smaller values are better."""
    low: float | None = None
    high: float | None = None
    """Largest possible value, if bounded; `low` is the smallest."""
    label: str = ""
    """Display name; by default the metric's name."""
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
        """Return the declaration of the quantity, under the given name."""
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
"""``true`` for a shipped quantity; an import path or a table for a user's function."""


def metric_mistake(name: str, declared: MetricField, loss: str) -> str | None:
    """Return a message if a declaration in ``problem.metrics`` is invalid, otherwise None."""
    shipped = [each for each in QUANTITIES if each != LOSS.name]
    if not declared.shipped:
        if name in QUANTITIES:
            return f"{name}: a shipped metric has this name; give another name, or {name} = true"
        if not _NAME.fullmatch(name):
            return f"{name}: a name is a lower-case letter, then up to 39 lower-case letters, digits and _"
        return None
    if name not in shipped:
        meant = nearest(name, shipped)
        hint = f" (did you mean {meant!r}?)" if meant else ""
        return f'{name}: unknown metric{hint}. Shipped: {", ".join(shipped)}; your own is "module:function"'
    return needs_mistake(QUANTITIES[name], loss)


def needs_mistake(quantity: Quantity, loss: str) -> str | None:
    """Return why a quantity is not defined for a shipped loss; None if it is defined, or for a user's loss."""
    targets = _TARGETS.get(loss)
    if quantity.name == "perplexity" and loss != "cross_entropy":
        return 'perplexity: the exponential of the cross-entropy, so it needs loss = "cross_entropy"'
    if targets is None or quantity.needs in ("", targets) or (quantity.needs, targets) == ("labels", "classes"):
        return None
    return f'{quantity.name}: needs {_NEEDS[quantity.needs]}, which loss = "{loss}" does not have'


def quantities_of(loss: str, declared: Mapping[str, MetricField]) -> tuple[Quantity, ...]:
    """Return the measured quantities: the loss, the accuracy (with cross-entropy), and the declared ones."""
    usual = (LOSS, QUANTITIES["accuracy"]) if loss == "cross_entropy" else (LOSS,)
    own = (QUANTITIES[name] if each.shipped else each.quantity(name) for name, each in declared.items())
    return tuple(dict.fromkeys((*usual, *own)))
