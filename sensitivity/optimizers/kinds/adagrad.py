"""Adagrad."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sensitivity.optimizers.contract import Networks, State, Tensors, registered
from sensitivity.study.arms import Arm
from sensitivity.study.axes import AxisField, fixed

if TYPE_CHECKING:
    from torch import Tensor

    from sensitivity.optimizers.numbers import Numbers


class AdagradArm(Arm):
    """Adagrad with coupled weight decay, as torch.optim.Adagrad defines it."""

    label: ClassVar[str] = "Adagrad"
    reference: ClassVar[str] = "Duchi, Hazan and Singer 2011; torch.optim.Adagrad"

    kind: Literal["adagrad"] = "adagrad"
    lr: AxisField
    eps: AxisField = fixed(1e-10)
    weight_decay: AxisField = fixed(0.0)
    lr_decay: AxisField = fixed(0.0)


@registered(AdagradArm)
class Adagrad:
    """v ← v + g²; p ← p − η / (1 + (t − 1) d) · g / (√v + ε)."""

    def __init__(self, settings: Mapping[str, Any], networks: Networks) -> None:
        pass

    def init(self, params: Tensors, numbers: Numbers) -> State:
        """Return sums of 0."""
        from sensitivity.optimizers.numbers import counter, zeros

        return {"steps": counter(numbers), "square": zeros(params)}

    def step(self, params: Tensors, grads: Tensors, state: State, numbers: Numbers, *, lr: Tensor, step: int) -> None:
        """Update the sums and the parameters."""
        from sensitivity.optimizers.numbers import per_trial

        rate = -lr.double() / (1 + state["steps"] * numbers["lr_decay"])
        state["steps"].add_(1)
        for name, p in params.items():
            g, square = grads[name], state["square"][name]
            if numbers.any("weight_decay"):
                g = g.addcmul(p, numbers.like("weight_decay", p))
            square.addcmul_(g, g)
            p.addcmul_(g / square.sqrt().add_(numbers.like("eps", p)), per_trial(rate, p))
