"""K-FAC: the functional core of `sensitivity.kfac` behind the contract of optimizers over packs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from sensitivity.optimizers.contract import Networks, Report, State, Tensors, registered
from sensitivity.study.arms import Arm
from sensitivity.study.axes import Axis, AxisField, CountOrAxis, LimitOrAxis, ShareOrAxis, fixed

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sensitivity.kfac import Capture, Layer, SolveFailure
    from sensitivity.optimizers.numbers import Numbers


_OPTIONS = ("damping_form", "ekfac", "sharing", "batch_fraction", "decoupled")


class KFACArm(Arm):
    """K-FAC: Kronecker-factored approximate curvature, with the empirical Fisher of each batch.

    `damping_form`: factored Tikhonov damping by Cholesky, or exact in the Kronecker eigenbasis. `ekfac`: eigenvalues
    are second moments in the eigenbasis (George et al. 2018). `sharing`: how positions of a shared weight enter
    (Eschenhagen et al. 2023). `batch_fraction`: of the batch whose statistics enter the factors. `decoupled`: weight
    decay acts on the parameters rather than on the gradient.
    """

    label: ClassVar[str] = "K-FAC"
    reference: ClassVar[str] = "Martens and Grosse 2015, arXiv 1503.05671"
    later: ClassVar[Collection[str]] = (*Arm.later, *_OPTIONS)

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
    """K-FAC with the empirical Fisher of each minibatch (`sensitivity.kfac`)."""

    leaves_unused: Literal[True] = True

    def __init__(self, settings: Mapping[str, Any], networks: Networks) -> None:
        from sensitivity import kfac

        options = {name: settings[name] for name in _OPTIONS if name in settings}  # absent at their defaults
        if options.pop("decoupled", False):
            options["decoupled_weight_decay"] = True
        self._config = kfac.KFACConfig(
            **options,
            nesterov=settings["nesterov"],
            factor_decay=settings["factor_decay"],
            factor_interval=settings["factor_interval"],
            inverse_interval=settings["inverse_interval"],
        )
        self._networks = networks
        self._layers = _layers_of(networks.network)
        self._kl_clip: float | None = settings.get("kl_clip")
        self._thin: frozenset[str] = frozenset()
        """Layers whose calls make a step cheaper, whether or not factors are updated."""
        self._calls: dict[str, list[Capture]] = {}
        self._seen: Any = None
        """Calls of the whole batch, or statistics of its parts so far."""
        self._seen_share = 0.0
        self._due = False
        self._unsolved: dict[int, SolveFailure] = {}

    @staticmethod
    def unusable(settings: Mapping[str, Any], networks: Networks) -> str | None:
        """Say that no layer is covered, or that EKFAC needs whole batches."""
        if settings.get("ekfac") and networks.in_parts:
            return "EKFAC needs whole batches; remove execution.micro_batch and problem.ghost_batch, or ekfac"
        if _layers_of(networks.network):
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

        factored = self._config.damping_form == "factored"
        if factored and self._networks.gradients_are_products and not numbers.any("weight_decay"):
            small = [layer.name for layer in self._layers if kfac.uses_calls(layer, self._networks.batch_size)]
            self._thin = frozenset(small)
        state = kfac.init_state(self._layers, params, self._config)
        self._layout = state.layout
        return {"kfac": state}

    @property
    def period(self) -> int:
        """Steps from one update of the inverses to the next."""
        assert isinstance(self._config.inverse_interval, int)
        return self._config.inverse_interval

    def repeated_kind(self, step: int) -> str | None:
        """Name steps with and without new factors apart; steps with new inverses ask whether these could be had."""
        from sensitivity import kfac

        if step % self.period == 0:
            return None
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
        return frozenset(layer.name for layer in self._layers)

    def begin(self, step: int) -> bool:
        """Return whether factors are updated at `step`, or the calls make it cheaper."""
        from sensitivity import kfac

        self._seen, self._seen_share, self._calls = None, 0.0, {}
        self._due = kfac.needs_statistics(self._config, step)
        return bool(self._thin) or self._due

    def observe(self, calls: Mapping[str, Sequence[Capture]], share: float) -> None:
        """Keep the calls of a whole batch, or sum the statistics of its parts, so that no part's activations stay."""
        from sensitivity import kfac
        from sensitivity.kfac.statistics import accumulate

        for name in self._thin:
            self._calls.setdefault(name, []).extend(_shared(call, share) for call in calls.get(name, ()))
        if not self._due:
            return
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
            accumulate(self._layout, calls, self._config, self._seen, keep=1 - new, weight=new, loss_scale=None)
        else:
            self._seen = kfac.statistics_of(self._layout, calls, self._config)

    def step(self, params: Tensors, grads: Tensors, state: State, numbers: Numbers, *, lr: Tensor, step: int) -> Report:
        """Update factors and inverses where due, and the parameters."""
        from sensitivity import kfac

        state["kfac"].steps = step
        hyperparameters = kfac.Hyperparameters(
            lr=lr,
            damping=numbers.cast("damping"),
            momentum=numbers.cast("momentum"),
            weight_decay=numbers.cast("weight_decay") if numbers.any("weight_decay") else 0.0,
            kl_clip=numbers.cast("kl_clip") if "kl_clip" in numbers else self._kl_clip,
        )
        report = kfac.step(self._config, state["kfac"], params, grads, self._seen, hyperparameters, calls=self._calls)
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
        return {"kfac": kept}

    def saved(self, state: State) -> dict[str, Any]:
        """Return factors, inverses, momentum and counters."""
        from sensitivity.kfac.state import saved

        return saved(state["kfac"])

    def restore(self, state: State, saved: Mapping[str, Any]) -> None:
        """Set factors, inverses, momentum and counters."""
        from sensitivity.kfac.state import restore

        restore(state["kfac"], saved)

    def failure_reason(self, member: int) -> str | None:
        """Name the factor that could not be inverted."""
        failure = self._unsolved.get(member)
        if failure is None:
            return None
        return (
            f"the {failure.side} factor of layer {failure.layer} could not be inverted "
            f"(condition number {failure.condition:.2g})"
        )


def _layers_of(network: nn.Module) -> tuple[Layer, ...]:
    """Describe the layers that K-FAC covers, but for bags of embeddings, whose calls a pack does not record."""
    from torch import nn

    from sensitivity import kfac

    return kfac.layers_of(network, [name for name, m in network.named_modules() if isinstance(m, nn.EmbeddingBag)])


def _shared(call: Capture, share: float) -> Capture:
    """Turn gradients of the mean over a part of a batch into those of the mean over all of it."""
    from sensitivity import kfac

    return call if share == 1 else kfac.Capture(call.inputs, call.columns[0] * share)
