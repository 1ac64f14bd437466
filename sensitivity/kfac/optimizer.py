"""The K-FAC optimizer for one model, as a `torch.optim.Optimizer`."""

import warnings
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, overload

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sensitivity.kfac.arguments import check_arguments, check_terms, terms_of
from sensitivity.kfac.assembly import Assembly, assemble
from sensitivity.kfac.config import KFACConfig, is_due, needs_statistics, plain_number
from sensitivity.kfac.coverage import uncovered_message
from sensitivity.kfac.damping import adapted_damping, predicted_change
from sensitivity.kfac.distributed import without_data_parallel
from sensitivity.kfac.engine import StepReport, advance
from sensitivity.kfac.evidence import check_statistics
from sensitivity.kfac.fisher import pseudo_losses
from sensitivity.kfac.groups import NUMBERS, GroupNumbers, check_groups, require_in_groups
from sensitivity.kfac.passes import gradient_of
from sensitivity.kfac.precision import full_precision, without_autocast
from sensitivity.kfac.run_report import RunReport
from sensitivity.kfac.state import check_saved, copy_shared, restore, saved
from sensitivity.kfac.update import FlatNumbers


class KFAC(torch.optim.Optimizer):
    """K-FAC: gradient descent preconditioned with a Kronecker-factored approximation of the Fisher matrix.

    For a layer s = W a, let W [outputs, inputs] be its weight with the bias as last column, a its inputs, g the
    gradient of one loss term with respect to s, and L the mean loss. With learning rate α, damping λ, momentum μ,
    weight decay ω and KL clip κ, a step computes

        A ← average of a aᵀ,  G ← average of g gᵀ        (running averages, on every `factor_interval`-th step)
        D = ∇L(W) + ω W
        U = (G + √λ/π I)⁻¹ D (A + π√λ I)⁻¹               (inverses recomputed on every `inverse_interval`-th step)
        ν = min(1, √(κ / Σ α² ⟨U, D⟩))                   (sum over layers; ν = 1 without a clip)
        V ← μ V + ν U
        W ← W - α V

    where π = √((tr A / dim A) / (tr G / dim G)) balances the two factors. `KFACConfig` selects the variants: the Fisher
    that g is taken from, exact Tikhonov damping in the Kronecker eigenbasis, EKFAC, Nesterov momentum, and decoupled
    weight decay. Parameters that no Kronecker block covers follow SGD with the same momentum, U = D, or their diagonal
    Fisher (`others="diagonal"`). The larger the damping, the closer the update is to SGD with learning rate α / λ.

    Use it like any optimizer: `loss.backward(); optimizer.step()`. With the "monte_carlo" and "type2" Fisher, call
    `optimizer.observe(outputs)` between the forward pass and `loss.backward()`. Build the optimizer when the model is
    on its device. Hooks on the model record layer inputs and output gradients; only backward passes that accumulate
    into the covered weights enter the statistics, until these gradients are cleared. Several backward passes before a
    step are micro-batches of one batch. On a CPU, the inputs and output gradients of linear layers much wider than
    their batch are kept until the step and make it faster. For a model in DistributedDataParallel, factors are averaged
    over the ranks, and each rank inverts a share of them. Layers that are unfrozen later, or added by
    `add_param_group`, start from the statistics of the first step that uses them.

    Examples:
        >>> import torch
        >>> from sensitivity.kfac import KFAC, KFACConfig
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        >>> optimizer = KFAC(model, KFACConfig(lr=0.01, damping=0.03))
        >>> x, y = torch.randn(32, 4), torch.randint(3, (32,))
        >>> for _ in range(5):
        ...     optimizer.zero_grad()
        ...     loss = torch.nn.functional.cross_entropy(model(x), y)
        ...     loss.backward()
        ...     report = optimizer.step()
        >>> optimizer.report().layers
        {'0': ('0.weight', '0.bias'), '2': ('2.weight', '2.bias')}

    Args:
        model: the network; its parameters that require gradients are trained.
        config: the structure of the optimizer, and the initial values of its hyperparameters.
        param_groups: parameter groups as for any optimizer, instead of one group with all parameters. A group may set
            lr, damping, momentum, weight_decay and kl_clip. A layer uses the damping of its weight's group; the KL clip
            of the first group applies to all.
        generator: random generator of the labels of the Monte-Carlo Fisher; without one, a generator seeded with the
            rank (0 for a single process).
        scaler: the `torch.amp.GradScaler` in use; captured gradients are divided by its scale.
        exclude: names of modules whose parameters follow plain gradients, such as an output layer whose vocabulary
            makes the factor too large.

    Raises:
        TypeError: an argument has the wrong type, such as the model's parameters instead of the model.
        ValueError: the model has no layer that K-FAC covers, or parameters that it cannot train.

    Warns of modules that K-FAC does not cover.

    References:
        Martens and Grosse, Optimizing Neural Networks with Kronecker-factored Approximate Curvature, 2015,
        arXiv 1503.05671; Grosse and Martens, 2016, arXiv 1602.01407 (convolutions).
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
        self._group, model = without_data_parallel(model)
        self.config = config
        unknown = set(exclude) - {name for name, _ in model.named_modules()}
        if unknown:
            raise ValueError(f"Invalid exclude: no module of this model is named {', '.join(sorted(unknown))}.")
        self._model, self._exclude, self._scaler = model, tuple(exclude), scaler
        parts = self._assemble()
        defaults = {name: getattr(config, name) for name in NUMBERS}
        super().__init__(list(model.parameters()) if param_groups is None else param_groups, defaults)
        check_groups(self.param_groups, model, parts.named)
        own_seed = 0 if self._group is None else dist.get_rank(self._group)
        self._generator = torch.Generator().manual_seed(own_seed) if generator is None else generator
        self._counts: dict[str, int | Tensor] = {"failed": 0, "clipped": 0, "taken": 0}
        self._last: StepReport | None = None
        self._predicted: float | None = None
        self._install(parts)
        if self._uncovered:
            warnings.warn(uncovered_message(self._uncovered), stacklevel=2)

    def _assemble(self) -> Assembly:
        return assemble(self._model, self.config, exclude=self._exclude, group=self._group, scaler=self._scaler)

    def _install(self, parts: Assembly) -> None:
        """Install newly built parts: state, pass ledger, and hooks."""
        self.kfac, self._ledger, self._recorder = parts.state, parts.ledger, parts.recorder
        self._named, self._untrained, self._uncovered = parts.named, parts.untrained, parts.uncovered
        self._values: list[Tensor] = list(parts.named.values())
        self._numbers = GroupNumbers()
        self._groups_added = self._has_new_layers = False
        """Whether parameter groups were added that are not covered yet, and layers that have no statistics yet."""
        self._update_hooks()
        self._finalizer = weakref.finalize(self, self._recorder.record, on=False, small=False)
        self._finalizer.atexit = False

    def _cover_new_parameters(self) -> None:
        """Cover parameters that were added to the groups or unfrozen; the state of all others is kept."""
        self._groups_added = False
        held = {id(p) for group in self.param_groups for p in group["params"]}
        if not any(p.requires_grad and id(p) in held for _, p in self._untrained):
            known = {id(p) for p in (*self._values, *(p for _, p in self._untrained))}
            if held <= known:
                return
        parts = self._assemble()
        check_groups(self.param_groups, self._model, parts.named)
        copy_shared(self.kfac, parts.state)
        self._finalizer()
        self._install(parts)
        self._has_new_layers = bool(self.kfac.steps)
        self._update_hooks()

    def observe(self, outputs: Tensor, *, weights: Tensor | None = None, terms: float | None = None) -> None:
        """Compute the statistics of the "monte_carlo" or "type2" Fisher from model outputs, and state the loss terms.

        Call it between the forward pass and `loss.backward()`. It does nothing on steps that do not update the factors,
        so a training loop may always call it.

        Args:
            outputs: the tensor [N, ...] that the loss is computed from; for cross entropy, classes come last.
            weights: weights of the loss terms, such as a mask of the tokens that count: the shape of `outputs` without
                the classes for cross entropy, [N] otherwise. The Fisher is that of the weighted loss. For the empirical
                Fisher, the terms of one example must have one common weight, or 0.
            terms: the number that the sum of the (weighted) losses is divided by. Without it, the sum of `weights`, or
                for the sampled Fisher the number of terms in `outputs`.

        Raises:
            ValueError: weights have another shape or are negative, or terms are not positive.
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
        """Exclude the backward passes in this context from the statistics; their gradients are still part of the step.

        Use it for terms of the loss that are no sum over layer calls, such as a gradient penalty.
        """
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
        """Update the parameters and return a report of the step.

        A step whose gradients are not finite changes nothing and is reported as failed.

        Args:
            closure: computes the loss and its gradients, as for torch.optim.SGD; it is called once, before the update.
                `step` then returns the loss, and `report().last` is the report.

        Raises:
            RuntimeError: there was no backward pass, or, with a sampled Fisher, no call of `observe`; the recorded
                statistics are not those of the gradient; or the number of loss terms is ambiguous.
            ValueError: a hyperparameter is outside its range.
        """
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
            self.step()
            return loss
        if self._untrained:
            require_in_groups(self._untrained, self.param_groups)
        index, source = self.kfac.steps, None
        numbers = self._numbers.of(self.param_groups, self.kfac, self._named, self.config.damping_schedule)
        grads = [gradient_of(p) for p in self._values]
        filled = [torch.zeros_like(p) if g is None else g for p, g in zip(self._values, grads, strict=True)]
        kept = self._values_without_gradient(grads)
        if self._due:
            check_statistics(self._recorder, self._ledger, self._named, self.kfac, self.config, self._scaler)
            source = self._recorder
        with full_precision(self.kfac.momentum.device):
            rows = self._recorder.rows(dict(zip(self._named, grads, strict=True)))
            report = advance(self.config, self.kfac, self._values, filled, source, numbers, rows, self._group)
            for tensor, value in kept:
                tensor.copy_(value)
            if source is not None:
                report.seconds["factors"] = report.seconds.get("factors", 0.0) + self._recorder.seconds
            self._recorder.clear()
            self._ledger.clear(stepped=source is not None)
            self._finish(report, numbers, index)
        self._has_new_layers &= source is None
        if self._untrained or self._groups_added:
            self._cover_new_parameters()
        self._update_hooks()
        return report

    def adapt_damping(self, before: float, after: float) -> float | None:
        """Adapt the damping after a step by the Levenberg-Marquardt rule, and return the reduction ratio.

        Call it after every step; it returns None on steps between adaptations. See `LevenbergMarquardt`.

        Args:
            before: loss on the batch of the step, before the step. With coupled weight decay, the loss includes the
                penalty: half the decay times the squared norm of the parameters.
            after: loss on the same batch, after the step.

        Raises:
            ValueError: the configuration has no `levenberg_marquardt`.
        """
        rule = self.config.levenberg_marquardt
        if rule is None:
            raise ValueError(
                "KFACConfig.levenberg_marquardt is None. Set KFACConfig(levenberg_marquardt=LevenbergMarquardt()) to "
                "adapt the damping."
            )
        if self._predicted is None:
            return None
        ratio = (after - before) / self._predicted
        for group in self.param_groups:
            group["damping"] = adapted_damping(plain_number(group["damping"]), ratio, rule)
        self._predicted = None
        return ratio

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients and the statistics recorded with them."""
        if set_to_none:  # torch's own costs a small model's step 2%
            for group in self.param_groups:
                for p in group["params"]:
                    p.grad = None
        else:
            super().zero_grad(set_to_none)
        if self.config.fisher == "empirical":
            self._recorder.clear()
            self._ledger.clear(stepped=False)
        if self._untrained and self._recorder.idle:
            self._cover_new_parameters()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of the model's parameters, such as those of layers that were unfrozen or added to the model.

        The next step computes statistics whatever the interval, and the factors of the new layers start from them.

        Raises:
            ValueError: a parameter is not one of the model's, or is in a group already.
        """
        super().add_param_group(param_group)
        if not hasattr(self, "_recorder"):
            return
        try:
            check_groups(self.param_groups, self._model, {})
        except ValueError:
            self.param_groups.pop()
            raise
        self._numbers, self._groups_added = GroupNumbers(), True
        if self._recorder.idle:
            self._cover_new_parameters()

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError(
            "KFAC has hooks on its model and cannot be copied or pickled. Save its state_dict(), build a KFAC of the "
            "copied model, and load_state_dict() into it."
        )

    def report(self) -> RunReport:
        """Return the update rule of each parameter and the counts of the steps so far."""
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

        In addition to the parameter groups: factors, inverses, momentum, counters, and the state of the generator.
        """
        counts = {name: int(count) for name, count in self._counts.items()}
        small = sorted(self._recorder.small)
        own = {"kfac": saved(self.kfac), "counts": counts, "small": small, "generator": self._generator.get_state()}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned, for an equal model and configuration.

        Raises:
            ValueError: the state is of another optimizer, model or form of damping; nothing is changed then.
        """
        keys = ("state", "param_groups", "kfac", "counts", "small", "generator")
        missing = [key for key in keys if key not in state_dict]
        if missing:
            raise ValueError(
                f"The state has no {missing[0]!r}, so it is not a state of KFAC. Load what KFAC.state_dict() returned."
            )
        check_saved(self.kfac, state_dict["kfac"])
        super().load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        restore(self.kfac, state_dict["kfac"])
        self._counts = dict(state_dict["counts"])
        self._generator.set_state(state_dict["generator"].cpu())
        self._predicted = None
        self._recorder.small = frozenset(state_dict["small"])
        self._recorder.clear()
        self._ledger.clear(stepped=False)
        self._update_hooks()

    def _update_hooks(self) -> None:
        """Record what the next step needs.

        With coupled weight decay, the gradient is not the product of a layer's calls, so these are not kept.
        """
        coupled = not self.config.decoupled_weight_decay and any(group["weight_decay"] for group in self.param_groups)
        self._recorder.record(on=self._due, small=not coupled)

    @property
    def _due(self) -> bool:
        """Whether the next step updates the factors."""
        return self._has_new_layers or needs_statistics(self.config, self.kfac.steps)

    def _values_without_gradient(self, grads: list[Tensor | None]) -> list[tuple[Tensor, Tensor]]:
        """Copy the values and momenta of parameters without a gradient, which a step must not change."""
        if all(g is not None for g in grads):
            return []
        if all(g is None for g in grads):
            raise RuntimeError("No parameter has a gradient. Call loss.backward() before step().")
        states = zip(self._values, self.kfac.workspace.velocity_views, grads, strict=True)
        return [(x, x.clone()) for value, momentum, g in states if g is None for x in (value, momentum)]

    def _finish(self, report: StepReport, numbers: FlatNumbers, index: int) -> None:
        rule = self.config.levenberg_marquardt
        adapts = rule is not None and is_due(rule.interval, index) and not bool(report.failed)
        self._predicted = predicted_change(self.kfac, numbers) if adapts else None
        counts = self._counts
        counts["taken"] += 1
        # The counts of an accelerator stay on it, which avoids a synchronization.
        counts["failed"] = counts["failed"] + (bool(report.failed) if self.kfac.alone else report.failed)
        if numbers.kl_clip is not None:
            counts["clipped"] = counts["clipped"] + (report.clip < 1)
        self._last = report
