"""RMSprop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sensitivity.optimizers.contract import Networks, State, Tensors, registered
from sensitivity.study.arms import Arm
from sensitivity.study.axes import AxisField, fixed

if TYPE_CHECKING:
    from torch import Tensor

    from sensitivity.optimizers.numbers import Numbers


class RMSpropArm(Arm):
    """RMSprop with coupled weight decay, as torch.optim.RMSprop defines it; its `alpha` is named `beta2`."""

    label: ClassVar[str] = "RMSprop"
    reference: ClassVar[str] = "torch.optim.RMSprop"

    kind: Literal["rmsprop"] = "rmsprop"
    lr: AxisField
    momentum: AxisField = fixed(0.0)
    beta2: AxisField = fixed(0.99)
    eps: AxisField = fixed(1e-8)
    weight_decay: AxisField = fixed(0.0)
    centered: bool = False


@registered(RMSpropArm)
class RMSprop:
    """v ← β₂ v + (1 − β₂) g²; b ← m b + g / (√v + ε); p ← p − η b. Centered: v minus the squared average of g."""

    element_wise: Literal[True] = True

    def __init__(self, settings: Mapping[str, Any], networks: Networks) -> None:
        self._centered = bool(settings["centered"])

    def init(self, params: Tensors, numbers: Numbers) -> State:
        """Return zero averages."""
        from sensitivity.optimizers.numbers import zeros

        state: State = {"square": zeros(params)}
        if numbers.any("momentum"):
            state["velocity"] = zeros(params)
        if self._centered:
            state["mean"] = zeros(params)
        return state

    def step(self, params: Tensors, grads: Tensors, state: State, numbers: Numbers, *, lr: Tensor, step: int) -> None:
        """Update the averages and the parameters."""
        from sensitivity.optimizers.fused import by_member
        from sensitivity.optimizers.numbers import per_trial

        if by_member(lr) and state.keys() == {"square"} and not numbers.any("weight_decay"):
            self._step_each(params, grads, state, numbers, lr)
            return
        for name, p in params.items():
            g, square = grads[name], state["square"][name]
            if numbers.any("weight_decay"):
                g = g.addcmul(p, numbers.like("weight_decay", p))
            weight = numbers.complement("beta2", p)
            square.mul_(numbers.like("beta2", p)).addcmul_(g * weight, g)
            if self._centered:
                mean = state["mean"][name].lerp_(g, weight)
                denominator = square.addcmul(mean, mean, value=-1).sqrt_().add_(numbers.like("eps", p))
            else:
                denominator = square.sqrt().add_(numbers.like("eps", p))
            update = g / denominator
            if "velocity" in state:
                update = state["velocity"][name].mul_(numbers.like("momentum", p)).add_(update)
            p.addcmul_(update, per_trial(-lr, p))

    def _step_each(self, params: Tensors, grads: Tensors, state: State, numbers: Numbers, lr: Tensor) -> None:
        """Update member by member with Adam's kernel, with β₁ = 0 and without bias correction."""
        import torch

        from sensitivity.optimizers.fused import members_of

        members = members_of(params, grads, state["square"])
        late = torch.tensor(torch.inf)
        values = zip(lr.tolist(), numbers["beta2"].tolist(), numbers["eps"].tolist(), strict=True)
        for (p, g, square), (rate, beta2, eps) in zip(members, values, strict=True):
            torch._fused_adam_(
                p, g, g, square, [], [late] * len(p), amsgrad=False, lr=rate, beta1=0.0, beta2=beta2, weight_decay=0.0,
                eps=eps, maximize=False,
            )  # fmt: skip
