"""K-FAC: the functional core of `sensitivity.kfac` behind the contract of optimizers over packs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from sensitivity.optimizers.contract import Networks, Report, State, Tensors, registered
from sensitivity.optimizers.kinds.kfac_damping import adapted, penalty_change, predicted_change, rule_of, scheduled
from sensitivity.study.arms import Arm, WidthRule
from sensitivity.study.axes import Axis, AxisField, CountOrAxis, LimitOrAxis, ShareOrAxis, fixed
from sensitivity.study.seeds import derive

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from sensitivity.kfac import Capture, Layer, SolveFailure
    from sensitivity.optimizers.numbers import Numbers


_OPTIONS = ("damping_form", "ekfac", "sharing", "batch_fraction", "decoupled", "fisher", "others")
_DAMPING = ("damping_end", "damping_rule", "adapt_interval")


class KFACArm(Arm):
    """K-FAC: Kronecker-factored approximate curvature.

    `fisher`: whose output gradients enter the factors: the training loss's own ("empirical"), those of labels sampled
    from the model ("monte_carlo"), or all columns of a square root of the loss's Hessian ("type2").
    `damping_form`: factored Tikhonov damping by Cholesky, or exact in the Kronecker eigenbasis. `ekfac`: eigenvalues
    are second moments in the eigenbasis (George et al. 2018). `sharing`: how positions of a shared weight enter
    (Eschenhagen et al. 2023). `batch_fraction`: of the batch whose statistics enter the factors. `decoupled`: weight
    decay acts on the parameters rather than on the gradient. `others`: normalisation layers are moved by plain
    gradients ("sgd"), or these divided by their damped diagonal Fisher ("diagonal"). `damping_end`: the damping falls
    geometrically over the budget, to this many times itself. `damping_rule`: "levenberg_marquardt" adapts it instead,
    every `adapt_interval` steps, by how well the quadratic model foretold the loss of the same batch.
    """

    label: ClassVar[str] = "K-FAC"
    reference: ClassVar[str] = "Martens and Grosse 2015, arXiv 1503.05671"
    width_rule: ClassVar[WidthRule | None] = "alike"
    later: ClassVar[Collection[str]] = (*Arm.later, *_OPTIONS, *_DAMPING)

    kind: Literal["kfac"] = "kfac"
    lr: AxisField
    damping: AxisField
    momentum: AxisField = fixed(0.9)
    weight_decay: AxisField = fixed(0.0)
    nesterov: bool = False
    factor_decay: ShareOrAxis = 0.95
    factor_interval: CountOrAxis = 1
    inverse_interval: CountOrAxis = 10
    kl_clip: LimitOrAxis = None
    damping_form: Literal["factored", "exact"] = "factored"
    ekfac: bool = False
    sharing: Literal["expand", "reduce"] = "expand"
    batch_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    decoupled: bool = False
    fisher: Literal["empirical", "monte_carlo", "type2"] = "empirical"
    others: Literal["sgd", "diagonal"] = "sgd"
    damping_end: LimitOrAxis = None
    damping_rule: Literal["constant", "levenberg_marquardt"] = "constant"
    adapt_interval: CountOrAxis = 5

    @field_validator("damping_rule")
    @classmethod
    def _one_rule(cls, value: str, info: ValidationInfo) -> str:
        if value != "constant" and info.data.get("damping_end") is not None:
            raise PydanticCustomError("design", "adapts the damping by itself; remove damping_end")
        return value

    @field_validator("adapt_interval")
    @classmethod
    def _adapts(cls, value: int | Axis, info: ValidationInfo) -> int | Axis:
        if info.data.get("damping_rule") == "constant" and value != cls.model_fields["adapt_interval"].default:
            raise PydanticCustomError("design", 'needs damping_rule = "levenberg_marquardt"')
        return value

    @field_validator("clip_norm")
    @classmethod
    def _clips_by_kl(cls, value: object) -> object:
        if value is not None:
            raise PydanticCustomError("design", "K-FAC clips its update, not the gradient; give kl_clip")
        return value

    @field_validator("ekfac")
    @classmethod
    def _in_an_eigenbasis(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("damping_form") == "factored":
            raise PydanticCustomError("design", 'needs damping_form = "exact"')
        return value

    @field_validator("inverse_interval")
    @classmethod
    def _intervals_fit(cls, value: int | Axis, info: ValidationInfo) -> int | Axis:
        factors = _all_values(info.data.get("factor_interval", 1))
        if any(inverse % factor for inverse in _all_values(value) for factor in factors):
            raise PydanticCustomError(
                "design", "must be a multiple of factor_interval, or inverses repeat on old factors"
            )
        return value


def _all_values(setting: int | Axis) -> Sequence[int]:
    """Return every value that a count may have, in any design."""
    if not isinstance(setting, Axis):
        return (setting,)
    if setting.scale == "values":
        return tuple(map(int, setting.values))
    return range(int(setting.low), int(setting.high) + 1)


@registered(KFACArm)
class KFAC:
    """K-FAC with the Fisher of each minibatch (`sensitivity.kfac`)."""

    leaves_unused: Literal[True] = True

    def __init__(self, settings: Mapping[str, Any], networks: Networks) -> None:
        from sensitivity import kfac

        options = {name: settings[name] for name in _OPTIONS if name in settings}  # absent at their defaults
        if options.pop("decoupled", False):
            options["decoupled_weight_decay"] = True
        self._adapts, self._last_factor = rule_of(settings), settings.get("damping_end")
        if networks.loss is not None:
            options["loss"] = networks.loss
        options["terms_per_example"] = networks.terms_per_example
        self._config = kfac.KFACConfig(
            **options,
            levenberg_marquardt=self._adapts,
            nesterov=settings["nesterov"],
            factor_decay=settings["factor_decay"],
            factor_interval=settings["factor_interval"],
            inverse_interval=settings["inverse_interval"],
        )
        self._networks = networks
        self._layers = _layers_of(networks.network)
        self._norms = kfac.norms_of(networks.network) if self._config.others == "diagonal" else ()
        self._generators: list[Generator] = []
        self._kl_clip: float | None = settings.get("kl_clip")
        self._thin: frozenset[str] = frozenset()
        """Layers whose calls make a step cheaper, whether or not factors are updated."""
        self._calls: dict[str, list[Capture]] = {}
        self._seen: Any = None
        """Calls of the whole batch, or statistics of its parts so far."""
        self._seen_share = 0.0
        self._due = False
        self._unsolved: dict[int, SolveFailure] = {}
        self._scale = None if self._config.fisher == "empirical" else 1.0
        """Turns observed gradients into those of one loss term; None where they are the mean loss's."""
        self._failed: Tensor

    @staticmethod
    def unusable(settings: Mapping[str, Any], networks: Networks) -> str | None:
        """Say that no layer is covered, or that an option needs whole batches or other layers."""
        from sensitivity import kfac

        if networks.ignores_terms and (what := _not_masked(settings, networks)):
            return (
                f"{what} with targets some of which are masked: K-FAC leaves out the rows that no loss depends on for "
                "linear layers and embeddings alone, with their default options. Change it, cut sequences without "
                "padding, or leave this optimizer out"
            )
        diagonal = settings.get("others") == "diagonal"
        for option, used in (("EKFAC", settings.get("ekfac")), ('others = "diagonal"', diagonal)):
            if used and networks.in_parts:
                return f"{option} needs whole batches; remove it, or execution.micro_batch and problem.ghost_batch"
        if diagonal and not kfac.norms_of(networks.network):
            return 'others = "diagonal" is for normalisation layers, and the model has none that train; remove it'
        if _layers_of(networks.network):
            fisher = settings.get("fisher", "empirical")
            if networks.loss is None and fisher != "empirical":
                return (
                    f'fisher = "{fisher}" needs a loss whose likelihood is known: "cross_entropy" without class '
                    'weights, "squared_error" or "binary_cross_entropy"; leave fisher out, which is then "empirical"'
                )
            return None
        fix = "Use another model, or leave this optimizer out"
        if networks.curvature is not None:
            fix = 'Give kind = "newton", K-FAC with the exact curvature'
        return (
            "K-FAC covers no layer of the model; it covers Linear, Conv, ConvTranspose, Embedding and "
            "MultiheadAttention layers that train. "
            f"{fix}"
        )

    def init(self, params: Tensors, numbers: Numbers) -> State:
        """Return factors, inverses and momentum of 0."""
        from sensitivity import kfac
        from sensitivity.optimizers.numbers import counter

        factored = self._config.damping_form == "factored"
        own = self._config.fisher == "empirical"  # else calls are not those of the gradient
        if own and factored and self._networks.gradients_are_products and not numbers.any("weight_decay"):
            rows = self._networks.batch_size * self._networks.terms_per_example
            small = [layer.name for layer in self._layers if kfac.uses_calls(layer, rows)]
            self._thin = frozenset(small)
        state = kfac.init_state(self._layers, params, self._config, self._norms)
        self._layout = state.layout
        if self._config.fisher == "monte_carlo":
            self._generators = [generator_of(seed) for seed in self._networks.seeds]
        return {"kfac": state, "steps": counter(numbers), "damping": numbers.cast("damping").clone()}

    @property
    def period(self) -> int:
        """Steps from one update of the inverses to the next."""
        assert isinstance(self._config.inverse_interval, int)
        return self._config.inverse_interval

    def repeated_kind(self, step: int) -> str | None:
        """Name steps with and without new factors apart; steps with new inverses ask whether these could be had."""
        from sensitivity import kfac

        if step % self.period == 0 or self.is_judged(step):
            return None
        if self._generators and kfac.needs_statistics(self._config, step):
            return None  # they draw on the host
        return "factors" if kfac.needs_statistics(self._config, step) else "plain"

    def flops(self, batch_size: int, positions: Mapping[str, int]) -> float:
        """Return the FLOPs of factors, inverses and preconditioning, averaged over the update intervals."""
        from sensitivity import kfac

        return kfac.step_flops(
            self._layers, self._config, examples=batch_size, positions=positions, calls=bool(self._thin)
        ).total

    @property
    def observed_layers(self) -> frozenset[str]:
        """The layers that K-FAC covers: trained, and of a kind that it knows."""
        return frozenset([layer.name for layer in self._layers] + [norm.name for norm in self._norms])

    def pseudo_losses(self, outputs: Tensor, valid: Tensor | None = None) -> Iterator[Tensor]:
        """Yield those of the sampled or of the exact Fisher, where factors are updated."""
        from sensitivity import kfac

        if self._due and self._config.fisher != "empirical":
            yield from kfac.pseudo_losses(outputs, self._config, self._generators, lead=1, weights=valid)

    def passes(self, outputs: int) -> float:
        """Return the backward passes of the pseudo-losses in an average step."""
        assert isinstance(self._config.factor_interval, int)
        each = {"empirical": 0, "monte_carlo": 1, "type2": outputs}[self._config.fisher]
        return each / self._config.factor_interval

    def is_judged(self, step: int) -> bool:
        """Whether the damping is adapted after `step`."""
        return self._adapts is not None and step % self._adapts.interval == 0

    def judge(self, params: Tensors, state: State, numbers: Numbers, change: Tensor) -> None:
        """Adapt the damping of members that were updated."""
        import torch

        assert self._adapts is not None
        if numbers.any("weight_decay") and not self._config.decoupled_weight_decay:
            change = change + penalty_change(state["kfac"], params, numbers.cast("weight_decay"))
        ratio = change / predicted_change(state["kfac"], state["damping"])
        state["damping"].copy_(
            torch.where(self._failed, state["damping"], adapted(state["damping"], ratio, self._adapts))
        )

    def begin(self, step: int) -> bool:
        """Return whether factors are updated at `step`, or the calls make it cheaper."""
        from sensitivity import kfac

        self._seen, self._seen_share, self._calls = None, 0.0, {}
        self._due = kfac.needs_statistics(self._config, step)
        return bool(self._thin) or self._due

    def observe(
        self, calls: Mapping[str, Sequence[Capture]], share: float | Tensor, valid: Tensor | None = None
    ) -> None:
        """Keep the calls of a whole batch, or sum the statistics of its parts, so that no part's activations stay."""
        from sensitivity import kfac
        from sensitivity.kfac.statistics import accumulate

        for name in self._thin:
            self._calls.setdefault(name, []).extend(_shared(call, share) for call in calls.get(name, ()))
        if not self._due:
            return
        if valid is not None:
            if self._seen is None:
                like = next(call.columns[0] for called in calls.values() for call in called)
                self._seen = kfac.MaskedSums(self._layout, like)
            self._seen.add(calls, valid.flatten(1).sum(1), mean=self._config.fisher == "empirical")
            return
        assert isinstance(share, float)
        if share == 1:
            self._seen = calls
            return
        self._seen_share += share
        if isinstance(self._seen, kfac.Statistics):  # in place: a second set of factors may be as large as the rest
            new = share / self._seen_share
            missing = frozenset(p.layer.name for p in self._layout.placements if p.layer.name not in calls)
            if missing != self._seen.missing:
                names = ", ".join(sorted(missing ^ self._seen.missing))
                raise ValueError(
                    f"layers are used in some micro-batches of a batch only: {names}. Remove execution.micro_batch and "
                    "problem.ghost_batch, or leave this optimizer out"
                )
            accumulate(self._layout, calls, self._config, self._seen, keep=1 - new, weight=new, loss_scale=self._scale)
        else:
            self._seen = kfac.statistics_of(self._layout, calls, self._config, loss_scale=self._scale)

    def step(self, params: Tensors, grads: Tensors, state: State, numbers: Numbers, *, lr: Tensor, step: int) -> Report:
        """Update factors and inverses where due, and the parameters."""
        from sensitivity import kfac

        if isinstance(self._seen, kfac.MaskedSums):
            self._seen = self._seen.factors()
        state["kfac"].steps = step
        if self._adapts is None:
            state["damping"].copy_(scheduled(numbers, state["steps"], self._networks.steps, self._last_factor))
        state["steps"].add_(1)
        hyperparameters = kfac.Hyperparameters(
            lr=lr,
            damping=state["damping"],
            momentum=numbers.cast("momentum"),
            weight_decay=numbers.cast("weight_decay") if numbers.any("weight_decay") else 0.0,
            kl_clip=numbers.cast("kl_clip") if "kl_clip" in numbers else self._kl_clip,
        )
        report = kfac.step(
            self._config, state["kfac"], params, grads, self._seen, hyperparameters,
            loss_scale=self._scale, calls=self._calls,
        )  # fmt: skip
        self._failed = report.failed
        for failure in report.solves:
            self._unsolved.setdefault(failure.member[0], failure)
        self._seen, self._calls = None, {}
        return Report(failed=report.failed, clip=report.clip, seconds=report.seconds)

    def select(self, state: State, index: Tensor) -> State:
        """Keep only the members at `index`."""
        from sensitivity import kfac

        self._unsolved = {}  # they were of members that are dropped now
        kept = kfac.select(state["kfac"], index)
        self._layout = kept.layout
        self._generators = [self._generators[k] for k in index.tolist()] if self._generators else []
        return {"kfac": kept, "steps": state["steps"][index], "damping": state["damping"][index]}

    def saved(self, state: State) -> dict[str, Any]:
        """Return factors, inverses, momentum and counters."""
        from sensitivity.kfac.state import saved

        own = {"steps": state["steps"], "damping": state["damping"]}
        own["generators"] = [generator.get_state() for generator in self._generators]
        return {**saved(state["kfac"]), "own": own}

    def restore(self, state: State, saved: Mapping[str, Any]) -> None:
        """Set factors, inverses, momentum and counters."""
        from sensitivity.kfac.state import restore

        restore(state["kfac"], saved)
        if (own := saved.get("own")) is None:  # of a version that had no schedules of the damping
            return
        state["steps"].copy_(own["steps"])
        state["damping"].copy_(own["damping"])
        for generator, kept in zip(self._generators, own["generators"], strict=True):
            generator.set_state(kept)

    def failure_reason(self, member: int) -> str | None:
        """Name the factor that could not be inverted."""
        failure = self._unsolved.get(member)
        if failure is None:
            return None
        return (
            f"the {failure.side} factor of layer {failure.layer} could not be inverted "
            f"(condition number {failure.condition:.2g})"
        )


