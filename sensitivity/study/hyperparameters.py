"""Declarations of hyperparameters: label, allowed range, and the scale on which values are compared.

Study files, stored tables, analysis, figures, pages and forms use these declarations. A hyperparameter that isn't
declared here may be any number, is labelled with its own name, and is compared in decades.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEARNING_RATE = "lr"
MODEL_ARGUMENT = "model."
"""Prefix of hyperparameters that are arguments of the model, as in "model.width"."""
MODEL_ARGUMENTS = ("problem", "model_arguments")
"""The table of a study file that contains the model's arguments."""

Scale = Literal["log", "one_minus"]
"""Coordinate in which equal distances mean equal changes: log10(value), or -log10(1 - value)."""


@dataclass(frozen=True, kw_only=True)
class Hyperparameter:
    """A number that affects training and may differ between the runs of a study."""

    name: str
    label: str
    """Display name within sentences."""
    low: float = -math.inf
    low_allowed: bool = True
    high: float = math.inf
    """Exclusive upper bound."""
    scale: Scale = "log"
    """Use "log" for learning rate, damping and weight decay; "one_minus" for decay rates such as momentum m,
    which averages over about 1 / (1 - m) steps, so that 0.9 and 0.99 are a decade apart."""
    divides: str | None = None
    """The hyperparameter that this one divides when it is large: with damping d and learning rate lr, the step tends to
    lr / d times the gradient. Good results then lie along a ridge of constant ratio."""
    whole: bool = False
    """Whether values are whole numbers, such as numbers of steps."""
    structural: bool = False
    """Whether it determines which code runs, and when, so that all members of a pack must share its value."""
    table: tuple[str, ...] = ()
    """The table of a study file that contains it, either at the top level for all optimizers or within one optimizer's
    table. Empty for an optimizer's own hyperparameters."""

    @property
    def path(self) -> tuple[str, ...]:
        """Path in a study file: its table and its name in it."""
        return (*self.table, self.name.removeprefix(MODEL_ARGUMENT))

    @property
    def allowed(self) -> str:
        """The allowed range in words, such as ">= 0 and < 1"; empty if any number is allowed."""
        parts = []
        if self.low > -math.inf:
            parts.append(f"{'>=' if self.low_allowed else '>'} {self.low:g}")
        if self.high < math.inf:
            parts.append(f"< {self.high:g}")
        words = " and ".join(parts)
        return f"a whole number {words}".strip() if self.whole else words

    def allows(self, values: ArrayLike) -> NDArray[np.bool_]:
        """Return which of `values` lie in the range; NaN does not."""
        array = np.asarray(values, dtype=float)
        above = array >= self.low if self.low_allowed else array > self.low
        return np.asarray(above & (array < self.high))

    @property
    def coordinate_label(self) -> str:
        """The label of a logarithmic axis: the name, or 1 − the name."""
        return f"1 − {self.label}" if self.scale == "one_minus" else self.label

    def coordinate(self, value: float) -> float:
        """Return the coordinate on a logarithmic axis: `value`, or 1 - `value`."""
        return 1.0 - value if self.scale == "one_minus" else value

    def decades(self, values: ArrayLike) -> NDArray[np.float64]:
        """Return `values` in decades, increasing; NaN where undefined, as for log10(0)."""
        array = np.asarray(values, dtype=float)
        positive = 1.0 - array if self.scale == "one_minus" else array
        found = np.log10(np.where(positive > 0, positive, np.nan))
        return -found if self.scale == "one_minus" else found

    def from_decades(self, value: float) -> float:
        """Return the value whose coordinate is `value` decades."""
        return 1.0 - math.pow(10.0, -value) if self.scale == "one_minus" else math.pow(10.0, value)


_SCHEDULE = ("schedule",)


