"""`KFAC`: the engine as a `torch.optim.Optimizer` for one model."""

import warnings
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, overload

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn.parallel import DistributedDataParallel

from sensitivity.kfac.arguments import check_arguments, check_terms, terms_of
from sensitivity.kfac.assembly import Assembly, assemble
from sensitivity.kfac.config import KFACConfig, check_numbers, is_due, needs_statistics, plain_number
from sensitivity.kfac.coverage import uncovered_message
from sensitivity.kfac.damping import adapted, predicted_change
from sensitivity.kfac.engine import StepReport, advance
from sensitivity.kfac.fisher import pseudo_losses
from sensitivity.kfac.groups import NUMBERS, check_groups, numbers_of, refuse_outsiders, shaped
from sensitivity.kfac.passes import unexplained
from sensitivity.kfac.precision import full_precision, without_autocast
from sensitivity.kfac.state import carry, check_saved, restore, saved
from sensitivity.kfac.update import FlatNumbers


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """What an optimizer covers and what it has done.

    layers: covered layers with their parameters. others: the rule of every other parameter. uncovered: modules with
    parameters, normalisation layers excepted, that K-FAC does not cover. clip_share: share of the steps taken whose KL
    clip was below 1.
    last: the latest step.
    """

    layers: Mapping[str, tuple[str, ...]]
    others: Mapping[str, str]
    uncovered: tuple[str, ...]
    steps: int
    failed_steps: int
    clip_share: float
    last: StepReport | None


