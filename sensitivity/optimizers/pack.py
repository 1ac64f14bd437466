"""The optimizer of a pack in training: a `Rule` with the state and hyperparameters of the members."""

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
    EvaluatesOtherParameters,
    ExplainsFailures,
    Intervals,
    Networks,
    Observer,
    ObservesLossChange,
    OwnState,
    Priced,
    Report,
    Rule,
    SampledGradients,
    Samples,
    SkipsUnused,
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
    "this optimizer already averages the parameters for evaluation; set ema_decay only for the other optimizers, in "
    "their own table [evaluation]"
)


class PackOptimizer:
    """Interface between the training loop and an optimizer of any kind."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        rows: Sequence[Mapping[str, float]],
        params: Tensors,
        networks: Networks,
        began: Sequence[Mapping[str, float]] = (),
        ema_decay: float = 0.0,
    ) -> None:
        """Start from `params` ``[trials, ...]``.

        Args:
            settings: the arm's settings, including structural hyperparameters.
            rows: hyperparameters of each member.
            params: parameters before the first step.
            networks: further information about the networks.
            began: `rows` of all initial members of the pack, if some have been dropped.
            ema_decay: decay of the parameter averages for evaluation if `rows` contain none; 0 for no averages.

        Raises:
            UserError: averages are requested although the optimizer has its own parameters for evaluation.
        """
        kinds()
        rule = RULES[declared_kind(settings["kind"])](settings, networks)
        self._rule: Rule = rule
        # Checked once, because isinstance with a protocol takes as long as updating a small network.
        self._intervals = rule if isinstance(rule, Intervals) else None
        self._priced = rule if isinstance(rule, Priced) else None
        self._observer = rule if isinstance(rule, Observer) else None
        self._samples = rule if isinstance(rule, Samples) else None
        self._sampled = rule if isinstance(rule, SampledGradients) else None
        self._loss_observer = rule if isinstance(rule, ObservesLossChange) else None
        self._trains_modules = rule if isinstance(rule, TrainsModules) else None
        self._evaluator = rule if isinstance(rule, EvaluatesOtherParameters) else None
        self._own_state = rule if isinstance(rule, OwnState) else None
        self._explains = rule if isinstance(rule, ExplainsFailures) else None
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
        if averages and self._evaluator is not None and self._evaluator.evaluates_other_parameters(self._state):
            raise UserError(f"evaluation.ema_decay: {TWO_AVERAGES}")

    @property
    def period(self) -> int:
        """Number of steps after which the pattern of work repeats."""
        return 1 if self._intervals is None else self._intervals.period

    @property
    def state_bytes(self) -> int:
        """Size of the state that is kept between steps."""
        return sum(leaf.nbytes for leaf in tree_leaves(self.state()) if isinstance(leaf, Tensor))

    def flops(self, batch_size: int, positions: Mapping[str, int]) -> float:
        """Return the FLOPs per trial of an average step, excluding the gradient and element-wise work.

        `positions` is the number of times that each layer's weights are applied to one example.
        """
        return 0.0 if self._priced is None else self._priced.flops(batch_size, positions)

    @property
    def observed_layers(self) -> frozenset[str]:
        """Names of the layers whose calls are needed."""
        return frozenset() if self._observer is None else self._observer.observed_layers

    def begin(self, step: int) -> bool:
        """Start `step` (from 0), and return whether it needs the calls of layers."""
        return self._observer is not None and self._observer.begin(step)

    @torch.no_grad()
    def observe(
        self, calls: Mapping[str, Sequence[Capture]], share: float | Tensor, valid: Tensor | None = None
    ) -> None:
        """Receive the layers' calls for a micro-batch, with gradients of its mean loss (``Observer.observe``)."""
        assert self._observer is not None
        self._observer.observe(calls, share, valid)

    def pseudo_losses(self, outputs: Tensor, valid: Tensor | None = None) -> Iterator[Tensor]:
        """Yield the scalars whose gradients are observed instead of those of the training loss, if any."""
        if self._samples is not None:
            yield from self._samples.pseudo_losses(outputs, valid)

    def passes(self, outputs: int) -> float:
        """Return the average number of additional backward passes per step, for networks with `outputs` outputs."""
        return 0.0 if self._samples is None else self._samples.passes(outputs)

    def sampled_loss(self, outputs: Tensor, valid: Tensor | None = None, *, step: int, done: int) -> Tensor | None:
        """Return the loss for sampled labels, summed over members; None if its gradient is not needed."""
        if self._sampled is None:
            return None
        return self._sampled.sampled_loss(outputs, self._state, valid, step=step, done=done)

    def take_sampled(self, grads: Tensors, share: float | Tensor) -> None:
        """Receive the gradient of the sampled loss for a part with a fraction `share` of the batch's loss terms."""
        assert self._sampled is not None
        self._sampled.take_sampled(grads, share)

    @property
    def backward_passes(self) -> float:
        """Average number of additional backward passes to the parameters per step."""
        return 0.0 if self._sampled is None else self._sampled.backward_passes()

    def needs_loss_after(self, step: int) -> bool:
        """Whether the loss of the batch is to be computed again after `step`."""
        return self._loss_observer is not None and self._loss_observer.needs_loss_after(step)

    @torch.no_grad()
    def observe_loss_change(self, params: Tensors, change: Tensor) -> None:
        """Receive the change of the loss ``[trials]`` in the last step."""
        assert self._loss_observer is not None
        self._loss_observer.observe_loss_change(params, self._state, self._numbers, change)

    def modules(self) -> Sequence[nn.Module] | None:
        """Return the network of each member as a module; None if gradients are sufficient."""
        return None if self._trains_modules is None else self._trains_modules.modules(self._state)

    def repeated_kind(self, step: int) -> str | None:
        """Return the kind of `step`, see ``Intervals``; None if the step reads values from the device."""
        return "all" if self._intervals is None else self._intervals.repeated_kind(step)

    @torch.no_grad()
    def step(self, params: Tensors, grads: Tensors, lr_multiplier: float | Tensor, *, step: int) -> Tensor | None:
        """Update `params` in place; return which members ``[trials]`` could not be updated; None if this can't happen.

        Unused parameters are missing from `grads`, and get zero gradients unless the rule handles them
        (`SkipsUnused`). Gradients of a single member may lack the trials dimension.
        """
        began = time.perf_counter()
        if grads and len(grads) < len(params) and not isinstance(self._rule, SkipsUnused):
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
        """Multiply each parameter's step from `before`, excluding decoupled weight decay, by its width multiplier."""
        for name, start in before.items():
            if self._decouples:
                start = start * per_trial(1 - lr.double() * self._numbers["weight_decay"], start)
            params[name].copy_(start.lerp(params[name], self._multipliers[name]))

    def _whole(self, params: Tensors) -> Tensors:
        """Return parameters in the rule's form: by name, or as one joint tensor."""
        if self._joint is None:
            return params
        if not self._joint.holds(params):  # members were dropped
            self._joint = Joint(params)
        return {WHOLE: self._joint.whole}

    def _clipped_to_norm(self, grads: Tensors) -> Tensors:
        """Return gradients clipped to the norm `clip_norm` over all parameters of a member."""
        if self._clip_norm is None and "clip_norm" not in self._numbers:
            return grads
        norms = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in grads.values()])
        most = self._numbers.cast("clip_norm") if "clip_norm" in self._numbers else self._clip_norm
        factor = (most / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp_max(1.0)
        return {name: g * per_trial(factor, g) for name, g in grads.items()}

    @contextlib.contextmanager
    def evaluating(self, params: Tensors) -> Iterator[None]:
        """Set `params` to the values for evaluation within the block, if these differ."""
        elsewhere: AbstractContextManager[None]
        if self._average is not None:
            elsewhere = self._average.evaluating(params)
        elif self._evaluator is not None:
            elsewhere = self._evaluator.evaluating(self._whole(params), self._state, self._numbers)
        else:
            yield
            return
        kept = {name: parameter.detach().clone() for name, parameter in params.items()}
        with torch.no_grad():
            try:
                with elsewhere:
                    yield
            finally:  # bitwise, so that evaluation does not affect training
                for name, before in kept.items():
                    params[name].copy_(before)

    def spent(self) -> Mapping[str, float]:
        """Return host seconds of the optimizer's work by phase since the last call, for the whole pack."""
        spent, self._seconds = self._seconds, {}
        return spent

    def clipping(self) -> tuple[Tensor, Tensor] | None:
        """Return the sum of the KL clip's factors and the number of clipped steps ``[trials]`` since the last call.

        None without a clip.
        """
        if not self._clips:
            return None
        summed = self._clip_sum.clone(), self._clipped.clone()
        self._clip_sum.zero_()  # in place, because recorded steps add to these tensors
        self._clipped.zero_()
        return summed

    def select(self, index: Tensor) -> None:
        """Keep only the members at `index`."""
        if self._own_state is not None:
            self._state = self._own_state.select(self._state, index)
        else:
            # Some tensors may be on the host, such as seeds.
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
        """Return everything that training changes, as plain containers of tensors and numbers."""
        average = {} if self._average is None else {"average": self._average.params}
        return {"rule": self._saved(), "clip_sum": self._clip_sum, "clipped": self._clipped, **average}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore a state returned by `state` for the same members."""
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
    """Copy the tensors of a container to those of a container of the same structure."""
    if isinstance(held, Tensor):
        held.copy_(saved)
    else:
        for key in held.keys() | saved.keys() if isinstance(held, dict) else range(max(len(held), len(saved))):
            _copy(held[key], saved[key])


def optimizer_of(
    trials: Sequence[Trial], params: Tensors, networks: Networks, *, began: Sequence[Trial] = ()
) -> PackOptimizer:
    """Return the optimizer of trials of one arm, batch size and structure, starting from `params`.

    `began` are all initial trials of a resumed pack of which `trials` are left, because its state depends on them.
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
