"""The optimizers of a study ("arms"), each with its design over its hyperparameters.

A hyperparameter is a number that may differ between the members of a pack; a setting is equal within a
pack. Settings have one value an arm; to compare two, declare two arms.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from sensitivity.study.axes import Axis, AxisField
from sensitivity.study.hyperparameters import HYPERPARAMETERS
from sensitivity.study.section import MOST_SAMPLES, Count, Section, Seed

SEARCHES = ("tpe", "gp", "cmaes", "nsga2")
"""The designs whose next configurations depend on the results of earlier ones."""


class Arm(Section):
    """What every optimizer of a study declares.

    Fields are checked against those above them, not once all are valid, so that one reading of a study file
    finds every mistake.
    """

    hyperparameter_names: ClassVar[tuple[str, ...]]

    design: Literal["grid", "random", "sobol", "tpe", "gp", "cmaes", "nsga2"] = "grid"
    """The full factorial, independent or quasi-random draws, or an adaptive search by Optuna's sampler of that name."""
    device_hours: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """A search asks for no more at a batch size once its runs there have taken so long."""
    samples: Annotated[int, Field(ge=1, le=MOST_SAMPLES)] | None = Field(default=None, validate_default=True)
    """Configurations that each seed draws for itself; of a search, those at each batch size, and None where
    `device_hours` alone end it."""
    design_seed: Seed = 0
    prune: Literal["none", "median"] = "none"
    """Whether members of a pack that are worse than its median at an evaluation are stopped."""

    @field_validator("samples")
    @classmethod
    def _samples_fit_design(cls, value: int | None, info: ValidationInfo) -> int | None:
        design = info.data.get("design")
        if design == "grid" and value is not None:
            raise PydanticCustomError("design", "belongs to draws and searches; a grid takes points on each interval")
        timed = design in SEARCHES and info.data.get("device_hours", 0.0) is not None  # or it has its own mistake
        if design not in (None, "grid") and value is None and not timed:
            wanted = "samples, or device_hours" if design in SEARCHES else "the number of configurations to draw"
            raise PydanticCustomError(
                "design", 'missing; design = "{design}" needs {wanted}', {"design": design, "wanted": wanted}
            )
        return value

    @field_validator("device_hours")
    @classmethod
    def _hours_of_a_search(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and info.data.get("design") not in (None, *SEARCHES):
            raise PydanticCustomError(
                "design", "belongs to a search: design = {searches}", {"searches": ", ".join(map(repr, SEARCHES))}
            )
        return value

    @field_validator(*HYPERPARAMETERS, check_fields=False)
    @classmethod
    def _axis_fits(cls, axis: Axis, info: ValidationInfo) -> Axis:
        declared = HYPERPARAMETERS[str(info.field_name)]
        bad = [value for value in axis.bounds() if not declared.allows(value)]
        if bad:
            raise PydanticCustomError(
                "range",
                "{name} must be {allowed}; got {bad}",
                {"name": info.field_name, "allowed": declared.allowed, "bad": f"{bad[0]:g}"},
            )
        design = info.data.get("design")
        if axis.scale != "values" and design == "grid" and axis.points is None:
            raise PydanticCustomError("design", "a grid needs points on each interval: add points = 8, say")
        if axis.points is not None and design not in (None, "grid"):
            raise PydanticCustomError("design", 'points belongs to design = "grid"; remove it')
        return axis

    @field_validator("nesterov", check_fields=False)
    @classmethod
    def _nesterov_has_momentum(cls, value: bool, info: ValidationInfo) -> bool:
        if value and "momentum" in info.data and info.data["momentum"].bounds()[0] == 0:
            raise PydanticCustomError("design", "nesterov = true needs momentum > 0 everywhere; remove 0 from momentum")
        return value

    @model_validator(mode="after")
    def _something_to_draw(self) -> Arm:
        if self.design != "grid" and not any(axis.varies for axis in self.axes().values()):
            raise PydanticCustomError("design", "there is nothing to draw: no hyperparameter has a list or an interval")
        if self.design == "cmaes" and sum(axis.varies for axis in self.axes().values()) < 2:
            raise PydanticCustomError("design", 'CMA-ES needs two hyperparameters that vary; take design = "tpe"')
        return self

    @property
    def adaptive(self) -> bool:
        """Whether its configurations depend on results, so that they are known only as the study runs."""
        return self.design in SEARCHES

    @property
    def open_ended(self) -> bool:
        """Whether it is a search of as many configurations as its `device_hours` allow."""
        return self.adaptive and self.samples is None

    def most_cells(self) -> int:
        """Return the number of configurations, before repeated draws are dropped; 0 where only time decides it."""
        if self.samples is not None:
            return self.samples
        return math.prod(axis.points or len(axis.values) for axis in self.axes().values())

    def axes(self) -> dict[str, Axis]:
        """Return the axis of each hyperparameter, by name."""
        return {name: getattr(self, name) for name in self.hyperparameter_names}

    def settings(self) -> dict[str, Any]:
        """Return what is equal for all trials of the arm and determines their results."""
        skipped = {*self.hyperparameter_names, "design", "samples", "device_hours", "design_seed"}
        if self.prune == "none":  # then it changes no result, nor any id
            skipped.add("prune")
        return {name: value for name, value in self.model_dump(mode="json").items() if name not in skipped}


class SGDArm(Arm):
    """SGD with (Nesterov) momentum and coupled weight decay, as torch.optim.SGD defines them."""

    hyperparameter_names: ClassVar[tuple[str, ...]] = ("lr", "momentum", "weight_decay")

    kind: Literal["sgd"] = "sgd"
    lr: AxisField
    momentum: AxisField = Axis(scale="values", values=(0.0,))
    weight_decay: AxisField = Axis(scale="values", values=(0.0,))
    nesterov: bool = False


class KFACArm(Arm):
    """K-FAC: Kronecker-factored approximate curvature (Martens & Grosse 2015)."""

    hyperparameter_names: ClassVar[tuple[str, ...]] = ("lr", "damping", "momentum", "weight_decay")

    kind: Literal["kfac"] = "kfac"
    lr: AxisField
    damping: AxisField
    momentum: AxisField = Axis(scale="values", values=(0.9,))
    weight_decay: AxisField = Axis(scale="values", values=(0.0,))
    nesterov: bool = False
    factor_decay: Annotated[float, Field(ge=0, lt=1)] = 0.95
    factor_interval: Count = 1
    inverse_interval: Count = 10
    kl_clip: Annotated[float, Field(gt=0)] | None = None

    @field_validator("inverse_interval")
    @classmethod
    def _intervals_fit(cls, value: int, info: ValidationInfo) -> int:
        if value % info.data.get("factor_interval", 1):
            raise PydanticCustomError(
                "design", "must be a multiple of factor_interval, or inverses repeat on old factors"
            )
        return value


ArmField = Annotated[SGDArm | KFACArm, Field(discriminator="kind")]
"""A pydantic field that reads an arm by its `kind`."""
