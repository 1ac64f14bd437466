"""Optimizers over packs: hyperparameters are tensors ``[trials]``, parameters ``[trials, ...]``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from sensitivity.kfac import Capture
from sensitivity.study.trials import Trial
from sensitivity.training.packed_model import PackedModel


class PackOptimizer(Protocol):
    """What the training loop asks of an optimizer."""

    @property
    def period(self) -> int:
        """After how many steps its work repeats."""

    @property
    def state_bytes(self) -> int:
        """Memory that it keeps from step to step."""

    def flops(self, batch_size: int, positions: Mapping[str, int]) -> float:
        """Return the FLOPs of an average step and trial, beyond the gradient's and element-wise work.

        `positions` says, by layer, how often its weights meet one example.
        """

    @property
    def observed_layers(self) -> frozenset[str]:
        """Names of the layers whose calls it needs."""

    def wants_calls(self, step: int) -> bool:
        """Whether `step` (0 is the first) needs the calls of the layers."""

    def see(self, calls: Mapping[str, Sequence[Capture]], share: float) -> None:
        """Take the layers' calls in a micro-batch, `share` of the whole batch: gradients of its mean loss."""

    def repeated_kind(self, step: int) -> str | None:
        """Name the kind of `step`, all of which do the same operations and ask for no number; None if it does ask."""

    def set_steps(self, steps: int) -> None:
        """Take it that so many steps are behind, and nothing is seen of the next: one was replayed, or failed."""

    def step(
        self, params: Mapping[str, Tensor], grads: Mapping[str, Tensor], lr_multiplier: float | Tensor
    ) -> Tensor | None:
        """Update `params` in place; return which trials ``[trials]`` could not be updated, if that can happen."""

    def spent(self) -> Mapping[str, float]:
        """Return host seconds by phase of its own work since the last call, for the whole pack."""

    def clipping(self) -> tuple[Tensor, Tensor] | None:
        """Return the sum of the clip's factors and the number of clipped steps ``[trials]`` since the last call.

        None where there is no clip.
        """

    def select(self, index: Tensor) -> None:
        """Keep only the members at `index`."""

    def state(self) -> dict[str, Any]:
        """Return all that training changes, as plain containers of tensors and numbers."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave, of equal members."""

    def explain(self, member: int) -> str:
        """Return why the member could not be updated."""


def hyperparameter(trials: Sequence[Trial], name: str, like: Tensor) -> Tensor:
    """Return a hyperparameter of each trial ``[trials]``, in the type and on the device of `like`."""
    return torch.tensor([dict(trial.hyperparameters)[name] for trial in trials], dtype=like.dtype, device=like.device)


def decays(trials: Sequence[Trial]) -> bool:
    """Whether any of the trials has a weight decay."""
    return any(dict(trial.hyperparameters)["weight_decay"] for trial in trials)


def per_trial(values: Tensor, like: Tensor) -> Tensor:
    """Return `values` ``[trials]`` shaped to multiply `like` ``[trials, ...]``."""
    return values.view(-1, *(1,) * (like.dim() - 1))


class PackedSGD:
    """SGD with coupled weight decay and (Nesterov) momentum, in the form of ``torch.optim.SGD``."""

    def __init__(self, trials: Sequence[Trial], model: PackedModel) -> None:
        params = model.params
        like = next(iter(params.values()))
        self._lr = hyperparameter(trials, "lr", like)
        self._momentum = hyperparameter(trials, "momentum", like)
        self._weight_decay = hyperparameter(trials, "weight_decay", like)
        self._decays = decays(trials)
        self._nesterov = bool(trials[0].settings["nesterov"])
        self._velocity = {name: torch.zeros_like(p, requires_grad=False) for name, p in params.items()}

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
        """None: SGD sees gradients alone."""
        return frozenset()

    def wants_calls(self, step: int) -> bool:
        """Never: SGD sees gradients alone."""
        return False

    def see(self, calls: Mapping[str, Sequence[Capture]], share: float) -> None:
        """Never called: SGD sees gradients alone."""
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
        values, velocities = list(params.values()), [self._velocity[name] for name in params]
        gradients = [grads[name] for name in params]

        def shaped(hyperparameter: Tensor) -> list[Tensor]:
            return [per_trial(hyperparameter, parameter) for parameter in values]

        momenta = shaped(self._momentum)
        if self._decays:
            gradients = list(torch._foreach_addcmul(gradients, values, shaped(self._weight_decay)))
        for gradient, velocity, momentum in zip(gradients, velocities, momenta, strict=True):
            torch.addcmul(gradient, velocity, momentum, out=velocity)  # one pass over memory, not two
        directions = torch._foreach_addcmul(gradients, velocities, momenta) if self._nesterov else velocities
        torch._foreach_addcmul_(values, directions, shaped(-lr_multiplier * self._lr))
        return None

    def spent(self) -> Mapping[str, float]:
        """Nothing worth a phase of its own."""
        return {}

    def clipping(self) -> tuple[Tensor, Tensor] | None:
        """SGD has no clip."""
        return None

    def select(self, index: Tensor) -> None:
        """Keep only the members at `index`."""
        self._lr, self._momentum = self._lr[index], self._momentum[index]
        self._weight_decay = self._weight_decay[index]
        self._velocity = {name: velocity[index] for name, velocity in self._velocity.items()}

    def state(self) -> dict[str, Any]:
        """Return the velocities."""
        return {"velocity": dict(self._velocity)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up the velocities."""
        for name, velocity in self._velocity.items():
            velocity.copy_(state["velocity"][name])

    def explain(self, member: int) -> str:
        """Never called: an SGD update can't fail."""
        raise AssertionError(member)
