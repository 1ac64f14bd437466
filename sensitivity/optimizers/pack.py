"""The optimizer of a pack in training: a `Rule` with the state and the hyperparameters of the members."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from sensitivity.kfac import Capture
from sensitivity.optimizers.average import Average
from sensitivity.optimizers.contract import (
    RULES,
    ElementWise,
    EvaluatesElsewhere,
    Explains,
    Intervals,
    Judged,
    LeavesUnused,
    Networks,
    Observer,
    OwnState,
    Priced,
    Report,
    Rule,
    SampledGradients,
    Samples,
    Tensors,
    TrainsModules,
)
from sensitivity.optimizers.joint import WHOLE, Joint, joint_of
from sensitivity.optimizers.numbers import Numbers, per_trial
from sensitivity.optimizers.width import decouples_decay, lr_multipliers
from sensitivity.study.arms import declared_kind, kinds
from sensitivity.study.errors import UserError
from sensitivity.study.trials import Trial

TWO_AVERAGES = (
    "this optimizer averages the parameters that are evaluated itself; give ema_decay to the others alone, in their "
    "own table [evaluation]"
)


class PackOptimizer:
    """What the training loop asks of an optimizer, whatever its kind."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        rows: Sequence[Mapping[str, float]],
        params: Tensors,
        networks: Networks,
        began: Sequence[Mapping[str, float]] = (),
        ema_decay: float = 0.0,
    ) -> None:
        """Begin with `params` ``[trials, ...]``.

        Args:
            settings: of the arm, structural hyperparameters included.
            rows: the hyperparameters of each member.
            params: parameters before the first step.
            networks: what else may be known of the networks.
            began: `rows` of all members that the pack began with, where some have been dropped since.
            ema_decay: of the averages of the parameters that are evaluated, where `rows` have none; 0 without any.

        Raises:
            UserError: the optimizer evaluates other parameters than those of training as it is.
        """
        kinds()
        rule = RULES[declared_kind(settings["kind"])](settings, networks)
        self._rule: Rule = rule
        # Asked once: to ask a protocol takes as long as a small network's update.
        self._intervals = rule if isinstance(rule, Intervals) else None
        self._priced = rule if isinstance(rule, Priced) else None
        self._observer = rule if isinstance(rule, Observer) else None
        self._samples = rule if isinstance(rule, Samples) else None
        self._sampled = rule if isinstance(rule, SampledGradients) else None
        self._judged = rule if isinstance(rule, Judged) else None
        self._trains_modules = rule if isinstance(rule, TrainsModules) else None
        self._elsewhere = rule if isinstance(rule, EvaluatesElsewhere) else None
        self._own_state = rule if isinstance(rule, OwnState) else None
        self._explains = rule if isinstance(rule, Explains) else None
        like = next(iter(params.values())).detach()
        self._numbers = Numbers(rows, like, began)
        self._lr = self._numbers.cast("lr")
        self._joint = joint_of(params) if isinstance(rule, ElementWise) else None
        self._state = self._rule.init(self._whole(params), self._numbers)
        self._clips = settings.get("kl_clip") is not None or "kl_clip" in self._numbers
        self._clip_norm: float | None = settings.get("clip_norm")
        self._clip_sum, self._clipped = torch.zeros_like(self._lr), torch.zeros_like(self._lr)
        self._seconds: dict[str, float] = {}
        self._multipliers = lr_multipliers(networks.network, settings["kind"])
        self._decouples = decouples_decay(settings["kind"]) and self._numbers.any("weight_decay")
        averages = self._numbers.any("ema_decay") or ema_decay > 0
        self._average = Average(params, self._numbers, ema_decay) if averages else None
        if averages and self._elsewhere is not None and self._elsewhere.evaluates_elsewhere(self._state):
            raise UserError(f"evaluation.ema_decay: {TWO_AVERAGES}")

    @property
    def period(self) -> int:
        """After how many steps its work repeats."""
        return 1 if self._intervals is None else self._intervals.period

    @property
    def state_bytes(self) -> int:
        """Memory that it keeps from step to step."""
        return sum(leaf.nbytes for leaf in tree_leaves(self.state()) if isinstance(leaf, Tensor))

    def flops(self, batch_size: int, positions: Mapping[str, int]) -> float:
        """Return the FLOPs of an average step and trial, beyond the gradient's and element-wise work.

        `positions` says, by layer, how often its weights meet one example.
        """
        return 0.0 if self._priced is None else self._priced.flops(batch_size, positions)

    @property
    def observed_layers(self) -> frozenset[str]:
        """Names of the layers whose calls it needs."""
        return frozenset() if self._observer is None else self._observer.observed_layers

    def begin(self, step: int) -> bool:
        """Begin `step` (0 is the first), and return whether it needs the calls of the layers."""
        return self._observer is not None and self._observer.begin(step)

    @torch.no_grad()
    def observe(
        self, calls: Mapping[str, Sequence[Capture]], share: float | Tensor, valid: Tensor | None = None
    ) -> None:
        """Take the layers' calls in a micro-batch: gradients of its mean loss (``Observer.observe``)."""
        assert self._observer is not None
        self._observer.observe(calls, share, valid)

    def pseudo_losses(self, outputs: Tensor, valid: Tensor | None = None) -> Iterator[Tensor]:
        """Yield the scalars whose gradients are observed in place of the loss's, if there are any."""
        if self._samples is not None:
            yield from self._samples.pseudo_losses(outputs, valid)

    def passes(self, outputs: int) -> float:
        """Return how many further backward passes an average step takes, of networks with so many outputs."""
        return 0.0 if self._samples is None else self._samples.passes(outputs)

    def sampled_loss(self, outputs: Tensor, valid: Tensor | None = None, *, step: int, done: int) -> Tensor | None:
        """Return the loss for sampled labels, summed over members; None where its gradient is not wanted."""
        if self._sampled is None:
            return None
        return self._sampled.sampled_loss(outputs, self._state, valid, step=step, done=done)

    def take_sampled(self, grads: Tensors, share: float | Tensor) -> None:
        """Take its gradient, in a part that is `share` of the whole batch's loss terms."""
        assert self._sampled is not None
        self._sampled.take_sampled(grads, share)

    @property
    def backward_passes(self) -> float:
        """How many further ones there are in an average step, to the parameters."""
        return 0.0 if self._sampled is None else self._sampled.backward_passes()

    def is_judged(self, step: int) -> bool:
        """Whether the loss of the same batch after `step` is wanted."""
        return self._judged is not None and self._judged.is_judged(step)

    @torch.no_grad()
    def judge(self, params: Tensors, change: Tensor) -> None:
        """Take how much the loss ``[trials]`` changed in the last step."""
        assert self._judged is not None
        self._judged.judge(params, self._state, self._numbers, change)

    def modules(self) -> Sequence[nn.Module] | None:
        """Return the network of each member as a module, where it needs them; None where gradients are enough."""
        return None if self._trains_modules is None else self._trains_modules.modules(self._state)

    def repeated_kind(self, step: int) -> str | None:
        """Name the kind of `step`, all of which do the same operations and ask for no number; None if it does ask."""
        return "all" if self._intervals is None else self._intervals.repeated_kind(step)

    @torch.no_grad()
    def step(self, params: Tensors, grads: Tensors, lr_multiplier: float | Tensor, *, step: int) -> Tensor | None:
        """Update `params` in place; return which trials ``[trials]`` could not be updated, if that can happen.

        What a model left unused is not in `grads`, and has a gradient of zeros for rules that do not ask. Gradients of
        a single member may lack the dimension of trials.
        """
        began = time.perf_counter()
        if grads and len(grads) < len(params) and not isinstance(self._rule, LeavesUnused):
            grads = {name: grads[name] if name in grads else torch.zeros_like(p) for name, p in params.items()}
        whole = self._whole(params)
        if self._joint is not None:
            grads = {WHOLE: self._joint.gradient(grads)}
        else:
            grads = {name: g.view(params[name].shape) for name, g in grads.items()}
        grads = self._clipped_to_norm(grads)
        lr = self._lr if isinstance(lr_multiplier, float) and lr_multiplier == 1.0 else self._lr * lr_multiplier
        before = {name: params[name].detach().clone() for name in self._multipliers}
        report = self._rule.step(whole, grads, self._state, self._numbers, lr=lr, step=step) or Report()
        if before:
            self._rescale(params, before, lr)
        for phase, seconds in report.seconds.items():
            self._seconds[phase] = self._seconds.get(phase, 0.0) + seconds
        if report.clip is not None and self._clips:
            self._clip_sum += report.clip
            self._clipped += report.clip < 1
        if self._average is not None:
            self._average.step(params, step)
        rest = time.perf_counter() - began - sum(report.seconds.values())
        self._seconds["update"] = self._seconds.get("update", 0.0) + rest
        return report.failed

    def _rescale(self, params: Tensors, before: Tensors, lr: Tensor) -> None:
        """Multiply each parameter's step from `before`, decoupled weight decay aside, as its width asks."""
        for name, start in before.items():
            if self._decouples:
                start = start * per_trial(1 - lr.double() * self._numbers["weight_decay"], start)
            params[name].copy_(start.lerp(params[name], self._multipliers[name]))

    def _whole(self, params: Tensors) -> Tensors:
        """Return parameters as the rule takes them: by name, or all in one."""
        if self._joint is None:
            return params
        if not self._joint.holds(params):  # members were dropped
            self._joint = Joint(params)
        return {WHOLE: self._joint.whole}

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
        elsewhere: AbstractContextManager[None]
        if self._average is not None:
            elsewhere = self._average.evaluating(params)
        elif self._elsewhere is not None:
            elsewhere = self._elsewhere.evaluating(self._whole(params), self._state, self._numbers)
        else:
            yield
            return
        kept = {name: parameter.detach().clone() for name, parameter in params.items()}
        with torch.no_grad():
            try:
                with elsewhere:
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
        if self._own_state is not None:
            self._state = self._own_state.select(self._state, index)
        else:
            # Some of it may be the host's, such as seeds.
            places = {index.device: index, torch.device("cpu"): index.cpu()}
            self._state = tree_map(
                lambda leaf: leaf[places[leaf.device]] if isinstance(leaf, Tensor) else leaf, self._state
            )
        self._numbers.select(index)
        self._lr = self._numbers.cast("lr")
        self._clip_sum, self._clipped = self._clip_sum[index], self._clipped[index]
        if self._average is not None:
            self._average.select(index)

    def state(self) -> dict[str, Any]:
        """Return all that training changes, as plain containers of tensors and numbers."""
        average = {} if self._average is None else {"average": self._average.params}
        return {"rule": self._saved(), "clip_sum": self._clip_sum, "clipped": self._clipped, **average}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Set the state to what `state` returned, of equal members."""
        if self._own_state is not None:
            self._own_state.restore(self._state, state["rule"])
        else:
            _copy(self._saved(), state["rule"])
        self._clip_sum.copy_(state["clip_sum"])
        self._clipped.copy_(state["clipped"])
        if self._average is not None:
            _copy(self._average.params, state["average"])

    def failure_reason(self, member: int) -> str:
        """Return why the member could not be updated."""
        reason = None if self._explains is None else self._explains.failure_reason(member)
        return reason or "gradient or update not finite"

    def _saved(self) -> dict[str, Any]:
        if self._own_state is not None:
            return self._own_state.saved(self._state)
        named: dict[str, Any] = self._state if self._joint is None else self._joint.by_name(self._state)
        return named


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
    return PackOptimizer(
        settings,
        rows,
        params,
        networks,
        [dict(trial.hyperparameters) for trial in began],
        ema_decay=trials[0].evaluation.ema_decay,
    )
