"""Sophia-G: momentum divided by a sampled diagonal curvature, with clipped steps."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sensitivity.optimizers.contract import Networks, State, Tensors, registered
from sensitivity.study.arms import Arm
from sensitivity.study.axes import AxisField, CountOrAxis, fixed

if TYPE_CHECKING:
    from torch import Tensor

    from sensitivity.optimizers.numbers import Numbers

_EPS = 1e-15


class SophiaArm(Arm):
    """Sophia with the Gauss-Newton-Bartlett estimate of the curvature (Sophia-G) and decoupled weight decay.

    Every `hessian_interval` steps, starting with the first, a second backward pass computes the gradient for labels
    sampled from the network. `rho` times the batch size is the clipping threshold; the paper tunes it such that 10 to
    50% of the parameters' steps are not clipped.
    """

    label: ClassVar[str] = "Sophia"
    reference: ClassVar[str] = "Liu et al. 2023, arXiv 2305.14342; sophia-opt"

    kind: Literal["sophia"] = "sophia"
    lr: AxisField
    beta1: AxisField = fixed(0.965)
    beta2: AxisField = fixed(0.99)
    rho: AxisField = fixed(0.04)
    weight_decay: AxisField = fixed(0.1)
    hessian_interval: CountOrAxis = 10


@registered(SophiaArm)
class Sophia:
    """m ← β₁ m + (1 − β₁) g; h ← β₂ h + (1 − β₂) ĝ² if ĝ is due; p ← (1 − η λ) p − η sign(m) min(1, |m| / ρ B h).

    ĝ is the gradient of the mean over the batch's B loss terms. If some terms are masked, ĝ² is weighted by the
    unmasked fraction, so that B h only depends on these terms.
    """

    def __init__(self, settings: Mapping[str, Any], networks: Networks) -> None:
        self._interval = int(settings["hessian_interval"])
        self._terms = networks.batch_size * networks.terms_per_example
        self._seeds = networks.seeds
        self._sampled: dict[str, Tensor] = {}
        self._drawn: Tensor | None = None
        self._done: Tensor
        """Number of terms of the batch in earlier parts ``[trials]``."""

    @staticmethod
    def unusable(settings: Mapping[str, Any], networks: Networks) -> str | None:
        """Return a message if labels can't be sampled."""
        if networks.loss != "cross_entropy":
            return 'Sophia samples labels, so it needs loss = "cross_entropy"; remove this optimizer'
        return None

    def init(self, params: Tensors, numbers: Numbers) -> State:
        """Return zero averages."""
        import torch

        from sensitivity.optimizers.numbers import zeros

        seeds = torch.tensor(list(self._seeds) or [0] * len(numbers["lr"]))
        return {"mean": zeros(params), "curvature": zeros(params), "seeds": seeds}

    @property
    def period(self) -> int:
        """Number of steps between estimates of the curvature."""
        return self._interval

    def repeated_kind(self, step: int) -> str | None:
        """Return the kind of a step; None for an estimate, whose labels are drawn on the host."""
        return None if step % self._interval == 0 else "plain"

    def backward_passes(self) -> float:
        """Return the average number of additional backward passes per step."""
        return 1 / self._interval

    def sampled_loss(
        self, outputs: Tensor, state: State, valid: Tensor | None = None, *, step: int, done: int
    ) -> Tensor | None:
        """Return the mean loss for sampled labels, summed over members; None if no estimate is due.

        A member's n-th unmasked term uses its n-th draw, however batches are padded and divided.
        """
        import torch

        if step % self._interval:
            return None
        if done == 0 or self._drawn is None:
            draws = [_uniform(seed, step, self._terms) for seed in state["seeds"].tolist()]
            self._drawn = torch.stack(draws).to(outputs.device)
            self._sampled = {}
            self._done = torch.zeros(len(outputs), dtype=torch.int64, device=outputs.device)
        rows = outputs.flatten(1, -2)
        has_loss = torch.ones_like(rows[..., 0], dtype=torch.bool) if valid is None else valid.flatten(1)
        places = self._done[:, None] + has_loss.cumsum(1) - 1
        self._done = self._done + has_loss.sum(1)
        cumulative = rows.detach().double().softmax(2).cumsum(2)
        drawn = self._drawn.gather(1, places.clamp_min(0))[..., None] * cumulative[..., -1:]
        labels = (drawn > cumulative).sum(2).clamp_max(rows.shape[2] - 1)
        losses = torch.nn.functional.cross_entropy(rows.flatten(0, 1), labels.flatten(), reduction="none")
        kept = torch.where(has_loss, losses.view(labels.shape), 0.0)
        return (kept.sum(1) / has_loss.sum(1).clamp_min(1)).sum()

    def take_sampled(self, grads: Tensors, share: float | Tensor) -> None:
        """Add the gradient of this loss for a fraction `share` of the batch."""
        from sensitivity.optimizers.numbers import weighted

        for name, g in grads.items():
            new = weighted(g, share)
            self._sampled[name] = self._sampled[name] + new if name in self._sampled else new

    def step(self, params: Tensors, grads: Tensors, state: State, numbers: Numbers, *, lr: Tensor, step: int) -> None:
        """Update the averages, then the parameters."""
        from sensitivity.optimizers.numbers import per_trial

        scale = numbers["rho"] * self._terms
        for name, p in params.items():
            mean, curvature = state["mean"][name], state["curvature"][name]
            mean.lerp_(grads[name], numbers.complement("beta1", p))
            if name in self._sampled:
                square = self._sampled[name].square().mul_(per_trial(self._done.double() / self._terms, p))
                curvature.lerp_(square, numbers.complement("beta2", p))
            if numbers.any("weight_decay"):
                p.mul_(per_trial(1 - lr.double() * numbers["weight_decay"], p))
            ratio = (mean.abs() / curvature.mul(per_trial(scale, p)).add_(_EPS)).clamp_max_(1.0)
            p.addcmul_(mean.sign().mul_(ratio), per_trial(-lr, p))
        self._sampled = {}


def _uniform(seed: int, step: int, count: int) -> Tensor:
    """Return the draws ``[count]`` for a seed and step, independent of earlier draws."""
    import torch

    word = hashlib.sha256(f"sophia/{seed}/{step}".encode()).digest()[:4]
    generator = torch.Generator().manual_seed(int.from_bytes(word, "big"))
    return torch.rand(count, generator=generator, dtype=torch.float64)
