"""Adam, and AdamW, which has decoupled weight decay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sensitivity.optimizers.contract import Networks, State, Tensors, registered
from sensitivity.study.arms import Arm, WidthRule
from sensitivity.study.axes import AxisField, fixed

if TYPE_CHECKING:
    from torch import Tensor

    from sensitivity.optimizers.numbers import Numbers


class AdamArm(Arm):
    """Adam with coupled weight decay, as torch.optim.Adam defines it."""

    label: ClassVar[str] = "Adam"
    reference: ClassVar[str] = "Kingma and Ba 2015, arXiv 1412.6980; torch.optim.Adam"
    width_rule: ClassVar[WidthRule | None] = "adam"

    kind: Literal["adam"] = "adam"
    lr: AxisField
    beta1: AxisField = fixed(0.9)
    beta2: AxisField = fixed(0.999)
    eps: AxisField = fixed(1e-8)
    weight_decay: AxisField = fixed(0.0)


class AdamWArm(Arm):
    """Adam with decoupled weight decay, as torch.optim.AdamW defines it."""

    label: ClassVar[str] = "AdamW"
    reference: ClassVar[str] = "Loshchilov and Hutter 2019, arXiv 1711.05101; torch.optim.AdamW"
    width_rule: ClassVar[WidthRule | None] = "adamw"

    kind: Literal["adamw"] = "adamw"
    lr: AxisField
    beta1: AxisField = fixed(0.9)
    beta2: AxisField = fixed(0.999)
    eps: AxisField = fixed(1e-8)
    weight_decay: AxisField = fixed(0.01)


@registered(AdamWArm)
@registered(AdamArm)
class Adam:
    """m ← β₁ m + (1 − β₁) g; v ← β₂ v + (1 − β₂) g²; p ← p − η (m / c₁) / (√(v / c₂) + ε), with cᵢ = 1 − βᵢᵗ.

    Adam adds λ p to the gradient; AdamW multiplies p by 1 − η λ before the step.
    """

    element_wise: Literal[True] = True

    def __init__(self, settings: Mapping[str, Any], networks: Networks) -> None:
        self._decoupled = settings["kind"] == "adamw"

    def init(self, params: Tensors, numbers: Numbers) -> State:
        """Return zero moments."""
        from sensitivity.optimizers.numbers import counter, zeros

        return {"steps": counter(numbers), "mean": zeros(params), "square": zeros(params)}

    def step(self, params: Tensors, grads: Tensors, state: State, numbers: Numbers, *, lr: Tensor, step: int) -> None:
        """Update the moments and the parameters."""
        steps = state["steps"].add_(1)
        from sensitivity.optimizers.fused import by_member

        if by_member(lr):
            self._step_each(params, grads, state, numbers, lr, steps)
        else:
            self._step_all(params, grads, state, numbers, lr, steps)

    def _step_each(
        self, params: Tensors, grads: Tensors, state: State, numbers: Numbers, lr: Tensor, steps: Tensor
    ) -> None:
        """Update member by member with torch's fused kernel."""
        import torch

        from sensitivity.optimizers.fused import members_of

        update = torch._fused_adamw_ if self._decoupled else torch._fused_adam_
        members = members_of(params, grads, state["mean"], state["square"])
        names = ("beta1", "beta2", "weight_decay", "eps")
        values = zip(lr.tolist(), *(numbers[name].tolist() for name in names), strict=True)
        counts = steps.float().unbind()
        for (p, g, mean, square), count, (rate, beta1, beta2, decay, eps) in zip(members, counts, values, strict=True):
            update(
                p, g, mean, square, [], [count] * len(p), amsgrad=False, lr=rate, beta1=beta1,
                beta2=beta2, weight_decay=decay, eps=eps, maximize=False,
            )  # fmt: skip

    def _step_all(
        self, params: Tensors, grads: Tensors, state: State, numbers: Numbers, lr: Tensor, steps: Tensor
    ) -> None:
        """Update all members at once."""
        from sensitivity.optimizers.numbers import correction, per_trial

        rate = -lr.double() / correction(numbers["beta1"], steps)
        scale = correction(numbers["beta2"], steps).rsqrt()
        decays = numbers.any("weight_decay")
        for name, p in params.items():
            g, mean, square = grads[name], state["mean"][name], state["square"][name]
            if decays and self._decoupled:
                p.mul_(per_trial(1 - lr.double() * numbers["weight_decay"], p))
            elif decays:
                g = g.addcmul(p, numbers.like("weight_decay", p))
            mean.lerp_(g, numbers.complement("beta1", p))
            square.mul_(numbers.like("beta2", p)).addcmul_(g * numbers.complement("beta2", p), g)
            denominator = square.sqrt().mul_(per_trial(scale, p)).add_(numbers.like("eps", p))
            p.addcmul_(mean / denominator, per_trial(rate, p))
