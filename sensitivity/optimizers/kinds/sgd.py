"""SGD with momentum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sensitivity.optimizers.contract import Networks, State, Tensors, registered
from sensitivity.study.arms import Arm, WidthRule
from sensitivity.study.axes import AxisField, fixed

if TYPE_CHECKING:
    from torch import Tensor

    from sensitivity.optimizers.numbers import Numbers


class SGDArm(Arm):
    """SGD with (Nesterov) momentum and coupled weight decay, as torch.optim.SGD defines them."""

    label: ClassVar[str] = "SGD"
    reference: ClassVar[str] = "torch.optim.SGD"
    width_rule: ClassVar[WidthRule | None] = "sgd"

    kind: Literal["sgd"] = "sgd"
    lr: AxisField
    momentum: AxisField = fixed(0.0)
    weight_decay: AxisField = fixed(0.0)
    nesterov: bool = False


@registered(SGDArm)
class SGD:
    """g ← ∇ + λ p; b ← m b + g; p ← p − η b, or with Nesterov's form p ← p − η (g + m b)."""

    element_wise: Literal[True] = True

    def __init__(self, settings: Mapping[str, Any], networks: Networks) -> None:
        self._nesterov = bool(settings["nesterov"])

    def init(self, params: Tensors, numbers: Numbers) -> State:
        """Return zero velocities."""
        return {"velocity": {name: p.detach().new_zeros(p.shape) for name, p in params.items()}}

    def step(self, params: Tensors, grads: Tensors, state: State, numbers: Numbers, *, lr: Tensor, step: int) -> None:
        """Update the parameters and the velocities."""
        import torch

        from sensitivity.optimizers.numbers import per_trial

        values, velocities = list(params.values()), [state["velocity"][name] for name in params]
        gradients = [grads[name] for name in params]
        momenta = [numbers.like("momentum", p) for p in values]
        if numbers.any("weight_decay"):
            decays = [numbers.like("weight_decay", p) for p in values]
            gradients = list(torch._foreach_addcmul(gradients, values, decays))
        for gradient, velocity, momentum in zip(gradients, velocities, momenta, strict=True):
            torch.addcmul(gradient, velocity, momentum, out=velocity)  # one pass over memory instead of two
        directions = torch._foreach_addcmul(gradients, velocities, momenta) if self._nesterov else velocities
        torch._foreach_addcmul_(values, directions, [per_trial(-lr, p) for p in values])
