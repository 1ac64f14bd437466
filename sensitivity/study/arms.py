"""The optimizers of a study ("arms"), each with its design over its hyperparameters.

A hyperparameter is a number that may differ between the members of a pack; a setting is equal within a
pack. Settings have one value an arm; to compare two, declare two arms.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from sensitivity.study.axes import Axis, AxisField

_RANGES: dict[str, tuple[str, float, bool, float]] = {
    # name: (what is allowed, lower bound, whether the bound itself is allowed, exclusive upper bound)
    "lr": ("> 0", 0.0, False, float("inf")),
    "damping": ("> 0", 0.0, False, float("inf")),
    "momentum": (">= 0 and < 1", 0.0, True, 1.0),
    "weight_decay": (">= 0", 0.0, True, float("inf")),
}


class Arm(BaseModel):
    """What every optimizer of a study declares."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    hyperparameter_names: ClassVar[tuple[str, ...]]
    defining_fields: ClassVar[tuple[str, ...]] = ("kind", "design", "samples", "design_seed")

    design: Literal["grid", "random", "sobol"] = "grid"
    samples: Annotated[int, Field(ge=1)] | None = None
    design_seed: Annotated[int, Field(ge=0)] = 0

    @field_validator("lr", "damping", "momentum", "weight_decay", check_fields=False)
    @classmethod
    def _in_range(cls, axis: Axis, info: ValidationInfo) -> Axis:
        allowed, low, low_allowed, high = _RANGES[str(info.field_name)]
        bad = [v for v in axis.bounds() if v < low or (v == low and not low_allowed) or v >= high]
        if bad:
            raise PydanticCustomError(
                "range",
                "{name} must be {allowed}; got {bad}",
                {"name": info.field_name, "allowed": allowed, "bad": f"{bad[0]:g}"},
            )
        return axis

    @model_validator(mode="after")
    def _design_fits(self) -> Arm:
        intervals = [name for name, axis in self.axes().items() if axis.scale != "values"]
        if self.design == "grid":
            if self.samples is not None:
                raise PydanticCustomError(
                    "design",
                    'samples belongs to design = "random" or "sobol"; a grid takes points on each interval',
                )
            pointless = [name for name in intervals if self.axes()[name].points is None]
            if pointless:
                raise PydanticCustomError(
                    "design",
                    "a grid needs points on each interval; missing on: {names}",
                    {"names": ", ".join(pointless)},
                )
        else:
            if self.samples is None:
                raise PydanticCustomError(
                    "design",
                    'design = "{design}" needs samples, the number of configurations to draw',
                    {"design": self.design},
                )
            pointed = [name for name in intervals if self.axes()[name].points is not None]
            if pointed:
                raise PydanticCustomError(
                    "design",
                    'points belongs to design = "grid"; remove it from: {names}',
                    {"names": ", ".join(pointed)},
                )
            if not any(axis.varies for axis in self.axes().values()):
                raise PydanticCustomError(
                    "design", "there is nothing to draw: no hyperparameter has a list or an interval"
                )
        return self

    def axes(self) -> dict[str, Axis]:
        """Return the axis of each hyperparameter, by name."""
        return {name: getattr(self, name) for name in self.hyperparameter_names}

    def settings(self) -> dict[str, Any]:
        """Return what is equal for all trials of the arm and determines their results."""
        skipped = {*self.hyperparameter_names, "design", "samples", "design_seed"}
        return {name: value for name, value in self.model_dump(mode="json").items() if name not in skipped}


class SGDArm(Arm):
    """SGD with (Nesterov) momentum and coupled weight decay, as torch.optim.SGD defines them."""

    hyperparameter_names: ClassVar[tuple[str, ...]] = ("lr", "momentum", "weight_decay")

    kind: Literal["sgd"] = "sgd"
    lr: AxisField
    momentum: AxisField = Axis(scale="values", values=(0.0,))
    weight_decay: AxisField = Axis(scale="values", values=(0.0,))
    nesterov: bool = False

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> SGDArm:
        if self.nesterov and self.momentum.bounds()[0] == 0:
            raise PydanticCustomError("design", "nesterov = true needs momentum > 0 everywhere; remove 0 from momentum")
        return self


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
    factor_interval: Annotated[int, Field(ge=1)] = 1
    inverse_interval: Annotated[int, Field(ge=1)] = 10
    kl_clip: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _intervals_fit(self) -> KFACArm:
        if self.inverse_interval % self.factor_interval:
            raise PydanticCustomError(
                "design",
                "inverse_interval must be a multiple of factor_interval, or inverses repeat on old factors",
            )
        return self


ArmField = Annotated[SGDArm | KFACArm, Field(discriminator="kind")]
"""A pydantic field that reads an arm by its `kind`."""
