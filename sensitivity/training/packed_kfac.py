"""K-FAC over packs: the functional core of ``sensitivity.kfac`` behind the training loop's contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sensitivity import kfac
from sensitivity.study.trials import Trial
from sensitivity.training.optimizers import hyperparameter
from sensitivity.training.packed_model import PackedModel


class PackedKFAC:
    """K-FAC with factored Tikhonov damping and the empirical Fisher of each minibatch."""

    def __init__(self, trials: Sequence[Trial], model: PackedModel) -> None:
        settings = trials[0].settings
        like = next(iter(model.params.values()))
        self._config = kfac.KFACConfig(
            nesterov=settings["nesterov"],
            factor_decay=settings["factor_decay"],
            factor_interval=settings["factor_interval"],
            inverse_interval=settings["inverse_interval"],
        )
        self._layers = kfac.layers_of(model.network)
        self._state = kfac.init_state(self._layers, model.params, self._config)
        self._lr = hyperparameter(trials, "lr", like)
        self._damping = hyperparameter(trials, "damping", like)
        self._momentum = hyperparameter(trials, "momentum", like)
        decay = hyperparameter(trials, "weight_decay", like)
        self._weight_decay = decay if bool(decay.any()) else None
        self._kl_clip = settings["kl_clip"]
        self._inverse_interval = settings["inverse_interval"]
        self._unsolved: dict[int, kfac.SolveFailure] = {}

    @property
    def period(self) -> int:
        """Steps from one update of the inverses to the next."""
        return int(self._inverse_interval)

    @property
    def state_bytes(self) -> int:
        """Memory of momentum, factors and inverses."""
        banks = (*self._state.factors.values(), *self._state.inverses.values(), self._state.momentum)
        return sum(bank.nbytes for bank in banks)

    def flops(self, batch_size: int, positions: Mapping[str, int]) -> float:
        """Return the FLOPs of factors, inverses and preconditioning, averaged over the update intervals."""
        return kfac.step_flops(self._layers, self._config, examples=batch_size, positions=positions).total

    @property
    def observed_layers(self) -> frozenset[str]:
        """The layers that K-FAC covers: trained, and of a kind that it knows."""
        return frozenset(layer.name for layer in self._layers)

    def wants_calls(self, step: int) -> bool:
        """Whether factors are updated at `step`."""
        return kfac.needs_statistics(self._config, step)

    @torch.no_grad()
    def step(
        self,
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        calls: Mapping[str, Sequence[kfac.Capture]] | None,
        lr_multiplier: float,
    ) -> Tensor | None:
        """Update `params` in place; return which trials ``[trials]`` could not be updated."""
        numbers = kfac.Hyperparameters(
            lr=self._lr * lr_multiplier,
            damping=self._damping,
            momentum=self._momentum,
            weight_decay=0.0 if self._weight_decay is None else self._weight_decay,
            kl_clip=self._kl_clip,
        )
        report = kfac.step(self._config, self._state, params, grads, calls, numbers)
        for failure in report.solves:
            self._unsolved.setdefault(failure.member[0], failure)
        return report.failed

    def select(self, index: Tensor) -> None:
        """Keep only the members at `index`."""
        self._state = kfac.select(self._state, index)
        self._unsolved = {}  # they were of members that are dropped now
        self._lr, self._damping, self._momentum = self._lr[index], self._damping[index], self._momentum[index]
        if self._weight_decay is not None:
            self._weight_decay = self._weight_decay[index]

    def explain(self, member: int) -> str:
        """Return why the member could not be updated."""
        failure = self._unsolved.get(member)
        if failure is None:
            return "gradient or update not finite"
        return (
            f"the {failure.side} factor of layer {failure.layer} could not be inverted "
            f"(condition number {failure.condition:.2g})"
        )
