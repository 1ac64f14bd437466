"""What is measured at an evaluation, and which way is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MetricName = Literal["train_loss", "train_accuracy", "test_loss", "test_accuracy"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A measured quantity, its direction, and whether it lies in (0, 1]."""

    name: MetricName
    label: str
    lower_is_better: bool
    is_fraction: bool

    @property
    def of_training(self) -> bool:
        """Whether it is measured on the training split."""
        return self.name.startswith("train_")

    def reached(self, value: float, target: float) -> bool:
        """Whether `value` meets `target`; a NaN never does."""
        return value <= target if self.lower_is_better else value >= target


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(name="train_loss", label="training loss", lower_is_better=True, is_fraction=False),
        Metric(name="train_accuracy", label="training accuracy", lower_is_better=False, is_fraction=True),
        Metric(name="test_loss", label="test loss", lower_is_better=True, is_fraction=False),
        Metric(name="test_accuracy", label="test accuracy", lower_is_better=False, is_fraction=True),
    )
}
