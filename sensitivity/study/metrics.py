"""Metrics of an evaluation: quantities, each declared once, measured on splits of the data.

A ``Quantity`` such as accuracy, measured on a split, is a ``Metric`` such as ``test_accuracy``. The declaration gives
the direction, the range, and how values are formatted and plotted; targets, objectives, maps, curves and tables use
it. Shipped quantities are in ``QUANTITIES``; a study declares its own in ``problem.metrics``. The computations are in
``training.metrics``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
_SPLIT_WORDS = {"train": "training", "validation": "validation", "test": "test"}

MetricName = str
"""A split and the name of a quantity, as in ``test_accuracy``."""

Scale = Literal["log", "distance", "linear"]


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """Declaration of a quantity that is measured for a network on a split: name, direction, range and format."""

    name: str
    label: str
    lower_is_better: bool
    low: float = -math.inf
    high: float = math.inf
    """Largest possible value, inclusive; `low` is the smallest."""
    percent: bool = False
    """Whether values are fractions that are formatted as percentages."""
    unit: str = ""
    """Unit appended to formatted values."""
    needs: Literal["", "classes", "labels", "values"] = ""
    """Kind of targets it requires: single classes; classes or multiple labels; numbers; or any ("")."""

    @property
    def perfect(self) -> float:
        """The best possible value; infinite if unbounded."""
        return self.low if self.lower_is_better else self.high

    @property
    def scale(self) -> Scale:
        """Scale of a plot's axis.

        "log" if values are non-negative and lower is better; "distance" if there is a best value, for the logarithm of
        the distance to it, so that 98% and 99% are as far apart as 80% and 90%; otherwise "linear".
        """
        if not math.isfinite(self.perfect):
            return "linear"
        return "log" if self.lower_is_better and self.low >= 0 else "distance"

    @property
    def usual_tolerance(self) -> float:
        """Default tolerance: one percentage point, or 2% of the untrained network's distance to the best value."""
        return 0.01 if self.percent else 0.02

    def tolerance(self, share: float, untrained: float) -> float:
        """Return a relative tolerance `share` in the quantity's unit.

        It is `share` itself for a percentage, otherwise a fraction of the untrained network's distance to the best
        value, or of its value if there is no best one.
        """
        if self.percent:
            return share
        return share * abs(untrained if self.scale == "linear" else self.distance(untrained))

    def distance(self, value: float) -> float:
        """Return the distance of a value to the best one, which must exist."""
        return value if self.scale == "log" else abs(value - self.perfect)


class Metric(str):
    """A quantity on a split: a string equal to its name, usable as column and key, with the declaration attached."""

    __slots__ = ("on", "quantity")
    quantity: Quantity
    on: Split
    """The split on which it is measured."""

    def __new__(cls, split: Split, quantity: Quantity) -> Metric:
        """Return the metric named ``split_quantity``."""
        found = super().__new__(cls, f"{split}_{quantity.name}")
        found.on, found.quantity = split, quantity
        return found

    def __getnewargs__(self) -> tuple[Any, ...]:
        return self.on, self.quantity

    @property
    def name(self) -> str:
        """Its name as a plain string."""
        return str.__str__(self)

    @property
    def label(self) -> str:
        """Display name, such as "test accuracy"."""
        return f"{_SPLIT_WORDS[self.on]} {self.quantity.label}"

    @property
    def lower_is_better(self) -> bool:
        """Whether smaller values are better."""
        return self.quantity.lower_is_better

    @property
    def percent(self) -> bool:
        """Whether its values are fractions that are written as percentages."""
        return self.quantity.percent

    @property
    def of_training(self) -> bool:
        """Whether it is measured on the training split."""
        return self.on == "train"

    @property
    def is_loss(self) -> bool:
        """Whether it is the loss."""
        return self.quantity.name == LOSS.name

    @property
    def direction_words(self) -> tuple[str, str]:
        """Words for a worse and a better value, such as "lower" and "higher"."""
        return ("higher", "lower") if self.lower_is_better else ("lower", "higher")

    def reached(self, value: float, target: float) -> bool:
        """Whether `value` meets `target`; NaN never does."""
        return value <= target if self.lower_is_better else value >= target

    def target_mistake(self, level: float) -> str | None:
        """Return why `level` is invalid as a target, because no run or every run would meet it; None if it is valid."""
        low, high = self.quantity.low, self.quantity.high
        if self.percent and not 0 < level <= 1:
            return f"{self} is a fraction: a target lies in (0, 1]; got {level:g}. For 95% write 0.95"
        if self.is_loss and level <= 0:
            return f"{self}: a target loss is above 0; got {level:g}"
        if not low <= level <= high:
            return f"{self}: a target lies in its range, {low:g} to {high:g}; got {level:g}"
        return None


