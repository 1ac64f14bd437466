"""Muon: orthogonalised momentum of matrices."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sensitivity.optimizers.contract import Networks, State, Tensors, registered
from sensitivity.optimizers.kinds.adam import Adam
from sensitivity.study.arms import Arm, WidthRule
from sensitivity.study.axes import AxisField, CountOrAxis, fixed

if TYPE_CHECKING:
    from torch import Tensor

    from sensitivity.optimizers.numbers import Numbers


class MuonArm(Arm):
    """Muon for hidden matrices, and AdamW for all other parameters: the last layer, embeddings, biases and gains.

    Convolution weights are reshaped to matrices with output channels as rows. `adam_lr`, `beta1`, `beta2` and `eps` are
    those of AdamW; the decoupled weight decay and the schedule apply to both.
    """

    label: ClassVar[str] = "Muon"
    reference: ClassVar[str] = "Jordan et al. 2024; torch.optim.Muon"
    width_rule: ClassVar[WidthRule | None] = "alike"

    kind: Literal["muon"] = "muon"
    lr: AxisField
    momentum: AxisField = fixed(0.95)
    weight_decay: AxisField = fixed(0.0)
    adam_lr: AxisField = fixed(1e-3)
    beta1: AxisField = fixed(0.9)
    beta2: AxisField = fixed(0.999)
    eps: AxisField = fixed(1e-8)
    nesterov: bool = True
    ns_steps: CountOrAxis = 5
    adjust: Literal["spectral", "rms"] = "spectral"


@registered(MuonArm)
class Muon:
    """m ← μ m + (1 − μ) g; u ← m, or (1 − μ) g + μ m (Nesterov); p ← (1 − η λ) p − η s · NS(u).

    NS(u) approximates U Vᵀ of u (``matrices.orthogonalised``). s is √max(1, rows / columns) ("spectral"), or
    0.2 √max(rows, columns), which gives steps of AdamW's size ("rms").
    """

    def __init__(self, settings: Mapping[str, Any], networks: Networks) -> None:
        from sensitivity.optimizers.matrices import hidden_matrices

        self._hidden = hidden_matrices(networks.network)
        self._nesterov, self._adjust = bool(settings["nesterov"]), str(settings["adjust"])
        self._steps = int(settings["ns_steps"])
        self._adam = Adam({"kind": "adamw"}, networks)
        self._sides: dict[str, tuple[int, int]] = {}

    @staticmethod
    def unusable(settings: Mapping[str, Any], networks: Networks) -> str | None:
        """Return a message if there is no hidden matrix."""
        from sensitivity.optimizers.matrices import hidden_matrices

        if hidden_matrices(networks.network):
            return None
        return "the model has no hidden matrix: the last layer is AdamW's. Use a deeper model, or remove this optimizer"

    def init(self, params: Tensors, numbers: Numbers) -> State:
        """Return zero averages and the state of AdamW."""
        from sensitivity.optimizers.numbers import zeros

        hidden, others = self._parts(params)
        self._sides = {name: (p.shape[1], math.prod(p.shape[2:])) for name, p in hidden.items()}
        return {"mean": zeros(hidden), "adam": self._adam.init(others, numbers)}

    def _parts(self, params: Tensors) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        hidden = {name: p for name, p in params.items() if name in self._hidden}
        return hidden, {name: p for name, p in params.items() if name not in hidden}

    def step(self, params: Tensors, grads: Tensors, state: State, numbers: Numbers, *, lr: Tensor, step: int) -> None:
        """Update averages and parameters."""
        from sensitivity.optimizers.matrices import as_matrices, orthogonalised
        from sensitivity.optimizers.numbers import per_trial

        hidden, others = self._parts(params)
        for name, p in hidden.items():
            g = grads[name]
            mean = state["mean"][name].lerp_(g, numbers.complement("momentum", p))
            update = g.lerp(mean, numbers.like("momentum", p)) if self._nesterov else mean
            rows, columns = self._sides[name]
            scale = (
                math.sqrt(max(1, rows / columns)) if self._adjust == "spectral" else 0.2 * math.sqrt(max(rows, columns))
            )
            update = orthogonalised(as_matrices(update), self._steps).reshape(p.shape)
            if numbers.any("weight_decay"):
                p.mul_(per_trial(1 - lr.double() * numbers["weight_decay"], p))
            p.addcmul_(update, per_trial(-scale * lr.double(), p))
        schedule = lr.double() / numbers.cast("lr").double()
        self._adam.step(others, grads, state["adam"], numbers, lr=(schedule * numbers["adam_lr"]).to(lr), step=step)

    def flops(self, batch_size: int, positions: Mapping[str, int]) -> float:
        """Return the FLOPs of the Newton-Schulz iterations."""
        from sensitivity.optimizers.matrices import orthogonalising_flops

        return sum(orthogonalising_flops(*sides, self._steps) for sides in self._sides.values())
