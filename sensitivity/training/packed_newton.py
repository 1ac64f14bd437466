"""Idealised K-FAC over packs: the exact curvature of a problem that knows it, in place of Kronecker factors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sensitivity.kfac import Capture
from sensitivity.study.trials import Trial
from sensitivity.training.optimizers import hyperparameter, per_trial
from sensitivity.training.packed_model import PackedModel


class PackedNewton:
    """Gradients over (curvature + damping), element by element; weight decay and momentum as in K-FAC."""

    def __init__(self, trials: Sequence[Trial], model: PackedModel, curvature: Mapping[str, Tensor]) -> None:
        """Take the curvature of each parameter, of the parameter's own shape."""
        like = next(iter(model.params.values()))
        self._curvature = {name: h.to(like.device, like.dtype) for name, h in curvature.items()}
        self._lr = hyperparameter(trials, "lr", like)
        self._damping = hyperparameter(trials, "damping", like)
        self._momentum = hyperparameter(trials, "momentum", like)
        self._weight_decay = hyperparameter(trials, "weight_decay", like)
        self._nesterov = bool(trials[0].settings["nesterov"])
        self._velocity = {name: torch.zeros_like(p, requires_grad=False) for name, p in model.params.items()}

    @property
    def period(self) -> int:
        """Every step is alike."""
        return 1

    @property
    def state_bytes(self) -> int:
        """Memory of the velocities."""
        return sum(velocity.nbytes for velocity in self._velocity.values())

    def flops(self, batch_size: int, positions: Mapping[str, int]) -> float:
        """Return 0: element-wise work alone."""
        return 0.0

    @property
    def observed_layers(self) -> frozenset[str]:
        """None: the curvature is known."""
        return frozenset()

    def wants_calls(self, step: int) -> bool:
        """Never: the curvature is known."""
        return False

    def see(self, calls: Mapping[str, Sequence[Capture]], share: float) -> None:
        """Never called: the curvature is known."""
        raise AssertionError(share)

    def repeated_kind(self, step: int) -> str | None:
        """All steps are alike."""
        return "all"

    def set_steps(self, steps: int) -> None:
        """Do nothing: no step depends on how many there were."""

    @torch.no_grad()
    def step(
        self, params: Mapping[str, Tensor], grads: Mapping[str, Tensor], lr_multiplier: float | Tensor
    ) -> Tensor | None:
        """Update `params` in place."""
        rate = -lr_multiplier * self._lr
        for name, parameter in params.items():
            momentum, damping = per_trial(self._momentum, parameter), per_trial(self._damping, parameter)
            gradient = torch.addcmul(grads[name], parameter, per_trial(self._weight_decay, parameter))
            update = gradient / (self._curvature[name] + damping)
            velocity = self._velocity[name].mul_(momentum).add_(update)
            direction = torch.addcmul(update, velocity, momentum) if self._nesterov else velocity
            parameter.addcmul_(direction, per_trial(rate, parameter))
        return None

    def spent(self) -> Mapping[str, float]:
        """Nothing worth a phase of its own."""
        return {}

    def clipping(self) -> tuple[Tensor, Tensor] | None:
        """There is no clip: where the curvature is exact there is nothing to guard against."""
        return None

    def select(self, index: Tensor) -> None:
        """Keep only the members at `index`."""
        self._lr, self._damping = self._lr[index], self._damping[index]
        self._momentum, self._weight_decay = self._momentum[index], self._weight_decay[index]
        self._velocity = {name: velocity[index] for name, velocity in self._velocity.items()}

    def state(self) -> dict[str, Any]:
        """Return the velocities."""
        return {"velocity": dict(self._velocity)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up the velocities."""
        for name, velocity in self._velocity.items():
            velocity.copy_(state["velocity"][name])

    def explain(self, member: int) -> str:
        """Never called: the update can't fail."""
        raise AssertionError(member)
