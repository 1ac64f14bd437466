"""Schedule-free SGD and AdamW, which average iterates instead of decaying the learning rate."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import field_validator
from pydantic_core import PydanticCustomError

from sensitivity.optimizers.contract import Networks, State, Tensors, registered
from sensitivity.study.arms import Arm
from sensitivity.study.axes import Axis, AxisField, fixed

if TYPE_CHECKING:
    from torch import Tensor

    from sensitivity.optimizers.numbers import Numbers

_REFERENCE = "Defazio et al. 2024, arXiv 2405.15682; the package schedulefree"


def _above_0(value: Axis) -> Axis:
    if value.bounds()[0] == 0:
        raise PydanticCustomError("range", "must be > 0 here, because computing the average divides by it")
    return value


class ScheduleFreeSGDArm(Arm):
    """Schedule-free SGD. `momentum` is the weight of the average in the point at which gradients are computed.

    Weight decay is coupled. Suitable learning rates are 10 to 50 times those of SGD. It needs no schedule except
    warm-up.
    """

    label: ClassVar[str] = "schedule-free SGD"
    reference: ClassVar[str] = _REFERENCE

    kind: Literal["schedule_free_sgd"] = "schedule_free_sgd"
    lr: AxisField
    momentum: AxisField = fixed(0.9)
    weight_decay: AxisField = fixed(0.0)

    @field_validator("momentum")
    @classmethod
    def _divides(cls, value: Axis) -> Axis:
        return _above_0(value)


class ScheduleFreeAdamWArm(Arm):
    """Schedule-free AdamW. `beta1` is the weight of the average in the point at which gradients are computed.

    Suitable learning rates are 1 to 10 times those of AdamW. It needs no schedule except warm-up.
    """

    label: ClassVar[str] = "schedule-free AdamW"
    reference: ClassVar[str] = _REFERENCE

    kind: Literal["schedule_free_adamw"] = "schedule_free_adamw"
    lr: AxisField
    beta1: AxisField = fixed(0.9)
    beta2: AxisField = fixed(0.999)
    eps: AxisField = fixed(1e-8)
    weight_decay: AxisField = fixed(0.0)

    @field_validator("beta1")
    @classmethod
    def _divides(cls, value: Axis) -> Axis:
        return _above_0(value)


@registered(ScheduleFreeAdamWArm)
@registered(ScheduleFreeSGDArm)
class ScheduleFree:
    """z ← z − η (d + λ y); x ← (1 − c) x + c z; y ← β x + (1 − β) z, with gradients taken at y.

    d is the gradient, or g / (√(v / c₂) + ε) with Adam's v. c is the step's fraction of the accumulated squared maximum
    learning rate. Parameters are y in training and x = y + (1 − 1 / β)(z − y) in evaluation.
    """

    element_wise: Literal[True] = True

    def __init__(self, settings: Mapping[str, Any], networks: Networks) -> None:
        self._adam = settings["kind"] == "schedule_free_adamw"
        self._beta = "beta1" if self._adam else "momentum"

    def init(self, params: Tensors, numbers: Numbers) -> State:
        """Return iterates equal to the parameters."""
        from sensitivity.optimizers.numbers import counter, zeros

        state: State = {"z": {name: p.detach().clone() for name, p in params.items()}}
        state |= {name: counter(numbers) for name in ("steps", "largest", "weights")}
        return {**state, "square": zeros(params)} if self._adam else state

    def step(self, params: Tensors, grads: Tensors, state: State, numbers: Numbers, *, lr: Tensor, step: int) -> None:
        """Update the iterates."""
        import torch

        from sensitivity.optimizers.numbers import correction, per_trial

        rate = lr.double()
        steps = state["steps"].add_(1)
        weight = torch.maximum(state["largest"], rate, out=state["largest"]).square()
        share = (weight / state["weights"].add_(weight)).nan_to_num_(0.0)  # NaN while all rates so far are 0
        along = rate * (numbers[self._beta] * (1 - share) - 1)
        scale = correction(numbers["beta2"], steps).rsqrt() if self._adam else None
        for name, y in params.items():
            direction, z = grads[name], state["z"][name]
            if scale is not None:
                square, g = state["square"][name], direction
                square.mul_(numbers.like("beta2", y)).addcmul_(g * numbers.complement("beta2", y), g)
                direction = g / square.sqrt().mul_(per_trial(scale, y)).add_(numbers.like("eps", y))
            if numbers.any("weight_decay"):
                direction = direction.addcmul(y, numbers.like("weight_decay", y))
            y.lerp_(z, per_trial(share, y)).addcmul_(direction, per_trial(along, y))
            z.addcmul_(direction, per_trial(-rate, y))

    def evaluates_other_parameters(self, state: State) -> bool:
        """Return True, because evaluation uses the average."""
        return True

    @contextlib.contextmanager
    def evaluating(self, params: Tensors, state: State, numbers: Numbers) -> Iterator[None]:
        """Set the parameters to x within the block."""
        from sensitivity.optimizers.numbers import per_trial

        for name, y in params.items():
            y.lerp_(state["z"][name], per_trial(1 - 1 / numbers[self._beta], y))
        yield
