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

    element_wise: Literal[True] = True

    def __init__(self, settings: Mapping[str, Any], networks: Networks) -> None:
        pass

    def init(self, params: Tensors, numbers: Numbers) -> State:
        """Return zero sums."""
        from sensitivity.optimizers.numbers import counter, zeros

        return {"steps": counter(numbers), "square": zeros(params)}

    def step(self, params: Tensors, grads: Tensors, state: State, numbers: Numbers, *, lr: Tensor, step: int) -> None:
        """Update the sums and the parameters."""
        from sensitivity.optimizers.fused import by_member
        from sensitivity.optimizers.numbers import per_trial

        if by_member(lr):
            self._step_each(params, grads, state, numbers, lr)
            return
        rate = -lr.double() / (1 + state["steps"] * numbers["lr_decay"])
        state["steps"].add_(1)
        for name, p in params.items():
            g, square = grads[name], state["square"][name]
            if numbers.any("weight_decay"):
                g = g.addcmul(p, numbers.like("weight_decay", p))
            square.addcmul_(g, g)
            p.addcmul_(g / square.sqrt().add_(numbers.like("eps", p)), per_trial(rate, p))

    def _step_each(self, params: Tensors, grads: Tensors, state: State, numbers: Numbers, lr: Tensor) -> None:
        """Update member by member with torch's fused kernel."""
        import torch

        from sensitivity.optimizers.fused import members_of

        counts = state["steps"].add_(1).float().unbind()
        members = members_of(params, grads, state["square"])
        names = ("lr_decay", "weight_decay", "eps")
        values = zip(lr.tolist(), *(numbers[name].tolist() for name in names), strict=True)
        for (p, g, square), count, (rate, lr_decay, decay, eps) in zip(members, counts, values, strict=True):
            torch._fused_adagrad_(
                p, g, square, [count] * len(p), lr=rate, lr_decay=lr_decay, weight_decay=decay, eps=eps,
                maximize=False,
            )  # fmt: skip
