"""The optimizer of a pack in training: a `Rule` with the state and the hyperparameters of the members."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from sensitivity.kfac import Capture
from sensitivity.optimizers.contract import (
    RULES,
    EvaluatesElsewhere,
    Explains,
    Intervals,
    LeavesUnused,
    Networks,
    Observer,
    OwnState,
    Priced,
    Report,
    Tensors,
    TrainsModules,
)
from sensitivity.optimizers.numbers import Numbers, per_trial
from sensitivity.study.arms import declared_kind, kinds
from sensitivity.study.trials import Trial


class PackOptimizer:
    """What the training loop asks of an optimizer, whatever its kind."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        rows: Sequence[Mapping[str, float]],
        params: Tensors,
        networks: Networks,
        began: Sequence[Mapping[str, float]] = (),
    ) -> None:
        """Begin with `params` ``[trials, ...]``.

        Args:
            settings: of the arm, structural hyperparameters included.
            rows: the hyperparameters of each member.
            params: parameters before the first step.
            networks: what else may be known of the networks.
            began: `rows` of all members that the pack began with, where some have been dropped since.
        """
        kinds()
        self._rule = RULES[declared_kind(settings["kind"])](settings, networks)
        like = next(iter(params.values())).detach()
        self._numbers = Numbers(rows, like, began)
        self._lr = self._numbers.cast("lr")
        self._state = self._rule.init(params, self._numbers)
        self._clips = settings.get("kl_clip") is not None or "kl_clip" in self._numbers
        self._clip_norm: float | None = settings.get("clip_norm")
        self._clip_sum, self._clipped = torch.zeros_like(self._lr), torch.zeros_like(self._lr)
        self._seconds: dict[str, float] = {}

    @property
    def period(self) -> int:
        """After how many steps its work repeats."""
        return self._rule.period if isinstance(self._rule, Intervals) else 1

    @property
    def state_bytes(self) -> int:
        """Memory that it keeps from step to step."""
        return sum(leaf.nbytes for leaf in tree_leaves(self._saved()) if isinstance(leaf, Tensor))

    def flops(self, batch_size: int, positions: Mapping[str, int]) -> float:
        """Return the FLOPs of an average step and trial, beyond the gradient's and element-wise work.

        `positions` says, by layer, how often its weights meet one example.
        """
        return self._rule.flops(batch_size, positions) if isinstance(self._rule, Priced) else 0.0

    @property
    def observed_layers(self) -> frozenset[str]:
        """Names of the layers whose calls it needs."""
        return self._rule.observed_layers if isinstance(self._rule, Observer) else frozenset()

    def begin(self, step: int) -> bool:
        """Begin `step` (0 is the first), and return whether it needs the calls of the layers."""
        return self._rule.begin(step) if isinstance(self._rule, Observer) else False

    @torch.no_grad()
    def observe(self, calls: Mapping[str, Sequence[Capture]], share: float) -> None:
        """Take the layers' calls in a micro-batch, `share` of the whole batch: gradients of its mean loss."""
        assert isinstance(self._rule, Observer)
        self._rule.observe(calls, share)

    def modules(self) -> Sequence[nn.Module] | None:
        """Return the network of each member as a module, where it needs them; None where gradients are enough."""
        return self._rule.modules(self._state) if isinstance(self._rule, TrainsModules) else None

    def repeated_kind(self, step: int) -> str | None:
        """Name the kind of `step`, all of which do the same operations and ask for no number; None if it does ask."""
        return self._rule.repeated_kind(step) if isinstance(self._rule, Intervals) else "all"

    @torch.no_grad()
    def step(self, params: Tensors, grads: Tensors, lr_multiplier: float | Tensor, *, step: int) -> Tensor | None:
        """Update `params` in place; return which trials ``[trials]`` could not be updated, if that can happen.

        What a model left unused is not in `grads`, and has a gradient of zeros for rules that do not ask.
        """
        if grads and len(grads) < len(params) and not isinstance(self._rule, LeavesUnused):
            grads = {name: grads[name] if name in grads else torch.zeros_like(p) for name, p in params.items()}
        grads, lr = self._clipped_to_norm(grads), self._lr * lr_multiplier
        report = self._rule.step(params, grads, self._state, self._numbers, lr=lr, step=step) or Report()
        for phase, seconds in report.seconds.items():
            self._seconds[phase] = self._seconds.get(phase, 0.0) + seconds
        if report.clip is not None and self._clips:
            self._clip_sum += report.clip
            self._clipped += report.clip < 1
        return report.failed

    def _clipped_to_norm(self, grads: Tensors) -> Tensors:
        """Return gradients of no larger norm than `clip_norm`, over all parameters of a member."""
        if self._clip_norm is None and "clip_norm" not in self._numbers:
            return grads
        norms = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in grads.values()])
        most = self._numbers.cast("clip_norm") if "clip_norm" in self._numbers else self._clip_norm
        factor = (most / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp_max(1.0)
        return {name: g * per_trial(factor, g) for name, g in grads.items()}

    @contextlib.contextmanager
    def evaluating(self, params: Tensors) -> Iterator[None]:
        """Put the parameters to evaluate with into `params` while inside, where they are others."""
        if not isinstance(self._rule, EvaluatesElsewhere):
            yield
            return
        kept = {name: parameter.detach().clone() for name, parameter in params.items()}
        with torch.no_grad():
            try:
                with self._rule.evaluating(params, self._state, self._numbers):
                    yield
            finally:  # to the bit: training doesn't depend on how often it is measured
                for name, before in kept.items():
                    params[name].copy_(before)

    def spent(self) -> Mapping[str, float]:
        """Return host seconds by phase of its own work since the last call, for the whole pack."""
        spent, self._seconds = self._seconds, {}
        return spent

    def clipping(self) -> tuple[Tensor, Tensor] | None:
        """Return the sum of the clip's factors and the number of clipped steps ``[trials]`` since the last call.

        None where there is no clip.
        """
        if not self._clips:
            return None
        summed = self._clip_sum.clone(), self._clipped.clone()
        self._clip_sum.zero_()  # in place, where a recorded step adds to them
        self._clipped.zero_()
        return summed

    def select(self, index: Tensor) -> None:
        """Keep only the members at `index`."""
        if isinstance(self._rule, OwnState):
            self._state = self._rule.select(self._state, index)
        else:
            self._state = tree_map(lambda leaf: leaf[index] if isinstance(leaf, Tensor) else leaf, self._state)
        self._numbers.select(index)
        self._lr = self._numbers.cast("lr")
        self._clip_sum, self._clipped = self._clip_sum[index], self._clipped[index]

    def state(self) -> dict[str, Any]:
        """Return all that training changes, as plain containers of tensors and numbers."""
        return {"rule": self._saved(), "clip_sum": self._clip_sum, "clipped": self._clipped}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Set the state to what `state` returned, of equal members."""
        if isinstance(self._rule, OwnState):
            self._rule.restore(self._state, state["rule"])
        else:
            _copy(self._state, state["rule"])
        self._clip_sum.copy_(state["clip_sum"])
        self._clipped.copy_(state["clipped"])

    def failure_reason(self, member: int) -> str:
        """Return why the member could not be updated."""
        reason = self._rule.failure_reason(member) if isinstance(self._rule, Explains) else None
        return reason or "gradient or update not finite"

    def _saved(self) -> dict[str, Any]:
        return self._rule.saved(self._state) if isinstance(self._rule, OwnState) else self._state


def _copy(held: Any, saved: Any) -> None:
    """Copy the tensors of one container into those of an equal one."""
    if isinstance(held, Tensor):
        held.copy_(saved)
    else:
        for key in held.keys() | saved.keys() if isinstance(held, dict) else range(max(len(held), len(saved))):
            _copy(held[key], saved[key])


def optimizer_of(
    trials: Sequence[Trial], params: Tensors, networks: Networks, *, began: Sequence[Trial] = ()
) -> PackOptimizer:
    """Return the optimizer of trials of one arm, batch size and structure, which begin with `params`.

    `began` are all trials of a pack of which `trials` are left when it is taken up again: its state depends on them.
    """
    structure = {name: int(value) if value == int(value) else value for name, value in trials[0].structure}
    rows = [dict(trial.hyperparameters) for trial in trials]
    settings = {**trials[0].settings, **structure}
    return PackOptimizer(settings, rows, params, networks, [dict(trial.hyperparameters) for trial in began])