class KFAC(torch.optim.Optimizer):
    """K-FAC for the parameters of `model` that require gradients.

    Use it like any optimizer: `loss.backward(); optimizer.step()`. With the "monte_carlo" and "type2" Fisher, call
    `optimizer.observe(outputs)` between the forward pass and `loss.backward()`. Parameter groups hold lr, damping,
    momentum, weight_decay and kl_clip (the first group's clip counts for all); a layer's damping is that of its
    weight's group. Build the optimizer when the model is on its device. Layers that are unfrozen later, or join by
    `add_param_group`, start from the statistics of the first step that sees them. Gradients of several backward passes
    before a step are those of micro-batches of one batch. On the host, the inputs and output gradients of linear layers
    much wider than their batch are kept until the step, which they make cheaper. A model in DistributedDataParallel has
    its factors averaged over the ranks, and its inverses shared out.

    param_groups: as for any optimizer, in place of one group of everything. generator: draws the labels of the
    Monte-Carlo Fisher; seeded with 0 if None. scaler: the `torch.amp.GradScaler` in use, whose scale is taken off
    the captured gradients. exclude: names of modules that plain gradients are to move. Only backward passes that
    accumulate into the covered weights enter the statistics, until their gradients are cleared.

    Raises TypeError for arguments of other types, such as the model's parameters in place of the model, and ValueError
    for a model without supported layers; warns of modules that K-FAC does not cover.
    """

    def __init__(
        self,
        model: nn.Module,
        config: KFACConfig,
        *,
        param_groups: Iterable[dict[str, Any]] | None = None,
        generator: torch.Generator | None = None,
        scaler: torch.amp.GradScaler | None = None,
        exclude: Collection[str] = (),
    ) -> None:
        check_arguments(model, config, generator=generator, scaler=scaler)
        self._group: ProcessGroup | None = None
        if isinstance(model, DistributedDataParallel):
            self._group, model = model.process_group, model.module
        elif dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            warnings.warn(
                f"{dist.get_world_size()} ranks, and a model that is not in DistributedDataParallel: every rank keeps "
                "factors of its own batches. If the ranks train one model, wrap it before building KFAC.",
                stacklevel=2,
            )
        self.config = config
        unknown = set(exclude) - {name for name, _ in model.named_modules()}
        if unknown:
            raise ValueError(f"Invalid exclude: no module of this model is named {', '.join(sorted(unknown))}.")
        self._model, self._exclude, self._scaler = model, tuple(exclude), scaler
        parts = self._assembled()
        defaults = {name: getattr(config, name) for name in NUMBERS}
        super().__init__(list(model.parameters()) if param_groups is None else param_groups, defaults)
        check_groups(self.param_groups, model, parts.named)
        own_seed = 0 if self._group is None else dist.get_rank(self._group)
        self._generator = torch.Generator().manual_seed(own_seed) if generator is None else generator
        self._counts: dict[str, int | Tensor] = {"failed": 0, "clipped": 0, "taken": 0}
        self._last: StepReport | None = None
        self._predicted: float | None = None
        self._take(parts)
        if self._uncovered:
            warnings.warn(uncovered_message(self._uncovered), stacklevel=2)

    def _assembled(self) -> Assembly:
        return assemble(self._model, self.config, exclude=self._exclude, group=self._group, scaler=self._scaler)

    def _take(self, parts: Assembly) -> None:
        """Work with these parts from now on."""
        self.kfac, self._ledger, self._recorder = parts.state, parts.ledger, parts.recorder
        self._named, self._untrained, self._uncovered = parts.named, parts.untrained, parts.uncovered
        self._values: list[Tensor] = list(parts.named.values())
        self._known: tuple[list[tuple[Any, ...]], float, FlatNumbers] | None = None
        self._grown = self._fresh = False
        """Whether groups joined that are to be looked at; and layers, whose statistics the next step takes."""
        self._listen()
        self._finalizer = weakref.finalize(self, self._recorder.record, on=False, small=False)
        self._finalizer.atexit = False

    def _take_up_new(self) -> None:
        """Cover parameters that have joined the groups or were unfrozen; what is known of the others stays."""
        self._grown = False
        held = {id(p) for group in self.param_groups for p in group["params"]}
        if not any(p.requires_grad and id(p) in held for _, p in self._untrained):
            known = {id(p) for p in (*self._values, *(p for _, p in self._untrained))}
            if held <= known:
                return
        parts = self._assembled()
        check_groups(self.param_groups, self._model, parts.named)
        carry(self.kfac, parts.state)
        self._finalizer()
        self._take(parts)
        self._fresh = bool(self.kfac.steps)
        self._listen()

    def observe(self, outputs: Tensor, *, weights: Tensor | None = None, terms: float | None = None) -> None:
        """Take the statistics of the "monte_carlo" or "type2" Fisher from the outputs [N, ...], and state loss terms.

        Call it between the forward pass and `loss.backward()`, with the tensor that the loss is computed from. Does
        nothing on steps that do not update the factors, so that a training loop may always call it. For cross entropy
        the last dimension of outputs is that of the classes.

        weights: of the loss terms, shaped as these are, such as a mask of the tokens that count; `outputs` without the
        classes for cross entropy, [N] otherwise. The Fisher is that of the weighted loss; for the empirical one, terms
        of one example must have one weight, or 0. terms: what the sum of the (weighted) losses is divided by; the sum
        of `weights` if those are given, and for the sampled Fisher otherwise the number of terms in `outputs`. Raises
        ValueError for weights of another shape or below 0, or terms that are not positive.
        """
        if not self._recorder.active:
            return
        check_terms(outputs, weights, terms, self.config)
        if self.config.fisher != "empirical":
            self._recorder.drop_skipped()
        if terms is None and weights is None and self.config.terms_per_example is None:
            terms = None if self.config.fisher == "empirical" else terms_of(outputs, self.config)
        if weights is not None or terms is not None:
            count = float(weights.sum() if terms is None and weights is not None else terms or 0)
            self._recorder.terms.state(outputs, count, weights)
        if self.config.fisher != "empirical":
            with without_autocast(outputs.device):  # TF32 may stay: the backward pass is the network's
                self._recorder.observe(
                    outputs, pseudo_losses(outputs, self.config, (self._generator,), weights=weights)
                )

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Leave the backward passes within out of the statistics, though not out of the gradient that is stepped."""
        before, self._ledger.paused = self._ledger.paused, True
        try:
            yield
        finally:
            self._ledger.paused = before

    @overload  # type: ignore[override]
    def step(self, closure: None = None) -> StepReport: ...

    @overload
    def step(self, closure: Callable[[], Any]) -> Any: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step and report on it.

        A `closure` is called once, before the step, to compute the loss and its gradients as for torch.optim.SGD; then
        the loss is returned, and `report().last` has the report. A step whose gradients are not finite changes nothing
        and is reported as failed. Raises RuntimeError without a backward pass, or, with a sampled Fisher, without
        `observe`; where the statistics would not be those of the gradient; and where the number of loss terms is
        ambiguous. Raises ValueError for a hyperparameter outside its range.
        """
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
            self.step()
            return loss
        if self._untrained:
            refuse_outsiders(self._untrained, self.param_groups)
        numbers, index, source = self._numbers(), self.kfac.steps, None
        grads = [p.grad for p in self._values]
        given = [torch.zeros_like(p) if g is None else g for p, g in zip(self._values, grads, strict=True)]
        kept = self._without(grads)
        if self._due:
            self._check_statistics(grads)
            source = self._recorder
        with full_precision(self.kfac.momentum.device):
            rows = self._recorder.rows(dict(zip(self._named, grads, strict=True)))
            report = advance(self.config, self.kfac, self._values, given, source, numbers, rows, self._group)
            for tensor, value in kept:
                tensor.copy_(value)
            if source is not None:
                report.seconds["factors"] = report.seconds.get("factors", 0.0) + self._recorder.seconds
            self._recorder.clear()
            self._ledger.clear(stepped=source is not None)
            self._finish(report, numbers, index)
        self._fresh &= source is None
        if self._untrained or self._grown:
            self._take_up_new()
        self._listen()
        return report

    def adapt_damping(self, before: float, after: float) -> float | None:
        """Adapt the damping after a step, from the loss on the same batch before and after it (Levenberg-Marquardt).

        With coupled weight decay the losses include its penalty, half the decay times the squared norm.
        Returns the reduction ratio, or None on steps between adaptations. Raises ValueError if the configuration has no
        `levenberg_marquardt`.
        """
        rule = self.config.levenberg_marquardt
        if rule is None:
            raise ValueError("KFACConfig.levenberg_marquardt is None: set it to adapt the damping.")
        if self._predicted is None:
            return None
        ratio = (after - before) / self._predicted
        for group in self.param_groups:
            group["damping"] = adapted(plain_number(group["damping"]), ratio, rule)
        self._predicted = None
        return ratio

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients, and what the hooks recorded along with them."""
        super().zero_grad(set_to_none)
        if self.config.fisher == "empirical":
            self._recorder.clear()
            self._ledger.clear(stepped=False)
        if self._untrained and self._recorder.idle:
            self._take_up_new()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of the model's parameters, such as those of layers that were unfrozen or added to it.

        Their layers take the statistics of the next step, whatever the interval, and start from these. Raises
        ValueError for parameters that are not the model's, or are in a group already.
        """
        super().add_param_group(param_group)
        if not hasattr(self, "_recorder"):
            return
        try:
            check_groups(self.param_groups, self._model, {})
        except ValueError:
            self.param_groups.pop()
            raise
        self._known, self._grown = None, True
        if self._recorder.idle:
            self._take_up_new()

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError(
            "KFAC has hooks on its model and cannot be copied or pickled. Save its state_dict(), build a KFAC of the "
            "copied model, and load_state_dict() into it."
        )

    def report(self) -> RunReport:
        """Say which rule moves each parameter, and what the steps so far came to."""
        ruled = {name for norm in self.kfac.norms for name in norm.parameters}
        others = {name: "diagonal" if name in ruled else "sgd" for name, _, _ in self.kfac.layout.others}
        return RunReport(
            layers={p.layer.name: p.layer.parameters for p in self.kfac.layout.placements},
            others=others,
            uncovered=self._uncovered,
            steps=int(self._counts["taken"]),
            failed_steps=int(self._counts["failed"]),
            clip_share=int(self._counts["clipped"]) / max(1, int(self._counts["taken"])),
            last=self._last,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a restored run needs to continue exactly.

        Beside the parameter groups: factors, inverses, momentum, counters, and the generator's state.
        """
        counts = {name: int(count) for name, count in self._counts.items()}
        small = sorted(self._recorder.small)
        own = {"kfac": saved(self.kfac), "counts": counts, "small": small, "generator": self._generator.get_state()}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` saved, from an optimizer of an equal model and configuration.

        Raises ValueError, and changes nothing, if it is of another optimizer, model or form of damping.
        """
        keys = ("state", "param_groups", "kfac", "counts", "small", "generator")
        missing = [key for key in keys if key not in state_dict]
        if missing:
            raise ValueError(f"No {missing[0]!r} in this state: not KFAC's. Load what KFAC.state_dict() returned.")
        check_saved(self.kfac, state_dict["kfac"])
        super().load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        restore(self.kfac, state_dict["kfac"])
        self._counts = dict(state_dict["counts"])
        self._generator.set_state(state_dict["generator"].cpu())
        self._predicted = None
        self._recorder.small = frozenset(state_dict["small"])
        self._recorder.clear()
        self._ledger.clear(stepped=False)
        self._listen()

    def _listen(self) -> None:
        """Have recorded what the next step needs. Coupled weight decay adds to what rows alone make up."""
        coupled = not self.config.decoupled_weight_decay and any(group["weight_decay"] for group in self.param_groups)
        self._recorder.record(on=self._due, small=not coupled)

    @property
    def _due(self) -> bool:
        """Whether the next step takes statistics."""
        return self._fresh or needs_statistics(self.config, self.kfac.steps)

    def _without(self, grads: list[Tensor | None]) -> list[tuple[Tensor, Tensor]]:
        """Copy the values and momenta of parameters without a gradient, which a step leaves as they are."""
        if all(g is not None for g in grads):
            return []
        if all(g is None for g in grads):
            raise RuntimeError("No parameter has a gradient. Call loss.backward() before step().")
        momenta = self.kfac.workspace.velocity_views
        still = [i for i, g in enumerate(grads) if g is None]
        return [(x, x.clone()) for i in still for x in (self._values[i], momenta[i])]

    def _finish(self, report: StepReport, numbers: FlatNumbers, index: int) -> None:
        rule = self.config.levenberg_marquardt
        adapts = rule is not None and is_due(rule.interval, index) and not bool(report.failed)
        self._predicted = predicted_change(self.kfac, numbers) if adapts else None
        counts = self._counts
        counts["taken"] += 1
        # On an accelerator these stay there, so as not to wait.
        counts["failed"] = counts["failed"] + (bool(report.failed) if self.kfac.alone else report.failed)
        if numbers.kl_clip is not None:
            counts["clipped"] = counts["clipped"] + (report.clip < 1)
        self._last = report

    def _check_statistics(self, grads: list[Tensor | None]) -> None:
        """Raise RuntimeError unless the statistics are those of these gradients."""
        if all(g is None for g in grads):
            return
        self._recorder.forget_cleared()
        self._require_statistics()
        if self.config.fisher != "empirical" or not _may_wait(self.kfac.momentum, self.kfac.steps, self.config):
            return
        told = unexplained(self._ledger.differences())
        if told is not None:
            raise RuntimeError(told)
        scale = 1.0 if self._scaler is not None else self._ledger.rescaled()
        if scale is None:
            raise RuntimeError(
                "Gradients were multiplied by less than 1/1024 between loss.backward() and step(). If a GradScaler "
                "is in use, pass KFAC(..., scaler=scaler), whose scale K-FAC's statistics need; if gradients are only "
                "clipped, pass scaler=torch.amp.GradScaler(enabled=False)."
            )
        self._recorder.unscaled, self._ledger.scaled = scale, scale != 1.0

    def _require_statistics(self) -> None:
        self._recorder.observations.refuse_mixed()
        missing = set(self._recorder.missing)
        sampled = self.config.fisher != "empirical"
        cause = "optimizer.observe(outputs) before loss.backward()" if sampled else "the module itself"
        also = " (activation checkpoints need use_reentrant=False then)" if sampled else ""
        for placement in self.kfac.layout.placements if missing else ():
            layer = placement.layer
            grad = self._named[layer.weight].grad
            if layer.name in missing and grad is not None and bool(grad.any()):
                raise RuntimeError(f"Layer {layer.name!r} has a gradient but no statistics. Call {cause}{also}.")

    def _numbers(self) -> FlatNumbers:
        """Check the numbers of all groups and shape them for the engine, anew where they changed."""
        numbers = numbers_of(self.param_groups)
        schedule = self.config.damping_schedule
        factor = 1.0 if schedule is None else plain_number(schedule(self.kfac.steps))
        if self._known is None or self._known[0] != numbers or self._known[1] != factor:
            for lr, damping, momentum, decay, clip in numbers:
                strength = damping * factor
                check_numbers(lr=lr, damping=strength, momentum=momentum, weight_decay=decay, kl_clip=clip)
            self._known = numbers, factor, shaped(self.param_groups, self.kfac, self._named, factor)
        return self._known[2]


def _may_wait(like: Tensor, index: int, config: KFACConfig) -> bool:
    """Whether to look at numbers of the gradients: on an accelerator only where inverses wait for it anyway."""
    return like.device.type == "cpu" or is_due(config.inverse_interval, index)