LOSS = Quantity(name="loss", label="loss", lower_is_better=True, low=0.0)
QUANTITIES: dict[str, Quantity] = {
    each.name: each
    for each in (
        LOSS,
        Quantity(
            name="accuracy", label="accuracy", lower_is_better=False, low=0.0, high=1.0, percent=True, needs="classes"
        ),
        Quantity(
            name="top5_accuracy",
            label="top-5 accuracy",
            lower_is_better=False,
            low=0.0,
            high=1.0,
            percent=True,
            needs="classes",
        ),
        Quantity(name="perplexity", label="perplexity", lower_is_better=True, low=1.0, needs="classes"),
        Quantity(name="bits_per_byte", label="bits per byte", lower_is_better=True, low=0.0, needs="classes"),
        Quantity(name="macro_f1", label="macro F1", lower_is_better=False, low=0.0, high=1.0, needs="labels"),
        Quantity(name="auroc", label="AUROC", lower_is_better=False, low=0.0, high=1.0, needs="labels"),
        Quantity(name="r2", label="R²", lower_is_better=False, high=1.0, needs="values"),
    )
}
"""The shipped and registered quantities, by name."""


def declare(quantity: Quantity) -> None:
    """Register a quantity; its computation is registered with ``training.metrics.computed_by``."""
    QUANTITIES[quantity.name] = quantity


class _Metrics(Mapping[str, Metric]):
    """Metrics of the shipped quantities by name. A key that is already a ``Metric`` maps to itself."""

    def __getitem__(self, name: str) -> Metric:
        if isinstance(name, Metric):
            return name
        if not isinstance(name, str):
            raise KeyError(name)
        split, _, quantity = name.partition("_")
        for known in SPLITS:
            if split == known:
                return Metric(known, QUANTITIES[quantity])
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        for quantity in QUANTITIES.values():
            for split in SPLITS:
                yield Metric(split, quantity)

    def __len__(self) -> int:
        return len(QUANTITIES) * len(SPLITS)


METRICS: Mapping[str, Metric] = _Metrics()
USUAL: tuple[Metric, ...] = tuple(
    METRICS[name] for name in ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
)
"""The default metrics of a classifier."""


def is_metric(name: object) -> TypeGuard[str]:
    """Whether `name` is a ``Metric`` or the name of one of a shipped quantity."""
    return isinstance(name, str) and name in METRICS


def named(name: str, measured: Iterable[Metric]) -> Metric | None:
    """Return the metric with that name, including its declaration; None if it is not in `measured`."""
    return next((metric for metric in measured if metric == name), None)


def most_informative_first(metrics: Iterable[Metric]) -> tuple[Metric, ...]:
    """Order metrics by how informative they are.

    Scores on validation data, which choices are based on, come first, then scores on test data, the training loss, the
    other losses, and scores on training data.
    """

    def rank(metric: Metric) -> int:
        order = ("validation", "test") if not metric.is_loss else ("train", "validation", "test")
        if metric.on not in order:
            return 10
        return order.index(metric.on) + (3 if metric.is_loss else 0)

    return tuple(sorted(metrics, key=rank))
