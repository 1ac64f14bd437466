"""K-FAC: the functional core of `sensitivity.kfac` as an optimizer for packs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from sensitivity.optimizers.contract import Networks, Report, State, Tensors, registered
from sensitivity.optimizers.kinds.kfac_coverage import layers_of, unusable
from sensitivity.optimizers.kinds.kfac_damping import adapted, penalty_change, predicted_change, rule_of, scheduled
from sensitivity.study.arms import Arm, WidthRule
from sensitivity.study.axes import Axis, AxisField, CountOrAxis, LimitOrAxis, ShareOrAxis, fixed
from sensitivity.study.seeds import derive

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from sensitivity.kfac import Capture, SolveFailure
    from sensitivity.optimizers.numbers import Numbers


_OPTIONS = ("damping_form", "ekfac", "sharing", "batch_fraction", "decoupled", "fisher", "others")
_DAMPING = ("damping_end", "damping_rule", "adapt_interval")


class KFACArm(Arm):
    """K-FAC: Kronecker-factored approximate curvature.

    `fisher` selects the output gradients that enter the factors: those of the training loss ("empirical"), of labels
    sampled from the model ("monte_carlo"), or all columns of a square root of the loss's Hessian ("type2").
    `damping_form` is factored Tikhonov damping with Cholesky solves, or exact damping in the Kronecker eigenbasis.
    `ekfac` uses second moments in the eigenbasis as eigenvalues (George et al. 2018). `sharing` is the treatment of
    positions that share a weight (Eschenhagen et al. 2023). `batch_fraction` is the fraction of the batch used for the
    factors. `decoupled` applies weight decay to the parameters rather than to the gradient. `others` updates
    normalisation layers with plain gradients ("sgd"), or with gradients divided by their damped diagonal Fisher
    ("diagonal"). `damping_end` is the factor by which the damping changes geometrically over the budget. `damping_rule`
    "levenberg_marquardt" instead adapts the damping every `adapt_interval` steps to how well the quadratic model
    predicted the change of the loss on the same batch.
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
            raise PydanticCustomError("design", "adapts the damping itself; remove damping_end")
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
            raise PydanticCustomError("design", "K-FAC clips its update, not the gradient; use kl_clip")
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
                "design", "must be a multiple of factor_interval, so that each inverse uses new factors"
            )
        return value


