"""SOAP: Adam in the eigenbases of Shampoo's factors."""

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


class SOAPArm(Arm):
    """SOAP for matrices, and Adam for vectors.

    Convolution weights are reshaped to matrices with output channels as rows. Dimensions above `max_side` are not
    rotated. Bases are updated every `precondition_interval` steps. Weight decay is decoupled. The first step only
    computes the bases and does not change parameters.
    """

    label: ClassVar[str] = "SOAP"
    reference: ClassVar[str] = "Vyas et al. 2024, arXiv 2409.11321; pytorch_optimizer.SOAP"

    kind: Literal["soap"] = "soap"
    lr: AxisField
    beta1: AxisField = fixed(0.95)
    beta2: AxisField = fixed(0.95)
    eps: AxisField = fixed(1e-8)
    weight_decay: AxisField = fixed(0.01)
    precondition_interval: CountOrAxis = 10
    max_side: Count = 1024


@registered(SOAPArm)
class SOAP:
    """G ← Qₗᵀ g Qᵣ; v ← β₂ v + (1 − β₂) G²; p ← (1 − η λ)(p − η √c₂ / c₁ · Qₗ [(Qₗᵀ m Qᵣ) / (√v + ε)] Qᵣᵀ).

    m is the average of g with β₁. L and R are averages of g gᵀ and gᵀ g with β₂. Every few steps each Q is updated
    by one step of power iteration: its columns and v are sorted by diag(Qᵀ L Q), then Q ← qr(L Q).
    """

    def __init__(self, settings: Mapping[str, Any], networks: Networks) -> None:
        self._most = int(settings["max_side"])
        self._interval = int(settings["precondition_interval"])
        self._sides: list[tuple[int, int]] = []

    def init(self, params: Tensors, numbers: Numbers) -> State:
        """Return zero averages and factors, and identity bases."""
        import torch

        from sensitivity.optimizers.matrices import as_matrices, is_matrix
        from sensitivity.optimizers.numbers import counter, zeros

        state: State = {"steps": counter(numbers), "mean": zeros(params), "square": zeros(params)}
        state |= {"factors": {}, "bases": {}}
        for name, p in params.items():
            if not is_matrix(p):
                continue
            rows, columns = as_matrices(p).shape[1:]
            self._sides.append((rows, columns))
            for side, size in enumerate((rows, columns)):
                if size <= self._most:
                    identity = torch.eye(size, dtype=p.dtype, device=p.device).repeat(len(p), 1, 1)
                    state["factors"][f"{name}/{side}"] = torch.zeros_like(identity)
                    state["bases"][f"{name}/{side}"] = identity
        return state

    @property
    def period(self) -> int:
        """Number of steps between updates of the bases."""
        return self._interval

    def repeated_kind(self, step: int) -> str | None:
        """Return the kind of a step; None if it updates bases, because decompositions synchronise the device."""
        return None if step % self._interval == 0 else "plain"

    def step(self, params: Tensors, grads: Tensors, state: State, numbers: Numbers, *, lr: Tensor, step: int) -> None:
        """Update averages, parameters and factors, and the bases if due."""
        from sensitivity.optimizers.matrices import eigenvectors
        from sensitivity.optimizers.numbers import correction, per_trial

        if step == 0:
            for name, g in grads.items():
                for key, outer in _outer_products(name, g, state):
                    state["factors"][key].lerp_(outer, numbers.complement("beta2", outer))
                    state["bases"][key].copy_(eigenvectors(state["factors"][key]))
            return
        steps = state["steps"].add_(1)
        rate = -lr.double() * correction(numbers["beta2"], steps).sqrt() / correction(numbers["beta1"], steps)
        for name, p in params.items():
            g, mean, square = grads[name], state["mean"][name], state["square"][name]
            mean.lerp_(g, numbers.complement("beta1", p))
            square.lerp_(_rotated(name, g, state, into=True).square(), numbers.complement("beta2", p))
            update = _rotated(name, mean, state, into=True) / square.sqrt().add_(numbers.like("eps", p))
            p.addcmul_(_rotated(name, update, state, into=False), per_trial(rate, p))
            if numbers.any("weight_decay"):
                p.mul_(per_trial(1 - lr.double() * numbers["weight_decay"], p))
            for key, outer in _outer_products(name, g, state):
                state["factors"][key].lerp_(outer, numbers.complement("beta2", outer))
                if step % self._interval == 0:
                    _update_basis(key, square, state)

    def flops(self, batch_size: int, positions: Mapping[str, int]) -> float:
        """Return the FLOPs of factors, rotations and bases, averaged over the interval."""
        from sensitivity.optimizers.matrices import QR_FLOPS

        total = 0.0
        for rows, columns in self._sides:
            for side in (rows, columns):
                if side <= self._most:  # the factor and three rotations; in an update L Q and its decomposition
                    total += 8 * rows * columns * side + (2 + QR_FLOPS) * side**3 / self._interval
        return total


def _outer_products(name: str, g: Tensor, state: State) -> list[tuple[str, Tensor]]:
    """Return g gᵀ and gᵀ g for dimensions that have a factor, with the factor's key."""
    found = []
    for side in (0, 1):
        if f"{name}/{side}" in state["factors"]:
            matrix = g.flatten(2)
            found.append((f"{name}/{side}", matrix.mT @ matrix if side else matrix @ matrix.mT))
    return found


def _rotated(name: str, tensor: Tensor, state: State, *, into: bool) -> Tensor:
    """Rotate ``[trials, ...]`` to the bases of a parameter, or back."""
    left, right = state["bases"].get(f"{name}/0"), state["bases"].get(f"{name}/1")
    if left is None and right is None:
        return tensor
    matrix = tensor.flatten(2)
    if left is not None:
        matrix = (left.mT if into else left) @ matrix
    if right is not None:
        matrix = matrix @ (right if into else right.mT)
    return matrix.reshape(tensor.shape)


def _update_basis(key: str, square: Tensor, state: State) -> None:
    """Update one basis, and sort the squares accordingly."""
    import torch

    from sensitivity.optimizers.matrices import decomposable

    factor, basis = state["factors"][key], state["bases"][key]
    product = factor @ basis
    order = (basis * product).sum(1).argsort(dim=-1, descending=True)
    matrix = square.flatten(2)
    if key.endswith("/1"):
        matrix = matrix.gather(2, order[:, None, :].expand_as(matrix))
    else:
        matrix = matrix.gather(1, order[:, :, None].expand_as(matrix))
    square.copy_(matrix.reshape(square.shape))
    product = product.gather(2, order[:, None, :].expand_as(product))
    basis.copy_(torch.linalg.qr(decomposable(product)).Q)
