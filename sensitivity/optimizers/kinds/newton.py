"""Newton's method with known curvature, which is K-FAC without its approximation, for the noisy quadratic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sensitivity.optimizers.contract import Networks, State, Tensors, registered
from sensitivity.study.arms import Arm
from sensitivity.study.axes import AxisField, fixed

if TYPE_CHECKING:
    from torch import Tensor

    from sensitivity.optimizers.numbers import Numbers


class NewtonArm(Arm):
    """Gradients divided by (curvature + damping), for problems with a known diagonal curvature."""

    label: ClassVar[str] = "Newton"
    reference: ClassVar[str] = "Zhang et al. 2019, arXiv 1907.04164"

    kind: Literal["newton"] = "newton"
    lr: AxisField
    damping: AxisField
    momentum: AxisField = fixed(0.9)
    weight_decay: AxisField = fixed(0.0)
    nesterov: bool = False


@registered(NewtonArm)
class Newton:
    """u ← (∇ + λ p) / (h + damping); b ← m b + u; p ← p − η b, or with Nesterov's form p ← p − η (u + m b)."""

    def __init__(self, settings: Mapping[str, Any], networks: Networks) -> None:
        assert networks.curvature is not None
        self._curvature = networks.curvature
        self._nesterov = bool(settings["nesterov"])

    @staticmethod
    def unusable(settings: Mapping[str, Any], networks: Networks) -> str | None:
        """Return a message if the curvature is unknown."""
        if networks.curvature is not None:
            return None
        return 'it needs the exact curvature, which only the noisy quadratic provides; use kind = "kfac"'

    def init(self, params: Tensors, numbers: Numbers) -> State:
        """Return zero velocities."""
        return {"velocity": {name: p.detach().new_zeros(p.shape) for name, p in params.items()}}

    def step(self, params: Tensors, grads: Tensors, state: State, numbers: Numbers, *, lr: Tensor, step: int) -> None:
        """Update the parameters and the velocities."""
        from sensitivity.optimizers.numbers import per_trial

        for name, parameter in params.items():
            momentum, damping = numbers.like("momentum", parameter), numbers.like("damping", parameter)
            gradient = grads[name].addcmul(parameter, numbers.like("weight_decay", parameter))
            update = gradient / (self._curvature[name].to(parameter) + damping)
            velocity = state["velocity"][name].mul_(momentum).add_(update)
            direction = update.addcmul(velocity, momentum) if self._nesterov else velocity
            parameter.addcmul_(direction, per_trial(-lr, parameter))