def _all_values(setting: int | Axis) -> Sequence[int]:
    """Return every value of a count, in any design."""
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

        options = {name: settings[name] for name in _OPTIONS if name in settings}  # absent if they have their defaults
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
        self._layers = layers_of(networks.network)
        self._norms = kfac.norms_of(networks.network) if self._config.others == "diagonal" else ()
        self._generators: list[Generator] = []
        self._kl_clip: float | None = settings.get("kl_clip")
        self._thin: frozenset[str] = frozenset()
        """Layers whose calls make every step cheaper, even without an update of factors."""
        self._calls: dict[str, list[Capture]] = {}
        self._seen: Any = None
        """Calls of the whole batch, or accumulated statistics of its parts."""
        self._seen_share = 0.0
        self._due = False
        self._unsolved: dict[int, SolveFailure] = {}
        self._scale = None if self._config.fisher == "empirical" else 1.0
        """Factor that converts observed gradients to those of one loss term; None for gradients of the mean loss."""
        self._failed: Tensor

    unusable = staticmethod(unusable)

    def init(self, params: Tensors, numbers: Numbers) -> State:
        """Return zero factors, inverses and momentum."""
        from sensitivity import kfac
        from sensitivity.optimizers.numbers import counter

        factored = self._config.damping_form == "factored"
        own = self._config.fisher == "empirical"  # otherwise calls do not belong to the gradient
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
        """Number of steps between updates of the inverses."""
        assert isinstance(self._config.inverse_interval, int)
        return self._config.inverse_interval

    def repeated_kind(self, step: int) -> str | None:
        """Return the kind of a step by whether factors are updated; None for new inverses, whose success is checked."""
        from sensitivity import kfac

        if step % self.period == 0 or self.needs_loss_after(step):
            return None
        if self._generators and kfac.needs_statistics(self._config, step):
            return None  # labels are drawn on the host
        return "factors" if kfac.needs_statistics(self._config, step) else "plain"

    def flops(self, batch_size: int, positions: Mapping[str, int]) -> float:
        """Return the FLOPs of factors, inverses and preconditioning, averaged over the update intervals."""
        from sensitivity import kfac

        return kfac.step_flops(
            self._layers, self._config, examples=batch_size, positions=positions, calls=bool(self._thin)
        ).total

    @property
    def observed_layers(self) -> frozenset[str]:
        """Names of the layers that K-FAC covers: trainable layers of supported types."""
        return frozenset([layer.name for layer in self._layers] + [norm.name for norm in self._norms])

    def pseudo_losses(self, outputs: Tensor, valid: Tensor | None = None) -> Iterator[Tensor]:
        """Yield the pseudo-losses of the sampled or exact Fisher, if factors are updated."""
        from sensitivity import kfac

        if self._due and self._config.fisher != "empirical":
            yield from kfac.pseudo_losses(outputs, self._config, self._generators, lead=1, weights=valid)

    def passes(self, outputs: int) -> float:
        """Return the average number of backward passes of pseudo-losses per step."""
        assert isinstance(self._config.factor_interval, int)
        each = {"empirical": 0, "monte_carlo": 1, "type2": outputs}[self._config.fisher]
        return each / self._config.factor_interval

    def needs_loss_after(self, step: int) -> bool:
        """Whether the damping is adapted after `step`."""
        return self._adapts is not None and step % self._adapts.interval == 0

    def observe_loss_change(self, params: Tensors, state: State, numbers: Numbers, change: Tensor) -> None:
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
        """Return whether factors are updated at `step`, or the calls make the step cheaper."""
        from sensitivity import kfac

        self._seen, self._seen_share, self._calls = None, 0.0, {}
        self._due = kfac.needs_statistics(self._config, step)
        return bool(self._thin) or self._due

    def observe(
        self, calls: Mapping[str, Sequence[Capture]], share: float | Tensor, valid: Tensor | None = None
    ) -> None:
        """Store the calls of a whole batch, or accumulate statistics of its parts, so that activations can be freed."""
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
        if isinstance(self._seen, kfac.Statistics):  # in place, because factors may take half of the memory
            new = share / self._seen_share
            missing = frozenset(p.layer.name for p in self._layout.placements if p.layer.name not in calls)
            if missing != self._seen.missing:
                names = ", ".join(sorted(missing ^ self._seen.missing))
                raise ValueError(
                    f"layers are used only in some micro-batches of a batch: {names}. Remove execution.micro_batch and "
                    "problem.ghost_batch, or this optimizer"
                )
            accumulate(self._layout, calls, self._config, self._seen, keep=1 - new, weight=new, loss_scale=self._scale)
        else:
            self._seen = kfac.statistics_of(self._layout, calls, self._config, loss_scale=self._scale)

    def step(self, params: Tensors, grads: Tensors, state: State, numbers: Numbers, *, lr: Tensor, step: int) -> Report:
        """Update factors and inverses if due, and the parameters."""
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

        self._unsolved = {}  # they belong to dropped members
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
        if (own := saved.get("own")) is None:  # saved by a version without damping schedules
            return
        state["steps"].copy_(own["steps"])
        state["damping"].copy_(own["damping"])
        for generator, kept in zip(self._generators, own["generators"], strict=True):
            generator.set_state(kept)

    def failure_reason(self, member: int) -> str | None:
        """Return a message that names the factor that could not be inverted."""
        failure = self._unsolved.get(member)
        if failure is None:
            return None
        return (
            f"the {failure.side} factor of layer {failure.layer} could not be inverted "
            f"(condition number {failure.condition:.2g})"
        )


def generator_of(seed: int) -> Generator:
    """Return the generator of sampled labels for a member with this seed."""
    import torch

    return torch.Generator().manual_seed(derive(seed, "fisher"))


def _shared(call: Capture, share: float | Tensor) -> Capture:
    """Convert gradients of the mean over a part of a batch to those of the mean over the batch."""
    from sensitivity import kfac
    from sensitivity.optimizers.numbers import weighted

    whole = isinstance(share, float) and share == 1
    return call if whole else kfac.Capture(call.inputs, weighted(call.columns[0], share))