def generator_of(seed: int) -> Generator:
    """Return what draws the labels of the sampled Fisher of a member with this seed."""
    import torch

    return torch.Generator().manual_seed(derive(seed, "fisher"))


def _layers_of(network: nn.Module) -> tuple[Layer, ...]:
    """Describe the layers that K-FAC covers."""
    from sensitivity import kfac

    return kfac.layers_of(network)


def _not_masked(settings: Mapping[str, Any], networks: Networks) -> str | None:
    """Name what K-FAC has no factors for where some positions have no loss; None if there is nothing such."""
    for option, used in (
        ('sharing = "reduce"', settings.get("sharing") == "reduce"),
        ("batch_fraction", settings.get("batch_fraction", 1.0) < 1),
        ("EKFAC", settings.get("ekfac")),
        ('others = "diagonal"', settings.get("others") == "diagonal"),
    ):
        if used:
            return f"{option} is not defined"
    others = [layer.name for layer in _layers_of(networks.network) if layer.kind == "conv"]
    return f"the convolution {others[0]} is not covered" if others else None


def _shared(call: Capture, share: float | Tensor) -> Capture:
    """Turn gradients of the mean over a part of a batch into those of the mean over all of it."""
    from sensitivity import kfac
    from sensitivity.optimizers.numbers import weighed

    whole = isinstance(share, float) and share == 1
    return call if whole else kfac.Capture(call.inputs, weighed(call.columns[0], share))
