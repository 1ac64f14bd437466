"""What is measured at an evaluation: quantities, declared once each, on the splits of the data.

A ``Quantity`` such as accuracy is measured on a split, and is then a ``Metric`` such as ``test_accuracy``. The
declaration says which way is better, within which range, and how values are written and drawn; targets, objectives,
maps, curves and tables follow from it. Shipped quantities are in ``QUANTITIES``; a study declares its own in
``problem.metrics``. How a quantity is computed is said in ``training.metrics``.
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
"""A split, and the name of a quantity: ``test_accuracy``."""

Scale = Literal["log", "distance", "linear"]


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """Something that is measured of a network on a split: its name, direction, range and form."""

    name: str
    label: str
    lower_is_better: bool
    low: float = -math.inf
    high: float = math.inf
    """The ends of its range, which values may reach."""
    percent: bool = False
    """Whether values are fractions that are written as percentages."""
    unit: str = ""
    """What follows a value where it is written."""
    needs: Literal["", "classes", "labels", "values"] = ""
    """Targets it is defined for: one class a term; classes or several labels; numbers; or any."""

    @property
    def perfect(self) -> float:
        """The best value that there can be; infinite where there is none."""
        return self.low if self.lower_is_better else self.high

    @property
    def scale(self) -> Scale:
        """How values are spaced on an axis.

        "log" where they are above 0 and better low; "distance" where there is a best value, by the logarithm of the
        distance to it, so that 98% and 99% are as far apart as 80% and 90%; else "linear".
        """
        if not math.isfinite(self.perfect):
            return "linear"
        return "log" if self.lower_is_better and self.low >= 0 else "distance"

    @property
    def usual_tolerance(self) -> float:
        """What is good enough by default: a percentage point, or 2% of the untrained network's distance to the best."""
        return 0.01 if self.percent else 0.02

    def tolerance(self, share: float, untrained: float) -> float:
        """Return `share` in the quantity's own unit: of a percentage itself, else of the untrained network's distance.

        Where there is no best value, it is a share of the untrained network's value.
        """
        if self.percent:
            return share
        return share * abs(untrained if self.scale == "linear" else self.distance(untrained))

    def distance(self, value: float) -> float:
        """Return how far a value is from the best one, where there is one: its error."""
        return value if self.scale == "log" else abs(value - self.perfect)


class Metric(str):
    """A quantity on a split. It is its own name, so that it serves as a column and as a key, with its declaration."""

    __slots__ = ("on", "quantity")
    quantity: Quantity
    on: Split
    """The split that it is measured on."""

    def __new__(cls, split: Split, quantity: Quantity) -> Metric:
        """Return the metric; it is written ``split_quantity``."""
        found = super().__new__(cls, f"{split}_{quantity.name}")
        found.on, found.quantity = split, quantity
        return found

    def __getnewargs__(self) -> tuple[Any, ...]:
        return self.on, self.quantity

    @property
    def name(self) -> str:
        """Its name as plain text."""
        return str.__str__(self)

    @property
    def label(self) -> str:
        """The words for it, such as "test accuracy"."""
        return f"{_SPLIT_WORDS[self.on]} {self.quantity.label}"

    @property
    def lower_is_better(self) -> bool:
        """Its direction."""
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
        """Whether it is the loss itself."""
        return self.quantity.name == LOSS.name

    @property
    def direction_words(self) -> tuple[str, str]:
        """What a worse value and a better one are called."""
        return ("higher", "lower") if self.lower_is_better else ("lower", "higher")

    def reached(self, value: float, target: float) -> bool:
        """Whether `value` meets `target`; a NaN never does."""
        return value <= target if self.lower_is_better else value >= target

    def target_mistake(self, level: float) -> str | None:
        """Return why no run can meet `level`, or every run would; None if it is a target."""
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
"""The shipped quantities, and those that code has registered, by name."""


def declare(quantity: Quantity) -> None:
    """Add a quantity to the shipped ones; how it is computed is added by ``training.metrics.computed_by``."""
    QUANTITIES[quantity.name] = quantity


class _Metrics(Mapping[str, Metric]):
    """The metrics of shipped quantities by name. A name that carries its own declaration stands for that one."""

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
"""What a classifier is measured by where nothing else is declared."""


def is_metric(name: object) -> TypeGuard[str]:
    """Whether a text names a metric of a shipped quantity, or is a metric."""
    return isinstance(name, str) and name in METRICS


def named(name: str, measured: Iterable[Metric]) -> Metric | None:
    """Return the one of that name, with its declaration; None if it is not among those `measured`."""
    return next((metric for metric in measured if metric == name), None)


def telling_first(metrics: Iterable[Metric]) -> tuple[Metric, ...]:
    """Order metrics by what they say of a network.

    First come scores on validation data, which choices are made by, then those on test data, the training loss, the
    other losses, and scores on the data that the network has seen.
    """

    def rank(metric: Metric) -> int:
        order = ("validation", "test") if not metric.is_loss else ("train", "validation", "test")
        if metric.on not in order:
            return 10
        return order.index(metric.on) + (3 if metric.is_loss else 0)

    return tuple(sorted(metrics, key=rank))
