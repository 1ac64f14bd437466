"""Training protocol shared by all optimizers: budget, learning-rate schedule, evaluation.

`schedule` converts these to steps.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from sensitivity.study.section import AsList, Count, Epochs, OneOrMore, Section
from sensitivity.study.varying import Varying
from sensitivity.study.words import count

Decay = Literal["step", "cosine", "linear", "trapezoidal", "inverse_sqrt"]
DEFAULT_DECAY_FRACTION = 0.2
DEFAULT_GROWTH = 0.1
"""Fine enough for a critical batch size within a factor of 1.25 (docs/statistics.md, section 1)."""


class BudgetSpec(Section):
    """Training length of every run, equal for all optimizers: one of three rules over batch sizes."""

    epochs: Epochs | None = None
    """The same number of epochs at every batch size."""
    adjusted_epochs: Epochs | None = None
    """E, for (log2(B / base_batch_size) + 1) x E epochs at batch size B."""
    base_batch_size: Annotated[Count | None, Field(validate_default=True)] = None
    steps: Count | None = None
    """The same number of steps at every batch size."""

    @field_validator("base_batch_size")
    @classmethod
    def _base_of_adjusted(cls, value: int | None, info: ValidationInfo) -> int | None:
        adjusted = info.data.get("adjusted_epochs")
        if adjusted is not None and value is None:
            raise PydanticCustomError("budget", "missing; adjusted_epochs are the epochs at the base batch size")
        if "adjusted_epochs" in info.data and adjusted is None and value is not None:
            raise PydanticCustomError("budget", "belongs to adjusted_epochs; remove it")
        return value

    @model_validator(mode="after")
    def _one_rule(self) -> BudgetSpec:
        if sum(rule is not None for rule in (self.epochs, self.adjusted_epochs, self.steps)) != 1:
            raise PydanticCustomError("budget", "give exactly one of epochs, adjusted_epochs and steps")
        return self

    def words(self) -> str:
        """Return the rule in words, as in "trained for 5 epochs"."""
        if self.steps is not None:
            return count(self.steps, "step")
        if self.adjusted_epochs is not None:
            return f"(log2(B / {self.base_batch_size}) + 1) × {self.adjusted_epochs:g} epochs at batch size B"
        return f"{self.epochs:g} epoch" + ("" if self.epochs == 1 else "s")


class ScheduleSpec(Varying):
    """Learning-rate multiplier: a rule over batch sizes, linear warm-up, then a decay."""

    table: ClassVar[str] = "schedule"
    own: ClassVar[Collection[str]] = ("warmup_epochs", "decay", "decay_at", "decay_factor", "decay_fraction")

    lr_scaling: Literal["none", "linear", "sqrt"] = "none"
    base_batch_size: Annotated[Count | None, Field(validate_default=True)] = None
    """Batch size at which learning rates are used as written in the study file."""
    warmup_epochs: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    decay: Decay = "step"
    """Steps at the fractions `decay_at` (constant if empty); half a cosine or a line from the end of the warm-up to
    zero; a line over the last `decay_fraction` of the budget (trapezoidal: warm-up, stable, decay); or the inverse
    square root of the step after the warm-up."""
    decay_at: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], AsList, OneOrMore] = ()
    decay_factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    decay_fraction: Annotated[float | None, Field(gt=0, le=1, validate_default=True)] = None
    """Fraction of the budget, at its end, over which a trapezoidal decay extends; 0.2 by default."""

    @field_validator("base_batch_size")
    @classmethod
    def _base_of_scaling(cls, value: int | None, info: ValidationInfo) -> int | None:
        scaling = info.data.get("lr_scaling")
        if scaling in ("linear", "sqrt") and value is None:
            raise PydanticCustomError(
                "schedule",
                'missing; lr_scaling = "{scaling}" needs the batch size at which learning rates are used as written',
                {"scaling": scaling},
            )
        if scaling == "none" and value is not None:
            raise PydanticCustomError("schedule", 'belongs to lr_scaling = "linear" or "sqrt"; remove it')
        return value

    @field_validator("decay_at")
    @classmethod
    def _rising(cls, value: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        if list(value) != sorted(set(value)):
            raise PydanticCustomError("schedule", "decay_at must be strictly increasing")
        if value and info.data.get("decay", "step") != "step":
            raise PydanticCustomError("schedule", 'belongs to decay = "step"; remove it')
        return value

    @field_validator("decay_fraction")
    @classmethod
    def _fraction_of_trapezoid(cls, value: float | None, info: ValidationInfo) -> float | None:
        trapezoidal = info.data.get("decay") == "trapezoidal"
        if value is not None and not trapezoidal and "decay" in info.data:
            raise PydanticCustomError("schedule", 'belongs to decay = "trapezoidal"; remove it')
        return DEFAULT_DECAY_FRACTION if value is None and trapezoidal else value

    def _unused(self) -> Collection[str]:
        return ("decay_fraction",) if self.decay_fraction is None else ()

    def _kept(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields to keep; those of the decay are dropped if an optimizer overrides `decay`."""
        content = super()._kept(own)
        if own.get("decay", self.decay) == self.decay:
            return content
        return {name: value for name, value in content.items() if not name.startswith("decay")}


class EvaluationSpec(Varying):
    """When a run is measured, with which parameters, on how many examples, and when it counts as diverged.

    At most one spacing can be given. With a fixed spacing, each evaluation measures all splits. With `growth`, each
    measures the test split, and the training split is measured less often (``schedule.training_steps``).
    """

    table: ClassVar[str] = "evaluation"
    own: ClassVar[Collection[str]] = ("ema_decay",)

    every_epochs: Epochs | None = None
    every_steps: Count | None = None
    growth: Annotated[float | None, Field(ge=1e-3, le=1, validate_default=True)] = None
    """Each evaluation comes later than the previous one by this fraction; 0.1 if no spacing is given."""
    train_examples: Count | None = None
    divergence_bound: Annotated[float, Field(gt=1)] = 10.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay per step of exponential moving averages of the parameters, which are evaluated instead of the parameters;
    0 evaluates the parameters themselves."""

    @field_validator("growth")
    @classmethod
    def _grows_by_default(cls, value: float | None, info: ValidationInfo) -> float | None:
        fixed = any(info.data.get(name) is not None for name in ("every_epochs", "every_steps"))
        return DEFAULT_GROWTH if value is None and not fixed else value

    @model_validator(mode="after")
    def _one_spacing(self) -> EvaluationSpec:
        if sum(spacing is not None for spacing in (self.every_epochs, self.every_steps, self.growth)) > 1:
            raise PydanticCustomError("evaluation", "give at most one of growth, every_epochs and every_steps")
        return self

    def _unused(self) -> Collection[str]:
        unused = {"growth": self.growth is None, "ema_decay": not self.ema_decay}
        return [name for name, absent in unused.items() if absent]
