"""What a K-FAC run is told: its structure (`KFACConfig`) and its numbers (`Hyperparameters`).

Structure decides which code runs and is shared by all members of a pack. Numbers may differ from member to member: each
is a float or a tensor of shape [] or [trials]. A configuration takes numbers of any real type and keeps Python's own.
"""

import numbers
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from torch import Tensor

Fisher = Literal["empirical", "monte_carlo", "type2"]
DampingForm = Literal["factored", "exact"]
Sharing = Literal["expand", "reduce"]
Reduction = Literal["mean", "sum"]
OtherRule = Literal["sgd", "diagonal"]
LossKind = Literal["cross_entropy", "binary_cross_entropy", "squared_error", "mse"]
Interval = int | tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class LevenbergMarquardt:
    """Adaptation of the damping by the reduction ratio (Martens and Grosse 2015, section 6.5).

    Every `interval` steps the damping is divided by `grow` ** interval when the quadratic model predicted the loss well
    (ratio above 3/4), and multiplied by it when it did badly (ratio below 1/4), within [`smallest`, `largest`].
    """

    interval: int = 5
    grow: float = 20 / 19
    smallest: float = 1e-8
    largest: float = 1e4

    def __post_init__(self) -> None:
        _make_plain(self)
        _require("interval", self.interval, _positive_int(self.interval), "an integer >= 1")
        _require("grow", self.grow, _finite(self.grow) and self.grow > 1, "a finite number > 1")
        _require("smallest", self.smallest, _finite(self.smallest) and self.smallest > 0, "a finite number > 0")
        _require(
            "largest",
            self.largest,
            _finite(self.largest) and self.largest >= self.smallest,
            "a finite number >= smallest",
        )


@dataclass(frozen=True, kw_only=True)
class KFACConfig:
    """Everything that K-FAC can be told, checked at birth.

    lr, damping, momentum, weight_decay, kl_clip: the numbers; `KFAC` copies them to its parameter groups, where
    schedulers change them.
    damping_schedule: factor on the damping by step index, for the torch optimizer.
    levenberg_marquardt: adapt the damping instead; off by default.
    decoupled_weight_decay: decay the parameters by lr * weight_decay (AdamW style) instead of adding to the gradient.
    fisher: whose output gradients enter the factors: the training loss's own, those of labels sampled from the model,
        or all columns of a square root of the loss's Hessian (exact in the labels).
    loss: the training loss, needed to sample for "monte_carlo" and "type2": cross entropy of logits (label smoothing
        included), `binary_cross_entropy_with_logits` (averaged over outputs), half the squared error summed over
        outputs, or `torch.nn.functional.mse_loss` (averaged over outputs).
    reduction: how the training loss joins examples; decides how per-example gradients are recovered.
    terms_per_example: loss terms in one entry of the batch dimension, such as tokens in a sequence when the loss
        averages over tokens. With None `KFAC` infers one term for each example where that is certain, and raises
        otherwise; `KFAC.observe` states the number batch by batch. A pack takes 1 for None.
    batch_dim: dimension of the examples in inputs of linear, embedding and layer normalisation layers that have
        positions too: 0 for [batch, time, features], 1 for [time, batch, features]. For `KFAC`; the captures of a pack
        have the batch first.
    damping_form: "factored" Tikhonov (Martens and Grosse 2015, section 6.3) by Cholesky, or "exact" Tikhonov in the
    Kronecker eigenbasis.
    ekfac: re-estimate the eigenvalues as second moments in the eigenbasis (George et al. 2018); needs damping_form
    "exact".
    sharing: how positions of a shared weight enter: "expand" or "reduce" (Eschenhagen et al. 2023).
    factor_decay: of the bias-corrected running average of factors.
    factor_interval, inverse_interval: steps between updates, or pairs (first step, interval), such as ((0, 1), (1000,
    10)).
    batch_fraction: share of the batch whose statistics enter the factors.
    others: rule of parameters that no Kronecker block covers: plain SGD, or the diagonal Fisher for the scale and
    shift of normalisation layers.
    """

    lr: float = 0.1
    damping: float = 1e-2
    momentum: float = 0.9
    weight_decay: float = 0.0
    kl_clip: float | None = None
    damping_schedule: Callable[[int], float] | None = None
    levenberg_marquardt: LevenbergMarquardt | None = None
    nesterov: bool = False
    decoupled_weight_decay: bool = False
    fisher: Fisher = "empirical"
    loss: LossKind = "cross_entropy"
    reduction: Reduction = "mean"
    terms_per_example: int | None = None
    batch_dim: int = 0
    damping_form: DampingForm = "factored"
    ekfac: bool = False
    sharing: Sharing = "expand"
    factor_decay: float = 0.95
    factor_interval: Interval = 1
    inverse_interval: Interval = 10
    batch_fraction: float = 1.0
    others: OtherRule = "sgd"

    def __post_init__(self) -> None:
        _make_plain(self)
        _require("lr", self.lr, _finite(self.lr) and self.lr > 0, "a finite number > 0")
        check_numbers(
            lr=self.lr,
            damping=self.damping,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            kl_clip=self.kl_clip,
        )
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            _require(name, value, value in choices, f"one of {', '.join(map(repr, choices))}")
        for field in fields(self):
            if field.type is bool:
                value = getattr(self, field.name)
                _require(field.name, value, isinstance(value, bool), "True or False")
        _require("nesterov", self.nesterov, not self.nesterov or self.momentum > 0, "False when momentum is 0")
        _require(
            "ekfac", self.ekfac, not self.ekfac or self.damping_form == "exact", 'False unless damping_form is "exact"'
        )
        decay = self.factor_decay
        _require("factor_decay", decay, _finite(decay) and 0 <= decay < 1, "a number in [0, 1)")
        fraction = self.batch_fraction
        _require("batch_fraction", fraction, _finite(fraction) and 0 < fraction <= 1, "a number in (0, 1]")
        terms = self.terms_per_example
        _require("terms_per_example", terms, terms is None or _positive_int(terms), "None or an integer >= 1")
        _require("batch_dim", self.batch_dim, self.batch_dim in (0, 1) and _finite(self.batch_dim), "0 or 1")
        for name in ("factor_interval", "inverse_interval"):
            interval = getattr(self, name)
            allowed = "an integer >= 1, or pairs (first step, interval) with rising first steps from 0"
            _require(name, interval, _valid_interval(interval), allowed)
        rule = self.levenberg_marquardt
        _require(
            "levenberg_marquardt", rule, isinstance(rule, LevenbergMarquardt | None), "LevenbergMarquardt() or None"
        )
        schedule = self.damping_schedule
        _require("damping_schedule", schedule, schedule is None or callable(schedule), "None or a function of the step")


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """The numbers of one step, each a float or a tensor of shape [] or [trials].

    `kl_clip` None means no clip. A `weight_decay` that is the float 0 costs nothing.
    """

    lr: float | Tensor
    damping: float | Tensor
    momentum: float | Tensor = 0.9
    weight_decay: float | Tensor = 0.0
    kl_clip: float | Tensor | None = None


