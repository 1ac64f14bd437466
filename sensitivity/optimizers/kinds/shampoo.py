"""Shampoo: a preconditioner for each dimension of a matrix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sensitivity.optimizers.contract import Networks, State, Tensors, registered
from sensitivity.study.arms import Arm
from sensitivity.study.axes import AxisField, CountOrAxis, fixed
from sensitivity.study.section import Count

if TYPE_CHECKING:
    from torch import Tensor

    from sensitivity.optimizers.numbers import Numbers


class ShampooArm(Arm):
    """Shampoo with grafting: Shampoo's direction with the step length of another optimizer, per parameter.

    Convolution weights are reshaped to matrices with output channels as rows. Dimensions above `max_side` have no
    preconditioner. The roots are updated every `precondition_interval` steps, starting with the first. `eps` is added
    to the eigenvalues of the preconditioners. Weight decay is decoupled.
    """

    label: ClassVar[str] = "Shampoo"
    reference: ClassVar[str] = "Gupta, Koren and Singer 2018, arXiv 1802.09568; Anil et al. 2020, arXiv 2002.09018"

    kind: Literal["shampoo"] = "shampoo"
    lr: AxisField
    beta1: AxisField = fixed(0.9)
    beta2: AxisField = fixed(0.999)
    eps: AxisField = fixed(1e-8)
    weight_decay: AxisField = fixed(0.0)
    statistics: Literal["average", "sum"] = "average"
    graft: Literal["adam", "sgd", "none"] = "adam"
    precondition_interval: CountOrAxis = 10
    max_side: Count = 1024


@registered(ShampooArm)
class Shampoo:
    """L ← L + g gᵀ, R ← R + gᵀ g, or averages with β₂; d ← (L + ε I)^(-1/4) m (R + ε I)^(-1/4); p ← p − η d.

    m is the bias-corrected average of g with β₁. With a single preconditioner, as for vectors, the root has order 2.
    With grafting, d is rescaled to the norm of Adam's step (with β₁, β₂ and ε), or of m (SGD).
    """

    def __init__(self, settings: Mapping[str, Any], networks: Networks) -> None:
        self._sum = settings["statistics"] == "sum"
        self._graft = str(settings["graft"])
        self._most = int(settings["max_side"])
        self._interval = int(settings["precondition_interval"])
        self._sides: dict[str, list[int]] = {}

    def init(self, params: Tensors, numbers: Numbers) -> State:
        """Return zero averages and factors, and identity roots."""
        import torch

        from sensitivity.optimizers.numbers import counter, zeros

        state: State = {"steps": counter(numbers), "mean": zeros(params), "factors": {}, "roots": {}}
        if self._graft == "adam":
            state["square"] = zeros(params)
        for name, p in params.items():
            shape = _matrix(p).shape[1:]
            self._sides[name] = list(shape)
            for side, size in enumerate(shape):
                if 1 < size <= self._most:
                    identity = torch.eye(size, dtype=p.dtype, device=p.device).repeat(len(p), 1, 1)
                    state["factors"][f"{name}/{side}"] = torch.zeros_like(identity)
                    state["roots"][f"{name}/{side}"] = identity
        return state

    @property
    def period(self) -> int:
        """Number of steps between updates of the roots."""
        return self._interval

    def repeated_kind(self, step: int) -> str | None:
        """Return the kind of a step; None if it updates roots, because decompositions synchronise the device."""
        return None if step % self._interval == 0 else "plain"

    def step(self, params: Tensors, grads: Tensors, state: State, numbers: Numbers, *, lr: Tensor, step: int) -> None:
        """Update the averages and factors, the roots if due, and the parameters."""
        import torch

        from sensitivity.optimizers.matrices import inverse_root
        from sensitivity.optimizers.numbers import correction, per_trial

        steps = state["steps"].add_(1)
        first = 1 / correction(numbers["beta1"], steps)
        second = 1 / correction(numbers["beta2"], steps)
        for name, p in params.items():
            g = grads[name]
            matrix = _matrix(g)
            mean = state["mean"][name].lerp_(g, numbers.complement("beta1", p))
            update = mean * per_trial(first, p)
            length = self._length(name, g, update, state, numbers, second)
            keys = [f"{name}/{side}" for side in (0, 1) if f"{name}/{side}" in state["factors"]]
            direction = _matrix(update)
            for key in keys:
                transposed = key.endswith("/1")
                outer = matrix.mT @ matrix if transposed else matrix @ matrix.mT
                factor, root = state["factors"][key], state["roots"][key]
                if self._sum:
                    factor.add_(outer)
                else:
                    factor.lerp_(outer, numbers.complement("beta2", outer))
                if step % self._interval == 0:
                    whole = factor if self._sum else factor * per_trial(second, factor)
                    root.copy_(inverse_root(whole, numbers["eps"], 2 * len(keys)))
                direction = direction @ root if transposed else root @ direction
            direction = direction.reshape(p.shape)
            if length is not None:
                norm = torch.linalg.vector_norm(direction.flatten(1), dim=1)
                direction = direction * per_trial(torch.where(norm > 0, length / norm, 0.0), p)
            if numbers.any("weight_decay"):
                p.mul_(per_trial(1 - lr.double() * numbers["weight_decay"], p))
            p.addcmul_(direction, per_trial(-lr, p))

    def _length(
        self, name: str, g: Tensor, update: Tensor, state: State, numbers: Numbers, second: Tensor
    ) -> Tensor | None:
        """Return the norm ``[trials]`` of the grafted step; None without grafting."""
        import torch

        from sensitivity.optimizers.numbers import per_trial

        if self._graft == "adam":
            square = state["square"][name]
            square.mul_(numbers.like("beta2", g)).addcmul_(g * numbers.complement("beta2", g), g)
            update = update / (square * per_trial(second, g)).sqrt().add_(numbers.like("eps", g))
        return None if self._graft == "none" else torch.linalg.vector_norm(update.flatten(1), dim=1)

    def flops(self, batch_size: int, positions: Mapping[str, int]) -> float:
        """Return the FLOPs of factors, roots and preconditioning, averaged over the interval."""
        from sensitivity.optimizers.matrices import EIGEN_FLOPS

        total = 0.0
        for rows, columns in self._sides.values():
            for side in (rows, columns):
                if 1 < side <= self._most:
                    total += 4 * rows * columns * side + (EIGEN_FLOPS + 2) * side**3 / self._interval
        return total


def _matrix(tensor: Tensor) -> Tensor:
    """Return parameters as matrices; vectors become matrices with one column."""
    return tensor.flatten(2) if tensor.dim() > 2 else tensor.reshape(len(tensor), -1, 1)
