"""NAdam: Adam with Nesterov's momentum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sensitivity.optimizers.contract import Networks, State, Tensors, registered
from sensitivity.study.arms import Arm
from sensitivity.study.axes import AxisField, fixed

if TYPE_CHECKING:
    from torch import Tensor

    from sensitivity.optimizers.numbers import Numbers


class NAdamArm(Arm):
    """NAdam as torch.optim.NAdam defines it; with `decoupled` weight decay it is NAdamW."""

    label: ClassVar[str] = "NAdam"
    reference: ClassVar[str] = "Dozat 2016; torch.optim.NAdam"

    kind: Literal["nadam"] = "nadam"
    lr: AxisField
    beta1: AxisField = fixed(0.9)
    beta2: AxisField = fixed(0.999)
    eps: AxisField = fixed(1e-8)
    weight_decay: AxisField = fixed(0.0)
    momentum_decay: AxisField = fixed(4e-3)
    decoupled: bool = False


@registered(NAdamArm)
class NAdam:
    """p ← p − η [(1 − μₜ) g / (1 − Πₜ) + μₜ₊₁ m / (1 − Πₜ₊₁)] / (√(v / c₂) + ε).

    m and v are Adam's; μₜ = β₁ (1 − 0.96^(t ψ) / 2) with ψ the momentum decay, and Πₜ = μ₁ ⋯ μₜ.
    """

    element_wise: Literal[True] = True

    def __init__(self, settings: Mapping[str, Any], networks: Networks) -> None:
        self._decoupled = bool(settings["decoupled"])

    def init(self, params: Tensors, numbers: Numbers) -> State:
        """Return zero moments."""
        from sensitivity.optimizers.numbers import counter, zeros

        steps = counter(numbers)
        return {"steps": steps, "product": steps + 1, "mean": zeros(params), "square": zeros(params)}

    def step(self, params: Tensors, grads: Tensors, state: State, numbers: Numbers, *, lr: Tensor, step: int) -> None:
        """Update the moments and the parameters."""
        from sensitivity.optimizers.numbers import correction, per_trial

        def momentum(steps: Tensor) -> Tensor:
            return numbers["beta1"] * (1 - 0.5 * 0.96 ** (steps * numbers["momentum_decay"]))

        steps = state["steps"].add_(1)
        now, then = momentum(steps), momentum(steps + 1)
        product = state["product"].mul_(now)
        of_gradient = -lr.double() * (1 - now) / (1 - product)
        of_mean = -lr.double() * then / (1 - product * then)
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
            update = (g * per_trial(of_gradient, p)).addcmul_(mean, per_trial(of_mean, p))
            p.addcdiv_(update, denominator)