HYPERPARAMETERS: dict[str, Hyperparameter] = {
    declared.name: declared
    for declared in (
        Hyperparameter(name=LEARNING_RATE, label="learning rate", low=0.0, low_allowed=False),
        Hyperparameter(name="damping", label="damping", low=0.0, low_allowed=False, divides=LEARNING_RATE),
        Hyperparameter(name="momentum", label="momentum", low=0.0, high=1.0, scale="one_minus"),
        Hyperparameter(name="weight_decay", label="weight decay", low=0.0),
        Hyperparameter(name="beta1", label="β₁", low=0.0, high=1.0, scale="one_minus"),
        Hyperparameter(name="beta2", label="β₂", low=0.0, high=1.0, scale="one_minus"),
        Hyperparameter(name="eps", label="ε", low=0.0, divides=LEARNING_RATE),
        Hyperparameter(
            name="factor_decay", label="factor decay", low=0.0, high=1.0, scale="one_minus", structural=True
        ),
        Hyperparameter(name="factor_interval", label="factor interval", low=1.0, whole=True, structural=True),
        Hyperparameter(name="inverse_interval", label="inverse interval", low=1.0, whole=True, structural=True),
        Hyperparameter(name="kl_clip", label="KL clip", low=0.0, low_allowed=False),
        Hyperparameter(name="adam_lr", label="AdamW's learning rate", low=0.0),
        Hyperparameter(name="momentum_decay", label="momentum decay", low=0.0),
        Hyperparameter(name="lr_decay", label="learning-rate decay", low=0.0),
        Hyperparameter(name="ns_steps", label="Newton-Schulz steps", low=1.0, whole=True, structural=True),
        Hyperparameter(
            name="precondition_interval", label="precondition interval", low=1.0, whole=True, structural=True
        ),
        Hyperparameter(name="clip_norm", label="gradient clip", low=0.0, low_allowed=False),
        Hyperparameter(name="warmup_epochs", label="warm-up epochs", low=0.0, structural=True, table=_SCHEDULE),
        Hyperparameter(
            name="decay_factor", label="decay factor", low=0.0, low_allowed=False, structural=True, table=_SCHEDULE
        ),
        Hyperparameter(
            name="decay_fraction",
            label="decay fraction",
            low=0.0,
            low_allowed=False,
            structural=True,
            table=_SCHEDULE,
        ),
        Hyperparameter(
            name="label_smoothing", label="label smoothing", low=0.0, high=1.0, structural=True, table=("problem",)
        ),
        Hyperparameter(
            name="ema_decay", label="EMA decay", low=0.0, high=1.0, scale="one_minus", table=("evaluation",)
        ),
        Hyperparameter(name="damping_end", label="damping's last factor", low=0.0, low_allowed=False),
        Hyperparameter(name="rho", label="ρ", low=0.0, low_allowed=False, divides=LEARNING_RATE),
        Hyperparameter(name="hessian_interval", label="curvature interval", low=1.0, whole=True, structural=True),
        Hyperparameter(name="adapt_interval", label="adaptation interval", low=1.0, whole=True, structural=True),
    )
}
"""By name, in the order used by axes, columns and forms. Append new ones at the end: the position of each determines
the random numbers of its draws."""


def hyperparameter(name: str) -> Hyperparameter:
    """Return the declaration of a hyperparameter, or a default declaration for an undeclared name."""
    if name.startswith(MODEL_ARGUMENT):
        label = name.replace(".", " ").replace("_", " ")
        return Hyperparameter(name=name, label=label, structural=True, table=MODEL_ARGUMENTS)
    return HYPERPARAMETERS.get(name) or Hyperparameter(name=name, label=name.replace("_", " "))


def of_table(path: Sequence[str]) -> Hyperparameter | None:
    """Return the hyperparameter at a path of a study file, such as ("schedule", "warmup_epochs")."""
    if not path:
        return None
    *table, leaf = path
    candidates = (hyperparameter(name) for name in (leaf, MODEL_ARGUMENT + leaf))
    return next((found for found in candidates if found.table == tuple(table) != ()), None)


def decades(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """Return `values` of a hyperparameter in decades of its declared scale.

    >>> decades("momentum", [0.9, 0.99]).round(9).tolist()  # averages over 10 and 100 steps
    [1.0, 2.0]
    """
    return hyperparameter(name).decades(values)


def ridge(names: Collection[str]) -> tuple[str, str] | None:
    """Return the first pair (numerator, denominator) among `names` whose ratio matters; None if there is none."""
    pairs = ((str(hyperparameter(name).divides), name) for name in sorted(names, key=rank))
    return next((pair for pair in pairs if pair[0] in names), None)


def rank(name: str) -> tuple[int, str]:
    """Return a sort key: declared hyperparameters in order of declaration, then the others by name."""
    return list(HYPERPARAMETERS).index(name) if name in HYPERPARAMETERS else len(HYPERPARAMETERS), name
