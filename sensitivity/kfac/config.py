"""Configuration of K-FAC: its structure (`KFACConfig`) and its numeric hyperparameters (`Hyperparameters`).

The structure decides which code runs and is shared by all members of a pack. Hyperparameters may differ between
members: each is a float or a tensor of shape [] or [trials]. A configuration accepts numbers of any real type, such as
numpy.float32, and stores Python numbers.
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
    """Levenberg-Marquardt adaptation of the damping λ to how well the quadratic model predicts the loss.

    For the update δ of a step, with gradient g and Kronecker-factored Fisher F, the reduction ratio compares the change
    of the loss on the batch with the change that the damped quadratic model predicts:

        ρ = (L(θ + δ) - L(θ)) / (g·δ + ½ δᵀ (F + λI) δ)

        λ ← λ grow^interval   if ρ < 1/4, or ρ is not finite
        λ ← λ / grow^interval if ρ > 3/4
        λ clipped to [smallest, largest]

    Each adaptation needs the loss of the batch after the step, one more forward pass:

        before = criterion(model(x), y)
        before.backward()
        optimizer.step()
        with torch.no_grad():
            after = criterion(model(x), y)
        optimizer.adapt_damping(before.item(), after.item())

    Args:
        interval: steps between adaptations; 5 is the value of the paper.
        grow: factor per step, above 1; the paper's decay 19/20 is 20/19 here. A larger one adapts faster and
            fluctuates more.
        smallest: lower bound of the damping, which keeps the factors invertible.
        largest: upper bound of the damping.

    References:
        Martens and Grosse, 2015, arXiv 1503.05671, section 6.5.
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
    """Structure of a K-FAC optimizer and initial values of its hyperparameters; validated on construction.

    See `KFAC` for the equations of the update. Damping is applied in one of two forms:

        "factored":  U = (G + √λ/π I)⁻¹ D (A + π√λ I)⁻¹,  π = √((tr A / dim A) / (tr G / dim G))
        "exact":     U = Q_G [(Q_Gᵀ D Q_A) / (s_G s_Aᵀ + λ)] Q_Aᵀ,  with A = Q_A diag(s_A) Q_Aᵀ and the same for G

    EKFAC replaces the products s_G s_Aᵀ with running averages of the second moments of per-example gradients in that
    basis.

    Examples:
        >>> config = KFACConfig(lr=0.01, damping=0.03, factor_interval=5, inverse_interval=50)
        >>> needs_statistics(config, 10), needs_statistics(config, 11)
        (True, False)
        >>> KFACConfig(damping=0)
        Traceback (most recent call last):
        ValueError: Invalid damping: 0. Must be a finite number > 0.

    Args:
        lr: learning rate α. Tune it together with the damping: with a large damping λ the update is about α / λ times
            the gradient, so SGD's learning rate is usually far too large. Typically 1e-3 to 0.1.
        damping: Tikhonov damping λ, added to the curvature. Small values trust the Fisher, large ones approach SGD.
            Typically 1e-3 to 1.
        momentum: momentum μ of the preconditioned gradient, in [0, 1); typically 0.9.
        weight_decay: coefficient ω of the weight decay; typically 0 to 1e-3.
        kl_clip: upper bound κ on Σ α² ⟨U, D⟩, which approximates twice the KL divergence of a step; larger updates are
            scaled down to it. None for no clip; typically 1e-3 to 1e-2. Costs one inner product.
        damping_schedule: factor on the damping as a function of the step index, for `KFAC`.
        levenberg_marquardt: adapts the damping during training; see `LevenbergMarquardt`.
        nesterov: whether to use Nesterov momentum, as torch.optim.SGD does.
        decoupled_weight_decay: whether to decay the parameters by lr * weight_decay as AdamW does, instead of adding
            the decay to the gradient before it is preconditioned.
        fisher: the output gradients that the factor G is computed from. "empirical": those of the training loss, at no
            extra backward pass. "monte_carlo": those of labels sampled from the model, an unbiased estimate of the
            true Fisher; one more backward pass on steps that update the factors. "type2": all columns of a square root
            of the loss's Hessian, the true Fisher without sampling error; one more backward pass per model output.
        loss: the training loss, which "monte_carlo" and "type2" sample from or differentiate. "cross_entropy": of
            logits, with or without label smoothing. "binary_cross_entropy": `binary_cross_entropy_with_logits`,
            averaged over outputs. "squared_error": half the squared error, summed over outputs. "mse":
            `torch.nn.functional.mse_loss`, averaged over outputs.
        reduction: how the training loss reduces over examples. With "mean", captured gradients are multiplied by the
            number of loss terms to recover those of one term.
        terms_per_example: number of loss terms in one entry of the batch dimension, such as the tokens of a sequence
            when the loss averages over tokens. With None, `KFAC` infers one term per example where that is certain and
            raises otherwise (`KFAC.observe` states the number per batch); a pack then assumes 1.
        batch_dim: dimension of the examples in inputs that have positions too, for linear, embedding and layer
            normalisation layers: 0 for [batch, time, features], 1 for [time, batch, features]. For `KFAC`; captures of
            a pack have the batch first.
        damping_form: "factored" (one Cholesky inverse per factor), or "exact" (one eigendecomposition per factor, about
            9 times the FLOPs of the inverse, and twice the matrix products in each step).
        ekfac: whether to re-estimate the eigenvalues in the eigenbasis (EKFAC). Needs damping_form="exact"; layer
            inputs and output gradients are kept until the step.
        sharing: how a weight that is applied at several positions enters the factors: "expand" counts each position as
            a row, "reduce" first averages inputs and sums gradients over positions, which makes the factors cheaper
            but keeps captures until the step.
        factor_decay: decay of the running averages of A and G, in [0, 1); averages are bias-corrected. Typically 0.95.
        factor_interval: steps between updates of the factors, or pairs (first step, interval) such as
            ((0, 1), (1000, 10)). An update costs about as much as the layer's backward pass; typically 1 to 10.
        inverse_interval: steps between inverses, in the same form. An inverse is cubic in the side of a factor;
            typically 10 to 100.
        batch_fraction: fraction of the batch, in (0, 1], whose examples enter the factors; their cost falls in
            proportion.
        others: update rule of parameters that no Kronecker block covers: "sgd", or "diagonal", which divides the
            gradients of normalisation layers' scales and shifts by their damped diagonal Fisher.

    Raises:
        ValueError: a field is outside its range; the message names the field, its value and the allowed range.

    References:
        Martens and Grosse, 2015, arXiv 1503.05671 (factored damping: section 6.3); George et al., 2018,
        arXiv 1806.03884 (EKFAC); Eschenhagen et al., 2023, arXiv 2311.00636 (weight sharing); Kunstner et al., 2019,
        arXiv 1905.12558 (empirical Fisher).
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
    """Numeric hyperparameters of one step; each is a float or a tensor of shape [] or [trials].

    A tensor [trials] holds one value per member of the pack, so that members train with different values in one batched
    step. See `KFAC` for the equations in which they stand, and `KFACConfig` for typical ranges.

    Examples:
        >>> import torch
        >>> hyper = Hyperparameters(lr=torch.tensor([0.1, 0.01]), damping=0.03)

    Args:
        lr: learning rate α, >= 0.
        damping: Tikhonov damping λ, > 0.
        momentum: momentum μ of the preconditioned gradient, in [0, 1).
        weight_decay: coefficient ω of the weight decay, >= 0. The float 0 skips its computation; a tensor of zeros
            does not.
        kl_clip: upper bound κ on Σ lr² ⟨update, gradient⟩, > 0; None for no clip.
    """

    lr: float | Tensor
    damping: float | Tensor
    momentum: float | Tensor = 0.9
    weight_decay: float | Tensor = 0.0
    kl_clip: float | Tensor | None = None


def check_numbers(*, lr: float, damping: float, momentum: float, weight_decay: float, kl_clip: float | None) -> None:
    """Raise ValueError for a number outside its range, with the field, its value and the range.

    A learning rate of 0 is allowed, because schedules start or end at it.
    """
    _require("lr", lr, _finite(lr) and lr >= 0, "a finite number >= 0")
    _require("damping", damping, _finite(damping) and damping > 0, "a finite number > 0")
    _require("momentum", momentum, _finite(momentum) and 0 <= momentum < 1, "a number in [0, 1)")
    _require("weight_decay", weight_decay, _finite(weight_decay) and weight_decay >= 0, "a finite number >= 0")
    _require("kl_clip", kl_clip, kl_clip is None or (_finite(kl_clip) and kl_clip > 0), "None or a finite number > 0")


def is_due(interval: Interval, step: int) -> bool:
    """Whether work repeated at `interval` is due at this step; pairs count from their first step."""
    if isinstance(interval, int):
        return step % interval == 0
    first, every = max(pair for pair in interval if pair[0] <= step)
    return (step - first) % every == 0


def mean_rate(interval: Interval, steps: int) -> float:
    """Fraction of the first `steps` steps at which work repeated at `interval` is due."""
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
    """Convert a number of any real type, such as numpy.float32 or a tensor of shape [], to a Python number.

    Other values are returned unchanged; validation rejects them with the name of their field.
    """
    if value is None or type(value) in (float, int, bool):  # at every step, where abstract types would take longer
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        try:
            return float(value)
        except OverflowError:  # a fraction outside the range of floats
            return value
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return value.item()
    return value


def _make_plain(config: Any) -> None:
    """Convert the numbers among the fields of a frozen dataclass to Python numbers, in place."""
    for field in fields(config):
        object.__setattr__(config, field.name, _all_plain(getattr(config, field.name)))


def _all_plain(value: Any) -> Any:
    return tuple(map(_all_plain, value)) if type(value) is tuple else plain_number(value)


def _finite(value: object) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return abs(value) <= sys.float_info.max  # an integer may be outside the range of floats


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
