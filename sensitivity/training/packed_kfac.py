"""K-FAC over packs: the functional core of ``sensitivity.kfac`` behind the training loop's contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sensitivity import kfac
from sensitivity.kfac.state import restore, saved
from sensitivity.kfac.statistics import accumulate
from sensitivity.study.trials import Trial
from sensitivity.training.optimizers import decays, hyperparameter
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
        self._weight_decay = decay if decays(trials) else None
        products = model.gradients_are_products and self._weight_decay is None
        small = [layer.name for layer in self._layers if kfac.uses_calls(layer, trials[0].batch_size)]
        self._thin = frozenset(small if products else ())
        """Layers whose calls make a step cheaper, whether or not factors are updated."""
        self._calls: dict[str, list[kfac.Capture]] = {}
        self._kl_clip = settings["kl_clip"]
        self._inverse_interval = settings["inverse_interval"]
        self._unsolved: dict[int, kfac.SolveFailure] = {}
        self._seen: Mapping[str, Sequence[kfac.Capture]] | kfac.Statistics | None = None
        self._seen_share = 0.0
        self._clip_sum = torch.zeros_like(self._lr)
        self._clipped = torch.zeros_like(self._lr)
        self._seconds: dict[str, float] = {}

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
        return kfac.step_flops(
            self._layers, self._config, examples=batch_size, positions=positions, calls=bool(self._thin)
        ).total

    @property
    def observed_layers(self) -> frozenset[str]:
        """The layers that K-FAC covers: trained, and of a kind that it knows."""
        return frozenset(layer.name for layer in self._layers)

    def wants_calls(self, step: int) -> bool:
        """Whether factors are updated at `step`, or the calls make it cheaper."""
        return bool(self._thin) or kfac.needs_statistics(self._config, step)

    @torch.no_grad()
    def see(self, calls: Mapping[str, Sequence[kfac.Capture]], share: float) -> None:
        """Keep the calls of a whole batch, or sum the statistics of its parts, so that no part's activations stay."""
        for name in self._thin:
            self._calls.setdefault(name, []).extend(_shared(call, share) for call in calls[name])
        if not kfac.needs_statistics(self._config, self._state.steps):
            return
        if share == 1:
            self._seen = calls
            return
        self._seen_share += share
        if isinstance(self._seen, kfac.Statistics):  # in place: a second set of factors may be as large as the rest
            new = share / self._seen_share
            layout, seen = self._state.layout, self._seen
            accumulate(layout, calls, self._config, seen, keep=1 - new, weight=new, loss_scale=None)
        else:
            self._seen = kfac.statistics_of(self._state.layout, calls, self._config)

    def repeated_kind(self, step: int) -> str | None:
        """Name steps with and without new factors apart; steps with new inverses ask whether these could be had."""
        if step % self._inverse_interval == 0:
            return None
        return "factors" if kfac.needs_statistics(self._config, step) else "plain"

    def set_steps(self, steps: int) -> None:
        """Count so many steps, and forget what was seen of the next."""
        self._state.steps = steps
        self._seen, self._seen_share, self._calls = None, 0.0, {}

    @torch.no_grad()
    def step(
        self, params: Mapping[str, Tensor], grads: Mapping[str, Tensor], lr_multiplier: float | Tensor
    ) -> Tensor | None:
        """Update `params` in place; return which trials ``[trials]`` could not be updated."""
        numbers = kfac.Hyperparameters(
            lr=self._lr * lr_multiplier,
            damping=self._damping,
            momentum=self._momentum,
            weight_decay=0.0 if self._weight_decay is None else self._weight_decay,
            kl_clip=self._kl_clip,
        )
        report = kfac.step(self._config, self._state, params, grads, self._seen, numbers, calls=self._calls)
        self.set_steps(self._state.steps)
        for failure in report.solves:
            self._unsolved.setdefault(failure.member[0], failure)
        for phase, seconds in report.seconds.items():
            self._seconds[phase] = self._seconds.get(phase, 0.0) + seconds
        if self._kl_clip is not None:
            self._clip_sum += report.clip
            self._clipped += report.clip < 1
        return report.failed

    def spent(self) -> Mapping[str, float]:
        """Return seconds of "factors", "inverses", "precondition" and "update" since the last call."""
        spent, self._seconds = self._seconds, {}
        return spent

    def clipping(self) -> tuple[Tensor, Tensor] | None:
        """Return the sum of the KL clip's factors and the number of clipped steps since the last call."""
        if self._kl_clip is None:
            return None
        summed = self._clip_sum.clone(), self._clipped.clone()
        self._clip_sum.zero_()  # in place, where a recorded step adds to them
        self._clipped.zero_()
        return summed

    def select(self, index: Tensor) -> None:
        """Keep only the members at `index`."""
        self._state = kfac.select(self._state, index)
        self._unsolved = {}  # they were of members that are dropped now
        self._lr, self._damping, self._momentum = self._lr[index], self._damping[index], self._momentum[index]
        self._clip_sum, self._clipped = self._clip_sum[index], self._clipped[index]
        if self._weight_decay is not None:
            self._weight_decay = self._weight_decay[index]

    def state(self) -> dict[str, Any]:
        """Return factors, inverses, momentum and counters."""
        return {"kfac": saved(self._state), "clip_sum": self._clip_sum, "clipped": self._clipped}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up factors, inverses, momentum and counters."""
        restore(self._state, state["kfac"])
        self._clip_sum.copy_(state["clip_sum"])
        self._clipped.copy_(state["clipped"])

    def explain(self, member: int) -> str:
        """Return why the member could not be updated."""
        failure = self._unsolved.get(member)
        if failure is None:
            return "gradient or update not finite"
        return (
            f"the {failure.side} factor of layer {failure.layer} could not be inverted "
            f"(condition number {failure.condition:.2g})"
        )


def _shared(call: kfac.Capture, share: float) -> kfac.Capture:
    """Turn gradients of the mean over a part of a batch into those of the mean over all of it."""
    return call if share == 1 else kfac.Capture(call.inputs, call.columns[0] * share)
