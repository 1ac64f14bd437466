"""Lion: the sign of a moving average."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sensitivity.optimizers.contract import Networks, State, Tensors, registered
from sensitivity.study.arms import Arm
from sensitivity.study.axes import AxisField, fixed

if TYPE_CHECKING:
    from torch import Tensor

    from sensitivity.optimizers.numbers import Numbers


class LionArm(Arm):
    """Lion with decoupled weight decay. Suitable learning rates are 3 to 10 times smaller than AdamW's."""

    label: ClassVar[str] = "Lion"
    reference: ClassVar[str] = "Chen et al. 2023, arXiv 2302.06675; lion-pytorch"

    kind: Literal["lion"] = "lion"
    lr: AxisField
    beta1: AxisField = fixed(0.9)
    beta2: AxisField = fixed(0.99)
    weight_decay: AxisField = fixed(0.0)


@registered(LionArm)
class Lion:
    """p ← (1 − η λ) p − η sign(β₁ m + (1 − β₁) g); then m ← β₂ m + (1 − β₂) g."""

    element_wise: Literal[True] = True

    def __init__(self, settings: Mapping[str, Any], networks: Networks) -> None:
        pass

    def init(self, params: Tensors, numbers: Numbers) -> State:
        """Return zero averages."""
        from sensitivity.optimizers.numbers import zeros

        return {"mean": zeros(params)}

    def step(self, params: Tensors, grads: Tensors, state: State, numbers: Numbers, *, lr: Tensor, step: int) -> None:
        """Update the parameters, then the averages."""
        from sensitivity.optimizers.numbers import per_trial

        for name, p in params.items():
            g, mean = grads[name], state["mean"][name]
            if numbers.any("weight_decay"):
                p.mul_(per_trial(1 - lr.double() * numbers["weight_decay"], p))
            p.addcmul_(mean.lerp(g, numbers.complement("beta1", p)).sign_(), per_trial(-lr, p))
            mean.lerp_(g, numbers.complement("beta2", p))