def check_numbers(*, lr: float, damping: float, momentum: float, weight_decay: float, kl_clip: float | None) -> None:
    """Raise ValueError, naming the field, its value and its range, for a number outside its range.

    Schedules begin or end at a learning rate of 0.
    """
    _require("lr", lr, _finite(lr) and lr >= 0, "a finite number >= 0")
    _require("damping", damping, _finite(damping) and damping > 0, "a finite number > 0")
    _require("momentum", momentum, _finite(momentum) and 0 <= momentum < 1, "a number in [0, 1)")
    _require("weight_decay", weight_decay, _finite(weight_decay) and weight_decay >= 0, "a finite number >= 0")
    _require("kl_clip", kl_clip, kl_clip is None or (_finite(kl_clip) and kl_clip > 0), "None or a finite number > 0")


def is_due(interval: Interval, step: int) -> bool:
    """Whether work repeated at `interval` falls on this step; a schedule counts from each of its first steps."""
    if isinstance(interval, int):
        return step % interval == 0
    first, every = max(pair for pair in interval if pair[0] <= step)
    return (step - first) % every == 0


def mean_rate(interval: Interval, steps: int) -> float:
    """Share of the first `steps` steps on which work at `interval` is due."""
    if isinstance(interval, int):
        return 1 / interval
    return sum(is_due(interval, step) for step in range(steps)) / steps


def needs_statistics(config: KFACConfig, step: int) -> bool:
    """Whether the step with this index (from 0) updates the factors, so that the caller must capture."""
    return is_due(config.factor_interval, step)


_CHOICES: dict[str, tuple[Any, ...]] = {
    "fisher": get_args(Fisher),
    "loss": get_args(LossKind),
    "reduction": get_args(Reduction),
    "damping_form": get_args(DampingForm),
    "sharing": get_args(Sharing),
    "others": get_args(OtherRule),
}


def _require(name: str, value: object, holds: bool, allowed: str) -> None:
    if not holds:
        raise ValueError(f"Invalid {name}: {value!r}. Must be {allowed}.")


def plain_number(value: Any) -> Any:
    """Return a number of any real type, such as numpy.float32 or a tensor of shape [], as Python's own.

    What is no number comes back as it is, to be refused by name.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        try:
            return float(value)
        except OverflowError:  # a fraction beyond every float
            return value
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return value.item()
    return value


def _make_plain(config: Any) -> None:
    """Make the numbers among the fields of a frozen dataclass Python's own."""
    for field in fields(config):
        object.__setattr__(config, field.name, _all_plain(getattr(config, field.name)))


def _all_plain(value: Any) -> Any:
    return tuple(map(_all_plain, value)) if type(value) is tuple else plain_number(value)


def _finite(value: object) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return abs(value) <= sys.float_info.max  # also of an integer beyond every float


def _positive_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _valid_interval(interval: object) -> bool:
    if not isinstance(interval, tuple):
        return _positive_int(interval)
    if not interval or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in interval):
        return False
    firsts = [pair[0] for pair in interval]
    rising = all(isinstance(first, int) for first in firsts) and firsts == sorted(set(firsts)) and firsts[0] == 0
    return rising and all(_positive_int(pair[1]) for pair in interval)
