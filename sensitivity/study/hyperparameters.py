"""Declarations of hyperparameters: label, allowed range, and the scale on which values are compared.

Study files, stored tables, analysis, figures, pages and forms read the declarations. A hyperparameter that isn't
declared here is a number of any size, in its own name, compared in decades.
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
"""Stands before the name of a model's argument that is a hyperparameter: "model.width"."""
MODEL_ARGUMENTS = ("problem", "model_arguments")
"""The table of a study file that a model's arguments stand in."""

Scale = Literal["log", "one_minus"]
"""In which coordinate equal distances mean equal changes: log10(value), or -log10(1 - value)."""


@dataclass(frozen=True, kw_only=True)
class Hyperparameter:
    """A number that affects training and may differ between the runs of a study."""

    name: str
    label: str
    """As it is read in sentences."""
    low: float = -math.inf
    low_allowed: bool = True
    high: float = math.inf
    """Never allowed itself."""
    scale: Scale = "log"
    """log: learning rate, damping, weight decay. one_minus: averages over time such as momentum m, whose reach in steps
    is 1 / (1 - m), so that 0.9 and 0.99 are a decade apart."""
    divides: str | None = None
    """The hyperparameter that it divides where it is large: a step with damping d and learning rate lr tends to
    lr / d times the gradient. Results then lie along a ridge of their ratio."""
    whole: bool = False
    """Whether it counts something, such as steps."""
    structural: bool = False
    """Whether it decides which code runs, and when: the members of a pack share its value."""
    table: tuple[str, ...] = ()
    """The table of a study file that it stands in, for all optimizers or, within an optimizer's table, for that one.
    Empty for an optimizer's own numbers."""

    @property
    def path(self) -> tuple[str, ...]:
        """Its table in a study file and its name there."""
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
        """Return the value whose position is `value` decades."""
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
"""By name, in the order in which axes, columns and forms have them. A new one is appended: the place of each decides
which random numbers its draws come from."""


def hyperparameter(name: str) -> Hyperparameter:
    """Return the declaration of a hyperparameter, or a default one if it is not declared."""
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

    >>> decades("momentum", [0.9, 0.99]).round(9).tolist()  # averages over 10 and over 100 steps
    [1.0, 2.0]
    """
    return hyperparameter(name).decades(values)


def ridge(names: Collection[str]) -> tuple[str, str] | None:
    """Return the first pair (numerator, denominator) among `names` whose quotient matters; None if there is none."""
    pairs = ((str(hyperparameter(name).divides), name) for name in sorted(names, key=rank))
    return next((pair for pair in pairs if pair[0] in names), None)


def rank(name: str) -> tuple[int, str]:
    """Return a sort key: declared hyperparameters in order of declaration, then the others by name."""
    return list(HYPERPARAMETERS).index(name) if name in HYPERPARAMETERS else len(HYPERPARAMETERS), name
